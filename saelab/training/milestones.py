"""SAEs kept on the way: at steps even on a logarithmic scale, since most happens early."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from saelab.files import sweep_temporaries
from saelab.sae import SAE
from saelab.training.member import Member
from saelab.training.spec import TrainSpec

_FIRST_FRAC = 0.01


def milestone_steps(spec: TrainSpec) -> frozenset[int]:
    """`spec.milestones` steps from the first to the last, each the same factor after the one before; fewer where
    two fall on one step, and the last alone where one is asked for."""
    last, count = spec.steps, spec.milestones
    if count < 2:
        return frozenset([last][:count])
    first = spec.milestone_first_step or max(1, round(_FIRST_FRAC * last))
    return frozenset(round(first * (last / first) ** (place / (count - 1))) for place in range(count))


def write_milestone(
    directory: Path, step: int, member: Member, deploy: Callable[[Member], SAE], provenance: Mapping[str, Any]
) -> Path:
    """Keep the member's inference form as `directory/step-.../`, for `SAE.load`; one that is there stays.

    Training goes on as if nothing had been written. Call it before the checkpoint of the same step: a run that is
    killed in between and goes on from an older one finds it again. A variant that selects over the batch is
    calibrated anew, at the cost of reading the store once and encoding up to 100,000 tokens.

    Args:
        directory: the run's `milestones`.
        step: steps done; weights are finite.
        deploy: makes the inference form (`Trainer.deploy`).
        provenance: as for the finished SAE; `trained_tokens` becomes what it is so far.
    """
    path = directory / f"step-{step:08d}"
    if not path.exists():
        sweep_temporaries(directory)
        with _thresholds_kept(member.sae):
            sae = deploy(member).cpu()
        sae.identity.provenance = {**provenance, "trained_tokens": step * member.spec.batch_tokens}
        sae.save(path)
    return path


@contextmanager
def _thresholds_kept(sae: SAE) -> Iterator[None]:
    """Calibrating sets buffers; checkpoints hold them, and are to be the same with milestones and without."""
    before = {name: value.clone() for name, value in sae.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in sae.named_buffers():
                value.copy_(before[name])
