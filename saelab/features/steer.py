"""Latents held or pushed while a model writes: what it says then, beside what it would have said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from saelab.errors import SaelabError, SettingError, check_seed
from saelab.features.live import Live
from saelab.kernels import Support
from saelab.lm import vocabulary
from saelab.lm.splice import EditFrom, splice_from, transcode
from saelab.sae import SAE, SparseCode

Mode = Literal["clamp", "add"]
MAX_NEW_TOKENS = 200


@dataclass(frozen=True)
class Intervention:
    """What to do with one latent at every position that counts, new tokens included.

    Attributes:
        mode: clamp sets its value in the code, and only the difference acts (what the SAE leaves unexplained
            stays); add adds `strength` times its decoder row, whatever its value.
        strength: in the units of activations.
    """

    latent: int
    mode: Mode = "clamp"
    strength: float = 0.0


@dataclass(frozen=True)
class Sampling:
    """How continuations are drawn. Both sides use the same random numbers, so that they part only where the
    intervention makes them; 0 always takes the likeliest token."""

    new_tokens: int = 40
    temperature: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.new_tokens <= MAX_NEW_TOKENS:
            raise SettingError("new_tokens", f"must lie between 1 and {MAX_NEW_TOKENS}, found {self.new_tokens}")
        if not 0 <= self.temperature <= 100:
            raise SettingError("temperature", f"must lie between 0 and 100, found {self.temperature}")
        check_seed(self.seed)


@dataclass(frozen=True)
class Shift:
    """A token's probability of coming right after the prompt."""

    token: int
    text: str
    before: float
    after: float

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Continuation:
    """Text written after the prompt.

    Attributes:
        ended: the model wrote its end-of-text token, which is not among `tokens`.
    """

    tokens: tuple[int, ...] = ()
    text: str = ""
    ended: bool = False


@dataclass(frozen=True)
class Steering:
    """What an intervention does.

    Attributes:
        baseline, steered: how the model goes on without and with it.
        risers, fallers: next tokens by change in probability, the largest first.
        kl_nats: KL(baseline || steered) of the next-token distributions right after the prompt.
    """

    baseline: Continuation
    steered: Continuation
    risers: tuple[Shift, ...]
    fallers: tuple[Shift, ...]
    kl_nats: float


def steps(
    live: Live, text: str, interventions: Sequence[Intervention], sampling: Sampling, *, shown: int = 10
) -> Iterator[Steering]:
    """What is known after each new token, the complete one last; whoever stops asking stops the work.

    The edit is at work at all positions that the mask keeps, of the prompt and of what is written. Without any
    intervention the model runs through the same hooks, so that a change of 0 changes no bit.

    Args:
        shown: risers and fallers listed.

    Raises:
        SaelabError: the prompt is empty or too long; an intervention that cannot be.
    """
    edits = [_nothing, intervened(live.sae, interventions)]
    prompt = live.tokens(text, new_tokens=sampling.new_tokens)
    after = [_logits(live, prompt, edit) for edit in edits]
    found, noise = _next_token(live, after[0], after[1], shown), _noise(sampling, after[0])
    written = [found.baseline, found.steered]
    for number in range(sampling.new_tokens):
        drawn = next(noise)
        written = [
            past if past.ended else _longer(live, past, int((logits + drawn).argmax()))
            for past, logits in zip(written, after, strict=True)
        ]
        found = replace(found, baseline=written[0], steered=written[1])
        yield found
        if number + 1 == sampling.new_tokens or all(past.ended for past in written):
            return
        after = [
            old if past.ended else _logits(live, [*prompt, *past.tokens], edit)
            for old, past, edit in zip(after, written, edits, strict=True)
        ]


def steered(
    live: Live, text: str, interventions: Sequence[Intervention], sampling: Sampling, *, shown: int = 10
) -> Steering:
    """The last of `steps`."""
    *_, last = steps(live, text, interventions, sampling, shown=shown)
    return last


# -- the edit -----------------------------------------------------------------------------------------


def intervened(sae: SAE, interventions: Sequence[Intervention]) -> EditFrom:
    """Interventions as an edit of what the SAE reconstructs.

    Raises:
        SaelabError: there is no such latent, a strength is not finite, or a latent is clamped to two values.
    """
    for one in interventions:
        _check(sae, one)
    clamps, pushed = ([one for one in interventions if one.mode == mode] for mode in ("clamp", "add"))
    held = {one.latent: one.strength for one in clamps}
    if len(held) < len(clamps):
        latent, _ = Counter(one.latent for one in clamps).most_common(1)[0]
        raise SaelabError(f"latent {latent} is clamped twice", where="interventions", fix="keep one of the two")
    rows = sae.W_dec[[one.latent for one in pushed]].float()
    push = torch.tensor([one.strength for one in pushed]).to(rows) @ rows
    hold = transcode(sae, lambda code: clamped(code, held), keep_error=True) if held else _nothing
    return (lambda x, value: hold(x, value) + push.to(value)) if pushed else hold


def clamped(code: SparseCode, held: dict[int, float]) -> SparseCode:
    """The code with these latents at these values on every token, active there or not."""
    support, n_tokens = code.support, code.n_tokens
    latents = torch.tensor(sorted(held), dtype=torch.int32, device=support.device)
    values = torch.tensor([held[latent] for latent in sorted(held)]).to(code.values)
    others = ~torch.isin(code.latents[: support.nnz], latents)
    rows = torch.arange(n_tokens, device=support.device).repeat_interleave(len(held))
    rows = torch.cat([support.rows[others], rows])
    order = rows.argsort(stable=True)
    joined = torch.cat([code.latents[: support.nnz][others], latents.repeat(n_tokens)])[order]
    entries = torch.cat([code.values[: support.nnz][others], values.repeat(n_tokens)])[order]
    return SparseCode(entries, Support.from_entries(rows[order], joined, n_tokens, code.n_latents))


def _nothing(x: Tensor, value: Tensor) -> Tensor:
    return value


def _check(sae: SAE, one: Intervention) -> None:
    if not 0 <= one.latent < sae.n_latents:
        raise SaelabError(
            f"there is no latent {one.latent}; they go from 0 to {sae.n_latents - 1}", where="interventions"
        )
    if not abs(one.strength) < float("inf"):
        raise SaelabError(f"the strength of latent {one.latent} is {one.strength}", where="interventions")


# -- the model ----------------------------------------------------------------------------------------


def _logits(live: Live, ids: Sequence[int], edit: EditFrom) -> Tensor:
    """`[vocabulary]` float64, of the token after these."""
    tokens = torch.tensor([ids], device=live.lm.device)
    with splice_from(live.lm, live.hook, live.target, edit, mask=live.mask, tokens=tokens):
        logits = live.lm.logits(tokens)[0, -1].double().cpu()
    if not logits.isfinite().all():
        raise SaelabError(
            "the model's predictions are no longer finite", where="interventions", fix="choose smaller strengths"
        )
    return logits


def _noise(sampling: Sampling, like: Tensor) -> Iterator[Tensor]:
    """What is added to logits before the largest is taken: Gumbel noise times the temperature samples from the
    softmax, and leaves the choice alone where logits change little."""
    generator = torch.Generator().manual_seed(sampling.seed)
    while True:
        uniform = torch.rand(like.shape, generator=generator, dtype=like.dtype).clamp_min(1e-300)
        yield -sampling.temperature * (-uniform.log()).log()


def _longer(live: Live, past: Continuation, token: int) -> Continuation:
    if token == live.lm.tokenizer.eos_token_id:
        return replace(past, ended=True)
    tokens = (*past.tokens, token)
    return Continuation(tokens, vocabulary.running(live.lm.tokenizer, tokens))


def _next_token(live: Live, before: Tensor, after: Tensor, shown: int) -> Steering:
    """What the intervention does right after the prompt, before anything is written."""
    log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()

    def listed(sign: int) -> tuple[Shift, ...]:
        change, ids = (sign * (q - p)).topk(min(shown, len(p)))
        chosen = ids[change > 0].tolist()
        texts = live.texts(chosen)
        return tuple(Shift(i, text, float(p[i]), float(q[i])) for i, text in zip(chosen, texts, strict=True))

    return Steering(Continuation(), Continuation(), listed(1), listed(-1), float((p * (log_p - log_q)).sum()))
