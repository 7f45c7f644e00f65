"""Codes with what the discrete ones leave out: positions, strengths, and the scale of what heads write to.

Ours, after O'Neill and Bui 2024 (arXiv 2405.12522); `README.md` says what each difference is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from saelab.circuits.anatomy import stream_hook, z_hook
from saelab.circuits.dictionary import Dictionary, DictionarySpec, train
from saelab.circuits.pairs import Pairs, rows_of, same_answers
from saelab.circuits.passes import Passes
from saelab.circuits.scores import Report, Scores, quiet
from saelab.errors import SettingError, check_least, check_seed
from saelab.lm.model import LanguageModel
from saelab.tasks import Prompts

_DICTIONARY = DictionarySpec(epochs=300, lr=2e-3, sparsity=0.01, unit_columns=True, scaled=True)


@dataclass(frozen=True)
class SparseCodes:
    """How much more (or less) strongly a head's latents speak in clean prompts than in corrupted ones, summed over
    latents: `sum_latent |mean clean strength - mean corrupted strength|`, of means over positions and of the answer's
    position.

    Where the paper averages outputs over positions, takes the strongest latent's number and counts numbers seen in
    clean prompts alone, each position has a code of its own here, latents count as strongly as they speak, outputs are
    measured against the residual stream that they are added to, and prompts of one answer are compared among
    themselves, since what says "plural" in some and "singular" in others is gone from a mean over both.

    Attributes:
        examples: pairs that the dictionary is trained on; outputs: how many of their heads' outputs, drawn at random.
        strongest: only the strongest latent of each output speaks (a discrete code with its strength).
        answer_weight: what the answer's position counts beside the mean over all positions.
        errors: standard errors over pairs that are taken off each latent's difference. At 3, heads that differ by
            chance alone get nothing.
    """

    examples: int = 5
    outputs: int = 2700
    dictionary: DictionarySpec = field(default_factory=lambda: _DICTIONARY)
    strongest: bool = False
    answer_weight: Annotated[float, "0 or more"] = 1.0
    errors: Annotated[float, "0 or more"] = 1.0
    seed: int = 0
    batch_prompts: int = 8

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_least(self, 1, "examples", "outputs")
        for key in ("errors", "answer_weight"):
            if getattr(self, key) < 0:
                raise SettingError(key, f"must be at least 0, found {getattr(self, key)}")

    @property
    def least_pairs(self) -> int:
        return self.examples

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        if len(pairs) < self.examples:
            raise SettingError("examples", f"must be at most {len(pairs)}, one for each pair, found {self.examples}")
        passes = Passes(lm, pairs)
        anatomy = passes.anatomy
        scale, drawn = self._sample(passes)
        dictionary = train(drawn, self.dictionary, self.seed)
        answers = same_answers(pairs.clean)
        gaps = [_Gaps(answers, (2, anatomy.n_heads, self.dictionary.n_latents)) for _ in range(anatomy.n_layers)]
        done = 0
        for rows, some in pairs.batches(self.batch_prompts):
            clean, corrupted = (
                self._strengths(passes, side, dictionary, scale) for side in (some.clean, some.corrupted)
            )
            for layer, gap in enumerate(gaps):
                gap.add(rows, clean[layer] - corrupted[layer])
            done += len(rows)
            report(done, len(pairs))
        weight = torch.tensor([1.0, self.answer_weight])
        heads = torch.stack([torch.einsum("whl,w->h", gap.sure(self.errors), weight) for gap in gaps])
        return Scores("sparse_codes", heads, passes.cost.stop())

    def _sample(self, passes: Passes) -> tuple[list[float], Tensor]:
        """One over the mean norm of each layer's stream, and `[output, d_model]` outputs in this unit."""
        anatomy = passes.anatomy
        some = passes.pairs.take(rows_of(len(passes.pairs), self.seed)[: self.examples])
        layers = range(anatomy.n_layers)
        names = [*map(z_hook, layers), *map(stream_hook, layers)]
        carried = [passes.record(prompts, names).values for prompts in (some.clean, some.corrupted)]
        counted = _weights(some.clean)[0] > 0  # a pair's prompts are of one length
        streams = ([side[stream_hook(layer)][counted].float() for side in carried] for layer in layers)
        scale = [1 / float(torch.cat(both).norm(dim=-1).mean()) for both in streams]
        written = [
            scale[layer] * anatomy.written(layer, side[z_hook(layer)][counted]).flatten(0, 1)
            for layer in layers
            for side in carried
        ]
        found = torch.cat(written).cpu()
        return scale, found[rows_of(len(found), self.seed)[: self.outputs]]

    def _strengths(self, passes: Passes, prompts: Prompts, dictionary: Dictionary, scale: list[float]) -> list[Tensor]:
        """Of each layer, `[row, 2, head, latent]`: means over positions, and the answer's position."""
        anatomy = passes.anatomy
        carried = passes.record(prompts, [z_hook(layer) for layer in range(anatomy.n_layers)]).values
        weights = _weights(prompts)
        found: list[Tensor] = []
        for layer in range(anatomy.n_layers):
            code = dictionary.strengths(scale[layer] * anatomy.written(layer, carried[z_hook(layer)]).cpu())
            if self.strongest:
                code = code * (code == code.amax(-1, keepdim=True))
            found.append(torch.einsum("rphl,wrp->rwhl", code, weights))
        return found


class _Gaps:
    """Differences of pairs: their means over pairs of one answer, and the errors of these."""

    def __init__(self, answers: Tensor, shape: tuple[int, ...]):
        self._answers, self._count = answers, answers.bincount()
        self._sum, self._squares = (torch.zeros(len(self._count), *shape) for _ in range(2))

    def add(self, rows: Tensor, gaps: Tensor) -> None:
        """`[row, ...]` of pairs' numbers `[row]`."""
        answers = self._answers[rows]
        self._sum.index_add_(0, answers, gaps)
        self._squares.index_add_(0, answers, gaps.square())

    def sure(self, errors: float) -> Tensor:
        """How far the means are from 0, less so many standard errors each; mean over pairs."""
        count = self._count.view(-1, *[1] * (self._sum.ndim - 1))
        mean = self._sum / count
        spread = (self._squares / count - mean.square()).clamp_min(0) / (count - 1).clamp_min(1)
        sure = (mean.abs() - errors * spread.sqrt()).clamp_min(0)
        return (sure * count).sum(0) / count.sum()


def _weights(prompts: Prompts) -> Tensor:
    """`[2, row, position]` weights: of a mean over all real positions but the first, and of the answer's alone."""
    position = torch.arange(prompts.tokens.shape[1])
    counted = (position > 0) & (position <= prompts.end[:, None])
    return torch.stack([counted / counted.sum(1, keepdim=True), (position == prompts.end[:, None]).float()])
