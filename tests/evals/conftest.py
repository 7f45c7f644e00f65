"""One small store for all evaluators of dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import pytest
import torch
from torch import Tensor

from saelab.evals import Subject
from saelab.sae import SAE, VARIANTS, build
from saelab.sae.coders import OneStep

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="session")
def small_store(lm, tiny_text_file, tmp_path_factory):
    from saelab.activations import CaptureSpec, capture
    from saelab.lm.corpus import DataSpec
    from saelab.lm.mask import MaskSpec
    from saelab.lm.windows import WindowSpec

    spec = CaptureSpec(
        hooks=(HOOK, "blocks.0.attn.hook_z"),
        tokens=1500,
        heldout_tokens=400,
        dtype="float32",
        shuffle_contexts=16,
        dir=str(tmp_path_factory.mktemp("stores") / "small"),
    )
    return capture(lm, DataSpec(str(tiny_text_file)), WindowSpec(context_length=32, heldout_frac=0.2), MaskSpec(), spec)


@pytest.fixture(scope="session")
def subject_of(small_store, lm) -> Callable[..., Subject]:
    """A subject for an SAE of width 32."""
    return lambda sae, **more: Subject(sae, small_store, HOOK, small_store.mask, lambda: lm, **more)


@pytest.fixture(scope="session")
def with_rows() -> Callable[..., SAE]:
    """An SAE with these decoder rows `[lat, d]`, its encoder tied to them; k is 2, where it has one."""

    def make(rows: Tensor, kind: str = "topk", **settings: object) -> SAE:
        usual = {"n_latents": len(rows), "k": 2}
        known = signature(VARIANTS[kind]).parameters
        sae = build(kind, rows.shape[1], {k: v for k, v in usual.items() if k in known} | settings).sae
        with torch.no_grad():
            sae.decoder.W_dec.copy_(rows)
            if isinstance(sae.coder, OneStep):
                sae.coder.W_enc.copy_(rows)
        return sae.inference()

    return make
