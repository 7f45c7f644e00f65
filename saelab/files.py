"""Files that are complete or absent.

Everything saelab writes goes to a temporary name beside its place, is flushed to the disk, and is
renamed. A reader therefore never meets half a file, and a process killed at any moment leaves at
most a `*.tmp-*` that the next one sweeps away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saelab.errors import SaelabError

if TYPE_CHECKING:
    from torch import Tensor

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def home() -> Path:
    """Where saelab keeps what it downloads and caches: `$SAELAB_HOME`, or `~/.cache/saelab`."""
    return Path(os.environ.get("SAELAB_HOME") or Path.home() / ".cache" / "saelab").expanduser()


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:8]}")


def fsync_directory(path: Path) -> None:
    """Make a rename inside `path` survive a power cut (a no-op where directories cannot be synced)."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _fsync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into one readable error."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        text = str(error)
        full = any(word in text for word in ("No space left", "File too large", "quota"))
        raise _write_error(path, text, full) from error
    except OSError as error:
        raise _write_error(path, error.strerror or str(error), error.errno in _NO_ROOM) from error


def _write_error(path: Path, reason: str, full: bool) -> SaelabError:
    fix = "free some room or choose another place, then run the same command again: it continues"
    return SaelabError(
        f"could not write this file: {'the disk is full' if full else reason}",
        where=str(path),
        fix=fix if full else None,
    )


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` when the block ends well.

    Raises:
        SaelabError: no room, no permission; the old `path`, if any, is untouched.
    """
    temporary = _temporary(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _fsync_file(temporary)
            os.replace(temporary, path)
            fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory to fill; it becomes `path` (which must not exist) when the block ends well."""
    temporary = _temporary(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _fsync_file(file)
            fsync_directory(temporary)
            os.replace(temporary, path)
            fsync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def only_process(lock: Path, busy: SaelabError) -> Iterator[None]:
    """Hold `lock` while inside; the kernel drops it however this process ends.

    The file says who holds it, or who held it last: what is written there never keeps anyone out.

    Raises:
        SaelabError: `busy` and who it is, where another process holds it; or it cannot be written.
    """
    with writing(lock):
        file = lock.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SaelabError(busy.message + _holder(lock), where=busy.where, fix=busy.fix) from error
        with writing(lock):
            file.truncate(0)
            since = datetime.now().astimezone().isoformat(" ", "seconds")
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}) + "\n")
            file.flush()
        yield


def _holder(lock: Path) -> str:
    """Who says in `lock` that they hold it, in brackets; nothing where that cannot be read (yet)."""
    try:
        who = json.loads(lock.read_text(encoding="utf-8"))
        return f" (process {who['pid']} on {who['host']}, since {who['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def sweep_temporaries(directory: Path) -> None:
    """Remove what a killed process left half-written directly inside `directory`."""
    for leftover in directory.glob("*.tmp-*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, complete or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON (no NaN: what cannot be measured is null), complete or not at all."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise SaelabError(f"this would hold a number that is not finite: {error}", where=str(path)) from error
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        SaelabError: absent, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SaelabError("this file does not exist", where=str(path)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise SaelabError(f"not a readable JSON file: {error}", where=str(path)) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, complete or not at all."""
    from safetensors.torch import save_file

    with atomic_file(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a whole safetensors file.

    Raises:
        SaelabError: absent, truncated, or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise SaelabError("this file does not exist", where=str(path)) from error
    except (OSError, SafetensorError) as error:
        raise SaelabError(f"not a readable safetensors file: {error}", where=str(path)) from error


def read_metadata(path: Path) -> dict[str, str]:
    """What `write_tensors` was given as metadata.

    Raises:
        SaelabError: absent, truncated, or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except FileNotFoundError as error:
        raise SaelabError("this file does not exist", where=str(path)) from error
    except (OSError, SafetensorError) as error:
        raise SaelabError(f"not a readable safetensors file: {error}", where=str(path)) from error


def read_ahead(path: Path, names: Iterable[str], rows: range) -> None:
    """Ask the operating system to read some rows of a safetensors file's tensors soon, where it takes such hints.

    What is wrong with the file is for its reader to say.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError, ValueError, LookupError, ArithmeticError), path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
        for name in names:
            begin, end = header[name]["data_offsets"]
            row_bytes = (end - begin) // header[name]["shape"][0]
            first = 8 + header_bytes + begin + rows.start * row_bytes
            os.posix_fadvise(file.fileno(), first, len(rows) * row_bytes, os.POSIX_FADV_WILLNEED)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """The sha256 of a value's canonical JSON: the name of what determines some content."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
