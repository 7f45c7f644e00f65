"""SAEs as the comparison sees them: the subject's own, and one trained on the task's activations alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.evals.base import NotMeasurable
from saelab.evals.supervised.dictionary import Written
from saelab.evals.supervised.study import Coder, Labels
from saelab.sae import SAE
from saelab.testing.fitting import fit
from saelab.testing.planted import Sample
from saelab.training import TrainSpec

STEPS, BATCH = 1000, 512
"""Of the training of a task's SAE."""


def of_sae(sae: SAE) -> Coder:
    """What an SAE in inference form writes, labels or not."""

    @torch.no_grad()
    def write(activations: Tensor, labels: Labels) -> Written:
        x = activations.to(sae.W_dec)
        code = sae.encode(x)
        rows, active = code.support.rows[code.active].cpu(), code.active
        values = code.values[: len(active)][active].float().cpu()
        place = torch.arange(len(rows)) - torch.searchsorted(rows, rows)  # rows ascend
        width = int(place.max()) + 1 if len(place) else 1
        latents = torch.zeros(len(x), width, dtype=torch.int64)
        table = torch.zeros(len(x), width)
        latents[rows, place] = code.latents[: len(active)][active].long().cpu()
        table[rows, place] = values
        return Written(sae.reconstruct(x, code).float().cpu(), latents, table)

    return Coder(sae.W_dec.detach().float().cpu(), write)


@dataclass(frozen=True, eq=False)
class _Recorded:
    """Activations to be drawn from."""

    activations: Tensor

    def sample(self, n_tokens: int, generator: torch.Generator) -> Sample:
        rows = torch.randint(len(self.activations), (n_tokens,), generator=generator)
        return Sample(self.activations[rows], torch.empty(0))


def trained_on(activations: Tensor, like: SAE, n_latents: int, seed: int) -> SAE:
    """An SAE of the same kind and settings with another number of latents, trained on `[prompt, d]` of the task.

    Raises:
        NotMeasurable: its kind cannot be trained so.
    """
    settings = {**like.identity.settings, "n_latents": n_latents}
    spec = TrainSpec(tokens=STEPS * BATCH, batch_tokens=BATCH, dead_after_tokens=50 * BATCH, seed=seed)
    try:
        return fit(_Recorded(activations.to(like.W_dec)), like.identity.kind, settings, spec)
    except (SaelabError, TypeError) as error:  # TypeError: settings that are no variant's, of a foreign SAE
        reason = error.message if isinstance(error, SaelabError) else str(error)
        raise NotMeasurable(f"no SAE like this one could be trained on the task: {reason}") from error
