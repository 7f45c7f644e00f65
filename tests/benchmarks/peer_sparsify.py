"""sparsify as a contestant: its `SparseCoder`, and the body of its trainer's loop, which asks for a language model."""
# pyright: reportMissingImports=false
# sparsify is installed in the benchmark's own environment alone.

from __future__ import annotations

import torch
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor

from saelab.activations.loader import Batch

from .contest import Recipe, Start


class Sparsify:
    """What `Trainer.fit` does with the activations of a hook: `optimizer: adam`, no AuxK, as are its defaults.

    Args:
        fused: Adam's fused implementation in place of the default one.
    """

    def __init__(self, recipe: Recipe, start: Start, *, fused: bool = False):
        config = SparseCoderConfig(num_latents=recipe.n_latents, k=recipe.k)
        self.sae = SparseCoder(recipe.d_model, config, dtype=torch.float32)
        self.sae.encoder.weight.data.copy_(start.rows)
        self.sae.W_dec.data.copy_(start.rows)
        adam = {"fused": True} if fused else {}
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=recipe.lr, betas=recipe.betas, **adam)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, recipe.rate)
        self.did_fire = torch.zeros(recipe.n_latents, dtype=torch.bool)
        self.tokens_since_fired = torch.zeros(recipe.n_latents, dtype=torch.int64)
        self.first = True

    def step(self, batch: Batch) -> None:
        x, sae = batch.input, self.sae
        if self.first:
            sae.b_dec.data = x.mean(0)
            self.first = False
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        self.did_fire[out.latent_indices.flatten()] = True
        float(out.fvu.detach())  # its running average
        (out.fvu + out.multi_topk_fvu / 8).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.tokens_since_fired += len(x)
        self.tokens_since_fired[self.did_fire] = 0
        self.did_fire.zero_()

    def finish(self, x: Tensor) -> None:
        pass

    @torch.no_grad()
    def deployed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        acts, latents, _ = self.sae.encode(x)
        code = x.new_zeros(len(x), self.sae.num_latents).scatter_(1, latents, acts)
        return self.sae.decode(acts, latents), code
