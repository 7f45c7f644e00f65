"""What happens to the language model's predictions when the SAE stands in for the activation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelab.errors import check_least, check_seed
from saelab.evals.base import Chart, Result, Subject
from saelab.files import sha256_json
from saelab.lm.model import LanguageModel, next_token_losses
from saelab.lm.splice import EditFrom, constant, splice_from, transcode
from saelab.metrics import interval

COLUMNS = ("tokens", "ce_clean", "ce_sae", "ce_zero", "ce_mean", "kl_sae", "kl_zero", "kl_mean")
"""What is summed over the predicted tokens of each document."""
Columns = dict[str, Tensor]
"""By name, `[context, position - 1]`: a number for each predicted token."""


@dataclass(frozen=True)
class Downstream:
    """Next-token cross-entropy and KL with the SAE spliced in, against zero and mean ablation.

    With CE the mean loss in nats and the clean run as reference:

        delta_ce_nats = CE_sae - CE_clean        kl_nats = E KL(clean || sae)
        ce_score      = (CE_zero - CE_sae) / (CE_zero - CE_clean)       ce_score_mean: with CE_mean
        kl_score      = (KL_zero - KL_sae) / KL_zero                    kl_score_mean: with KL_mean

    A transcoder is spliced in at its target, computed from its input in the same pass; the ablations are of
    the target. All runs keep the original activation at positions that the mask leaves out. Every next-token
    prediction inside a context counts. Intervals are bootstrapped over documents.

    What does not depend on the SAE is kept in `Subject.shared`: another SAE then costs two passes of the
    model instead of four.
    """

    contexts: Annotated[int, "held-out contexts, spread evenly over those stored"] = 96
    batch_contexts: Annotated[int, "contexts per forward pass"] = 8
    bootstrap_rounds: Annotated[int, "resamples behind each interval"] = 1000
    seed: Annotated[int, "of the bootstrap"] = 0

    def __post_init__(self) -> None:
        check_least(self, 1, "contexts", "batch_contexts", "bootstrap_rounds")
        check_seed(self.seed)

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        lm = subject.model()
        ablated: dict[int, Columns] = subject.shared.setdefault(self._key(subject), {})
        sums: dict[int, np.ndarray] = {}
        done = 0
        for number, (tokens, documents, length) in enumerate(batches(subject, self.contexts, self.batch_contexts)):
            clean = lm.logits(tokens)
            if number not in ablated:
                ablated[number] = _ablations(lm, subject, tokens, clean)
            columns = ablated[number] | _spliced(lm, subject, "sae", transcode(subject.sae), tokens, clean)
            real = torch.arange(1, tokens.shape[1]) < length[:, None]
            for document, row in by_document([columns[name] for name in COLUMNS], documents[:, 1:], real):
                sums[document] = sums.get(document, np.zeros(len(COLUMNS))) + row
            done += tokens.shape[0]
            subject.report(done, self.contexts)
        return self._result(np.stack([sums[document] for document in sorted(sums)]))

    def _key(self, subject: Subject) -> str:
        """Names all that the columns without the SAE depend on."""
        store, mask = subject.store.content_sha256, subject.mask.as_json()
        return sha256_json(
            ["downstream", store, mask, subject.hook, subject.target, self.contexts, self.batch_contexts]
        )

    def _result(self, sums: np.ndarray) -> Result:
        def of(name: str) -> tuple[float, float] | None:
            return interval(sums, lambda total: _scores(total)[name], seed=self.seed, rounds=self.bootstrap_rounds)

        intervals = {name: of(name) for name in ("delta_ce_nats", "ce_score", "ce_score_mean", "kl_nats")}
        return Result(
            _scores(sums.sum(0)),
            n_tokens=int(sums[:, 0].sum()),
            intervals={name: found for name, found in intervals.items() if found is not None},
            meaning=_MEANING,
            charts=[_chart(_scores(sums.sum(0)))],
            details={"documents": len(sums)},
        )


_MEANING = {
    "ce_clean_nats": "the model's own next-token loss, nats",
    "ce_sae_nats": "that loss with the SAE in place of the activation (as low as the model's own is perfect)",
    "ce_zero_nats": "that loss with zeros in place of the activation",
    "ce_mean_nats": "that loss with the mean activation in its place",
    "delta_ce_nats": "loss added when the SAE stands in for the activation, nats (0 is perfect)",
    "ce_score": "share of the loss recovered against zero ablation (1 is perfect)",
    "ce_score_mean": "the same against mean ablation, the harder baseline (1 is perfect)",
    "kl_nats": "KL(clean || spliced), nats (0 is perfect)",
    "kl_score": "share of the KL under zero ablation that is avoided (1 is perfect)",
    "kl_score_mean": "the same against mean ablation (1 is perfect)",
}


def _chart(scores: dict[str, float]) -> Chart:
    names = {"clean": "the model itself", "sae": "with the SAE", "mean": "mean ablation", "zero": "zero ablation"}
    return Chart(
        "Next-token loss",
        "in place of the activation",
        "nats",
        {"loss": [[name, scores[f"ce_{key}_nats"]] for key, name in names.items()]},
        kind="bars",
        caption="What the SAE costs the language model, beside having nothing of the activation.",
    )


def _ablations(lm: LanguageModel, subject: Subject, tokens: Tensor, clean: Tensor) -> Columns:
    """What a batch of contexts gives without the SAE."""
    losses = next_token_losses(clean, tokens).cpu()
    columns = {"ce_clean": losses, "tokens": torch.ones_like(losses)}
    for name, value in {"zero": 0.0, "mean": subject.store.mean(subject.target)}.items():
        edit = constant(value)
        columns |= _spliced(lm, subject, name, lambda _, target, edit=edit: edit(target), tokens, clean)
    return columns


def _spliced(lm: LanguageModel, subject: Subject, name: str, edit: EditFrom, tokens: Tensor, clean: Tensor) -> Columns:
    """Cross-entropy under an edit of the target, and KL from the clean run."""
    source, target = lm.hook(subject.hook), lm.hook(subject.target)
    with splice_from(lm, source, target, edit, mask=subject.mask, tokens=tokens):
        logits = lm.logits(tokens)
    return {f"ce_{name}": next_token_losses(logits, tokens).cpu(), f"kl_{name}": kl_nats(clean, logits)[:, :-1].cpu()}


def batches(subject: Subject, contexts: int, batch_contexts: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Held-out contexts, spread evenly over those stored: tokens and documents `[context, position]`, `[context]`
    lengths."""
    parts = list(subject.store.contexts("heldout"))
    tokens, documents, length = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "documents", "length")
    )
    count = min(contexts, tokens.shape[0])
    chosen = torch.linspace(0, tokens.shape[0] - 1, count).round().long()
    for rows in chosen.split(min(batch_contexts, count)):
        yield tokens[rows].long(), documents[rows], length[rows]


def by_document(
    columns: Sequence[Tensor], documents: Tensor, counted: Tensor
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Each document's sums of `[context, position]` columns over the positions that count."""
    table = torch.stack(list(columns), -1)[counted].double().numpy()
    owner = documents[counted].numpy()
    for document in np.unique(owner):
        yield int(document), table[owner == document].sum(0)


def kl_nats(clean: Tensor, other: Tensor) -> Tensor:
    """KL(clean || other) in nats and float32, `[context, position]`; one context at a time."""
    rows = []
    for p, q in zip(clean, other, strict=True):
        log_p, log_q = p.float().log_softmax(-1), q.float().log_softmax(-1)
        rows.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return torch.stack(rows)


def recovered(bad: float, found: float, good: float) -> float:
    """The share of the way from `bad` to `good`; no number where they are the same."""
    return (bad - found) / (bad - good) if bad != good else float("nan")


def _scores(total: np.ndarray) -> dict[str, float]:
    mean = dict(zip(COLUMNS, (total / max(total[0], 1)).tolist(), strict=True))
    return {
        "ce_clean_nats": mean["ce_clean"],
        "ce_sae_nats": mean["ce_sae"],
        "ce_zero_nats": mean["ce_zero"],
        "ce_mean_nats": mean["ce_mean"],
        "delta_ce_nats": mean["ce_sae"] - mean["ce_clean"],
        "ce_score": recovered(mean["ce_zero"], mean["ce_sae"], mean["ce_clean"]),
        "ce_score_mean": recovered(mean["ce_mean"], mean["ce_sae"], mean["ce_clean"]),
        "kl_nats": mean["kl_sae"],
        "kl_score": recovered(mean["kl_zero"], mean["kl_sae"], 0.0),
        "kl_score_mean": recovered(mean["kl_mean"], mean["kl_sae"], 0.0),
    }
