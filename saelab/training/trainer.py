"""The trainer: steps one SAE or several on one stream of activations, and can stop and go on anywhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from saelab.activations.loader import Batch, Batches, Loader, Wanted, stored
from saelab.activations.store import Store
from saelab.errors import RunFailedError, SaelabError
from saelab.metrics import Reconstruction
from saelab.sae import SAE, Scaling
from saelab.training import checkpoint
from saelab.training.checkpoint import Checkpoint
from saelab.training.member import Member
from saelab.training.milestones import milestone_steps
from saelab.training.numerics import changes, numerics
from saelab.training.optimiser import learning_rate
from saelab.training.sinks import Sink

STREAM_SETTINGS = (
    *("tokens", "batch_tokens", "mix_shards", "seed", "centre", "scale"),
    *("log_every_steps", "heldout_every_steps", "heldout_tokens", "checkpoint_every_steps", "keep_checkpoints"),
    *("milestones", "milestone_first_step"),
)
"""What members of one trainer have in common."""
CALIBRATION_TOKENS, CALIBRATION_BYTES = 100_000, 2**29
"""Training tokens, at most, from which thresholds of the inference form are measured."""


Reconstructed = tuple[Tensor, Tensor, Tensor]
"""Targets, reconstructions, and the L0 of their codes."""


@dataclass(frozen=True)
class Progress:
    """One line for a person: where training is, and how it goes."""

    step: int
    steps: int
    tokens_per_second: float
    metrics: dict[str, float]


@dataclass
class Clock:
    """Seconds spent over all sittings, getting batches and stepping each member; measuring and saving do not count.

    Attributes:
        tokens: served so far.
        batches: seconds spent waiting for batches.
        steps: by member, seconds spent in its steps.
    """

    tokens: int = 0
    batches: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.batches + sum(self.steps.values())

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def alone(self, name: str) -> float:
        """Tokens per second of a member, had it been the only one on these batches."""
        seconds = self.batches + self.steps.get(name, 0.0)
        return self.tokens / seconds if seconds else 0.0


class Stop(Protocol):
    """Says whether training is to write a checkpoint and leave."""

    @property
    def requested(self) -> bool: ...


def wanted(members: Sequence[Member], hook: str, target_hook: str | None = None) -> Wanted:
    """What a trainer of these members asks of its batches."""
    spec = members[0].spec
    return Wanted(
        hook,
        target_hook,
        loss_grad=any("loss_grad" in member.sae.coder.requires for member in members),
        batch_tokens=spec.batch_tokens,
        mix_shards=spec.mix_shards,
        seed=spec.seed,
        pin=members[0].sae.W_dec.device.type == "cuda",
    )


class Trainer:
    """Steps every member on each batch.

    What defines the stream and its rhythm (`STREAM_SETTINGS`) is shared; members differ in everything
    else. Metrics of member i go to `sinks[i]`.

    A member whose loss or weights are no longer finite stops alone: the others go on without it, to the same
    bits as if it had never been there.

    Args:
        members: the SAEs; they share `steps` and `batch_tokens`.
        store: held-out activations, statistics, calibration; batches too, unless `batches` are given.
        hook: the input; target_hook: what is reconstructed (None: the input).
        directory: holds `checkpoints/`.
        batches: where training batches come from (None: a `Loader` over the store).
        sinks: per member.
        report: called now and then with the first active member's progress.
        stop: looked at after each step.
        keep: called with each active member at the steps that `milestone_steps` gives, its weights finite.

    Attributes:
        failed: why a member has stopped, by name.
        changed: what `resume` found other than when the run was begun, so that last bits may differ; or None.
    """

    def __init__(
        self,
        members: Sequence[Member],
        store: Store,
        hook: str,
        *,
        directory: Path,
        target_hook: str | None = None,
        batches: Batches | None = None,
        sinks: Sequence[Sequence[Sink]] = (),
        report: Callable[[Progress], None] = lambda _: None,
        stop: Stop | None = None,
        keep: Callable[[int, Member], object] = lambda step, member: None,
    ):
        spec = members[0].spec
        for key in STREAM_SETTINGS:
            if any(getattr(m.spec, key) != getattr(spec, key) for m in members):
                raise SaelabError(f"SAEs on one stream share train.{key}", where="train")
        if len({member.name for member in members}) < len(members):
            raise SaelabError("SAEs on one stream have names of their own", where="train")
        self.members, self.spec, self.store = members, spec, store
        self.report, self.stop, self.keep = report, stop, keep
        self.hook, self.target_hook = hook, target_hook
        self.directory = directory / "checkpoints"
        self.sinks = sinks or [[] for _ in members]
        self.device = members[0].sae.W_dec.device
        self.failed: dict[str, str] = {}
        self.changed: str | None = None
        wants = wanted(members, hook, target_hook)
        self.loss_grad = wants.loss_grad
        self.batches = batches or Loader.of(store, wants)
        self.scaling = self._scaling(hook)
        self.target_scaling = self.scaling if target_hook is None else self._scaling(target_hook)
        self.clock = Clock()
        self.step = 0
        for member in members:
            if target_hook is not None:
                member.sae.check_other_target()
            self._start_at_mean(member)

    def _scaling(self, hook: str) -> Scaling:
        scaling = self.store.scaling(hook, centre=self.spec.centre, scale=self.spec.scale)
        return Scaling(scaling.mean.to(self.device), scaling.factor)

    @torch.no_grad()
    def _start_at_mean(self, member: Member) -> None:
        """`b_dec` starts at the mean of what training sees, and a transcoder's encoder reads its input without
        that input's mean: both are 0 where inputs are centred."""
        member.sae.b_dec.copy_(self.target_scaling.apply(self._mean(self.target_hook or self.hook))[0])
        if self.target_hook is not None and not self.spec.centre:
            member.sae.coder.fold(self.scaling.apply(self._mean(self.hook))[0], 1.0)

    def _mean(self, hook: str) -> Tensor:
        """`[1, d_hook]`, raw."""
        return self.store.mean(hook).to(self.device)[None]

    @property
    def active(self) -> list[Member]:
        """The members that are still training."""
        return [member for member in self.members if member.name not in self.failed]

    # -- running --------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Go on from the newest checkpoint, in the precision it was made with; whether there was one.

        Raises:
            SaelabError: it is damaged, does not fit, or was made from other activations.
        """
        found = checkpoint.load_newest(self.directory)
        if found is None:
            return False
        state = found.state
        if state["store"] != self.store.manifest["content_sha256"]:
            raise SaelabError(
                "this run was begun on other activations: text, model or capture settings have changed",
                where=str(self.directory),
                fix="bring them back, or start over with --fresh",
            )
        self.failed = dict(state["failed"])
        try:
            for member in self.active:
                member.sae.coder.set_precision(state["precision"][member.name])
                prefix = f"{member.name}/"
                own = {k.removeprefix(prefix): v for k, v in found.tensors.items() if k.startswith(prefix)}
                member.load_tensors(own)
        except (KeyError, ValueError) as error:
            raise SaelabError(f"this checkpoint does not fit: {error}", where=str(self.directory)) from error
        self.step = found.step
        self.batches.load_state_dict(state["batches"])
        self.clock = Clock(**state["clock"])
        self.changed = changes(state["numerics"], numerics(self.members[0].sae.W_dec))
        return True

    def run(self) -> None:
        """Train to the end (or on from where `resume` left it), or until `stop` is requested: then a checkpoint
        is written and `step` says how far it is.

        Raises:
            RunFailedError: no member's loss is finite any more; the last good checkpoint is kept.
        """
        spec, milestones = self.spec, milestone_steps(self.spec)
        while self.step < spec.steps and self.active:
            metrics = self._step()
            last = self.step == spec.steps
            heldout = last or self.step % spec.heldout_every_steps == 0
            if heldout or self.step % spec.log_every_steps == 0:
                self._log(metrics, heldout=heldout)
            if self.step in milestones:
                self._check_finite()
                for member in self.active:
                    self.keep(self.step, member)
            stopping = self.stop is not None and self.stop.requested
            if last or stopping or self.step % spec.checkpoint_every_steps == 0:
                self.save()
            if stopping:
                return

    def _step(self) -> dict[str, dict[str, Tensor]]:
        """One batch through every active member; their metrics by name."""
        metrics: dict[str, dict[str, Tensor]] = {}
        begun = time.perf_counter()
        batch = self.next_batch()
        self._wait()
        now = time.perf_counter()
        self.clock.batches += now - begun
        for member in self.active:
            begun = now
            metrics[member.name] = member.step(batch, self.step)
            self._wait()
            now = time.perf_counter()
            self.clock.steps[member.name] = self.clock.steps.get(member.name, 0.0) + now - begun
        self.clock.tokens += batch.input.shape[0]
        self.step += 1
        return metrics

    def _wait(self) -> None:
        """Where several members share a GPU, each one's time needs the device to be done with it."""
        if self.device.type == "cuda" and len(self.members) > 1:
            torch.cuda.synchronize(self.device)

    def next_batch(self) -> Batch:
        """In training units, on the members' device."""
        raw = next(self.batches)
        x = self.scaling.apply(raw.input.to(self.device, non_blocking=True))
        side = self._side(raw, slice(None))
        if raw.target is raw.input:
            return Batch(x, x, side)
        return Batch(x, self.target_scaling.apply(raw.target.to(self.device, non_blocking=True)), side)

    def _side(self, raw: Batch, rows: slice) -> dict[str, Tensor]:
        """What stands beside the activations, in training units: they are gradients, and dL/dx' = dL/dx / c for
        x' = c (x - mean)."""
        return {
            name: value[rows].to(self.device).float() / self.target_scaling.factor for name, value in raw.side.items()
        }

    def _check_finite(self) -> None:
        """Stop the members whose losses or weights are no longer finite."""
        for member in self.active:
            if not member.check():
                self.failed[member.name] = f"its loss or weights are no longer finite at step {self.step}"
        if not self.active:
            names = ", ".join(f"'{name}'" for name in self.failed)
            kept = checkpoint.existing(self.directory)
            raise RunFailedError(
                f"the loss of {names} is no longer finite at step {self.step}; "
                + (f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"),
                fix="lower train.lr, raise train.warmup_steps, or look at the activations' norms",
            )

    def _log(self, metrics: dict[str, dict[str, Tensor]], *, heldout: bool) -> None:
        self._check_finite()
        lines: list[dict[str, float]] = []
        for member, sinks in zip(self.members, self.sinks, strict=True):
            if member.name in self.failed:
                continue
            line = {
                "tokens": float(self.step * self.spec.batch_tokens),
                "lr": learning_rate(member.spec, self.step - 1),
                "tokens_per_second": self.clock.alone(member.name),
            }
            line |= {name: float(value) for name, value in metrics[member.name].items()}
            if heldout:
                line |= {f"heldout/{name}": value for name, value in self.heldout(member).items()}
            for sink in sinks:
                sink.log(self.step, line)
            lines.append(line)
        self.report(Progress(self.step, self.spec.steps, self.clock.tokens_per_second, lines[0]))

    def heldout(self, member: Member) -> dict[str, float]:
        """Reconstruction of tokens never trained on, in training form: the first `heldout_tokens`."""

        def reconstruct(raw: Batch, rows: slice) -> Reconstructed:
            x = self.scaling.apply(raw.input[rows].to(self.device))
            code = member.sae.encode(x, self._side(raw, rows))
            target = self.target_scaling.apply(raw.target[rows].to(self.device))
            return target, member.sae.reconstruct(x, code), code.l0()

        member.sae.eval()  # no noise, and no running statistic learns from held-out tokens
        try:
            return self._heldout(reconstruct)
        finally:
            member.sae.train()

    def heldout_deployed(self, sae: SAE) -> dict[str, float]:
        """The same tokens through an inference form."""

        def reconstruct(raw: Batch, rows: slice) -> Reconstructed:
            x = raw.input[rows].to(self.device)
            code = sae.encode(x)
            return raw.target[rows].to(self.device).float(), sae.reconstruct(x, code), code.l0()

        return self._heldout(reconstruct)

    @torch.no_grad()
    def _heldout(self, reconstruct: Callable[[Batch, slice], Reconstructed]) -> dict[str, float]:
        seen = Reconstruction()
        for raw in stored(self.store, "heldout", self.hook, target_hook=self.target_hook, loss_grad=self.loss_grad):
            for start in range(0, raw.input.shape[0], self.spec.batch_tokens):
                rows = slice(start, start + min(self.spec.batch_tokens, self.spec.heldout_tokens - seen.n_tokens))
                seen.update(*reconstruct(raw, rows))
                if seen.n_tokens >= self.spec.heldout_tokens:
                    break
            if seen.n_tokens >= self.spec.heldout_tokens:
                break
        return {name: value for name, value in seen.result().items() if math.isfinite(value)}

    def deploy(self, member: Member) -> SAE:
        """The member's inference form on raw activations, its thresholds calibrated on training tokens."""
        if not member.sae.coder.per_token:
            member.sae.calibrate(self.scaling.apply(self._spread_tokens().to(self.device)))
        return member.sae.inference(self.scaling, None if self.target_hook is None else self.target_scaling)

    def _spread_tokens(self) -> Tensor:
        """`[tok, d]` raw training activations, spread evenly over the store."""
        most = min(CALIBRATION_TOKENS, CALIBRATION_BYTES // (4 * self.scaling.mean.numel()))
        stride = max(1, -(-self.store.n_tokens("train") // most))
        return torch.cat([raw.input[::stride] for raw in stored(self.store, "train", self.hook)])

    def save(self) -> None:
        """Write a checkpoint; never of weights that are no longer finite."""
        self._check_finite()
        tensors = {f"{m.name}/{name}": value for m in self.active for name, value in m.tensors().items()}
        checkpoint.save(self.directory, Checkpoint(self.step, tensors, self._state()), keep=self.spec.keep_checkpoints)

    def _state(self) -> dict[str, Any]:
        return {
            "precision": {m.name: m.sae.coder.precision for m in self.active},
            "failed": self.failed,
            "store": self.store.manifest["content_sha256"],
            "batches": self.batches.state_dict(),
            "clock": asdict(self.clock),
            "numerics": numerics(self.members[0].sae.W_dec),
        }
