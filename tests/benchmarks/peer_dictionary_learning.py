"""dictionary_learning as a contestant: its TopK trainer."""
# pyright: reportMissingImports=false
# dictionary_learning is installed in the benchmark's own environment alone.

from __future__ import annotations

import torch
from dictionary_learning.trainers.top_k import TopKTrainer
from torch import Tensor

from saelab.activations.loader import Batch

from .contest import Recipe, Start


class DictionaryLearning:
    """`TopKTrainer.update`: forward, backward, projection, clipping at norm 1, Adam, renormalisation.

    Args:
        auxk: weight of the auxiliary loss for dead latents.
        fused: Adam's fused implementation in place of the default one.
    """

    def __init__(self, recipe: Recipe, start: Start, *, auxk: float = 1 / 32, fused: bool = False):
        self.trainer = TopKTrainer(
            steps=max(recipe.steps, 1001),  # its own schedule, which is replaced below, wants more than its warm-up
            activation_dim=recipe.d_model,
            dict_size=recipe.n_latents,
            k=recipe.k,
            layer=0,
            lm_name="",
            lr=recipe.lr,
            auxk_alpha=auxk,
            device="cpu",
        )
        sae = self.trainer.ae
        sae.encoder.weight.data.copy_(start.rows)
        sae.decoder.weight.data.copy_(start.rows.T)
        if fused:
            self.trainer.optimizer = torch.optim.Adam(sae.parameters(), lr=recipe.lr, betas=recipe.betas, fused=True)
        self.trainer.scheduler = torch.optim.lr_scheduler.LambdaLR(self.trainer.optimizer, recipe.rate)
        self.number = 0

    def step(self, batch: Batch) -> None:
        self.trainer.update(self.number, batch.input)
        self.number += 1

    def finish(self, x: Tensor) -> None:
        pass

    @torch.no_grad()
    def deployed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.trainer.ae.encode(x)
        return self.trainer.ae.decode(code), code
