"""How much of a planted dictionary was found: cosines, recovery, support F1, absorption, dead latents; nulls.

Everything works on plain tensors. Learned and true directions are rows, `[F, d]` and `[G, d]`, of any
norm but 0 (a row of zeros has cosine 0 with everything); codes are dense, `[tok, F]` and `[tok, G]`.
With `signed`, a latent and its negation mean the same: use it for dictionaries whose codes have signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True, eq=False)
class Matching:
    """One-to-one pairs of learned latents and true features, `min(F, G)` of them.

    Attributes:
        latents, features: `[pairs]` int64, ascending in `latents`.
        similarity: `[pairs]`, what was maximised in sum.
    """

    latents: Tensor
    features: Tensor
    similarity: Tensor


def cosines(learned: Tensor, truth: Tensor, *, signed: bool = False) -> Tensor:
    """`[F, G]`: the cosine of every learned with every true row; its magnitude where `signed`."""
    found = normalize(learned.double()) @ normalize(truth.double()).T
    return found.abs() if signed else found


def match(similarity: Tensor) -> Matching:
    """The one-to-one assignment with the largest summed `[F, G]` similarity (Hungarian algorithm)."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(similarity.numpy(), maximize=True)
    latents, features = torch.from_numpy(rows), torch.from_numpy(columns)
    return Matching(latents, features, similarity[latents, features])


def mcc(learned: Tensor, truth: Tensor, *, signed: bool = False) -> float:
    """Mean cosine over the pairs of the best one-to-one matching ("mean correlation coefficient")."""
    return match(cosines(learned, truth, signed=signed)).similarity.mean().item()


def recovery_rate(learned: Tensor, truth: Tensor, *, tau: float = 0.9, signed: bool = False) -> float:
    """Fraction of true features that some latent has a cosine above `tau` with."""
    return (cosines(learned, truth, signed=signed).amax(0) > tau).double().mean().item()


def support_f1(codes: Tensor, true_codes: Tensor, matching: Matching) -> float:
    """Mean over matched pairs of the F1 of "the latent is active" as a detector of "the feature is".

    Pairs whose feature never occurs in these tokens are left out.
    """
    found = codes[:, matching.latents] != 0
    true = true_codes[:, matching.features] != 0
    occurs = true.any(0)
    f1 = 2 * (found & true).sum(0) / (found.sum(0) + true.sum(0)).clamp_min(1)
    return f1[occurs].double().mean().item()


def absorption(learned: Tensor, codes: Tensor, truth: Tensor, true_codes: Tensor, parents: Tensor) -> float:
    """How far children contain their parents: the mean cosine of the latent matched to a child with the
    true direction of the child's parent. 0 where features are orthogonal and each is found.

    Latents are matched to features by their activations (cosine over tokens), not by their directions;
    a latent with negative activations (a row that points the other way) counts up to sign.

    Args:
        parents: `[G]` int64, the feature that is each one's parent, -1 for none.

    Source: Costa et al. 2025 (arXiv 2506.03093), the synthetic hierarchy.
    """
    signed = bool((codes < 0).any())
    pairs = match(cosines(codes.T, true_codes.T, signed=signed))
    parent = parents[pairs.features]
    child = parent >= 0
    return cosines(learned[pairs.latents[child]], truth[parent[child]], signed=signed).diagonal().mean().item()


def dead_frac(codes: Tensor) -> float:
    """Fraction of latents active on none of these tokens."""
    return (codes == 0).all(0).double().mean().item()


# -- what to compare with -----------------------------------------------------------------------------


def random_dictionary(n_latents: int, d_model: int, generator: torch.Generator) -> Tensor:
    """`[n_latents, d_model]` random unit rows: what a dictionary is worth that has learned nothing."""
    return normalize(torch.randn(n_latents, d_model, generator=generator))


def pursue(x: Tensor, dictionary: Tensor, n_active: Tensor, *, signed: bool = False) -> Tensor:
    """Codes of `[tok, d]` in a dictionary of unit rows by orthogonal matching pursuit -> `[tok, F]`.

    The coder of the oracle (the true dictionary) and of the random null: it is told how many features
    each token has.

    Args:
        n_active: `[tok]` int64, how many latents each token gets.

    Source: Pati, Rezaiifar and Krishnaprasad 1993.
    """
    n_tokens, width = x.shape[0], int(n_active.max())
    chosen = torch.zeros(n_tokens, width, dtype=torch.int64)
    values = x.new_zeros(n_tokens, width)
    residual = x
    for step in range(width):
        scores = residual @ dictionary.T
        scores = scores.abs() if signed else scores
        if step:
            scores = scores.scatter(1, chosen[:, :step], -torch.inf)
        chosen[:, step] = scores.argmax(1)
        atoms = dictionary[chosen[:, : step + 1]]
        weights = torch.linalg.lstsq(atoms.mT, x[..., None]).solution.squeeze(2)
        going_on = (n_active > step)[:, None]
        values[:, : step + 1] = torch.where(going_on, weights, values[:, : step + 1])
        residual = x - (weights[:, None] @ atoms).squeeze(1)
    return x.new_zeros(n_tokens, dictionary.shape[0]).scatter(1, chosen, values)
