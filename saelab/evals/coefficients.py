"""What a code's coefficients are worth: the same latents with one value each or for all, and codes by cosine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from saelab import metrics
from saelab.errors import check_least, check_seed
from saelab.evals.base import Chart, NotMeasurable, Result, Subject, Table
from saelab.evals.cosines import unit
from saelab.evals.downstream import Downstream
from saelab.evals.heldout import check_max_tokens, heldout, tokens_of
from saelab.kernels import PerToken, latent_sum, select, spread
from saelab.sae import SAE, SparseCode
from saelab.sae.code import Encoding, Seen
from saelab.sae.coders import Coder

CODES = {
    "own": "the SAE's own coefficients",
    "mean": "every active latent at its mean activation",
    "equal": "all active latents equally strong",
    "nearest": "the latents nearest by cosine, each at its mean activation",
    "null": "the latents of another token, each at its mean activation",
}
Recode = Callable[[Tensor, SparseCode], SparseCode]
"""Another code from `[tok, d_in]` inputs, minus the decoder's bias, and the SAE's own code of them."""


@dataclass(frozen=True)
class Coefficients:
    """FVU and loss recovered by codes without coefficients, as codebook features are (2310.17230: the k code vectors
    nearest by cosine, added up).

    Three codes of the same dictionary: every active latent at its mean activation while active (a number for each
    latent, from training tokens); all active latents writing with the same length (one number in all); and, as in
    codebook features, the k latents nearest by cosine to the centred activation, k being the mean L0, each at its
    mean activation. Signs of signed codes are kept. The null has the latents of another token. Nothing is fine-tuned,
    unlike in the paper: this is what coefficients are worth to a dictionary that was trained with them.
    """

    train_tokens: Annotated[int, "training tokens behind mean activations"] = 16_384
    max_tokens: Annotated[int | None, "held-out tokens behind FVU (none: all that are stored)"] = 16_384
    contexts: Annotated[int, "held-out contexts behind the loss"] = 16
    bootstrap_rounds: Annotated[int, "resamples behind each interval"] = 1000
    seed: Annotated[int, "of the null and the bootstrap"] = 0

    def __post_init__(self) -> None:
        check_least(self, 1, "train_tokens", "contexts", "bootstrap_rounds")
        check_max_tokens(self.max_tokens)
        check_seed(self.seed)

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        active = Active.of(subject.share(0, 0.15), self.train_tokens)
        codes = recodes(subject.sae, active)
        found = subject.part("fvu", lambda: self._reconstruction(subject.share(0.15, 0.4), codes))
        step = 0.6 / len(codes)
        for at, (name, recode) in enumerate(codes.items()):
            here = replace(subject.share(0.4 + at * step, 0.4 + (at + 1) * step), sae=recoded(subject.sae, recode))
            found[name] |= subject.part(name, partial(self._loss, here))
        return self._result(found, active, subject)

    def _reconstruction(self, subject: Subject, codes: Mapping[str, Recode]) -> dict[str, dict[str, float]]:
        """By code, JSON-able."""
        sae = subject.sae
        seen = {name: metrics.Reconstruction() for name in (*codes, "null")}
        generator = torch.Generator().manual_seed(self.seed)
        for batch in heldout(subject, self.max_tokens):
            x, own = batch.input, sae.encode(batch.input)
            centred = x - _centre(sae)
            for name, recode in codes.items():
                code = recode(centred, own)
                seen[name].update(batch.target, sae.reconstruct(x, code), code.l0())
            another = torch.randperm(len(x), generator=generator).to(x.device)
            said = sae.decode(codes["mean"](centred, own)) - sae.b_dec
            seen["null"].update(batch.target, said[another] + sae.decoder.affine(x), own.l0())
        found = {name: one.result() for name, one in seen.items()}
        return {name: {"fvu": one["fvu"], "l0": one["l0"]} for name, one in found.items()}

    def _loss(self, subject: Subject) -> dict[str, Any]:
        """Loss recovered with the subject spliced in, JSON-able."""
        measure = Downstream(self.contexts, bootstrap_rounds=self.bootstrap_rounds, seed=self.seed)
        found = measure(subject)
        names = ("ce_score", "ce_score_mean", "delta_ce_nats", "kl_nats")
        kept = {name: found.metrics[name] for name in names if name in found.metrics}
        return kept | {"interval": found.intervals.get("ce_score"), "tokens": found.n_tokens}

    def _result(self, found: dict[str, dict[str, Any]], active: Active, subject: Subject) -> Result:
        explained, stored = 1 - found["own"]["fvu"], subject.store.n_tokens("heldout")
        kept = {code: (1 - row["fvu"]) / explained for code, row in found.items() if code != "own" and explained > 0}
        values = {
            f"coefficients_{code}_{name}": row[name]
            for code, row in found.items()
            for name in ("fvu", "ce_score")
            if name in row
        }
        values |= {f"coefficients_{code}_kept_frac": value for code, value in kept.items()}
        return Result(
            values,
            n_tokens=min(self.max_tokens or stored, stored),
            intervals={
                f"coefficients_{code}_ce_score": tuple(row["interval"])
                for code, row in found.items()
                if row.get("interval") is not None
            },
            meaning={name: _meaning(*name.removeprefix("coefficients_").split("_", 1)) for name in values},
            tables=[_table(found, kept)],
            charts=[_chart(found)],
            details={
                "k_nearest": active.k,
                "signed": active.signed,
                "never_active": active.never,
                "train_tokens": active.tokens,
                "loss_tokens": found["own"]["tokens"],
            },
            not_measurable={} if "nearest" in found else {"coefficients_nearest": _OTHER_SPACE},
        )


_OTHER_SPACE = "a transcoder's decoder rows lie in another space than its input"


@dataclass(frozen=True, eq=False)
class Active:
    """What latents do while active, on training tokens.

    Attributes:
        levels: `[lat]`: mean |activation|; of latents that were never active, that of the mean `length`.
        length: mean length that an active latent writes.
        k: mean L0, rounded, at least 1.
        signed: whether codes have negative values.
        never: latents that were never active; tokens: looked at.
    """

    levels: Tensor
    length: float
    k: int
    signed: bool
    never: int
    tokens: int

    @classmethod
    def of(cls, subject: Subject, train_tokens: int) -> Active:
        """
        Raises:
            NotMeasurable: there are no training tokens, or no latent is active.
        """
        sae = subject.sae
        counts, sums = (torch.zeros(sae.n_latents, dtype=torch.float64) for _ in range(2))
        tokens, signed = 0, False
        for batch in tokens_of("train", subject, train_tokens):
            code = sae.encode(batch.input)
            counts += code.firing_counts().cpu()
            sums += latent_sum(code.values.abs(), code.support).cpu().double()
            signed = signed or bool((code.values < 0).any())
            tokens += code.n_tokens
        if not counts.any():
            raise NotMeasurable(f"no latent is active on any of {tokens} training tokens")
        norms = sae.W_dec.norm(dim=1).cpu().double()
        length = float((sums * norms).sum() / counts.sum())
        levels = torch.where(counts > 0, sums / counts.clamp(min=1), _at_length(norms, length))
        k = max(1, round(float(counts.sum()) / tokens))
        return cls(levels.to(sae.W_dec), length, k, signed, int((counts == 0).sum()), tokens)


def _at_length(norms: Tensor, length: float) -> Tensor:
    """What makes rows of these norms that long; 0 for rows of norm 0."""
    return torch.where(norms > 0, length / norms.clamp(min=torch.finfo(norms.dtype).tiny), 0.0)


def recodes(sae: SAE, active: Active) -> dict[str, Recode]:
    """By name; see `CODES`."""
    rows = unit(sae.W_dec).to(sae.W_dec)
    equal = _at_length(sae.W_dec.norm(dim=1), active.length)
    budget = PerToken(min(active.k, sae.n_latents), torch.Tensor.abs_) if active.signed else PerToken(active.k)

    def nearest(x: Tensor, own: SparseCode) -> SparseCode:
        found = select(x, rows, rows.new_zeros(len(rows)), budget, screened=False)
        return levelled(SparseCode(found.values, found.support), active.levels, active.signed)

    codes: dict[str, Recode] = {
        "own": lambda x, own: own,
        "mean": lambda x, own: levelled(own, active.levels, active.signed),
        "equal": lambda x, own: levelled(own, equal, active.signed),
    }
    return codes if sae.identity.transcoder else codes | {"nearest": nearest}


def levelled(code: SparseCode, levels: Tensor, signed: bool) -> SparseCode:
    """The same active latents, each at its level `[lat]`; with the sign it had, where codes are signed."""
    sign = code.values.sign() if signed else (code.values > 0).to(levels)
    return code.with_values(spread(levels, code.support) * sign)


def recoded(sae: SAE, recode: Recode) -> SAE:
    """The same decoder behind other codes."""
    return SAE(_Recoded(sae.coder, recode, _centre(sae)), sae.decoder, sae.identity)


class _Recoded(Coder):
    """A coder whose code is replaced by one that is made of it."""

    def __init__(self, coder: Coder, recode: Recode, centre: Tensor):
        super().__init__(centred=coder.centred)
        self.coder, self.recode, self.centre = coder, recode, centre

    def encode(self, seen: Seen) -> Encoding:
        x = seen.x if self.centred else seen.x - self.centre
        return Encoding(self.recode(x, self.coder.encode(seen).code))


def _centre(sae: SAE) -> Tensor:
    """The decoder's bias, where it lives in the input's space."""
    return sae.b_dec.new_zeros(()) if sae.identity.transcoder else sae.b_dec


def _meaning(code: str, name: str) -> str:
    what = {
        "fvu": "FVU (share of variance not reconstructed; lower is better)",
        "kept_frac": "share of the explained variance that is left (1 is all of it)",
        "ce_score": "loss recovered against zero ablation (1 is all of it)",
    }[name]
    return f"With {CODES[code]}: {what}."


def _table(found: Mapping[str, Mapping[str, Any]], kept: Mapping[str, float]) -> Table:
    columns = ["fvu", "l0", "ce_score", "ce_score_mean", "delta_ce_nats", "kl_nats"]
    rows = [[CODES[code], kept.get(code), *(row.get(name) for name in columns)] for code, row in found.items()]
    caption = "kept: share of the explained variance. ce_score: against zero ablation, ce_score_mean: against the mean."
    return Table("Codes without coefficients", ["code", "kept", *columns], rows, caption)


def _chart(found: Mapping[str, Mapping[str, Any]]) -> Chart:
    series: dict[str, list[list[float | str]]] = {
        "explained variance": [[code, 1 - row["fvu"]] for code, row in found.items() if code != "null"],
        "loss recovered": [[code, row["ce_score"]] for code, row in found.items() if "ce_score" in row],
    }
    caption = "What is left of a code when its coefficients go: which latents are active, or how strongly?"
    return Chart("Codes without coefficients", "code", "share", series, kind="bars", caption=caption)
