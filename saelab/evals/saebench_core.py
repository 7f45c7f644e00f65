"""Core metrics by the conventions of SAEBench, so that numbers can be set beside those published with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelab import metrics
from saelab.errors import check_least, check_seed
from saelab.evals.base import Result, Subject
from saelab.evals.downstream import batches, by_document, kl_nats, recovered
from saelab.lm.mask import Mask
from saelab.lm.model import LanguageModel, next_token_losses
from saelab.lm.splice import EditFrom, splice_from
from saelab.sae import SAE

COLUMNS = ("tokens", "predictions", "ce_clean", "ce_sae", "ce_zero", "kl_sae", "kl_zero")
"""What is summed over the counted tokens of each document."""


@dataclass(frozen=True)
class SaebenchCore:
    """Reconstruction, cross-entropy and KL with every position ablated, and all but special tokens spliced.

    Source: SAEBench 0.6.0 (github.com/adamkarvonen/SAEBench, `evals/core/main.py`), whose names the metrics have, after
    `saebench_` where `reconstruction` has one of that name. What it does otherwise than that and `downstream` do:

    - the SAE replaces every position but BOS, EOS and padding, whatever else its mask left out in training; zero
      ablation, the only baseline, silences those, too. SAEBench has an option by which the SAE replaces them as well
      (`exclude_special_tokens: false` here), which none of its scripts uses; SAELens' `run_evals` never does;
    - what is averaged are tokens other than BOS, EOS and padding: their activations, the losses of what is predicted at
      them, and the KL there, a context's last position included.

    What is not copied, since it is no sound estimate of what its name says:

    - `explained_variance` there subtracts a mean of squares where the square of the mean belongs, and averages over
      dimensions before squaring. Here it is `1 - FVU`, as for `reconstruction`.
    - `explained_variance_legacy`, the mean over tokens of `1 - ||x - r||^2 / ||x - mean||^2`, takes each batch's mean.
      Here it is that of the run's training activations, so that batches do not matter. It is no share of variance.
    - `mse` there is the squared error divided by the tokens of a batch, not by the width. Here `E||x - r||^2 / d`.

    Norm ratios, L1 (which there lets negative codes cancel) and densities are left out. The text is the run's own
    held-out contexts, where SAEBench takes OpenWebText in concatenated windows of 128. A transcoder is read and spliced
    in as `downstream` does. Intervals are bootstrapped over documents.
    """

    contexts: Annotated[int, "held-out contexts, spread evenly over those stored"] = 96
    batch_contexts: Annotated[int, "contexts per forward pass"] = 8
    bootstrap_rounds: Annotated[int, "resamples behind each interval"] = 1000
    seed: Annotated[int, "of the bootstrap"] = 0
    exclude_special_tokens: Annotated[bool, "the SAE leaves BOS, EOS and padding as they are; ablation does not"] = True

    def __post_init__(self) -> None:
        check_least(self, 1, "contexts", "batch_contexts", "bootstrap_rounds")
        check_seed(self.seed)

    @torch.no_grad()
    def __call__(self, subject: Subject) -> Result:
        lm, seen = subject.model(), _Seen(subject.sae, subject.store.mean(subject.target))
        sums: dict[int, NDArray[np.float64]] = {}
        done = 0
        for tokens, documents, length in batches(subject, self.contexts, self.batch_contexts):
            real = torch.arange(tokens.shape[1]) < length[:, None]
            counted = real & ~torch.isin(tokens, _special(lm))
            special = tuple(_special(lm).tolist()) if self.exclude_special_tokens else ()
            replaced = Mask(first_position=False, special=special, norm_limits={})
            edit = seen.splicing(counted[replaced.keep_tokens(tokens)])
            columns = _columns(lm, subject, tokens, real, edit, replaced)
            for document, row in by_document(columns, documents, counted):
                sums[document] = sums.get(document, np.zeros(len(COLUMNS))) + row
            done += tokens.shape[0]
            subject.report(done, self.contexts)
        return self._result(np.stack([sums[document] for document in sorted(sums)]), seen)

    def _result(self, sums: NDArray[np.float64], seen: _Seen) -> Result:
        def of(name: str) -> tuple[float, float] | None:
            return metrics.interval(
                sums, lambda total: _scores(total)[name], seed=self.seed, rounds=self.bootstrap_rounds
            )

        intervals = {name: of(name) for name in ("ce_loss_score", "kl_div_score", "kl_div_with_sae")}
        return Result(
            _scores(sums.sum(0)) | seen.result(),
            n_tokens=int(sums[:, 0].sum()),
            intervals={name: found for name, found in intervals.items() if found is not None},
            meaning=MEANING,
            details={"documents": len(sums)},
        )


MEANING: Mapping[str, str] = {
    "ce_loss_score": "share of the next-token loss recovered against zero ablation of every position (1 is perfect)",
    "ce_loss_with_sae": "next-token loss with the SAE in place of the activations, nats",
    "ce_loss_without_sae": "the model's own, nats",
    "ce_loss_with_ablation": "with every position at 0, nats",
    "kl_div_score": "share of the KL from the clean run avoided against zero ablation (1 is perfect)",
    "kl_div_with_sae": "KL(clean || SAE in place of the activations), nats",
    "kl_div_with_ablation": "KL(clean || every position at 0), nats",
    "saebench_explained_variance": "1 - FVU over the counted tokens; SAEBench's own figure is computed wrongly",
    "explained_variance_legacy": "mean over tokens of 1 - error / distance from the mean; no share of variance",
    "saebench_mse": "mean squared error per dimension; SAEBench divides by the tokens of a batch instead",
    "cossim": "mean cosine between activation and reconstruction",
    "relative_reconstruction_bias": "gamma that minimises E||r / gamma - x||^2; below 1 reconstructions are too short",
    "saebench_l0": "latents active per token, over the counted tokens",
}


@dataclass
class _Seen:
    """What the SAE made of the tokens that count."""

    sae: SAE
    mean: Tensor
    reconstruction: metrics.Reconstruction = field(default_factory=metrics.Reconstruction)
    explained: float = 0.0

    def splicing(self, counted: Tensor) -> EditFrom:
        """The SAE in place of what it is handed, keeping account of the tokens `counted`, `[tok]` bool."""

        def edit(x: Tensor, value: Tensor) -> Tensor:
            code = self.sae.encode(x)
            recon, rows = self.sae.reconstruct(x, code), counted.to(x.device)
            self.reconstruction.update(value[rows], recon[rows], code.l0()[rows])
            explained = metrics.explained_by_token(value[rows], recon[rows], self.mean.to(value))
            self.explained += float(explained.double().sum())
            return recon

        return edit

    def result(self) -> dict[str, float]:
        found = self.reconstruction.result()
        return {
            "saebench_explained_variance": found["explained_variance"],
            "explained_variance_legacy": self.explained / self.reconstruction.n_tokens,
            "saebench_mse": found["mse"],
            "cossim": found["cosine"],
            "relative_reconstruction_bias": found["shrinkage"],
            "saebench_l0": found["l0"],
        }


def _special(lm: LanguageModel) -> Tensor:
    """Ids that SAEBench leaves out of every mean."""
    named = (lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id, lm.tokenizer.pad_token_id)
    return torch.tensor([number for number in named if isinstance(number, int)], dtype=torch.long)


def _columns(
    lm: LanguageModel, subject: Subject, tokens: Tensor, real: Tensor, spliced: EditFrom, replaced: Mask
) -> list[Tensor]:
    """`COLUMNS`, `[context, position]` each; what a context's last position predicts is not known, and counts 0."""
    source, target = lm.hook(subject.hook), lm.hook(subject.target)
    predicts = torch.nn.functional.pad(real[:, 1:], (0, 1)).float()

    def losses(logits: Tensor) -> Tensor:
        return torch.nn.functional.pad(next_token_losses(logits, tokens).cpu(), (0, 1)) * predicts

    clean = lm.logits(tokens)
    ce, kl = [losses(clean)], []
    for edit, mask in ((spliced, replaced), (lambda _, value: torch.zeros_like(value), Mask.everything())):
        with splice_from(lm, source, target, edit, mask=mask, tokens=tokens):
            logits = lm.logits(tokens)
        ce.append(losses(logits))
        kl.append(kl_nats(clean, logits).cpu())
    return [torch.ones_like(predicts), predicts, *ce, *kl]


def _scores(total: NDArray[np.float64]) -> dict[str, float]:
    sums: dict[str, float] = dict(zip(COLUMNS, total.tolist(), strict=True))
    clean, sae, zero = (sums[f"ce_{run}"] / max(sums["predictions"], 1) for run in ("clean", "sae", "zero"))
    kl, kl_zero = (sums[f"kl_{run}"] / max(sums["tokens"], 1) for run in ("sae", "zero"))
    return {
        "ce_loss_score": recovered(zero, sae, clean),
        "ce_loss_with_sae": sae,
        "ce_loss_without_sae": clean,
        "ce_loss_with_ablation": zero,
        "kl_div_score": recovered(kl_zero, kl, 0.0),
        "kl_div_with_sae": kl,
        "kl_div_with_ablation": kl_zero,
    }
