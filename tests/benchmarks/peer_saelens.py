"""SAELens as a contestant: its own trainer and classes, a step at a time."""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# SAELens is installed in the benchmark's own environment alone.

from __future__ import annotations

from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import SAE
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from saelab.activations.loader import Batch

from .contest import Recipe, Start


class SAELens:
    """`SAETrainer.step`: forward, backward, clipping at norm 1, Adam, firing statistics.

    Args:
        architecture, settings: of the SAE, as SAELens names them.
        fused: Adam's fused implementation in place of the default one.
        threshold_rate: learning rate of JumpReLU's thresholds over that of all else.
    """

    def __init__(
        self,
        recipe: Recipe,
        start: Start,
        *,
        architecture: str,
        settings: Mapping[str, Any],
        fused: bool = False,
        threshold_rate: float = 1.0,
    ):
        sae_class, config_class = get_sae_training_class(architecture)
        widths = {"d_in": recipe.d_model, "d_sae": recipe.n_latents, "decoder_init_norm": 1.0}
        sae = sae_class(config_class(**widths, **settings))
        sae.W_dec.data.copy_(start.rows)
        sae.W_enc.data.copy_(start.rows.T)
        if start.bias:
            sae.b_enc.data.fill_(start.bias)
        config = SAETrainerConfig(
            total_training_samples=recipe.steps * recipe.batch_tokens,
            train_batch_size_samples=recipe.batch_tokens,
            lr=recipe.lr,
            lr_end=recipe.lr,
            adam_beta1=recipe.betas[0],
            adam_beta2=recipe.betas[1],
            dead_feature_window=recipe.dead_after_steps,
        )
        self.trainer = SAETrainer(config, sae, iter(()))
        if fused:
            self.trainer.optimizer = torch.optim.Adam(sae.parameters(), lr=recipe.lr, betas=recipe.betas, fused=True)
        if threshold_rate != 1:
            others = [value for name, value in sae.named_parameters() if name != "threshold"]
            groups = [{"params": others}, {"params": [sae.threshold], "lr": recipe.lr * threshold_rate}]
            self.trainer.optimizer = torch.optim.Adam(groups, lr=recipe.lr, betas=recipe.betas)
        self.trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.trainer.optimizer, recipe.rate)

    def step(self, batch: Batch) -> None:
        self.trainer.step(batch.input)
        self.trainer.n_training_steps += 1

    def finish(self, x: Tensor) -> None:
        """Through its own files, which is where thresholds and decoder norms are folded in."""
        with TemporaryDirectory() as directory:
            self.trainer.sae.save_inference_model(directory)
            self.inference = SAE.load_from_disk(directory)

    @torch.no_grad()
    def deployed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.inference.encode(x)
        return self.inference.decode(code), code
