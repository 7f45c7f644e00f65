"""What a user reads when a config is wrong, word for word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from saelab.config import Choice, OneOf, TableOf, load_config, parse_config
from saelab.errors import SaelabError, SettingError


def topk(d_model: int, n_latents: int, k: int = 32) -> None:
    """Keep the k largest."""


def relu(d_model: int, n_latents: int, l1: float = 0.1) -> None: ...


def _fits(choice: Choice) -> None:
    settings = choice.settings
    if settings.get("k", 0) > settings["n_latents"]:
        raise SettingError("k", f"{settings['k']} is more than n_latents", fix="lower k")
    if settings["n_latents"] == 13:
        raise SaelabError("13 latents\nbring bad luck", where="fortune.txt", fix="take 12")


@dataclass(frozen=True)
class Probe:
    n: int = 3

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("a probe needs data")


@dataclass(frozen=True)
class Optim:
    betas: tuple[float, float] = (0.9, 0.999)
    name: Literal["adam", "sgd"] = "adam"


@dataclass(frozen=True)
class Train:
    lr: float
    steps: int = 10
    nested: Optim = field(default_factory=Optim)
    resume: bool = False
    seeds: tuple[int, ...] = ()
    width: int | str | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SettingError("steps", "must be at least 1, found {steps}")
        if self.lr > self.nested.betas[0]:
            raise SettingError("nested.betas.0", "must not be below lr")


@dataclass(frozen=True)
class Run:
    train: Train
    sae: Annotated[Choice, OneOf({"topk": topk, "relu": relu}, check=_fits)]
    evals: Annotated[dict[str, dict[str, Any]], TableOf({"probe": Probe, "relu": relu})] = field(default_factory=dict)
    out: Path = Path("runs")
    more: tuple[Train, ...] = ()

    def __post_init__(self) -> None:
        if str(self.out) == "/":
            raise ValueError("cannot fill the root")


GOOD = "train:\n  lr: 1e-3\nsae:\n  kind: topk\n  n_latents: 64\n"


def errors_of(text: str, overrides: Sequence[str] = ()) -> str:
    with pytest.raises(SaelabError) as caught:
        parse_config(Run, text, "demo.yaml", overrides)
    return str(caught.value)


def only_error_of(text: str, overrides: Sequence[str] = ()) -> str:
    head, line = errors_of(text, overrides).split("\n")
    assert head == "1 error in demo.yaml"
    return line


def test_all_errors_of_a_file_come_together_in_its_order() -> None:
    text = """\
more:
- steps: 3
  lr: no
- lr: 1
  step: 4
- 5
sae:
  kind: topk
  n_latents: "32"
  n_latent: 4
train:
  lr: .nan
  steps: 1.0
  steps: 2
  resume: 1
  nested:
    betas: [1]
    name: adma
evals: {prob: {}, probe: {n: true}}
out: 3
learning_rate: 3
"""
    assert (
        errors_of(text)
        == """\
14 errors in demo.yaml
demo.yaml:3: more[0].lr: expected a number, found "no" (text)
demo.yaml:5: more[1].step: unknown key; did you mean 'steps' or 'nested'?
demo.yaml:6: more[2]: expected a section, found 5 (integer)
demo.yaml:9: sae.n_latents: expected an integer, found "32" (text)
demo.yaml:10: sae.n_latent: unknown key; did you mean 'n_latents'?
demo.yaml:12: train.lr: a number must be finite, found .nan
demo.yaml:14: train.steps: given twice, first on line 13
demo.yaml:15: train.resume: expected true or false, found 1 (integer)
demo.yaml:17: train.nested.betas[1]: missing, required
demo.yaml:18: train.nested.name: expected 'adam' or 'sgd', found "adma" (text); did you mean 'adam'?
demo.yaml:19: evals.prob: unknown key; did you mean 'probe'?
demo.yaml:19: evals.probe.n: expected an integer, found true (boolean)
demo.yaml:20: out: expected text, found 3 (integer)
demo.yaml:21: learning_rate: unknown key; known: evals, more, out, sae, train"""
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            GOOD.replace("64", "1_000"),
            'demo.yaml:5: sae.n_latents: expected an integer, found "1_000" (text); write 1000',
        ),
        (
            GOOD.replace("64", "1e3"),
            "demo.yaml:5: sae.n_latents: expected an integer, found 1000.0 (decimal number); write 1000",
        ),
        (GOOD.replace("64", "6.5"), "demo.yaml:5: sae.n_latents: expected an integer, found 6.5 (decimal number)"),
        (GOOD.replace("64", "true"), "demo.yaml:5: sae.n_latents: expected an integer, found true (boolean)"),
        (GOOD.replace("64", ""), "demo.yaml:5: sae.n_latents: expected an integer, found null"),
        (GOOD.replace("1e-3", '"1e-3"'), 'demo.yaml:2: train.lr: expected a number, found "1e-3" (text)'),
        (GOOD.replace("topk", "topkk"), "demo.yaml:4: sae.kind: unknown 'topkk'; did you mean 'topk'?"),
        (GOOD.replace("topk", "vanilla"), "demo.yaml:4: sae.kind: unknown 'vanilla'; known: relu, topk"),
        (GOOD.replace("kind: topk", "k: 3"), "demo.yaml:3: sae.kind: missing, required"),
        (GOOD.replace("  lr", "  steps").replace("1e-3", "1"), "demo.yaml:1: train.lr: missing, required"),
        (
            "train: {lr: 1e-3}\nsae: topk",
            "demo.yaml:2: sae: expected a section with the key 'kind', found \"topk\" (text)",
        ),
        ("train: {lr: 1e-3}", "demo.yaml: sae: missing, required"),
        (GOOD + "more: 5", "demo.yaml:6: more: expected a list, found 5 (integer)"),
        (GOOD + "evals: [probe]", "demo.yaml:6: evals: expected a section, found a list"),
        (GOOD + "evals: {probe: 3}", "demo.yaml:6: evals.probe: expected a section, found 3 (integer)"),
        (
            GOOD.replace("lr: 1e-3", "{lr: 1, width: 1.5}"),
            "demo.yaml:2: train.width: expected an integer or text, found 1.5 (decimal number)",
        ),
        (
            GOOD.replace("lr: 1e-3", "{lr: 0.1, nested: {betas: [1, 2, 3]}}"),
            "demo.yaml:2: train.nested.betas: Tuple should have at most 2 items, not 3",
        ),
        (
            GOOD.replace("lr: 1e-3", "{lr: " + "x" * 99 + "}"),
            'demo.yaml:2: train.lr: expected a number, found "' + "x" * 56 + "... (text)",
        ),
    ],
)
def test_one_error(text: str, line: str) -> None:
    assert only_error_of(text) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (GOOD + "  k: 65", "demo.yaml:6: sae.k: 65 is more than n_latents; lower k"),
        (GOOD.replace("64", "8"), "demo.yaml:3: sae.k: 32 is more than n_latents; lower k"),
        (
            GOOD.replace("topk", "relu").replace("64", "13"),
            "demo.yaml:3: sae: fortune.txt: 13 latents bring bad luck; take 12",
        ),
        (GOOD + "evals:\n  probe: {n: 0}", "demo.yaml:7: evals.probe: a probe needs data"),
        (GOOD.replace("1e-3", "0.1\n  steps: 0"), "demo.yaml:3: train.steps: must be at least 1, found {steps}"),
        (
            GOOD.replace("1e-3", "1\n  nested:\n    betas:\n    - 0.5\n    - 1"),
            "demo.yaml:5: train.nested.betas[0]: must not be below lr",
        ),
        (GOOD + "out: /", "demo.yaml: cannot fill the root"),
    ],
)
def test_own_checks_are_placed_at_their_key(text: str, line: str) -> None:
    assert only_error_of(text) == line


def test_own_checks_of_several_sections_come_together() -> None:
    assert (
        errors_of("train: {lr: 2}\nmore: [{lr: 2}]\nsae: {kind: topk, n_latents: 8}")
        == """\
3 errors in demo.yaml
demo.yaml:1: train.nested.betas[0]: must not be below lr
demo.yaml:2: more[0].nested.betas[0]: must not be below lr
demo.yaml:3: sae.k: 32 is more than n_latents; lower k"""
    )


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("sae.n_latents=x", '-o sae.n_latents=x: sae.n_latents: expected an integer, found "x" (text)'),
        ("sae={kind: relu}", "-o sae={kind: relu}: sae.n_latents: missing, required"),
        ("sae.n_latent=3", "-o sae.n_latent=3: sae.n_latent: unknown key; did you mean 'n_latents'?"),
        ("evals.prob.n=3", "-o evals.prob.n=3: evals.prob: unknown key; did you mean 'probe'?"),
        ("train.lr=.inf", "-o train.lr=.inf: train.lr: a number must be finite, found .inf"),
        ("out=", "-o out=: out: expected text, found null"),
    ],
)
def test_an_error_of_an_override_names_it(override: str, line: str) -> None:
    assert only_error_of(GOOD, [override]) == line


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("train.lr", "-o train.lr: an override is written section.key=value"),
        ("=3", "-o =3: an override is written section.key=value"),
        ("train..lr=3", "-o train..lr=3: an override is written section.key=value"),
        (
            "train.lr.x=3",
            "-o train.lr.x=3: cannot be set: 'train.lr' is 0.001 (decimal number), not a section",
        ),
        ("more.0.lr=3", "-o more.0.lr=3: cannot be set: 'more' is a list, not a section"),
        ("train.lr=a: b: c", "-o train.lr=a: b: c: not valid YAML: mapping values are not allowed here"),
    ],
)
def test_an_override_that_cannot_be_applied(override: str, text: str) -> None:
    assert errors_of(GOOD + "more: [{lr: 1}]", [override]) == text


def test_an_override_takes_the_place_of_what_is_wrong_in_the_file() -> None:
    text = GOOD.replace("1e-3", "x\n  lr: .nan")
    assert parse_config(Run, text, overrides=["train.lr=1e-2"]).train.lr == 0.01


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{path}:1: this file is empty"),
        (b"# nothing here\n", "{path}:1: this file is empty"),
        (b"- a\n- b\n", "{path}:1: the top level must be `key: value` lines, found a list"),
        (b"hello\n", '{path}:1: the top level must be `key: value` lines, found "hello" (text)'),
        (b"train:\n  lr: 1\nsae: \xff\n", "{path}:3: not UTF-8 text\n  fix: save it as UTF-8"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "demo.yaml"
    path.write_bytes(content)
    with pytest.raises(SaelabError) as caught:
        load_config(Run, path)
    assert str(caught.value) == message.format(path=path)


def test_a_file_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(SaelabError) as caught:
        load_config(Run, tmp_path / "no.yaml")
    assert str(caught.value) == f"{tmp_path / 'no.yaml'}: this file cannot be read: No such file or directory"


def test_a_setting_error_reads_well_on_its_own() -> None:
    assert str(SettingError("k", "must be positive, found 0", fix="set k")) == (
        "k: must be positive, found 0\n  fix: set k"
    )
    assert str(SettingError("", "too small")) == "too small"
