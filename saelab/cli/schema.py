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


def _blueprint(choice: Choice) -> Blueprint:
    """The variant, without memory for its weights."""
    import torch

    with torch.device("meta"):
        return variants.build(choice.kind, _PROBE_WIDTH, choice.settings)


@dataclass(frozen=True)
class RunConfig:
    """One run: text, model, activations, SAE, training, evaluation."""

    name: Annotated[str, "the run is kept in <runs_dir>/<name>"]
    model: Annotated[ModelSpec, "the language model"]
    data: Annotated[DataSpec, "the text"]
    activations: Annotated[CaptureSpec, "which activations are kept"]
    sae: Annotated[Choice, OneOf(VARIANTS, hidden=("d_model",), check=check_variant), "the sparse autoencoder"]
    source: Annotated[Choice, OneOf(SOURCES, hidden=()), "where training's activations come from"] = field(
        default_factory=lambda: Choice("store", {})
    )
    hook: Annotated[str | None, "which of activations.hooks the SAE learns (none: the first)"] = None
    windows: Annotated[WindowSpec, "how text becomes contexts"] = field(default_factory=WindowSpec)
    mask: Annotated[MaskSpec, "which positions count"] = field(default_factory=MaskSpec)
    train: Annotated[TrainSpec, "training"] = field(default_factory=TrainSpec)
    eval: Annotated[dict[str, dict[str, Any]], TableOf(EVALUATORS), "evaluators and their settings"] = field(
        default_factory=lambda: {"reconstruction": {}, "density": {}, "downstream": {}}
    )
    runs_dir: Annotated[str, "where runs are kept"] = "runs"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            raise SettingError("name", f"a name has up to 100 letters, digits, '.', '_' and '-', found '{self.name}'")
        if self.hook is not None and self.hook not in self.activations.hooks:
            raise SettingError(
                "hook",
                f"'{self.hook}' is not among activations.hooks",
                fix=did_you_mean(self.hook, self.activations.hooks),
            )
        self._check_together()

    def _check_together(self) -> None:
        """What the SAE asks of the activations and of the batches."""
        sae = _blueprint(self.sae).sae
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
