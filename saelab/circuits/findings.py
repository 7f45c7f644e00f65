"""What an experiment found, read from its `circuit.json`: whole and sound, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab.circuits.directory import CircuitDirectory
from saelab.circuits.faithfulness import Curve
from saelab.circuits.pairs import Competence
from saelab.circuits.parts import SCHEMA
from saelab.circuits.records import scores_of
from saelab.circuits.scores import Scores, strength
from saelab.circuits.table import Row, table
from saelab.circuits.together import Together
from saelab.circuits.truth import Truth, members
from saelab.errors import SaelabError
from saelab.files import read_json

_LARGEST = 1e30
"""No score is larger, and pictures reckon with squares and ratios."""
_MOST_LAYERS, _MOST_HEADS = 512, 512

Edge = tuple[str, str, float]
"""Source, target, score; names as in `saelab.circuits.Edges`."""


@dataclass(frozen=True, eq=False)
class Found:
    """What one method found.

    Attributes:
        scores: of each seed; edges: the strongest of the first seed.
    """

    label: str
    scores: tuple[Scores, ...]
    edges: tuple[Edge, ...]

    @property
    def signed(self) -> bool:
        return self.scores[0].signed

    @property
    def mean(self) -> Tensor:
        """`[layer, head]`: over seeds."""
        return torch.stack([scores.heads for scores in self.scores]).mean(0)

    @property
    def strength(self) -> Tensor:
        """`[layer, head]`: of the mean."""
        return strength(self.mean, signed=self.signed)


@dataclass(frozen=True)
class LatentFound:
    """A latent of an SAE in the task.

    Attributes:
        score: estimated loss of score where it is patched; exact: the true one, where it was measured.
        clean, corrupted: the mean of its largest value in a prompt.
        fed: of `score`, what is lost where a head is patched: `[head]`, of `FeaturesFound.heads`.
    """

    latent: int
    score: float
    exact: float | None
    clean: float
    corrupted: float
    fed: tuple[float, ...]


@dataclass(frozen=True)
class FeaturesFound:
    """What the latents of an SAE do in the task.

    Attributes:
        run: the SAE's run directory, as it was named; hook: it reads; layer: the hook's.
        total: estimated loss of score where the whole activation is patched; error: of what the SAE leaves
            unexplained; masked: of positions that the mask leaves out.
        latents: strongest first.
        heads: (layer, head) that `LatentFound.fed` is of.
    """

    run: str
    hook: str
    layer: int
    sae_sha256: str
    prompts: int
    total: float
    error: float
    masked: float
    latents: tuple[LatentFound, ...]
    heads: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Findings:
    """An experiment on one task.

    Attributes:
        name: of the experiment; model: the language model's.
        shape: layers, heads; kv_heads: keys and values of a layer, which several heads may share.
        truths: by name, the chosen one first.
        methods: by label; rows: the table, best first.
        ablation: of what is outside circuits; curves: by label and order (`strength`, `signed`); random: of random
            orders.
        shown: the label of the method whose circuit is shown, and how many heads it has; None: of no method.
        truth_prompts, curve_prompts: pairs behind these, where that is known.
        config: as it was written, and its hash; nothing where there was none.
    """

    name: str
    task: str
    model: str
    shape: tuple[int, int]
    kv_heads: int
    competence: Competence
    truths: Mapping[str, Truth]
    methods: Mapping[str, Found]
    rows: Sequence[Row]
    ablation: str
    curves: Mapping[str, Mapping[str, Curve]]
    random: Sequence[Curve]
    together: Together | None
    features: FeaturesFound | None
    shown: tuple[str, int] | None
    truth_prompts: int | None
    curve_prompts: int | None
    saelab: str
    config: str
    config_sha256: str

    @property
    def truth(self) -> Truth:
        """The chosen one."""
        return next(iter(self.truths.values()))

    @property
    def seeds(self) -> int:
        return max((len(found.scores) for found in self.methods.values()), default=0)

    def circuit(self, label: str) -> list[tuple[int, int]]:
        """The heads of a method's circuit, strongest first, by its first seed: the one whose curve is measured."""
        size = self.shown[1] if self.shown else 0
        return self.methods[label].scores[0].strongest(size)


def read(path: Path) -> Findings:
    """The experiment in a directory.

    Raises:
        SaelabError: there is none, or its `circuit.json` is damaged or of another version.
    """
    place = CircuitDirectory(path)
    document = read_json(place.document)
    try:
        return findings(document, path.absolute().name)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
        said = f"no '{error.args[0]}'" if isinstance(error, KeyError) else str(error)
        raise SaelabError(
            f"this is no circuit.json of this version of saelab: {said[:200]}",
            where=str(place.document),
            fix="saelab circuit CONFIG writes it anew",
        ) from error


def findings(document: Mapping[str, Any], name: str) -> Findings:
    """What `saelab.circuits.run` returned, checked; what `saelab circuit` adds to it may be missing.

    Raises:
        KeyError, TypeError, ValueError, ...: anything is not as it should be.
    """
    if document["schema"] != SCHEMA:
        raise ValueError(f"its schema is {document['schema']!r}, not {SCHEMA}")
    if not document["truths"] or not document["methods"]:
        raise ValueError("there is no method in it, or nothing to hold methods against")
    shape = _shape(document["shape"])
    curves = document["curves"] or {"ablation": "", "methods": {}, "random": []}
    shown = document.get("circuit")
    methods = {str(label): _found(str(label), made["seeds"], shape) for label, made in document["methods"].items()}
    if shown is not None and shown["method"] not in methods:
        raise ValueError("the circuit shown is of no method of the table")
    return Findings(
        name=str(document.get("name", name)),
        task=str(document["task"]),
        model=str(document["model"]["name"]),
        shape=shape,
        kv_heads=max(1, int(document.get("kv_heads", shape[1]))),
        competence=Competence(*(_number(document["competence"][f.name]) for f in fields(Competence))),
        truths={str(key): _truth(truth, shape) for key, truth in document["truths"].items()},
        methods=methods,
        rows=table(document),
        ablation=str(curves["ablation"]),
        curves={
            str(label): {str(kind): _curve(one) for kind, one in kinds.items()}
            for label, kinds in curves["methods"].items()
        },
        random=[_curve(one) for one in curves["random"]],
        together=_together(document["together"]),
        features=_features(document.get("features")),
        shown=None if shown is None else (str(shown["method"]), int(shown["heads"])),
        truth_prompts=int(document["prompts"]["truth"] or 0) or None,
        curve_prompts=int(document["prompts"]["curves"] or 0) or None,
        saelab=str(document["saelab"]),
        config=str(document.get("config", "")),
        config_sha256=str(document.get("config_sha256", "")),
    )


def _shape(found: Any) -> tuple[int, int]:
    layers, heads = map(int, found)
    if not (0 < layers <= _MOST_LAYERS and 0 < heads <= _MOST_HEADS):
        raise ValueError(f"a model of {layers} layers and {heads} heads")
    return layers, heads


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise ValueError(f"{str(value)[:40]!r} is no number")
    return float(value)


def _numbers(found: Any, shape: tuple[int, ...]) -> Tensor:
    values = torch.tensor(found, dtype=torch.float32)
    if tuple(values.shape) != shape or not bool((values.abs() <= _LARGEST).all()):
        raise ValueError(f"numbers of shape {tuple(values.shape)}, or not finite, where {shape} are expected")
    return values


def _heads(found: Any, shape: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    heads = tuple((int(layer), int(head)) for layer, head in found)
    if any(not (0 <= layer < shape[0] and 0 <= head < shape[1]) for layer, head in heads):
        raise ValueError("a head that the model has not")
    return heads


def _truth(found: Mapping[str, Any], shape: tuple[int, int]) -> Truth:
    effects = None if found["effects"] is None else _numbers(found["effects"], shape)
    return Truth(str(found["source"]), members(_heads(found["heads"], shape), shape), effects)


def _found(label: str, seeds: Sequence[Mapping[str, Any]], shape: tuple[int, int]) -> Found:
    for seed in seeds:
        _numbers(seed["heads"], shape)
        if seed["mlps"] is not None:
            _numbers(seed["mlps"], shape[:1])
        _number(seed["cost"]["seconds"])
    edges = tuple((str(a), str(b), _number(value)) for a, b, value in seeds[0].get("edges", ()))
    return Found(label, tuple(scores_of(seed) for seed in seeds), edges)


def _curve(found: Mapping[str, Any]) -> Curve:
    shares, faithful, complete = (tuple(map(_number, found[key])) for key in ("shares", "faithfulness", "completeness"))
    sizes = tuple(map(int, found["sizes"]))
    intervals = tuple(None if ends is None else (_number(ends[0]), _number(ends[1])) for ends in found["intervals"])
    if len({len(sizes), len(shares), len(intervals), len(faithful)}) > 1 or len(complete) not in (0, len(sizes)):
        raise ValueError("a curve whose columns are not equally long")
    cpr, cmd = _number(found["cpr"]), _number(found["cmd"])
    return Curve(found["ablation"], sizes, shares, faithful, intervals, complete, cpr, cmd)


def _together(found: Mapping[str, Any] | None) -> Together | None:
    if found is None:
        return None
    heads = tuple((int(layer), int(head)) for layer, head in found["heads"])
    return Together(found["ablation"], heads, _number(found["loss"]), tuple(map(_number, found["matched"])))


def _features(found: Mapping[str, Any] | None) -> FeaturesFound | None:
    if found is None:
        return None
    heads = tuple((int(layer), int(head)) for layer, head in found["heads"])
    latents = tuple(
        LatentFound(
            latent=int(one["latent"]),
            score=_number(one["score"]),
            exact=None if one["exact"] is None else _number(one["exact"]),
            clean=_number(one["clean"]),
            corrupted=_number(one["corrupted"]),
            fed=tuple(map(_number, one["fed"])),
        )
        for one in found["latents"]
    )
    if any(len(one.fed) != len(heads) for one in latents):
        raise ValueError("a latent that is fed by other heads than are named")
    return FeaturesFound(
        run=str(found["run"]),
        hook=str(found["hook"]),
        layer=int(found["layer"]),
        sae_sha256=str(found["sae_sha256"]),
        prompts=int(found["prompts"]),
        total=_number(found["total"]),
        error=_number(found["error"]),
        masked=_number(found["masked"]),
        latents=latents,
        heads=heads,
    )
