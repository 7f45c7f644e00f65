"""Discrete codes: a head is in the circuit where its output takes codes in clean prompts that it never takes in
corrupted ones.

Source: O'Neill and Bui 2024 (arXiv 2405.12522), sections 3 and 4, and their code. Deviations: an output that no latent
answers to has a code of its own (theirs is latent 0); clean and corrupted prompts are pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saelab.circuits.anatomy import Anatomy, head_name
from saelab.circuits.dictionary import Dictionary, DictionarySpec, train
from saelab.circuits.outputs import HeadOutputs, Position, head_outputs
from saelab.circuits.pairs import Pairs, rows_of
from saelab.circuits.passes import Passes
from saelab.circuits.scores import Edges, Report, Scores, quiet
from saelab.errors import SettingError, check_least, check_seed
from saelab.lm.model import LanguageModel


@dataclass(frozen=True)
class DiscreteCodes:
    """Codes seen in clean prompts alone, counted for each head.

    Attributes:
        examples: prompts, clean and corrupted mixed, that the dictionary is trained on. All are scored.
        null: shuffles of the labels whose mean count is taken off: a head of many codes has many in one half by chance.
    """

    examples: int = 10
    dictionary: DictionarySpec = field(default_factory=DictionarySpec)
    position: Position = "mean"
    null: int = 0
    seed: int = 0
    batch_prompts: int = 32

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_least(self, 1, "examples")
        check_least(self, 0, "null")

    @property
    def least_pairs(self) -> int:
        return (self.examples + 1) // 2

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        passes = Passes(lm, pairs)
        codes, positive = self.codes(passes, report)
        heads = corrected(unique_codes, codes, positive, self.null, self.seed)
        shape = (passes.anatomy.n_layers, passes.anatomy.n_heads)
        return Scores("codes", heads.view(shape), passes.cost.stop(), details=_about(codes, positive))

    def codes(self, passes: Passes, report: Report) -> tuple[Tensor, Tensor]:
        """`[example, all heads]` codes, and `[example]` which are of clean prompts."""
        found = head_outputs(passes, self.position, self.batch_prompts, report)
        if self.examples > len(found.z):
            raise SettingError(
                "examples", f"must be at most {len(found.z)}, one for each prompt, found {self.examples}"
            )
        chosen = rows_of(len(found.z), self.seed)[: self.examples]
        layers = [written(passes.anatomy, layer, found.z[chosen]) for layer in range(passes.anatomy.n_layers)]
        dictionary = train(torch.cat(layers).flatten(0, 1), self.dictionary, self.seed)
        return encoded(passes.anatomy, found, dictionary), found.positive


@dataclass(frozen=True)
class DiscreteCodeEdges(DiscreteCodes):
    """Pairs of codes of two heads that occur together in clean prompts alone, counted for each pair of heads. Heads are
    scored by how often they are among the strongest pairs.

    Attributes:
        as in `DiscreteCodes`.
    """

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        passes = Passes(lm, pairs)
        codes, positive = self.codes(passes, report)
        values = corrected(unique_pairs, codes, positive, self.null, self.seed)
        shape = (passes.anatomy.n_layers, passes.anatomy.n_heads)
        names = tuple(head_name(i // shape[1], i % shape[1]) for i in range(codes.shape[1]))
        edges = Edges(names, names, values, ~torch.eye(len(names), dtype=torch.bool))
        heads = among_strongest(values).view(shape)
        return Scores("code_edges", heads, passes.cost.stop(), edges=edges, details=_about(codes, positive))


def written(anatomy: Anatomy, layer: int, z: Tensor) -> Tensor:
    """`[example, layer, head, d_head]` -> what a layer's heads write, `[example, head, d_model]`, on the CPU."""
    return anatomy.written(layer, z[:, layer].to(anatomy.lm.device)).cpu()


def encoded(anatomy: Anatomy, found: HeadOutputs, dictionary: Dictionary) -> Tensor:
    """`[example, all heads]` int64 codes."""
    layers = range(anatomy.n_layers)
    return torch.cat([dictionary.codes(written(anatomy, layer, found.z)) for layer in layers], 1)


def unique_codes(codes: Tensor, positive: Tensor) -> Tensor:
    """`[head]`: how many codes of `[example, head]` occur in positive examples alone."""
    seen = _seen(codes)
    return (seen[positive].any(0) & ~seen[~positive].any(0)).float().sum(1)


def _seen(codes: Tensor) -> Tensor:
    """`[example, head, code]` bool, codes renumbered."""
    numbers = codes.unique(return_inverse=True)[1]
    return torch.nn.functional.one_hot(numbers, int(numbers.max()) + 1).bool()


def unique_pairs(codes: Tensor, positive: Tensor) -> Tensor:
    """`[head, head]`: how many pairs of codes occur together in positive examples alone; 0 for a head with itself."""
    n = codes.shape[1]
    numbers = codes.unique(return_inverse=True)[1]
    width = int(numbers.max()) + 1
    found = torch.zeros(n, n)
    for head in range(n):
        pairs = (numbers[:, head, None] * width + numbers).T  # [head, example]: joint codes with every other head
        found[head] = _only_in(pairs, positive)
    found.fill_diagonal_(0)
    return found


def _only_in(values: Tensor, positive: Tensor) -> Tensor:
    """`[row]`: how many values of `[row, example]` occur in positive examples alone."""
    order = values.sort(dim=1, stable=True)
    marked = positive.expand_as(values).gather(1, order.indices)
    fresh = torch.ones_like(values, dtype=torch.bool)
    fresh[:, 1:] = order.values[:, 1:] != order.values[:, :-1]
    group = fresh.cumsum(1) - 1
    negatives = torch.zeros_like(values).scatter_add_(1, group, (~marked).long())
    members = torch.zeros_like(values).scatter_add_(1, group, torch.ones_like(values))
    return ((negatives == 0) & (members > 0)).sum(1).float()


def among_strongest(values: Tensor) -> Tensor:
    """`[head]`: how often a head is in the n^2 / 4 strongest ordered pairs of `[head, head]`."""
    n = len(values)
    best = values.flatten().sort(descending=True, stable=True).indices[: n * n // 4]
    return torch.bincount(torch.cat([best // n, best % n]), minlength=n).float()


def corrected(
    count: Callable[[Tensor, Tensor], Tensor], codes: Tensor, positive: Tensor, null: int, seed: int
) -> Tensor:
    """What is counted, less its mean over `null` shuffles of the labels."""
    found = count(codes, positive)
    shuffles = [count(codes, positive[rows_of(len(positive), 1000 * (seed + 1) + i)]) for i in range(null)]
    return found - torch.stack(shuffles).mean(0) if shuffles else found


def _about(codes: Tensor, positive: Tensor) -> dict[str, float]:
    per_head = torch.tensor([len(column.unique()) for column in codes.T], dtype=torch.float32)
    return {"codes": float(len(codes.unique())), "codes_per_head": float(per_head.mean())}
