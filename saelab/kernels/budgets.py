"""What a selection rule asks for: a budget per token, per batch or per latent, or everything above a threshold.

A budget picks the support from scores that come in tiles. Where those are screened (in fewer bits), it picks some
more, and cuts them back once their exact scores are known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from saelab.kernels.ops import spread
from saelab.kernels.products import TILE_ENTRIES, Tiles, parts
from saelab.kernels.support import Support

_TOKENS_AT_ONCE = 8192
"""Tokens whose candidates are held at the same time."""
_SAMPLE_TOKENS, _SAMPLE_LATENTS = 64, 1024
_DENSITY_TOKENS = 16
_LOOSENED, _SAMPLE_SLACK = 1.4, 16
"""A guessed bar lets this factor more pass than wanted, and so many entries of the sample."""


Positions = Tensor
"""`[kept]` int64: which entries of a support are kept, in its order."""


class Budget(ABC):
    """See the subclasses.

    Attributes:
        beside: further `(rows [tok, d], weight [lat, d])` whose products the score wants to see.
    """

    beside: tuple[tuple[Tensor, Tensor], ...] = ()

    def score(self, pre: Tensor, *beside: Tensor) -> Tensor:
        """What entries are ranked by, entry by entry, whatever the shape; `pre` may be changed in place."""
        return pre

    def density(self, pre: Tiles) -> float:
        """About what share of all entries it keeps, from a look at few; 0 where the budget says that it is small."""
        return 0.0

    @abstractmethod
    def candidates(self, pre: Tiles, beside: Sequence[Tiles], ops: ModuleType) -> tuple[Support, Tensor | None]:
        """The support, some entries wider where `pre` is not exact; and the pre-activations at it `[entries]`
        where they have come along."""

    def narrow(self, scores: Tensor, candidates: Support, ops: ModuleType) -> tuple[Support, Positions]:
        """The support among candidates, given their exact scores `[nnz]`."""
        raise NotImplementedError


def _identity(pre: Tensor, *beside: Tensor) -> Tensor:
    return pre


@dataclass(frozen=True, eq=False)
class PerToken(Budget):
    """The k entries of each token whose score is largest.

    Attributes:
        k: entries per token; of fewer latents all are taken.
        by: the score, from pre-activations and the products `beside`.
    """

    k: int
    by: Callable[..., Tensor] = _identity
    beside: tuple[tuple[Tensor, Tensor], ...] = ()

    MARGIN: ClassVar[float] = 1.625
    """Candidates over k in a screening."""

    def score(self, pre: Tensor, *beside: Tensor) -> Tensor:
        return self.by(pre, *beside)

    def candidates(self, pre: Tiles, beside: Sequence[Tiles], ops: ModuleType) -> tuple[Support, Tensor | None]:
        n_tokens, n_latents = pre.shape
        wanted = self.k if pre.exact else max(self.k + 4, round(self.k * self.MARGIN))
        width = min(wanted, n_latents)
        top = [self._top(pre, beside, tokens, width, ops) for tokens in parts(n_tokens, _TOKENS_AT_ONCE)]
        latents = torch.cat(top) if top else torch.empty(0, width, dtype=torch.int32, device=pre.device)
        return Support.from_rows(latents, n_latents), None

    def _top(self, pre: Tiles, beside: Sequence[Tiles], tokens: slice, width: int, ops: ModuleType) -> Tensor:
        top = ops.TopRows(tokens.stop - tokens.start, width, pre)
        for part, latents in pre.walk(tokens):
            rows = slice(part.start - tokens.start, part.stop - tokens.start)
            integers = pre.integers(part, latents) if self.by is _identity else None
            if integers is not None:
                top.push_scaled(integers, rows, latents.start)
            else:
                scores = self.score(pre.tile(part, latents), *(tiles.tile(part, latents) for tiles in beside))
                top.push(scores, rows, latents.start)
        return top.finish()

    def narrow(self, scores: Tensor, candidates: Support, ops: ModuleType) -> tuple[Support, Positions]:
        assert candidates.width is not None
        width, n_tokens = candidates.width, candidates.n_tokens
        kept = ops.best_in_rows(scores.view(n_tokens, width), min(self.k, width))
        positions = kept + torch.arange(n_tokens, device=kept.device)[:, None] * width
        return Support.from_rows(candidates.latents[positions], candidates.n_latents), positions.reshape(-1)


@dataclass(frozen=True, eq=False)
class Above(Budget):
    """Every entry above a threshold.

    Attributes:
        threshold: `[]` or `[lat]`.
        observe: called with each tile of pre-activations and its slice of latents.
    """

    threshold: Tensor
    observe: Callable[[Tensor, slice], None] | None = None

    def density(self, pre: Tiles) -> float:
        few = slice(0, min(_DENSITY_TOKENS, pre.shape[0]))
        kept = [(pre.tile(few, part) > self.threshold.expand(pre.shape[1])[part]).sum() for part in pre.column_parts()]
        return float(torch.stack(kept).sum()) / max(few.stop * pre.shape[1], 1)

    def candidates(self, pre: Tiles, beside: Sequence[Tiles], ops: ModuleType) -> tuple[Support, Tensor | None]:
        found, threshold = Pieces(pre, ops), self.threshold.expand(pre.shape[1])
        for tokens, latents in pre.walk():
            tile = pre.tile(tokens, latents)
            if self.observe is not None:
                self.observe(tile, latents)
            found.add(tile, threshold[latents], pre.slack(tile, tokens), tokens, latents)
        return found.gathered()

    def narrow(self, scores: Tensor, candidates: Support, ops: ModuleType) -> tuple[Support, Positions]:
        threshold = self.threshold if self.threshold.ndim == 0 else spread(self.threshold, candidates)
        kept = scores > threshold
        return candidates.keep(kept), kept.nonzero().squeeze(1)


@dataclass(frozen=True, eq=False)
class PerBatch(Budget):
    """The `count` largest entries of the whole batch, those that are positive."""

    count: int

    MARGIN: ClassVar[float] = 1.2
    """Candidates over the budget in a screening."""

    def candidates(self, pre: Tiles, beside: Sequence[Tiles], ops: ModuleType) -> tuple[Support, Tensor | None]:
        """The `count`-th largest entry of some latents is a lower bound of that of all, so each part of the
        latents raises the bar for the next. The first bar is guessed from a sample; no bar is below 0."""
        wanted = self.count if pre.exact else round(self.count * self.MARGIN)
        found, bar = Pieces(pre, ops), 0.0
        for latents in pre.column_parts():
            bar = self._gather(pre, latents, found, wanted, bar)
        support, values = found.gathered()
        kept = largest_positive(values, wanted)
        return support.keep(kept), values[kept]

    def _gather(self, pre: Tiles, latents: slice, found: Pieces, wanted: int, bar: float) -> float:
        """Add what lies above the bar; returns the next bar."""
        guessed = False
        for tokens in pre.row_parts(latents):
            tile = pre.tile(tokens, latents)
            if found.total == 0 and not guessed:
                bar, guessed = self._guess(tile, wanted / (pre.shape[0] * (latents.stop - latents.start))), True
            found.add_above(tile, bar, tokens, latents)
        if found.total >= wanted:
            return max(bar, float(found.values().topk(wanted, sorted=False).values.min())) if wanted else bar
        if guessed and bar > 0:  # too high a guess
            found.clear()
            for tokens in pre.row_parts(latents):
                found.add_above(pre.tile(tokens, latents), 0.0, tokens, latents)
        return 0.0

    @staticmethod
    def _guess(tile: Tensor, share: float) -> float:
        """A level that some more than this share of the entries exceeds."""
        sample = tile[:: max(1, tile.shape[0] // _SAMPLE_TOKENS), :: max(1, tile.shape[1] // _SAMPLE_LATENTS)]
        count = round(_LOOSENED * share * sample.numel()) + _SAMPLE_SLACK
        if count >= sample.numel():
            return 0.0
        return max(0.0, float(sample.reshape(-1).topk(count, sorted=False).values.min()))

    def narrow(self, scores: Tensor, candidates: Support, ops: ModuleType) -> tuple[Support, Positions]:
        kept = largest_positive(scores, self.count)
        return candidates.keep(kept), kept.nonzero().squeeze(1)


def largest_positive(values: Tensor, count: int) -> Tensor:
    """A mask of the `count` largest values, those that are positive."""
    mask = torch.zeros_like(values, dtype=torch.bool)
    mask[values.topk(min(count, len(values)), sorted=False).indices] = True
    return mask & (values > 0)


@dataclass(frozen=True, eq=False)
class PerLatent(Budget):
    """For each latent its `quotas` `[lat]` largest entries over the batch, those that are positive."""

    quotas: Tensor

    MARGIN: ClassVar[float] = 1.5
    """Candidates over a quota in a screening (small quotas need more than large ones)."""

    def candidates(self, pre: Tiles, beside: Sequence[Tiles], ops: ModuleType) -> tuple[Support, Tensor | None]:
        n_tokens, n_latents = pre.shape
        quotas = self.quotas if pre.exact else (self.quotas * self.MARGIN).ceil().long() + 1
        counts, tokens = [quotas.new_zeros(0)], [torch.empty(0, dtype=torch.int32, device=pre.device)]
        for latents in parts(n_latents, max(1, TILE_ENTRIES // max(n_tokens, 1))):
            rows = pre.transposed(latents)
            found = ops.best_of_rows(rows, quotas[latents].clamp_max(n_tokens), rows.new_zeros(len(rows)))
            counts.append(found[0])
            tokens.append(found[1])
        order, bounds = ops.by_key(torch.cat(tokens), n_tokens)
        owners = torch.repeat_interleave(torch.cat(counts), output_size=len(order))
        return Support(owners[order].to(torch.int32), bounds.to(torch.int32), n_latents), None

    def narrow(self, scores: Tensor, candidates: Support, ops: ModuleType) -> tuple[Support, Positions]:
        kept = ops.best_of_latents(scores, candidates, self.quotas)
        return candidates.keep(kept), kept.nonzero().squeeze(1)


class Pieces:
    """Entries found tile by tile, put in the order of tokens at the end."""

    def __init__(self, pre: Tiles, ops: ModuleType):
        self.shape, self.like, self.ops = pre.shape, pre, ops
        self.clear()

    def clear(self) -> None:
        self.pieces: list[tuple[slice, int, Tensor, Tensor, Tensor]] = []
        self.total = 0

    def add(self, tile: Tensor, threshold: Tensor, slack: Tensor, tokens: slice, latents: slice) -> None:
        counts, values, columns = self.ops.above(tile, threshold.to(tile.dtype), slack)
        self.pieces.append((tokens, latents.start, counts, values, columns))
        self.total += len(values)

    def add_above(self, tile: Tensor, bar: float, tokens: slice, latents: slice) -> None:
        self.add(tile, tile.new_full((tile.shape[1],), bar), tile.new_zeros(len(tile)), tokens, latents)

    def values(self) -> Tensor:
        return torch.cat([values for *_, values, _ in self.pieces]) if self.pieces else self.like.empty(0)

    def gathered(self) -> tuple[Support, Tensor]:
        """The support, its latents ascending within a row, and the values."""
        n_tokens, n_latents = self.shape
        offsets = torch.zeros(n_tokens + 1, dtype=torch.int32, device=self.like.device)
        for tokens, _, counts, _, _ in self.pieces:
            offsets[1:][tokens] += counts
        offsets = offsets.cumsum(0, dtype=torch.int32)
        values = self.like.empty(self.total)
        latents = torch.empty(self.total, dtype=torch.int32, device=values.device)
        place = offsets[:-1].clone()
        for tokens, first, counts, some, columns in self.pieces:
            self.ops.copy_runs(counts, place[tokens], some, columns, first, values, latents)
            place[tokens] += counts
        return Support(latents, offsets, n_latents), values
