"""Writes small SAEs with other tools' own code, and what they make of some inputs: `fixtures/<tool>/<name>/`.

Run in the environment of `tests/benchmarks/requirements.txt`:  python tests/interop/make_fixtures.py [PLACE]
The SAEs are random, not trained: what counts is that every part of them matters. `fixtures/saelens/{standard,topk,
jumprelu}`, `sparsify/layers.3` and `dictionary_learning/topk` were made elsewhere in the same way.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# The tools are installed in an environment of their own alone.

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D_IN, D_OUT, LATENTS, TOKENS, K = 8, 6, 24, 16, 4
METADATA = {
    "model_name": "gpt2-small",
    "hook_name": "blocks.3.hook_resid_post",
    "context_size": 64,
    "prepend_bos": True,
    "dataset_path": "some/text",
}


def main(place: Path) -> None:
    """Write all of them below `place`; what is there already is left alone."""
    for tool in (saelens, sparsify, dictionary_learning, gemma_scope, openai):
        for name, (write, module) in tool().items():
            directory = place / tool.__name__ / name
            if directory.exists():
                continue
            directory.mkdir(parents=True)
            write(directory)
            x = 2 * torch.randn(TOKENS, D_IN)
            with torch.no_grad():
                code, recon = module.encode(x), module(x)
                code = code[0] if isinstance(code, tuple) else code
                recon = recon[-1] if isinstance(recon, tuple) else recon
            assert (code != 0).any(), name
            save_file({"x": x, "code": code.contiguous(), "recon": recon.contiguous()}, directory / "io.safetensors")


Made = dict[str, tuple[Callable[[Path], Any], Any]]


@torch.no_grad()
def randomise(module: torch.nn.Module) -> None:
    """Other values for every parameter, with norms far from 1, and thresholds that decide something."""
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.5))
        if "threshold" in name:
            parameter.copy_(torch.rand_like(parameter) * 1.5 - 0.3)  # some are negative


def saelens() -> Made:
    from sae_lens import SAE
    from sae_lens.registry import get_sae_class, get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata

    def built(architecture: str, *, training: bool = False, **settings: Any) -> Any:
        cls, config = (get_sae_training_class if training else get_sae_class)(architecture)
        sae = cls(config(d_in=D_IN, d_sae=LATENTS, metadata=SAEMetadata(**METADATA), **settings))
        randomise(sae)
        return sae

    class Deployed:
        """A checkpoint's SAE as SAELens itself would deploy it."""

        def __init__(self, sae: Any):
            with TemporaryDirectory() as directory:
                sae.save_inference_model(directory)
                inference = SAE.load_from_disk(directory)
            self.encode, self.decode = inference.encode, inference.decode

        def __call__(self, x: Tensor) -> Tensor:
            return self.decode(self.encode(x))

    whole = {
        "gated": built("gated"),
        "abstopk": built("abstopk", k=K),
        "topk_rescaled": built("topk", k=K, rescale_acts_by_decoder_norm=True),
        "abstopk_rescaled": built("abstopk", k=K, rescale_acts_by_decoder_norm=True),
        "topk_not_centred": built("topk", k=K, apply_b_dec_to_input=False),
        "topk_layer_norm": built("topk", k=K, normalize_activations="layer_norm"),
        "jumprelu_constant_norm": built("jumprelu", normalize_activations="constant_norm_rescale"),
        "standard_not_centred": built("standard", apply_b_dec_to_input=False),
        "matching_pursuit": built("matching_pursuit", max_iterations=6, residual_threshold=0.5),
        "matching_pursuit_repeating": built(
            "matching_pursuit", residual_threshold=0.0, stop_on_duplicate_support=False, max_iterations=12
        ),
        "transcoder": built("transcoder", apply_b_dec_to_input=False, d_out=D_OUT),
        "skip_transcoder": built("skip_transcoder", apply_b_dec_to_input=False, d_out=D_OUT),
        "jumprelu_transcoder": built("jumprelu_transcoder", apply_b_dec_to_input=False, d_out=D_OUT),
        "jumprelu_skip_transcoder": built("jumprelu_skip_transcoder", apply_b_dec_to_input=False, d_out=D_OUT),
    }
    for name in ("matching_pursuit", "matching_pursuit_repeating"):
        whole[name].W_dec.data /= whole[name].W_dec.data.norm(dim=1, keepdim=True)
    made: Made = {name: (sae.save_model, sae) for name, sae in whole.items()}
    half = built("jumprelu", dtype="bfloat16")
    made["jumprelu_bfloat16"] = (half.save_model, copy.deepcopy(half).to(dtype=torch.float32))
    for name, settings in {
        "batchtopk": {"rescale_acts_by_decoder_norm": True},
        "matryoshka_batchtopk": {"matryoshka_widths": [6, 12, LATENTS], "rescale_acts_by_decoder_norm": False},
    }.items():
        checkpoint = built(name, training=True, k=K, **settings)
        checkpoint.topk_threshold.fill_(0.8)
        module = Deployed(checkpoint)
        made[f"{name}_checkpoint"] = (checkpoint.save_model, module)
        made[f"{name}_deployed"] = (checkpoint.save_inference_model, module)
    return made


class _Sparse:
    """sparsify's codes as a matrix."""

    def __init__(self, sae: Any):
        self.sae = sae

    def encode(self, x: Tensor) -> Tensor:
        values, latents, _ = self.sae.encode(x)
        return x.new_zeros(len(x), LATENTS).scatter_(1, latents, values)

    def __call__(self, x: Tensor) -> Tensor:
        values, latents, _ = self.sae.encode(x)
        out = self.sae.decode(values, latents)  # forward gives that of 4 k latents, after training by Multi-TopK
        return out if self.sae.W_skip is None else out + x @ self.sae.W_skip.mT


def sparsify() -> Made:
    from sparsify import SparseCoder, SparseCoderConfig

    def built(**settings: Any) -> Any:
        sae = SparseCoder(D_IN, SparseCoderConfig(num_latents=LATENTS, k=K, **settings), dtype=torch.float32)
        randomise(sae)
        return sae

    whole = {
        "h.2.mlp": built(transcode=True),
        "layers.1.mlp": built(transcode=True, skip_connection=True),
        "layers.5": built(normalize_decoder=False, multi_topk=True),
    }
    return {name: (sae.save_to_disk, _Sparse(sae)) for name, sae in whole.items()}


def dictionary_learning() -> Made:
    from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    def saver(module: torch.nn.Module) -> Callable[[Path], None]:
        def save(directory: Path) -> None:
            config = {"trainer_class": "Trainer", "dict_class": type(module).__name__, "lr": 1e-3, "layer": 3}
            config |= {"activation_dim": D_IN, "dict_size": LATENTS, "lm_name": "EleutherAI/pythia-70m-deduped"}
            config |= {"submodule_name": "resid_post_layer_3", "steps": 10}
            config |= {"k": K} if hasattr(module, "k") else {}
            buffer = {"d_submodule": D_IN, "io": "out", "ctx_len": 64}
            (directory / "config.json").write_text(json.dumps({"trainer": config, "buffer": buffer}, indent=4))
            torch.save(module.state_dict(), directory / "ae.pt")

        return save

    whole = {
        "relu": AutoEncoder(D_IN, LATENTS),
        "relu_new": AutoEncoderNew(D_IN, LATENTS),
        "gated": GatedAutoEncoder(D_IN, LATENTS),
        "jumprelu": JumpReluAutoEncoder(D_IN, LATENTS),
        "topk_with_threshold": AutoEncoderTopK(D_IN, LATENTS, K),
        "batch_topk": BatchTopKSAE(D_IN, LATENTS, K),
        "matryoshka": MatryoshkaBatchTopKSAE(D_IN, LATENTS, K, [6, 6, 12]),
    }
    for module in whole.values():
        randomise(module)
        for name, buffer in module.named_buffers():
            if name == "threshold":
                buffer.fill_(0.7)
    return {name: (saver(module), module) for name, module in whole.items()}


def gemma_scope() -> Made:
    """The release's own code is a notebook; SAELens' JumpReLU is what everybody reads it with."""
    from sae_lens.registry import get_sae_class

    cls, config = get_sae_class("jumprelu")
    sae = cls(config(d_in=D_IN, d_sae=LATENTS, apply_b_dec_to_input=False))
    randomise(sae)

    def save(directory: Path) -> None:
        np.savez(directory / "params.npz", **{name: value.numpy() for name, value in sae.state_dict().items()})

    return {"gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71": (save, sae)}


def openai() -> Made:
    """Of the official repository; `pip install` it, or put it on PYTHONPATH."""
    from sparse_autoencoder.model import Autoencoder, TopK

    def save(module: torch.nn.Module) -> Callable[[Path], None]:
        return lambda directory: torch.save(module.state_dict(), directory / "7.pt")

    whole = {
        "relu": Autoencoder(LATENTS, D_IN),
        "topk": Autoencoder(LATENTS, D_IN, activation=TopK(K), normalize=True),
    }
    for module in whole.values():
        randomise(module)
    return {name: (save(module), module) for name, module in whole.items()}


if __name__ == "__main__":
    torch.manual_seed(0)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "fixtures")
