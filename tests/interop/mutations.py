"""Ways to damage the files of an SAE, made of the files themselves: a format that gains a key gains its mutations."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Change = Callable[[Path], None]
"""Damages the file it is given."""
Mutations = Iterator[tuple[str, Change]]
"""What it does, in words, and it."""

CODE_RAN = "code-ran"


class Code:
    """Unpickling this makes a directory in the current one: what must not happen."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path(CODE_RAN),)


def replacing(content: bytes) -> Change:
    return lambda file: (file.write_bytes(content), None)[1]


def any_file(whole: bytes) -> Mutations:
    """What can happen to a file of any kind."""
    for share in (0.0, 0.1, 0.5, 0.9, 0.99):
        yield f"truncated to {share}", replacing(whole[: int(share * len(whole))])
    others = {"garbage": bytes(range(256)) * 8, "zeros": bytes(512), "text": b"not an SAE at all"}
    others |= {"code in a pickle": pickle.dumps({"W_enc": Code()})}
    for name, content in others.items():
        yield name, replacing(content)
    yield "a directory", lambda file: (file.unlink(), file.mkdir(), None)[2]


# -- configurations -------------------------------------------------------------------------------------------

_WRONG: dict[type, tuple[Any, ...]] = {
    str: (None, 3, True, ["x"], {}, "", "../../../etc/passwd", "no such thing", "x" * 100_000),
    bool: (None, 1, "true", [], {}),
    int: (None, "3", 2.5, True, [4], {}, 0, -1, 10**9, 10**30),
    float: (None, "3", True, [0.5], {}),
    dict: (None, 3, "x", [], True),
}
_MEANT = frozenset(
    """
    architecture d_in d_out d_sae dtype apply_b_dec_to_input normalize_activations reshape_activations metadata k
    rescale_acts_by_decoder_norm stop_on_duplicate_support residual_threshold activation num_latents
    skip_connection transcode trainer buffer dict_class activation_dim dict_size
    """.split()  # noqa: SIM905
)
"""Keys that say what the SAE computes, or hold such; the others may say what they want."""


def config(whole: bytes) -> Mutations:
    """What can be wrong with a JSON file."""
    for text in ("null", "[]", "3", '"x"', "{", "[" * 100_000, '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}'):
        yield f"the text {text[:12]}", replacing(text.encode())
    yield "Latin-1", replacing('{"architecture": "é"}'.encode("latin-1"))
    document = json.loads(whole)
    key, value = next(iter(document.items()))
    yield "a key twice", replacing(whole.replace(b"{", f"{{{json.dumps(key)}: {json.dumps(value)}, ".encode(), 1))
    yield "an unknown key", _document({**document, "gate": 1})
    yield "an unknown key with a path", _document({**document, "../../x": "y" * 1000})
    for path, value in _leaves(document):
        for wrong in _WRONG.get(type(value), ()):
            yield f"{'.'.join(path)} = {str(wrong)[:12]!r}", _document(_changed(document, path, wrong))


def _document(document: Any) -> Change:
    return replacing(json.dumps(document).encode())


def _leaves(document: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in document.items():
        if key in _MEANT:
            yield (*above, key), value
            if isinstance(value, dict) and key != "metadata":
                yield from _leaves(value, (*above, key))


def _changed(document: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**document, first: _changed(document[first], tuple(rest), value) if rest else value}


def without(whole: bytes, *paths: str) -> Mutations:
    """Without keys that have no default."""
    for path in paths:
        document = json.loads(whole)
        *above, key = path.split(".")
        inner = document
        for part in above:
            inner = inner[part]
        del inner[key]
        yield f"without {path}", _document(document)


# -- tensors --------------------------------------------------------------------------------------------------


def tensors(whole: dict[str, Any], write: Callable[[dict[str, Any], Path], None], passed_over: tuple[str, ...] = ()):
    """What can be wrong with tensors by name, however they are kept: mutations.

    Args:
        write: keeps them in a file.
        passed_over: names that no reader looks at.
    """

    def writing(changed: dict[str, Any]) -> Change:
        return lambda file: write(changed, file)

    for name, value in whole.items():
        if not isinstance(value, Tensor) or name in passed_over:
            continue
        for what, wrong in _wrong(value):
            yield f"{name} {what}", writing({**whole, name: wrong})
        yield f"without {name}", writing({key: other for key, other in whole.items() if key != name})
    for name in ("W_gate", "../../../tmp/W_enc", ""):
        yield f"a tensor called {name!r}", writing({**whole, name: torch.zeros(3)})


def _wrong(value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if value.ndim < 2 or value.shape[0] != value.shape[1]:
        yield "transposed", value.T.contiguous() if value.ndim == 2 else value[None]
    yield "with another axis", value[..., None]
    yield "without the last of it", value[..., :-1].contiguous() if value.ndim else value.reshape(1)
    yield "empty", value.new_zeros(0)
    yield "in bool", value.to(torch.bool)
    yield "in uint8", value.to(torch.uint8)
    if value.is_floating_point():
        yield "all NaN", torch.full_like(value, float("nan"))
        for number in ("nan", "inf", "-inf"):
            spoilt = value.clone(memory_format=torch.contiguous_format)
            spoilt.view(-1)[-1] = float(number)
            yield f"with one {number}", spoilt


def safetensors(file: Path) -> Mutations:
    """Tensors, and the header of their file."""
    yield from tensors(load_file(file), lambda changed, file: save_file(changed, file))
    whole = file.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header, rest = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    first = next(name for name in header if name != "__metadata__")

    def with_entry(**change: Any) -> Change:
        text = json.dumps({**header, first: {**header[first], **change}}).encode()
        return replacing(struct.pack("<Q", len(text)) + text + rest)

    for name in ("I64", "F8_E4M3", "F4", "X"):
        yield f"dtype {name} in the header", with_entry(dtype=name)
    for name, shape in {"huge": [2**40, 2**20], "overflowing": [2**63, 2], "negative": [-1, 3], "text": "3"}.items():
        yield f"a {name} shape in the header", with_entry(shape=shape)
    yield "offsets beyond the file", with_entry(data_offsets=[0, 2**50])
    for name, said in {"huge": 2**63, "beyond the file": len(whole) * 10, "zero": 0}.items():
        yield f"a header whose length is {name}", replacing(struct.pack("<Q", said) + whole[8:])


def pickled(file: Path, passed_over: tuple[str, ...] = ()) -> Mutations:
    """Tensors in a file of `torch.save`, and what else can be in one."""
    whole = torch.load(file, weights_only=True)
    yield from tensors(whole, torch.save, passed_over)
    name = next(name for name, value in whole.items() if isinstance(value, Tensor) and value.ndim == 2)
    odd: dict[str, Any] = {
        "code for a value": {**whole, name: Code()},
        "code for one value more": {**whole, "more": Code()},
        "code alone": Code(),
        "a list": list(whole.values()),
        "a tensor": whole[name],
        "a module": torch.nn.Linear(2, 2),
        "numbers for names": dict(enumerate(whole.values())),
        "a number for a tensor": {**whole, name: 3.0},
        "a text for a tensor": {**whole, name: "x" * 10_000},
        "nothing for a tensor": {**whole, name: None},
        "tensors a level down": {"ae": dict(whole), "step": 3},
        "a huge shape over one number": {**whole, name: torch.zeros(1).expand(2**40, 2**20)},
        "a tensor without storage": {**whole, name: torch.empty(2**30, 2**10, device="meta")},
        "a sparse tensor": {**whole, name: torch.eye(3).to_sparse()},
        "numpy": {**whole, name: np.zeros((3, 3))},
    }
    for what, value in odd.items():
        yield what, lambda file, value=value: torch.save(value, file)
    yield "an old file of torch.save", lambda file: torch.save(whole, file, _use_new_zipfile_serialization=False)
    yield "old code", lambda file: torch.save({"a": Code()}, file, _use_new_zipfile_serialization=False)
    yield "a bomb", replacing(_archive({"archive/data.pkl": bytes(50_000_000)}))
    yield "an archive with a path in it", replacing(_archive({"../../../tmp/data.pkl": b"x"}))
    yield "an empty archive", replacing(_archive({}))


def arrays(file: Path) -> Mutations:
    """Arrays in an `.npz` file, and what else can be in one."""
    with np.load(file) as loaded:
        whole: dict[str, Any] = {name: torch.from_numpy(loaded[name]) for name in loaded.files}
    yield from tensors(whole, _save_arrays)
    some = {name: value.numpy() for name, value in whole.items()}
    odd: dict[str, Any] = {
        "an array of objects": np.array([Code()], dtype=object),
        "an array of texts": np.array(["x"]),
        "records": np.zeros(3, dtype=[("a", "f4")]),
        "big-endian numbers": some["W_enc"].astype(">f4"),
        "long doubles": some["W_enc"].astype(np.longdouble),
    }
    for what, value in odd.items():
        yield what, lambda file, value=value: np.savez(file, **{**some, "W_enc": value})
    header = {
        "huge": "(1099511627776, 1048576)",
        "negative": "(-1, 3)",
        "endless": "(" * 5000,
        "code": "__import__('os')",
    }
    for what, shape in header.items():
        yield f"a {what} shape", replacing(_archive({"W_enc.npy": _array(shape)}))
    yield "a bomb", replacing(_archive({"W_enc.npy": bytes(50_000_000)}))
    yield "an array that is none", replacing(_archive({"W_enc.npy": b"nothing"}))
    yield "an array with a path for a name", replacing(_archive({"../../../tmp/W_enc.npy": b"nothing"}))
    yield "one array, not several", replacing(_array("(0,)"))


def _save_arrays(changed: dict[str, Any], file: Path) -> None:
    np.savez(file, **{name: value.numpy() for name, value in changed.items()})


def _array(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _archive(entries: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return held.getvalue()
