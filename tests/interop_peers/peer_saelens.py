"""SAELens, by its own loaders and its own trainer."""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# SAELens is installed in an environment of its own alone.

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.saes.sae import SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from .outcomes import Model, Train, Trained

FORMAT = "saelens"
_METADATA = {"model_name": "gpt2", "hook_name": "blocks.3.hook_resid_post", "context_size": 64, "prepend_bos": True}
_TRAINED: dict[str, dict[str, Any]] = {
    "standard": {"l1_coefficient": 0.5},
    "topk": {"k": 6},
    "abstopk": {"k": 6},
    "jumprelu": {"jumprelu_init_threshold": 0.1, "jumprelu_bandwidth": 0.5},
    "gated": {"l1_coefficient": 0.1},
    "batchtopk": {"k": 6},
    "matryoshka_batchtopk": {"k": 6, "matryoshka_widths": [16, 32, 64]},
    "matching_pursuit": {"max_iterations": 8},
}
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")


def load(directory: Path) -> Model:
    """What saelab exported."""
    return _model(SAE.load_from_disk(directory))


def load_from_hub(repo: str, path: str) -> Model:
    """As the card says."""
    return _model(SAE.from_pretrained(repo, path))


def _model(sae: Any) -> Model:
    def code(x: Tensor) -> Tensor:
        found = sae.encode(x)
        return found.to_dense() if found.is_sparse else found

    return Model(code, sae)


def trained(x: Tensor, steps: int, n_latents: int) -> dict[str, Train]:
    """What trains an SAE for a few steps, by name. Transcoders have no trainer there, and are trained by hand."""
    cases: dict[str, Train] = {}
    for architecture, settings in _TRAINED.items():
        for rescaled in (False, True) if "topk" in architecture else (None,):
            extra = {} if rescaled is None else {"rescale_acts_by_decoder_norm": rescaled}
            for checkpoint in (False, True) if "batchtopk" in architecture else (False,):
                name = f"{architecture}{', rescaled' * bool(rescaled)}{', checkpoint' * checkpoint}"
                made = partial(_made, architecture, settings | extra, x, steps, n_latents, checkpoint=checkpoint)
                cases[name] = made
    for architecture, normalisation in (("topk", "layer_norm"), ("jumprelu", "constant_norm_rescale")):
        settings = {**_TRAINED[architecture], "normalize_activations": normalisation}
        cases[f"{architecture}, {normalisation}"] = partial(
            _made, architecture, settings, x, steps, n_latents, checkpoint=False
        )
    return cases | {name: partial(_transcoder, name, x, n_latents) for name in _TRANSCODERS}


def _made(
    architecture: str, settings: dict[str, Any], x: Tensor, steps: int, n_latents: int, *, checkpoint: bool
) -> Trained:
    """By its trainer; what it encodes with is what its own files give, into which thresholds and norms are folded."""
    sae_class, config_class = get_sae_training_class(architecture)
    sae = sae_class(config_class(d_in=x.shape[1], d_sae=n_latents, metadata=SAEMetadata(**_METADATA), **settings))
    config = SAETrainerConfig(total_training_samples=steps * 256, train_batch_size_samples=256, lr=3e-3, lr_end=3e-3)
    trainer = SAETrainer(config, sae, iter(()))
    for step in range(steps):
        trainer.step(x[torch.arange(step * 256, (step + 1) * 256) % len(x)])
        trainer.n_training_steps += 1
    with TemporaryDirectory() as directory:
        sae.save_inference_model(directory)
        deployed = load(Path(directory))
    return Trained(sae.save_model if checkpoint else sae.save_inference_model, deployed)


def _transcoder(architecture: str, x: Tensor, n_latents: int) -> Trained:
    sae_class, config_class = get_sae_class(architecture)
    widths = {"d_in": x.shape[1], "d_out": x.shape[1] // 2, "d_sae": n_latents}
    sae = sae_class(config_class(**widths, apply_b_dec_to_input=False, metadata=SAEMetadata(**_METADATA)))
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for batch in x.split(256):
        (sae(batch) - batch[:, : widths["d_out"]]).square().sum(1).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return Trained(sae.save_model, _model(sae))
