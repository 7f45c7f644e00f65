"""Codes with what the discrete ones leave out: positions, strengths, and the scale of what heads write to.

Ours, after O'Neill and Bui 2024 (arXiv 2405.12522); `README.md` says what each difference is worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from saelab.circuits.anatomy import stream_hook, z_hook
from saelab.circuits.dictionary import Dictionary, DictionarySpec, train
from saelab.circuits.pairs import Pairs, rows_of
from saelab.circuits.passes import Passes
from saelab.circuits.scores import Report, Scores, quiet
from saelab.errors import SettingError, check_seed
from saelab.lm.model import LanguageModel
from saelab.tasks import Prompts

_DICTIONARY = DictionarySpec(epochs=300, lr=2e-3, sparsity=0.01, unit_columns=True, scaled=True)


@dataclass(frozen=True)
class SparseCodes:
    """How much more (or less) strongly a head's latents speak in clean prompts than in corrupted ones, summed over
    latents: `sum_latent |mean clean strength - mean corrupted strength|`, strengths being means over positions.

    Where the paper averages outputs over positions, takes the strongest latent's number and counts numbers seen in
    clean prompts alone, each position has a code of its own here, latents count as strongly as they speak, and outputs
    are measured against the residual stream that they are added to.

    Attributes:
        examples: pairs that the dictionary is trained on; outputs: how many of their heads' outputs, drawn at random.
        strongest: only the strongest latent of each output speaks (a discrete code with its strength).
        errors: standard errors over pairs that are taken off each latent's difference. At 3, heads that differ by
            chance alone get nothing; at 0, a head whose outputs are various is thought a little more of.
    """

    examples: int = 5
    outputs: int = 2700
    dictionary: DictionarySpec = field(default_factory=lambda: _DICTIONARY)
    strongest: bool = False
    errors: Annotated[float, "0 or more"] = 0.0
    seed: int = 0
    batch_prompts: int = 8

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.errors < 0:
            raise SettingError("errors", f"must be at least 0, found {self.errors}")

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        if not 1 <= self.examples <= len(pairs):
            raise SettingError("examples", f"must be between 1 and {len(pairs)}, found {self.examples}")
        passes = Passes(lm, pairs)
        anatomy = passes.anatomy
        scale, drawn = self._sample(passes)
        dictionary = train(drawn, self.dictionary, self.seed)
        n_latents = self.dictionary.n_latents
        total, squares = (torch.zeros(anatomy.n_layers, anatomy.n_heads, n_latents) for _ in range(2))
        done = 0
        for rows, some in pairs.batches(self.batch_prompts):
            sides = (self._strengths(passes, prompts, dictionary, scale) for prompts in (some.clean, some.corrupted))
            for layer, (clean, corrupted) in enumerate(zip(*sides, strict=True)):
                total[layer] += (clean - corrupted).sum(0)
                squares[layer] += (clean - corrupted).square().sum(0)
            done += len(rows)
            report(done, len(pairs))
        n = len(pairs)
        mean = total / n
        error = ((squares / n - mean.square()).clamp_min(0) / max(n - 1, 1)).sqrt()
        heads = (mean.abs() - self.errors * error).clamp_min(0).sum(2)
        return Scores("sparse_codes", heads, passes.cost.stop())

    def _sample(self, passes: Passes) -> tuple[list[float], Tensor]:
        """One over the mean norm of each layer's stream, and `[output, d_model]` outputs in this unit."""
        anatomy = passes.anatomy
        some = passes.pairs.take(rows_of(len(passes.pairs), self.seed)[: self.examples])
        layers = range(anatomy.n_layers)
        names = [*map(z_hook, layers), *map(stream_hook, layers)]
        carried = [passes.record(prompts, names).values for prompts in (some.clean, some.corrupted)]
        counted = _weights(some.clean) > 0  # a pair's prompts are of one length
        norms = [
            [side[stream_hook(layer)][counted].float().norm(dim=-1).mean() for side in carried] for layer in layers
        ]
        scale = [2 / float(sum(pair)) for pair in norms]
        written = [
            scale[layer] * anatomy.written(layer, side[z_hook(layer)][counted]).flatten(0, 1)
            for layer in layers
            for side in carried
        ]
        found = torch.cat(written).cpu()
        return scale, found[rows_of(len(found), self.seed)[: self.outputs]]

    def _strengths(
        self, passes: Passes, prompts: Prompts, dictionary: Dictionary, scale: list[float]
    ) -> Iterator[Tensor]:
        """Of each layer, `[row, head, latent]`: mean strengths over positions but the first."""
        anatomy = passes.anatomy
        carried = passes.record(prompts, [z_hook(layer) for layer in range(anatomy.n_layers)]).values
        weight = _weights(prompts)
        for layer in range(anatomy.n_layers):
            code = dictionary.strengths(scale[layer] * anatomy.written(layer, carried[z_hook(layer)]).cpu())
            if self.strongest:
                code = code * (code == code.amax(-1, keepdim=True))
            yield torch.einsum("rphl,rp->rhl", code, weight)


def _weights(prompts: Prompts) -> Tensor:
    """`[row, position]` weights of a mean over all real positions but the first."""
    position = torch.arange(prompts.tokens.shape[1])
    counted = (position > 0) & (position <= prompts.end[:, None])
    return counted.float() / counted.sum(1, keepdim=True)
