"""What a user decides about training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from saelab.errors import SettingError, check_least, check_seed


@dataclass(frozen=True)
class WandbSpec:
    """Weights & Biases, besides metrics.jsonl."""

    mode: Annotated[Literal["off", "online", "offline"], "off: wandb is not even imported"] = "off"
    project: Annotated[str, "project to log to"] = "saelab"
    entity: Annotated[str | None, "team or user"] = None


@dataclass(frozen=True)
class TensorBoardSpec:
    """TensorBoard, besides metrics.jsonl: event files in the run's directory."""

    enabled: Annotated[bool, "false: tensorboard is not even imported"] = False


@dataclass(frozen=True)
class TrackioSpec:
    """trackio, besides metrics.jsonl."""

    enabled: Annotated[bool, "false: trackio is not even imported"] = False
    project: Annotated[str, "project to log to"] = "saelab"
    space: Annotated[str | None, "a Hugging Face Space to log to (none: this machine)"] = None


@dataclass(frozen=True)
class TrainSpec:
    """How an SAE is trained. Tokens count what the SAE has seen, repeats included."""

    tokens: Annotated[int, "tokens to train on; more than the store holds means several epochs"] = 10_000_000
    batch_tokens: Annotated[int, "tokens per step"] = 2048
    lr: Annotated[float, "Adam's learning rate"] = 1e-3
    betas: Annotated[tuple[float, float], "Adam's decay rates"] = (0.9, 0.999)
    warmup_steps: Annotated[int, "steps over which the learning rate rises from 0"] = 100
    decay_frac: Annotated[float, "share of the steps, at the end, over which it falls to 0"] = 0.2
    grad_clip: Annotated[float | None, "largest gradient norm over all parameters"] = 1.0
    centre: Annotated[bool, "subtract the mean activation from the input (folded in afterwards)"] = True
    scale: Annotated[bool, "scale inputs to a mean norm of sqrt(d) (folded in afterwards)"] = True
    precision: Annotated[
        Literal["auto", "exact", "screened"],
        "screened: select in int8 or bfloat16 with a margin, re-score exactly; auto: where that is faster",
    ] = "auto"
    dead_after_tokens: Annotated[int, "a latent inactive for this many tokens counts as dead"] = 200_000
    mix_shards: Annotated[int, "shards' worth of the store's rows mixed in memory at a time"] = 4
    seed: Annotated[int, "of the initial weights and the order of activations"] = 0
    log_every_steps: Annotated[int, "steps between lines of metrics.jsonl"] = 20
    heldout_every_steps: Annotated[int, "steps between held-out measurements"] = 200
    heldout_tokens: Annotated[int, "held-out tokens each of them uses"] = 8192
    checkpoint_every_steps: Annotated[int, "steps between checkpoints"] = 300
    keep_checkpoints: Annotated[int, "newest checkpoints kept"] = 2
    milestones: Annotated[int, "SAEs kept on the way, at steps even on a logarithmic scale, the last included"] = 0
    milestone_first_step: Annotated[int | None, "the first of them (none: 1 % of the steps)"] = None
    wandb: WandbSpec = field(default_factory=WandbSpec)
    tensorboard: TensorBoardSpec = field(default_factory=TensorBoardSpec)
    trackio: TrackioSpec = field(default_factory=TrackioSpec)

    def __post_init__(self) -> None:
        check_least(self, 0, "warmup_steps", "milestones")
        check_least(self, 1, "dead_after_tokens", "mix_shards", "keep_checkpoints", "checkpoint_every_steps")
        check_least(self, 1, "log_every_steps", "heldout_every_steps", "heldout_tokens")
        check_least(self, 2, "batch_tokens")
        check_seed(self.seed)
        if self.tokens < self.batch_tokens:
            raise SettingError("tokens", f"{self.tokens} tokens are less than one batch of {self.batch_tokens}")
        first = self.milestone_first_step
        if first is not None and not 1 <= first <= self.steps:
            raise SettingError(
                "milestone_first_step", f"must lie between 1 and the last step, {self.steps}, found {first}"
            )
        if self.lr <= 0:
            raise SettingError("lr", f"must be positive, found {self.lr}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise SettingError("betas", f"each must be at least 0 and below 1, found {list(self.betas)}")
        if not 0 <= self.decay_frac <= 1:
            raise SettingError("decay_frac", f"must lie between 0 and 1, found {self.decay_frac}")
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise SettingError("grad_clip", f"must be positive or null, found {self.grad_clip}")

    @property
    def steps(self) -> int:
        return self.tokens // self.batch_tokens
