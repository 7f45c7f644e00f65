"""A stand-in for the Hugging Face hub on this machine: as much of its protocol as SAEs need.

    with HubStandIn() as hub:
        HF_ENDPOINT=hub.url ...

Repositories live in memory: a list of commits, each of files by path.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Repo:
    """Attributes:
    commits: files by path, by the commit's name, oldest first.
    names: of branches and tags, and the commits they stand for.
    private: whether one has to be logged in.
    declared: sizes that are told in place of the true ones.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    private: bool = False
    declared: dict[str, int] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes]) -> str:
        """Add a commit to the main branch; its name."""
        content = json.dumps([len(self.commits), *((path, _sha(data)) for path, data in sorted(files.items()))])
        name = _sha(content.encode())
        self.commits[name] = dict(files)
        self.names["main"] = name
        return name

    @property
    def files(self) -> dict[str, bytes]:
        """Of the main branch."""
        return self.commits[self.names["main"]] if self.commits else {}


def _sha(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


class HubStandIn:
    """Serves while inside.

    Attributes:
        repos: by `org/name`.
        log: "METHOD /path" of every request; asked: how public each repository was to be made.
        read_only: whether commits are refused; down: whether nothing is answered but that.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.log: list[str] = []
        self.asked: dict[str, dict[str, Any]] = {}
        self.read_only = self.down = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def downloads(self) -> list[str]:
        """Paths of files that were sent."""
        return [
            line.split("/resolve/")[1].partition("/")[2]
            for line in self.log
            if line.startswith("GET /") and "/resolve/" in line
        ]


class _Missing(Exception):  # noqa: N818
    """Something is not there; the code by which the client knows what."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        url = urlsplit(self.path)
        self.hub.log.append(f"{self.command} {url.path}")
        if self.hub.down:
            self._send(503, b"{}")
            return
        try:
            for pattern, answer in _ROUTES.items():
                if found := re.fullmatch(pattern, url.path):
                    answer(self, *(unquote(part or "") for part in found.groups()), **self._query(url.query))
                    return
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        except _Missing as missing:
            self._send(404, b'{"error": "not found"}', {"X-Error-Code": str(missing)})

    @staticmethod
    def _query(text: str) -> dict[str, str]:
        return {key: values[-1] for key, values in parse_qs(text).items()}

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _repo(self, name: str) -> Repo:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and "authorization" not in self.headers):
            raise _Missing("RepoNotFound")
        return repo

    def _revision(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]]:
        name = repo.names.get(revision, revision)
        if name not in repo.commits:
            if not repo.commits:
                return "0" * 40, {}
            raise _Missing("RevisionNotFound")
        return name, repo.commits[name]

    def file(self, repo_name: str, revision: str, path: str, **query: str) -> None:
        repo = self._repo(repo_name)
        commit, files = self._revision(repo, revision)
        if path not in files:
            raise _Missing("EntryNotFound")
        data = files[path]
        self._send(200, data, {"ETag": f'"{_sha(data)}"', "X-Repo-Commit": commit})

    def info(self, repo_name: str, revision: str = "main", **query: str) -> None:
        commit, files = self._revision(self._repo(repo_name), revision or "main")
        private = self.hub.repos[repo_name].private
        self._json(
            {"id": repo_name, "sha": commit, "private": private, "siblings": [{"rfilename": path} for path in files]}
        )

    def _entry(self, repo: Repo, path: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": path, "size": repo.declared.get(path, len(data)), "oid": _sha(data)}

    def paths_info(self, repo_name: str, revision: str, **query: str) -> None:
        repo = self._repo(repo_name)
        _, files = self._revision(repo, revision)
        wanted = parse_qs(self.body.decode())["paths"]
        self._json([self._entry(repo, path, files[path]) for path in wanted if path in files])

    def tree(self, repo_name: str, revision: str, path: str = "", recursive: str = "false", **query: str) -> None:
        repo = self._repo(repo_name)
        _, files = self._revision(repo, revision)
        inside = {name: data for name, data in files.items() if not path or name.startswith(f"{path}/")}
        if path and not inside:
            raise _Missing("EntryNotFound")
        entries = [self._entry(repo, name, data) for name, data in inside.items()]
        if recursive.lower() != "true":
            depth = path.count("/") + 2 if path else 1
            entries = [entry for entry in entries if entry["path"].count("/") < depth]
            below = dict.fromkeys("/".join(name.split("/")[:depth]) for name in inside if name.count("/") >= depth)
            entries += [{"type": "directory", "path": name, "oid": _sha(name.encode())} for name in below]
        self._json(entries)

    def create(self, **query: str) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        self.hub.asked[name] = {key: asked[key] for key in ("private", "visibility") if key in asked}
        if name in self.hub.repos:
            self._send(409, json.dumps({"url": f"{self.hub.url}/{name}", "error": "exists"}).encode())
            return
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repos[name] = Repo(private=bool(private))
        self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def validate(self, **query: str) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, repo_name: str, revision: str, **query: str) -> None:
        files = json.loads(self.body)["files"]
        modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
        self._json({"files": modes})

    def commit(self, repo_name: str, revision: str, **query: str) -> None:
        if self.hub.read_only:
            self._send(403, b'{"error": "you may not write here"}')
            return
        repo = self.hub.repos[repo_name]
        files = dict(repo.files)
        for line in map(json.loads, self.body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        name = repo.commit(files)
        self._json({"commitUrl": f"{self.hub.url}/{repo_name}/commit/{name}", "commitOid": name, "success": True})


_ID = r"([^/]+/[^/]+)"
_ROUTES = {
    r"/api/repos/create": _Handler.create,
    r"/api/validate-yaml": _Handler.validate,
    rf"/api/models/{_ID}": _Handler.info,
    rf"/api/models/{_ID}/revision/([^/]+)": _Handler.info,
    rf"/api/models/{_ID}/paths-info/([^/]+)": _Handler.paths_info,
    rf"/api/models/{_ID}/tree/([^/]+)(?:/(.+))?": _Handler.tree,
    rf"/api/models/{_ID}/preupload/([^/]+)": _Handler.preupload,
    rf"/api/models/{_ID}/commit/([^/]+)": _Handler.commit,
    rf"/{_ID}/resolve/([^/]+)/(.+)": _Handler.file,
}
