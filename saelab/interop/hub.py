"""The Hugging Face hub: `hf://org/repo[@revision][/path]` as a source, and a place to publish to.

From a repository only files of the names that SAEs have are fetched, and only of sizes that SAEs have, into the hub
client's own cache; what is in them is then read as any other file is. What was fetched once loads without a
connection, too. Branches and tags with a slash are written with `%2F`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from saelab.errors import SaelabError
from saelab.interop import dictionary_learning, gemma_scope, saelens, sparsify
from saelab.interop.reading import shown
from saelab.sae import io

_OWN = (io.CONFIG, io.WEIGHTS)
_BY_WEIGHTS: Mapping[str, Sequence[str]] = {
    saelens.WEIGHTS: (saelens.CONFIG, saelens.WEIGHTS),
    sparsify.WEIGHTS: (sparsify.CONFIG, sparsify.WEIGHTS),
    dictionary_learning.WEIGHTS: (dictionary_learning.CONFIG, dictionary_learning.WEIGHTS),
    gemma_scope.PARAMETERS: (gemma_scope.PARAMETERS,),
}
"""What makes an SAE in a directory, by the file that holds its weights; saelab's own come before all others."""
_SINGLE = (".npz", ".pt")
"""A path that ends so is a file that is an SAE by itself."""
_LARGEST = {".json": 2**24, ".safetensors": 2**36, ".npz": 2**36, ".pt": 2**36}
"""In bytes. The largest dictionaries that have been published hold some 20 GB."""
_LISTED = 12

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.))*"
_REPO = re.compile(rf"{_NAME}/{_NAME}")
_SOURCE = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Address:
    """Where an SAE lies on the hub.

    Attributes:
        repo: `org/name`; revision: a branch, tag or commit, None being the main branch.
        path: of a directory or file in it, "" being the whole.
    """

    repo: str
    revision: str | None = None
    path: str = ""

    @classmethod
    def of(cls, source: str) -> Address:
        """Read `hf://org/repo[@revision][/path]`.

        Raises:
            SaelabError: it is no such text, or its path leaves the repository.
        """
        found = _SOURCE.fullmatch(source)
        if found is None:
            raise SaelabError(f"not an address on the hub: {shown(source)}", fix="hf://org/repo[@revision][/path]")
        repo, revision, path = found[1], found[2], (found[3] or "").rstrip("/")
        if not (revision or "main").isprintable():
            raise SaelabError(f"{shown(revision)} is no revision", where=shown(source))
        if any(part in ("", ".", "..") or not part.isprintable() or "\\" in part for part in path.split("/") if path):
            raise SaelabError(f"{shown(path)} is no path inside a repository", where=shown(source))
        return cls(check_repo(repo), None if revision is None else unquote(revision), path)

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return f"hf://{self.repo}{at}/{self.path}".rstrip("/")


def check_repo(name: str) -> str:
    """The name of a repository, as it is.

    Raises:
        SaelabError: the hub allows no such name.
    """
    if len(name) > 96 or "--" in name or name.endswith((".git", "-", ".")) or not _REPO.fullmatch(name):
        raise SaelabError(f"{shown(name)} names no repository", fix="org/name, of letters, digits, '_', '-' and '.'")
    return name


# -- fetching ----------------------------------------------------------------------------------------------------


def fetched(source: str) -> Path:
    """The directory or file on this machine that holds what `hf://...` names, fetched where it is not yet.

    Raises:
        SaelabError: no such repository, revision or path; nothing there that is an SAE; too large; no connection, and
            nothing in the cache; no room.
    """
    address = Address.of(source)
    with _explained(address):
        return _fetch(address)


def _fetch(address: Address) -> Path:
    try:
        sizes = _sizes(address, _candidates(address))
    except Exception as error:  # no connection, or none wanted: what there is of it was fetched before
        kept = {} if _is_an_answer(error) else _kept(address, _candidates(address))
        if not kept:
            raise
        return _place(address, kept)
    names = _chosen(address, sizes)
    _check_sizes(address, {name: sizes[name] for name in names})
    return _place(address, {name: _download(address, name) for name in names})


def _is_an_answer(error: Exception) -> bool:
    """Whether the hub has said no, rather than nothing."""
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, HfHubHTTPError) and error.response.status_code < 500


def _candidates(address: Address) -> list[str]:
    """Every file, by its path in the repository, that may be fetched."""
    path = PurePosixPath(address.path)
    if path.suffix in _SINGLE:
        return [address.path]
    names = dict.fromkeys((*_OWN, *(name for names in _BY_WEIGHTS.values() for name in names)))
    return [str(path / name) for name in names]


def _sizes(address: Address, names: list[str]) -> dict[str, int]:
    """Bytes of those that are there."""
    found = _client().get_paths_info(address.repo, names, revision=address.revision)
    return {entry.path: entry.size for entry in found if entry.path in names and hasattr(entry, "size")}


def _chosen(address: Address, there: Mapping[str, Any]) -> list[str]:
    """Which of the files that are there make an SAE."""
    if address.path in there:
        return [address.path]
    path = PurePosixPath(address.path)
    own = [str(path / name) for name in _OWN]
    if all(name in there for name in own):
        return own
    found = [names for weights, names in _BY_WEIGHTS.items() if str(path / weights) in there]
    if len(found) > 1:
        raise SaelabError(
            f"this holds SAEs of several tools ({', '.join(names[-1] for names in found)})",
            fix="keep each in a directory of its own",
        )
    if not found:
        raise SaelabError("there is no SAE here in a form that saelab knows", fix=_beside(address))
    return [name for part in found[0] if (name := str(path / part)) in there]


def _beside(address: Address) -> str:
    """What to name instead, from what there is."""
    try:
        tree = _client().list_repo_tree(address.repo, address.path or None, revision=address.revision)
        directories = [entry.path for entry in islice(tree, 1000) if not hasattr(entry, "size")]
    except Exception:  # the path is no directory
        directories = []
    if not directories:
        return "name a directory that holds one: hf://org/repo/path"
    more = f" and {len(directories) - _LISTED} more" if len(directories) > _LISTED else ""
    return f"it may be in one of its directories: {', '.join(map(shown, directories[:_LISTED]))}{more}"


def _check_sizes(address: Address, sizes: Mapping[str, int]) -> None:
    from huggingface_hub import constants

    for name, size in sizes.items():
        if not 0 < size <= _LARGEST[PurePosixPath(name).suffix]:
            raise SaelabError(f"{name} has {size:,} bytes, which is no size for such a file")
    missing = sum(size for name, size in sizes.items() if not _kept(address, [name]))
    place = next(
        part for part in [Path(constants.HF_HUB_CACHE), *Path(constants.HF_HUB_CACHE).parents] if part.exists()
    )
    free = shutil.disk_usage(place).free
    if missing > free:
        raise SaelabError(
            f"these files have {missing:,} bytes, and {free:,} are free at {place}",
            fix="make room, or point HF_HUB_CACHE at another disk",
        )


def _download(address: Address, name: str) -> Path:
    return Path(_client().hf_hub_download(address.repo, name, revision=address.revision))


def _kept(address: Address, names: list[str]) -> dict[str, Path]:
    """Those of the files that are in the client's cache."""
    from huggingface_hub import try_to_load_from_cache

    found = {name: try_to_load_from_cache(address.repo, name, revision=address.revision) for name in names}
    return {name: Path(path) for name, path in found.items() if isinstance(path, str)}


def _place(address: Address, files: Mapping[str, Path]) -> Path:
    """Where they lie together."""
    if address.path in files:
        return files[address.path]
    directories = {path.parent for path in files.values()}
    if len(directories) > 1:
        raise SaelabError("this repository was changed while it was fetched", fix="fetch it again")
    return directories.pop()


# -- publishing --------------------------------------------------------------------------------------------------

CARD = "README.md"
_KEPT = (".gitattributes", CARD)


def publish(repo: str, files: Mapping[str, Path], *, message: str, private: bool = False) -> str:
    """Put files into a repository, made where it is not there, in one commit.

    What an earlier push left in directories of other tools, and is not among the files, is removed.

    Args:
        files: by their paths in the repository.
        private: whether only its owner sees a repository that is made.

    Returns:
        The commit's address.

    Raises:
        SaelabError: no such name; the repository holds other things than SAEs that were pushed; not allowed; no
            connection.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    client, address = _client(), Address(check_repo(repo))
    with _explained(address):
        client.create_repo(repo, private=private, exist_ok=True)
        there = set(client.list_repo_files(repo))
        exported = {name for name in there if PurePosixPath(name).parts[0] in FORMATS_BESIDE}
        strangers = sorted(there - files.keys() - exported - set(_KEPT))
        if (strangers or io.CONFIG in there) and io.WEIGHTS not in there:
            named = ", ".join(map(shown, (strangers or [io.CONFIG])[:3]))
            raise SaelabError(f"this repository holds files that no SAE here has ({named})", fix="choose another name")
        added = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
        removed = [CommitOperationDelete(name) for name in sorted(exported - files.keys())]
        return client.create_commit(repo, [*added, *removed], commit_message=message).commit_url


FORMATS_BESIDE = ("saelens", "sparsify", "dictionary_learning")
"""Directories in a repository that hold the SAE in other tools' formats."""


def _client() -> Any:
    from huggingface_hub import HfApi

    from saelab import __version__

    return HfApi(library_name="saelab", library_version=__version__)


@contextmanager
def _explained(address: Address) -> Iterator[None]:
    """Turn what the hub and its client object to into one readable error."""
    from huggingface_hub import errors

    where = str(address)
    try:
        yield
    except SaelabError as error:
        raise SaelabError(error.message, where=error.where or where, fix=error.fix) from error
    except errors.GatedRepoError as error:
        raise SaelabError("this repository asks for a consent", where=where, fix="give it on its page") from error
    except errors.RepositoryNotFoundError as error:
        raise SaelabError(
            "there is no such repository, or it is private and you are not logged in", where=where, fix=_LOGIN
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SaelabError(f"this repository has no revision {shown(address.revision)}", where=where) from error
    except errors.EntryNotFoundError as error:
        raise SaelabError("there is no such file in this repository", where=where) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        fix = _LOGIN if status in (401, 403) else None
        raise SaelabError(f"the hub refuses this: {_first_line(error)}", where=where, fix=fix) from error
    except Exception as error:  # transports and the client's own checks fail in many ways
        raise SaelabError(
            f"the hub cannot be reached, or not understood: {_first_line(error)}",
            where=where,
            fix="check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, or name a local directory",
        ) from error


_LOGIN = "hf auth login, or set HF_TOKEN"


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 200 else text[:197] + "..."
