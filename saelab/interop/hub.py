"""The Hugging Face hub: `hf://org/repo[@revision][/path]` as a source, and a place to publish to.

From a repository only files of the names that SAEs have are fetched, and only of sizes that SAEs have, into the hub
client's own cache; what is in them is then read as any other file is. What was fetched once loads without a
connection, too. Branches and tags with a slash are written with `%2F`, but for the hub's own (`refs/pr/1`).
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from saelab.errors import SaelabError
from saelab.interop import dictionary_learning, gemma_scope, saelens, sparsify
from saelab.interop.reading import shown
from saelab.interop.writing import WRITABLE
from saelab.sae import io

T = TypeVar("T")

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

_SOURCE = re.compile(r"hf://(?:models/)?([^/@]+/[^/@]+)(?:@(refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(.*))?", re.DOTALL)
_OTHER_KINDS = ("datasets/", "spaces/", "buckets/")


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
        if source.removeprefix("hf://").startswith(_OTHER_KINDS):
            raise SaelabError(f"this is no repository of models: {shown(source)}", fix="hf://org/repo")
        repo, revision, path = found[1], found[2] and unquote(found[2]), (found[3] or "").rstrip("/")
        if revision is not None and not _is_inside(revision):
            raise SaelabError(f"{shown(revision)} is no revision", where=shown(source))
        if path and not _is_inside(path):
            raise SaelabError(f"{shown(path)} is no path inside a repository", where=shown(source))
        return cls(check_repo(repo), revision, path)

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{quote(self.revision, safe='')}"
        return f"hf://{self.repo}{at}/{self.path}".rstrip("/")


def _is_inside(path: str) -> bool:
    """Whether it leads nowhere but down, in letters that can be shown."""
    return not any(part in ("", ".", "..") or not part.isprintable() or "\\" in part for part in path.split("/"))


def check_repo(given: str) -> str:
    """The name of a repository, as it is.

    Raises:
        SaelabError: the hub allows no such name.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    wrong = SaelabError(f"{shown(given)} names no repository", fix="org/name, of letters, digits, '_', '-' and '.'")
    if not given.isascii() or given.count("/") != 1:
        raise wrong
    try:
        validate_repo_id(given)
    except HFValidationError as error:
        raise wrong from error
    return given


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
    candidates = _candidates(address)
    try:
        sizes = _sizes(address, candidates)
    except _UnreachableError:  # no connection, or none wanted: what there is of it was fetched before
        kept = _kept(address, candidates)
        try:
            return _place(address, {name: kept[name] for name in _chosen(address, kept, beside=False)})
        except SaelabError:  # not all of it
            pass
        raise
    names = _chosen(address, sizes)
    _check_sizes(address, {name: sizes[name] for name in names})
    return _place(address, {name: _download(address, name) for name in names})


def _candidates(address: Address) -> list[str]:
    """Every file, by its path in the repository, that may be fetched."""
    path = PurePosixPath(address.path)
    if path.suffix in _SINGLE:
        return [address.path]
    names = dict.fromkeys((*_OWN, *(name for names in _BY_WEIGHTS.values() for name in names)))
    return [str(path / name) for name in names]


def _sizes(address: Address, names: list[str]) -> dict[str, int]:
    """Bytes of those that are there."""

    def sizes(client: Any) -> dict[str, int]:
        found = client.get_paths_info(address.repo, names, revision=address.revision)
        return {entry.path: entry.size for entry in found if entry.path in names and hasattr(entry, "size")}

    return _ask(sizes)


def _chosen(address: Address, there: Mapping[str, Any], *, beside: bool = True) -> list[str]:
    """Which of the files that are there make an SAE.

    Args:
        beside: whether an error may ask the hub what else there is.
    """
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
        raise SaelabError("there is no SAE here in a form that saelab knows", fix=_beside(address) if beside else None)
    return [name for part in found[0] if (name := str(path / part)) in there]


def _beside(address: Address) -> str:
    """What to name instead, from what there is."""
    from huggingface_hub.errors import HfHubHTTPError

    def listed(client: Any) -> list[str]:
        tree = client.list_repo_tree(address.repo, address.path or None, revision=address.revision)
        return [entry.path for entry in islice(tree, 1000) if not hasattr(entry, "size")]

    try:
        directories = _ask(listed)
    except (HfHubHTTPError, _UnreachableError):  # the path is no directory; the hub has gone since
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
    return Path(_ask(lambda client: client.hf_hub_download(address.repo, name, revision=address.revision)))


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


@dataclass(frozen=True)
class Published:
    """A commit's address, and the files that it took away."""

    url: str
    removed: tuple[str, ...]


def publish(repo: str, files: Mapping[str, Path], *, message: str, private: bool = False) -> Published:
    """Put files into a repository, made where it is not there, in one commit.

    What an earlier push left in directories of other tools, and is not among the files, is removed.

    Args:
        files: by their paths in the repository.
        private: whether only its owner sees a repository that is made; else that is as the owner has settled it.

    Raises:
        SaelabError: no such name; the repository holds other things than an SAE that was pushed; it is public, and
            was to be private; not allowed; no connection.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    address = Address(check_repo(repo))
    with _explained(address):
        _ask(lambda client: client.create_repo(repo, private=private or None, exist_ok=True))
        if private and not _ask(lambda client: client.repo_info(repo)).private:
            raise SaelabError("this repository is public", fix="make it private on its page, or choose another name")
        there = set(_ask(lambda client: client.list_repo_files(repo)))
        if not _is_ours(repo, there) and (strangers := sorted(there - set(_KEPT))):
            named = ", ".join(map(shown, strangers[:3]))
            raise SaelabError(f"this repository holds files that no SAE here has ({named})", fix="choose another name")
        exported = {name for name in there if PurePosixPath(name).parts[0] in WRITABLE}
        removed = tuple(sorted(exported - files.keys()))
        commit: list[Any] = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
        commit += [CommitOperationDelete(name) for name in removed]
        made = _ask(lambda client: client.create_commit(repo, commit, commit_message=message))
        return Published(made.commit_url, removed)


def _is_ours(repo: str, there: set[str]) -> bool:
    """Whether an SAE was pushed into it: by its config, since others call files so, too."""
    if not there.issuperset(_OWN):
        return False
    path = _download(Address(repo), io.CONFIG)
    try:
        return io.is_config(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return False


def _client() -> Any:
    from huggingface_hub import HfApi

    from saelab import __version__

    return HfApi(library_name="saelab", library_version=__version__)


class _UnreachableError(Exception):
    """The hub gave no answer, or one that means nothing."""


def _ask(question: Callable[[Any], T]) -> T:
    """What the hub's client makes of a question.

    Raises:
        HfHubHTTPError: the hub says no.
        OSError: this machine does: no room, no rights.
        _UnreachableError: anything else, since transports and the client's own checks fail in many ways.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return question(_client())
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        raise _UnreachableError(_first_line(error)) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE:
            raise
        raise _UnreachableError(_first_line(error)) from error


_OF_THIS_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS}


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
        fix = _LOGIN if error.response.status_code in (401, 403) else None
        raise SaelabError(f"the hub refuses this: {_first_line(error)}", where=where, fix=fix) from error
    except _UnreachableError as error:
        raise SaelabError(
            f"the hub cannot be reached, or not understood: {error}",
            where=where,
            fix="check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, or name a local directory",
        ) from error
    except OSError as error:
        raise SaelabError(
            f"what is fetched cannot be kept: {error.strerror or error}",
            where=str(error.filename or where),
            fix="make room, or point HF_HUB_CACHE elsewhere",
        ) from error


_LOGIN = "hf auth login, or set HF_TOKEN"


def _first_line(error: Exception) -> str:
    """Of what it says, in letters that can be shown: a part of it may come from elsewhere."""
    lines = ("".join(c for c in line if c.isprintable()).strip() for line in str(error).splitlines())
    text = next(filter(None, lines), type(error).__name__)
    return text if len(text) <= 200 else text[:197] + "..."
