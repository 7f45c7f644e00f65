"""Files that others wrote, read with suspicion: whatever is in them ends as an error that says what was found.

Nothing is executed, nothing is written, and no more memory is asked for than a file's own size justifies,
whatever it declares.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from saelab.errors import SaelabError, did_you_mean
from saelab.files import read_tensors

T = TypeVar("T")

WIDEST = 2**24
"""No model is wider, no dictionary has more than 16 million latents per unit of width; more is damage."""
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_LARGEST_RATIO = 100
"""By which compressed weights may grow: real ones hardly shrink at all."""
_CONFIG_BYTES = 2**24
_LONGEST = 1000
_SHOWN = 60
_REQUIRED: Any = object()


class Fields:
    """A JSON object read strictly: what is not asked for is an error.

    Args:
        values: the object.
        where: the file, and the place in it, that errors name.
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        self._left = dict(values)
        self._known: set[str] = set()
        self.where = where

    @overload
    def take(self, key: str, kind: type[T]) -> T: ...
    @overload
    def take(self, key: str, kind: type[T], default: T) -> T: ...
    def take(self, key: str, kind: type[T], default: Any = _REQUIRED) -> T:
        """The value of `key`, which must be a `kind`."""
        self._known.add(key)
        if key not in self._left:
            if default is _REQUIRED:
                raise SaelabError(f"the key '{key}' is missing", where=self.where)
            return default
        return self._checked(key, self._left.pop(key), kind)

    def optional(self, key: str, kind: type[T]) -> T | None:
        """The value of `key`; None where it is absent or null."""
        if self._left.get(key) is None:
            self.ignore(key)
            return None
        return self.take(key, kind)

    def section(self, key: str, default: Mapping[str, Any] | None = None) -> Fields:
        """The object in `key`."""
        values = self.take(key, dict) if default is None else self.take(key, dict, dict(default))
        return Fields(values, f"{self.where}: {key}")

    def any(self, key: str) -> Any:
        """The value of `key`, whatever it is; None where it is absent."""
        self._known.add(key)
        return self._left.pop(key, None)

    def pop(self, keys: Collection[str]) -> dict[str, Any]:
        """What there is of these keys, to be read by somebody else."""
        return {key: self.any(key) for key in sorted(keys) if key in self._left}

    def ignore(self, *keys: str) -> None:
        """Keys that may be there and say nothing of what the SAE computes."""
        self._known.update(keys)
        for key in keys:
            self._left.pop(key, None)

    def done(self) -> None:
        """Raise where a key was never asked for."""
        if self._left:
            key = next(iter(self._left))
            raise SaelabError(
                f"unknown key {shown(key)} = {shown(self._left[key])}: saelab cannot tell what it means for the SAE",
                where=self.where,
                fix=did_you_mean(key, self._known) or None,
            )

    def _checked(self, key: str, value: Any, kind: type[T]) -> T:
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if type(value) is not kind:
            names = {str: "text", bool: "true or false", int: "a whole number", float: "a number", dict: "an object"}
            wanted = names.get(kind, "a list")
            raise SaelabError(f"{key} should be {wanted}, found {shown(value)}", where=self.where)
        if isinstance(value, float) and not math.isfinite(value):
            raise SaelabError(f"{key} is not finite", where=self.where)
        if isinstance(value, str) and not (value.isprintable() and len(value) <= _LONGEST):
            raise SaelabError(f"{key} is {shown(value)}, which is no name", where=self.where)  # a terminal may obey it
        return value


def width(fields: Fields, key: str) -> int:
    """The number of a configuration that says how wide something is."""
    found = fields.take(key, int)
    if not 0 < found < WIDEST:
        raise SaelabError(f"{key} is {shown(found)}, which is no width", where=fields.where)
    return found


def shown(value: Any) -> str:
    """A value in an error: short, and on one line."""
    text = " ".join(ascii(value).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        SaelabError: absent, too large, not JSON, not an object, or with a number or a text that no JSON file of
            saelab's could hold.
    """
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            raise SaelabError(f"a configuration of {path.stat().st_size:,} bytes is none", where=str(path))
        document = json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_no_number, object_pairs_hook=_without_duplicates
        )
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except FileNotFoundError as error:
        raise SaelabError("this file does not exist", where=str(path)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise SaelabError(f"not a readable JSON file: {shown(str(error))}", where=str(path)) from error
    if not isinstance(document, dict):
        raise SaelabError(f"expected a JSON object, found {shown(document)}", where=str(path))
    return document


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands there twice")
    return values


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file; see `read_tensors`."""
    try:
        return read_tensors(path)
    except SaelabError:
        raise
    except Exception as error:  # dtypes that this torch or safetensors does not know fail in many ways
        raise SaelabError(f"not a readable safetensors file: {shown(str(error))}", where=str(path)) from error


def read_pickled(path: Path) -> dict[str, Any]:
    """The dictionary in a file of `torch.save`, by torch's unpickler for weights, which runs no code.

    Raises:
        SaelabError: absent, not such a file, one that holds anything but weights and plain values, or one whose
            tensors are larger than what is stored of them.
    """
    _check_archive(path, stored=True)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler and the archive reader fail in many ways
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it asks for {called[1]}" if called else shown(str(error))
        raise SaelabError(
            f"not a file of weights and plain values, all else being refused: {reason}", where=str(path)
        ) from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise SaelabError(f"expected tensors by name, found {type(found).__name__}", where=str(path))
    for name, value in found.items():
        if isinstance(value, Tensor):
            _check_stored(name, value, path)
    return dict(found)


def _check_stored(name: str, value: Tensor, path: Path) -> None:
    """A tensor may claim a shape of which its storage holds a fraction, or to live nowhere at all."""
    whole = value.layout is torch.strided and not value.is_quantized and value.device.type == "cpu"
    if not whole or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise SaelabError(f"{shown(name)} is no plain tensor whose values are all in the file", where=str(path))


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays in an `.npz` file, without pickles.

    Raises:
        SaelabError: absent, not such a file, an array of objects, or one larger than what is stored of it.
    """
    import numpy as np

    _check_archive(path, stored=False)
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    _check_array(entry, *_array_header(file))
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}
    except SaelabError as error:
        raise SaelabError(error.message, where=str(path)) from error
    except Exception as error:  # numpy and zipfile fail in many ways
        raise SaelabError(f"not a readable .npz file: {shown(str(error))}", where=str(path)) from error


def _array_header(file: Any) -> tuple[tuple[int, ...], Any, int]:
    """Shape and dtype that an `.npy` file declares, and the bytes of its header."""
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise SaelabError(f"an array is stored in version {version} of NumPy's format")
    shape, _, dtype = readers[version](file)
    return shape, dtype, file.tell()


def _check_array(entry: zipfile.ZipInfo, shape: tuple[int, ...], dtype: Any, header: int) -> None:
    if dtype.kind != "f":
        raise SaelabError(f"{shown(entry.filename)} holds {dtype}, not floating point")
    if math.prod(shape) * dtype.itemsize + header != entry.file_size:
        raise SaelabError(f"{shown(entry.filename)} declares the shape {list(shape)}, which is not what it holds")


def _check_archive(path: Path, *, stored: bool) -> None:
    """Raise where a zip archive would unpack to much more than its own size."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise SaelabError("this file does not exist", where=str(path)) from error
    except Exception as error:  # zipfile fails in many ways
        raise SaelabError(f"not the zip archive it should be: {shown(str(error))}", where=str(path)) from error
    total = sum(entry.file_size for entry in entries)
    if total > size * (1 if stored else _LARGEST_RATIO):
        raise SaelabError(f"its parts claim {total:,} bytes, and the whole has {size:,}", where=str(path))


def floating(tensors: Mapping[str, Tensor], names: Sequence[str], where: str) -> dict[str, Tensor]:
    """These tensors and no others, in one precision: float64 where the first of them has it, else float32.

    So half precision is widened, which is exact; a threshold that was kept in double precision beside narrower
    weights is rounded to them.

    Raises:
        SaelabError: one is missing, unknown, not floating point, or holds a value that is not finite.
    """
    expect_names(tensors, names, where)
    for name in names:
        if not isinstance(tensors[name], Tensor):
            raise SaelabError(f"{name} is no tensor but {shown(tensors[name])}", where=where)
        if tensors[name].dtype not in _FLOATS:
            raise SaelabError(f"{name} holds {tensors[name].dtype}, not floating point", where=where)
        if not torch.isfinite(tensors[name]).all():
            raise SaelabError(f"{name} holds values that are not finite", where=where)
    wide = torch.float64 if tensors[names[0]].dtype == torch.float64 else torch.float32
    return {name: tensors[name].detach().to(wide) for name in names}


def expect_names(tensors: Mapping[str, Any], names: Collection[str], where: str) -> None:
    """Raise where there are other tensors than these."""
    for name in names:
        if name not in tensors:
            raise SaelabError(f"the tensor {name} is missing", where=where)
    for name in tensors:
        if name not in names:
            raise SaelabError(
                f"unknown tensor {shown(name)}: saelab cannot tell what it means for the SAE",
                where=where,
                fix=f"these are known: {', '.join(names)}",
            )


def matrix(tensors: Mapping[str, Tensor], name: str, where: str) -> tuple[int, int]:
    """The shape of a matrix that says how wide all else is.

    Raises:
        SaelabError: it is no matrix, or of no size.
    """
    shape = tuple(tensors[name].shape)
    if len(shape) != 2 or not all(0 < size < WIDEST for size in shape):
        raise SaelabError(f"{name} has shape {list(shape)}, and should be a matrix", where=where)
    return shape[0], shape[1]


def expect_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise where a tensor has another shape than this."""
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise SaelabError(
                f"{name} has shape {list(tensors[name].shape)}, expected {list(shape)}",
                where=where,
            )
