"""The whole configuration of a run, as one record; `saelab.config` derives the strict YAML from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from saelab.activations import CaptureSpec
from saelab.activations.source import SOURCES
from saelab.config import Choice, OneOf, TableOf
from saelab.errors import SettingError, did_you_mean
from saelab.evals import EVALUATORS
from saelab.features import IndexSpec
from saelab.lm.corpus import DataSpec
from saelab.lm.mask import MaskSpec
from saelab.lm.model import ModelSpec
from saelab.lm.windows import WindowSpec
from saelab.sae import VARIANTS, Blueprint, variants
from saelab.training import TrainSpec

_PROBE_WIDTH = 64
"""A variant's settings are tried on activations of this width, before the model's own is known."""


def check_variant(choice: Choice) -> None:
    """Put the variant and its objective together: their parts say what does not fit."""
    from saelab.objectives import Objective

    blueprint = _blueprint(choice)
    Objective(blueprint.losses, blueprint.sae.coder)


def _blueprint(choice: Choice, *, transcoder: bool = False, skip: bool = False) -> Blueprint:
    """The variant, without memory for its weights."""
    import torch

    with torch.device("meta"):
        target = _PROBE_WIDTH if transcoder else None
        return variants.build(choice.kind, _PROBE_WIDTH, choice.settings, target, skip=skip)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(key: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SettingError(key, f"a name has up to 100 letters, digits, '.', '_' and '-', found '{name}'")


_OF_THE_WHOLE = frozenset({"name", "runs_dir", "sweep", "compare"})
"""Keys that say what the members are and where they go."""


@dataclass(frozen=True)
class SweepSpec:
    """Settings that vary among SAEs trained in lock-step on one stream."""

    grid: Annotated[dict[str, list[Any]], "key -> values, such as sae.k: [16, 32]; every combination is trained"] = (
        field(default_factory=dict)
    )
    zip: Annotated[dict[str, list[Any]], "keys whose values go together: the first of each, the second, ..."] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        if not self.grid and not self.zip:
            raise SettingError("", "nothing varies", fix="grid: {sae.k: [16, 32, 64]}")
        for part, values in (("grid", self.grid), ("zip", self.zip)):
            for key, column in values.items():
                if not column:
                    raise SettingError(f"{part}.{key}", "has no values")
                if key.partition(".")[0] in _OF_THE_WHOLE:
                    raise SettingError(f"{part}.{key}", "this is one for all members: it cannot vary")
        if len({len(column) for column in self.zip.values()}) > 1:
            lengths = ", ".join(f"{key}: {len(column)}" for key, column in self.zip.items())
            raise SettingError("zip", f"all keys have as many values, found {lengths}")
        if both := sorted(self.grid.keys() & self.zip.keys()):
            raise SettingError("zip", f"{', '.join(both)} is in grid, too")


@dataclass(frozen=True)
class ComparedSpec:
    """One SAE of a comparison."""

    sae: Annotated[Choice, OneOf(VARIANTS, hidden=variants.WIDTHS, check=check_variant), "the variant and its settings"]
    train: Annotated[dict[str, Any], "where its training differs from the others'"] = field(default_factory=dict)


@dataclass(frozen=True)
class CompareSpec:
    """SAEs to be trained on one stream and measured beside the reference, which is the config's own `sae`."""

    members: Annotated[dict[str, ComparedSpec], "name -> variant"]
    curve: Annotated[dict[str, list[Any]], "the reference at several sparsities, such as k: [16, 32, 64]"] = field(
        default_factory=dict
    )
    companions: Annotated[
        tuple[str, ...], "members away from the curve: the reference is trained at the L0 each came out with"
    ] = ()
    seeds: Annotated[tuple[int, ...], "everything is trained once for each"] = (0,)

    def __post_init__(self) -> None:
        for name in self.members:
            check_name(f"members.{name}", name)
        if len(self.curve) > 1:
            raise SettingError("curve", f"one setting varies along it, found {', '.join(self.curve)}")
        if not self.members and not self.curve:
            raise SettingError("members", "there is nothing to compare")
        for name in self.companions:
            if name not in self.members:
                raise SettingError(
                    "companions", f"'{name}' is not among the members", fix=did_you_mean(name, self.members)
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise SettingError("seeds", f"one or more, each once, found {list(self.seeds)}")


@dataclass(frozen=True)
class RunConfig:
    """One run: text, model, activations, SAE, training, evaluation."""

    name: Annotated[str, "the run is kept in <runs_dir>/<name>"]
    model: Annotated[ModelSpec, "the language model"]
    data: Annotated[DataSpec, "the text"]
    activations: Annotated[CaptureSpec, "which activations are kept"]
    sae: Annotated[Choice, OneOf(VARIANTS, hidden=variants.WIDTHS, check=check_variant), "the sparse autoencoder"]
    source: Annotated[Choice, OneOf(SOURCES, hidden=()), "where training's activations come from"] = field(
        default_factory=lambda: Choice("store", {})
    )
    hook: Annotated[str | None, "which of activations.hooks the SAE learns (none: the first)"] = None
    target_hook: Annotated[
        str | None, "which of activations.hooks it reconstructs from that: a transcoder (none: the same hook)"
    ] = None
    skip: Annotated[bool, "give a transcoder a linear connection from input to output beside the code"] = False
    init_from: Annotated[
        str | None, "start from the weights of another SAE: a run's directory, or one that SAE.load reads"
    ] = None
    imported_from: Annotated[
        str | None, "where the SAE was imported from, untrained here (written by `saelab import`)"
    ] = None
    windows: Annotated[WindowSpec, "how text becomes contexts"] = field(default_factory=WindowSpec)
    mask: Annotated[MaskSpec, "which positions count"] = field(default_factory=MaskSpec)
    train: Annotated[TrainSpec, "training"] = field(default_factory=TrainSpec)
    eval: Annotated[dict[str, dict[str, Any]], TableOf(EVALUATORS), "evaluators and their settings"] = field(
        default_factory=lambda: {"reconstruction": {}, "density": {}, "profile": {}, "downstream": {}}
    )
    index: Annotated[IndexSpec | None, "what the feature index holds (null: `saelab run` makes none)"] = field(
        default_factory=IndexSpec
    )
    runs_dir: Annotated[str, "where runs are kept"] = "runs"
    sweep: Annotated[SweepSpec | None, "train many SAEs on one stream"] = None
    compare: Annotated[CompareSpec | None, "what `saelab compare` trains and sets beside each other"] = None

    def __post_init__(self) -> None:
        check_name("name", self.name)
        for key, hook in (("hook", self.hook), ("target_hook", self.target_hook)):
            if hook is not None and hook not in self.activations.hooks:
                raise SettingError(
                    key, f"'{hook}' is not among activations.hooks", fix=did_you_mean(hook, self.activations.hooks)
                )
        if self.target_hook == self.sae_hook:
            raise SettingError("target_hook", f"'{self.target_hook}' is the input itself", fix="leave target_hook out")
        if self.skip and self.target_hook is None:
            raise SettingError(
                "skip", "a skip connection past the code would copy the input", fix="name a target_hook, or skip: false"
            )
        if self.sweep is not None and self.compare is not None:
            raise SettingError("sweep", "a config sweeps or compares, not both")
        if self.compare is not None and "reconstruction" not in self.eval:
            raise SettingError("eval", "a comparison is at equal L0, which `reconstruction` measures: name it, too")
        if self.imported_from is None:
            self._check_together()

    def _check_together(self) -> None:
        """What the SAE asks of the activations and of the batches."""
        sae = _blueprint(self.sae, transcoder=self.target_hook is not None, skip=self.skip).sae
        provided = {"loss_grad"} if self.activations.loss_grad else set()
        if missing := sorted(sae.coder.requires - provided):
            raise SettingError(
                "sae.kind",
                f"'{self.sae.kind}' trains with {', '.join(missing)} beside the activations, and they do not hold it",
                fix="activations: {loss_grad: true}" if "loss_grad" in missing else None,
            )
        try:
            sae.coder.check_batch(self.train.batch_tokens, sae.n_latents)
        except SettingError as error:
            raise SettingError(f"sae.{error.key}", error.message, fix=error.fix) from error

    @property
    def sae_hook(self) -> str:
        """The hook that the SAE learns."""
        return self.hook or self.activations.hooks[0]
