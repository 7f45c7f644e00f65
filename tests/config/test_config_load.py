"""From a text to a typed config and back; the schema; entries that others add."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelab.config import (
    Choice,
    OneOf,
    TableOf,
    as_dict,
    config_sha256,
    json_schema,
    load_config,
    parse_config,
    to_yaml,
)
from saelab.errors import SaelabError


class Names:
    """The least that a registry is: names, each made when it is asked for."""

    def __init__(self, **entries: Callable[..., Any]):
        self.entries = entries
        self.asked: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        self.asked.append(name)
        return self.entries[name]


@dataclass(frozen=True)
class Schedule:
    warmup: Annotated[int, "Steps until the full value."] = 0
    shape: Literal["linear", "cosine"] = "linear"


def topk(d_model: int, *, n_latents: int, k: Annotated[int, "Active latents per token."] = 32, aux: float = 1) -> None:
    """Keep the k largest.

    Gao et al., 2024.
    """


def relu(
    d_model: int, n_latents: int = 64, l1: Schedule = Schedule(), widths: tuple[int, ...] = (), **rest: int
) -> None:
    pass


@dataclass(frozen=True)
class Ce:
    """Loss recovered."""

    n_tokens: int = 1000


def density(bins: int = 10, name: str | None = None) -> None: ...


VARIANTS = Names(topk=topk, relu=relu)
EVALS = Names(ce=Ce, density=density)


@dataclass(frozen=True)
class Train:
    lr: Annotated[float, "Peak learning rate."]
    steps: int = 100
    schedule: Schedule = field(default_factory=Schedule)
    copy: bool = False


_SMALL = Choice("topk", {"n_latents": 8})


@dataclass(frozen=True)
class Run:
    """A whole run."""

    train: Train
    sae: Annotated[Choice, OneOf(VARIANTS), "The dictionary."]
    evals: Annotated[dict[str, dict[str, Any]], TableOf(EVALS)] = field(default_factory=lambda: {"ce": {}})
    out: Path = Path("runs/a")
    name: str | None = None
    hooks: tuple[str, ...] = ("a", "b")
    weights: dict[str, float] = field(default_factory=dict)
    sweep: tuple[Schedule, ...] = ()
    teacher: Annotated[Choice | None, OneOf(VARIANTS)] = None
    student: Annotated[Choice, OneOf(VARIANTS)] = _SMALL


TEXT = """\
train:
  lr: 1e-3
  steps: 5
sae:
  kind: relu
  l1: {shape: cosine}
  widths: [1, 2]
"""
CONFIG = Run(
    train=Train(lr=0.001, steps=5),
    sae=Choice("relu", {"n_latents": 64, "l1": Schedule(shape="cosine"), "widths": (1, 2)}),
    evals={"ce": {"n_tokens": 1000}},
    student=Choice("topk", {"n_latents": 8, "k": 32, "aux": 1.0}),
)


def test_a_text_becomes_a_typed_config_with_every_default_in_it() -> None:
    config = parse_config(Run, TEXT)
    assert config == CONFIG
    assert type(config.student.settings["aux"]) is float
    assert config.out == Path("runs/a")


def test_a_file_is_read_like_a_text(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("# ümlaut\r\n" + TEXT.replace("\n", "\r\n"), encoding="utf-8")
    assert load_config(Run, path) == CONFIG
    assert load_config(Run, path, ["train.steps=7"]).train.steps == 7


def test_results_are_frozen() -> None:
    config = parse_config(Run, TEXT)
    for part, name in ((config, "name"), (config.train, "lr"), (config.sae, "kind")):
        with pytest.raises(FrozenInstanceError):
            setattr(part, name, "x")


def test_numbers_fill_what_they_can_fill_exactly() -> None:
    config = parse_config(Run, "train: {lr: 1}\nsae: {kind: topk, n_latents: 9}\nweights: {a: 2, b: .5}")
    assert repr(config.train.lr) == "1.0"
    assert repr(config.weights) == "{'a': 2.0, 'b': 0.5}"


def test_null_and_absence_mean_the_default_of_a_table_and_of_its_entries() -> None:
    assert parse_config(Run, TEXT + "evals:\n").evals == {"ce": {"n_tokens": 1000}}
    assert parse_config(Run, TEXT + "evals: {}\n").evals == {}
    table = parse_config(Run, TEXT + "evals:\n  density:\n  ce: {n_tokens: 3}\n").evals
    assert table == {"density": {"bins": 10, "name": None}, "ce": {"n_tokens": 3}}
    assert list(table) == ["density", "ce"]


def test_overrides_win_and_create_sections() -> None:
    overrides = [
        "train.lr=3e-4",
        "train.schedule.warmup=7",
        "hooks=[x]",
        "name=on",
        "teacher={kind: topk, n_latents: 2}",
        "sae.l1.shape=linear",
        "evals.density.bins=2",
        "train.steps=1",
        "train.steps=2",
    ]
    config = parse_config(Run, TEXT, overrides=overrides)
    assert config.train == Train(3e-4, 2, Schedule(warmup=7))
    assert config.hooks == ("x",)
    assert config.name == "on"
    assert config.teacher == Choice("topk", {"n_latents": 2, "k": 32, "aux": 1.0})
    assert config.sae.settings["l1"] == Schedule()
    assert config.evals == {"density": {"bins": 2, "name": None}}
    assert parse_config(Run, TEXT, overrides=["name=a=b"]).name == "a=b"
    assert parse_config(Run, TEXT + "name: x", overrides=["name="]).name is None


def test_an_entry_added_at_run_time_counts() -> None:
    text = TEXT.replace("relu\n  l1: {shape: cosine}\n  widths: [1, 2]", "mine\n  depth: 3") + "evals: {their: }\n"
    with pytest.raises(SaelabError, match=r"sae\.kind: unknown 'mine'; known: relu, topk"):
        parse_config(Run, text)

    def mine(d_model: int, depth: int, flat: bool = True) -> None: ...

    VARIANTS.entries["mine"] = mine
    EVALS.entries["their"] = mine
    try:
        with pytest.raises(SaelabError, match=r"(?s)evals.their.d_model: missing.*evals.their.depth: missing"):
            parse_config(Run, text)
        config = parse_config(Run, text, overrides=["evals.their={d_model: 1, depth: 2}"])
        assert config.sae == Choice("mine", {"depth": 3, "flat": True})
        assert config.evals == {"their": {"d_model": 1, "depth": 2, "flat": True}}
        assert len(json_schema(Run)["properties"]["sae"]["oneOf"]) == 3
    finally:
        del VARIANTS.entries["mine"], EVALS.entries["their"]


def test_only_the_entries_that_a_config_names_are_asked_for() -> None:
    VARIANTS.asked.clear()
    EVALS.asked.clear()
    parse_config(Run, TEXT)
    assert set(VARIANTS.asked) == {"relu", "topk"}  # `student` is a topk by default
    assert set(EVALS.asked) == {"ce"}


def test_an_entry_without_types_is_named() -> None:
    def untyped(d_model, k):
        pass

    VARIANTS.entries["untyped"] = untyped
    try:
        with pytest.raises(SaelabError) as caught:
            parse_config(Run, TEXT, overrides=["sae={kind: untyped}"])
    finally:
        del VARIANTS.entries["untyped"]
    assert str(caught.value) == "untyped: parameter 'k' needs a type annotation"


def test_as_dict_is_plain_and_resolved() -> None:
    assert as_dict(CONFIG) == {
        "train": {"lr": 0.001, "steps": 5, "schedule": {"warmup": 0, "shape": "linear"}, "copy": False},
        "sae": {"kind": "relu", "n_latents": 64, "l1": {"warmup": 0, "shape": "cosine"}, "widths": [1, 2]},
        "evals": {"ce": {"n_tokens": 1000}},
        "out": "runs/a",
        "name": None,
        "hooks": ["a", "b"],
        "weights": {},
        "sweep": [],
        "teacher": None,
        "student": {"kind": "topk", "n_latents": 8, "k": 32, "aux": 1.0},
    }
    assert json.loads(json.dumps(as_dict(CONFIG))) == as_dict(CONFIG)


def test_the_hash_depends_on_the_values_alone() -> None:
    first = config_sha256(parse_config(Run, TEXT))
    rewritten = "sae: {widths: [0x1, 2], kind: relu, l1: {shape: cosine}}\ntrain: {steps: 5, lr: 0.001, copy: false}\n"
    assert config_sha256(parse_config(Run, rewritten)) == first
    assert config_sha256(parse_config(Run, TEXT, overrides=["train.steps=6"])) != first
    canonical = json.dumps(as_dict(CONFIG), sort_keys=True, separators=(",", ":"))
    assert first == hashlib.sha256(canonical.encode()).hexdigest()


_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_SCHEDULES = st.builds(Schedule, st.integers(), st.sampled_from(["linear", "cosine"]))
_CHOICES = st.builds(
    Choice,
    st.just("topk"),
    st.fixed_dictionaries({"n_latents": st.integers(), "k": st.integers(), "aux": _NUMBERS}),
) | st.builds(
    Choice,
    st.just("relu"),
    st.fixed_dictionaries(
        {
            "n_latents": st.integers(),
            "l1": _SCHEDULES,
            "widths": st.lists(st.integers(), max_size=3).map(tuple),
        }
    ),
)
_TABLES = st.fixed_dictionaries(
    {},
    optional={
        "ce": st.fixed_dictionaries({"n_tokens": st.integers()}),
        "density": st.fixed_dictionaries({"bins": st.integers(), "name": st.none() | st.text()}),
    },
)
_CONFIGS = st.builds(
    Run,
    st.builds(Train, _NUMBERS, st.integers(), _SCHEDULES, st.booleans()),
    _CHOICES,
    _TABLES,
    st.lists(st.text("ab ü.", min_size=1), min_size=1).map(lambda parts: Path(*parts)),
    st.none() | st.text(),
    st.lists(st.text(), max_size=3).map(tuple),
    st.dictionaries(st.text(), _NUMBERS, max_size=3),
    st.lists(_SCHEDULES, max_size=2).map(tuple),
    st.none() | _CHOICES,
    _CHOICES,
)


@given(_CONFIGS)
def test_a_config_survives_its_yaml(config: Run) -> None:
    read = parse_config(Run, to_yaml(config))
    assert read == config
    assert config_sha256(read) == config_sha256(config)


def test_yaml_reads_like_something_a_person_wrote() -> None:
    assert to_yaml(replace(CONFIG.train, lr=1e-5)) == (
        "lr: 1.0e-05\nsteps: 5\nschedule:\n  warmup: 0\n  shape: linear\ncopy: false\n"
    )


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """The few words of JSON schema that ours use."""
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "boolean": bool,
        "null": type(None),
    }
    for name in ("anyOf", "oneOf"):
        if name in schema and sum(accepts(option, value) for option in schema[name]) != 1:
            return False
    kind = schema.get("type")
    if kind == "number":
        right = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        right = kind is None or (type(value) is kinds[kind])
    if not right or ("enum" in schema and value not in schema["enum"]) or value != schema.get("const", value):
        return False
    if isinstance(value, list):
        return all(accepts(schema["items"], item) for item in value)
    if isinstance(value, dict) and kind == "object":
        keys, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        return set(schema.get("required", ())) <= set(value) and all(
            accepts(keys[key], item) if key in keys else more and accepts(more, item) for key, item in value.items()
        )
    return True


def test_the_schema_accepts_what_the_loader_accepts() -> None:
    schema = json_schema(Run)
    good: dict[str, Any] = {"train": {"lr": 1}, "sae": {"kind": "topk", "n_latents": 3}}
    assert accepts(schema, as_dict(CONFIG))
    assert accepts(schema, good)
    assert accepts(schema, good | {"evals": None})
    assert accepts(schema, good | {"evals": {"ce": None, "density": {"bins": 3}}})
    for wrong in (
        {"train": {"lr": "1"}},
        {"train": {"lr": 1, "rate": 2}},
        {"train": {}},
        {"sae": {"kind": "topk"}},
        {"sae": {"kind": "topk", "n_latents": 3, "d_model": 4}},
        {"sae": {"kind": "topkk", "n_latents": 3}},
        {"evals": {"other": {}}},
        {"weights": {"a": True}},
        {"more": 1},
    ):
        assert not accepts(schema, good | wrong)


def test_the_schema_describes_and_names_its_keys() -> None:
    schema = json_schema(Run)
    keys = schema["properties"]
    assert schema["title"] == "Run"
    assert schema["description"] == "A whole run."
    assert list(keys) == ["train", "sae", "evals", "out", "name", "hooks", "weights", "sweep", "teacher", "student"]
    assert schema["required"] == ["train", "sae"]
    assert keys["train"]["properties"]["lr"]["description"] == "Peak learning rate."
    assert "description" not in keys["train"]
    assert keys["sae"]["description"] == "The dictionary."
    assert keys["sae"]["discriminator"] == {"propertyName": "kind"}
    topk_schema, relu_schema = keys["sae"]["oneOf"]
    assert topk_schema["description"] == "Keep the k largest."
    assert topk_schema["required"] == ["kind", "n_latents"]
    assert list(topk_schema["properties"]) == ["kind", "n_latents", "k", "aux"]
    assert topk_schema["properties"]["k"]["description"] == "Active latents per token."
    assert topk_schema["properties"]["k"]["default"] == 32
    assert list(relu_schema["properties"]) == ["kind", "n_latents", "l1", "widths"]
    assert relu_schema["properties"]["l1"]["default"] == {"warmup": 0, "shape": "linear"}
    assert keys["student"]["default"] == {"kind": "topk", "n_latents": 8}
    json.dumps(schema)


def test_pydantic_comes_with_config_and_not_before() -> None:
    code = "import sys, saelab, saelab.errors; assert 'pydantic' not in sys.modules and 'yaml' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
