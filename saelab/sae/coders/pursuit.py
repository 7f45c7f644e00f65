"""*Pursuit*: several one-sparse steps on the residual, with the decoder's own rows."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from saelab.errors import SettingError
from saelab.kernels import Support, dispatch
from saelab.kernels.products import gram
from saelab.sae.code import Encoding, Seen, SparseCode
from saelab.sae.coders.base import Coder, check_n_latents

Selection = Literal["positive", "absolute"]

_GRAM_BYTES = 2**30
"""Correlations of all latents with each other are kept up to this size; beyond, and for few tokens, those with
the residual are recomputed."""
_BLOCK_TOKENS = 1024
"""Tokens whose correlations are held at a time."""
_ENDS_EVERY = 8
_REFRESH_STEPS = 32
"""Steps after which correlations are computed anew: the recurrence drifts."""


class Pursuit(Coder):
    """Matching pursuit on unit rows: `j = argmax <d_j, r>`, `z_j += <d_j, r>`, `r -= <d_j, r> d_j`.

    Which latents are picked is found without autograd; the coefficients solve the unit lower-triangular
    system `(I + strictly_lower(A A^T)) alpha = A x`, with A the picked rows in order, which is exactly the
    recursion and differentiable. A latent picked twice has one entry, the sum. A token stops when its
    residual is no longer than `residual_threshold`, no correlation is left to take, or, with `ends_at_repeat`, after
    the first latent that it picks twice.

    Source: MP-SAE (arXiv 2506.03093). `selection: positive` takes the largest correlation while
    that is positive, as the official code does (which also ends at a repeat, as SAELens does unless told not to,
    and keeps rows at unit norm only when it starts); `absolute` is Mallat and Zhang's rule, whose
    residual goes to the projection error. The triangular solve, and its closed form in reverse, are ours.

    Attributes:
        steps: latents picked per token at most; may be changed at any time, which is not saved (k is).
    """

    def __init__(
        self,
        n_latents: int,
        steps: int,
        *,
        selection: Selection = "positive",
        residual_threshold: float,
        ends_at_repeat: bool = False,
    ):
        super().__init__(centred=True)
        check_n_latents(n_latents)
        if steps < 1:
            raise SettingError("k", f"k must be at least 1, not {steps}")
        if selection not in get_args(Selection):
            raise SettingError("selection", f"selection is 'positive' or 'absolute', not '{selection}'")
        if residual_threshold < 0:
            raise SettingError("residual_threshold", f"must not be negative, found {residual_threshold}")
        self.steps = steps
        self.selection: Selection = selection
        self.ends_at_repeat = ends_at_repeat
        self.register_buffer("residual_threshold", torch.tensor(float(residual_threshold)))

    residual_threshold: Tensor

    @property
    def bound_to_input(self) -> str | None:
        return "encodes with the decoder's own rows"

    def encode(self, seen: Seen) -> Encoding:
        if pays_to_correlate(len(seen.x), seen.W_dec, self.steps) and dispatch.takes_compiled(seen.x):
            how = (self.selection == "absolute", self.ends_at_repeat)
            picked, amounts, counts = _Compiled.apply(seen.x, seen.W_dec, self.steps, *how, self.residual_threshold)
            return Encoding(_numbered(picked, amounts, counts, len(seen.W_dec)))
        picked, used = pursue(
            seen.x,
            seen.W_dec,
            self.steps,
            selection=self.selection,
            residual_threshold=self.residual_threshold,
            ends_at_repeat=self.ends_at_repeat,
        )
        amounts = torch.where(used, solve(seen.x, seen.W_dec, picked, used), 0.0)
        return Encoding(merged(picked, amounts, used, len(seen.W_dec)))

    def pre_activations(self, seen: Seen, latents: Tensor) -> Tensor:
        """Correlations with the input."""
        return seen.x @ seen.W_dec[latents].T

    def inference(self, W_dec: Tensor) -> Self:
        return self

    def fold(self, mean: Tensor, factor: float) -> None:
        self.residual_threshold.div_(factor)


def pays_to_correlate(n_tokens: int, rows: Tensor, steps: int) -> bool:
    """Whether products of all rows with each other cost less than correlations anew in each step, and fit."""
    n_latents = len(rows)
    return steps * n_tokens >= n_latents and n_latents**2 * rows.element_size() <= _GRAM_BYTES


# pyright: reportIncompatibleMethodOverride=false
class _Compiled(Function):
    """`pursue` and `solve` in one, by compiled kernels: the recursion's own amounts are the solution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, steps: int, absolute: bool, ends_at_repeat: bool, threshold: Tensor):
        from saelab.kernels.jit import pursuit

        products, bound = gram(rows), float(threshold)
        parts = []
        for some in x.split(_BLOCK_TOKENS):
            squares = torch.linalg.vecdot(some, some)
            how = {"absolute": absolute, "threshold": bound, "ends_at_repeat": ends_at_repeat}
            parts.append(pursuit.pursue(some @ rows.T, products, squares, steps, **how))
        picked, amounts, counts = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(x, rows, picked, amounts, counts)
        ctx.mark_non_differentiable(picked, counts)
        return picked, amounts, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_picked: None, grad: Tensor, to_counts: None):
        from saelab.kernels.jit import pursuit

        x, rows, picked, amounts, counts = ctx.saved_tensors
        to_x, to_rows = pursuit.backward(x.contiguous(), rows, picked, amounts, counts, grad.contiguous())
        return to_x, to_rows, None, None, None, None


@torch.no_grad()
def pursue(
    x: Tensor,
    rows: Tensor,
    steps: int,
    *,
    selection: Selection,
    residual_threshold: Tensor | float = 0.0,
    ends_at_repeat: bool = False,
) -> tuple[Tensor, Tensor]:
    """The latents picked for `[tok, d]` with dictionary `rows` `[lat, d]`: `[tok, steps]` int64, and which of
    them were taken (a prefix of each row)."""
    n_tokens = x.shape[0]
    picked = torch.zeros(n_tokens, steps, dtype=torch.int64, device=x.device)
    used = torch.zeros(n_tokens, steps, dtype=torch.bool, device=x.device)
    if n_tokens == 0:
        return picked, used
    products = rows @ rows.T if pays_to_correlate(n_tokens, rows, steps) else None
    residual, correlation = x.clone(), x @ rows.T
    tokens = torch.arange(n_tokens, device=x.device)
    active = torch.ones(n_tokens, dtype=torch.bool, device=x.device)
    for step in range(steps):
        best = (correlation if selection == "positive" else correlation.abs()).argmax(1)
        amount = correlation[tokens, best]
        active = active & (residual.norm(dim=1) > residual_threshold) & (amount != 0)
        if selection == "positive":
            active = active & (amount > 0)
        if step % _ENDS_EVERY == 0 and not bool(active.any()):  # asking waits for the device
            break
        repeated = ((picked[:, :step] == best[:, None]) & used[:, :step]).any(1) if ends_at_repeat else None
        picked[:, step], used[:, step] = torch.where(active, best, 0), active
        amount = torch.where(active, amount, 0.0)
        active = active if repeated is None else active & ~repeated
        residual = torch.addcmul(residual, rows[best], amount[:, None], value=-1)
        if products is None or (step + 1) % _REFRESH_STEPS == 0:
            torch.mm(residual, rows.T, out=correlation)
        else:
            correlation.addcmul_(products[best], amount[:, None], value=-1)
    return picked, used


def solve(x: Tensor, rows: Tensor, picked: Tensor, used: Tensor) -> Tensor:
    """The coefficients `[tok, steps]` of the steps that `pursue` picked, differentiable in `x` and `rows`."""
    if x.shape[0] == 0:
        return x.new_zeros(picked.shape)
    # `embedding`, not `rows[picked]`, whose backward adds in the order in which threads arrive
    atoms = torch.nn.functional.embedding(picked, rows) * used[..., None]
    system = torch.tril(atoms @ atoms.transpose(1, 2), diagonal=-1)
    right = atoms @ x[..., None]
    return torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True).squeeze(-1)


def merged(picked: Tensor, values: Tensor, used: Tensor, n_latents: int) -> SparseCode:
    """One entry per token and latent, the sum over the steps that picked it; `[tok, steps]` each."""
    keys = torch.arange(len(picked), device=picked.device)[:, None] * n_latents + picked
    unique, place = keys[used].unique(return_inverse=True)
    total = values.new_zeros(len(unique)).index_add(0, place, values[used])
    support = Support.from_entries(unique // n_latents, unique % n_latents, len(picked), n_latents)
    return SparseCode(total, support)


def _numbered(picked: Tensor, amounts: Tensor, counts: Tensor, n_latents: int) -> SparseCode:
    """What `merged` gives, without a sort."""
    from saelab.kernels.jit import pursuit

    slots, widths = pursuit.number(picked, counts)
    offsets = torch.cat([widths.new_zeros(1), widths.cumsum(0)])
    if int(offsets[-1]) == picked.numel():
        return SparseCode(amounts.reshape(-1), Support.from_rows(picked, n_latents))
    used = torch.arange(picked.shape[1]) < counts[:, None]
    place = (offsets[:-1, None] + slots)[used]
    values = amounts.new_zeros(int(offsets[-1])).index_add(0, place, amounts[used])
    latents = torch.empty(len(values), dtype=torch.int32)
    latents[place] = picked[used].to(torch.int32)
    return SparseCode(values, Support(latents, offsets.to(torch.int32), n_latents))
