"""A wrapped SAE has what SAEBench's evaluations touch, and computes what the SAE does."""

from __future__ import annotations

import json

import pytest
import torch

from saelab.errors import SaelabError
from saelab.interop.saebench import wrap
from saelab.sae import SAE, build
from tests.interop.conftest import FIXTURES, LATENTS, D

BELONGS = {
    "model": {"name": "gpt2"},
    "hook": "blocks.7.hook_resid_pre",
    "windows": {"context_length": 96, "prepend_bos": False},
}


@pytest.fixture
def sae(make):
    sae = make("topk")
    sae.identity.provenance = BELONGS
    return sae


@pytest.mark.parametrize("kind", ["topk", "relu", "gated", "matching_pursuit", "abs_topk", "top_afa"])
def test_codes_are_dense_rows_have_norm_1_and_reconstructions_are_the_same(make, kind):
    sae = make(kind)
    wrapped, x = wrap(sae, "gpt2", "blocks.7.hook_resid_pre"), torch.randn(2, 5, D)
    codes = wrapped.encode(x)
    assert codes.shape == (2, 5, LATENTS)
    torch.testing.assert_close(wrapped.W_dec.norm(dim=1), torch.ones(LATENTS), atol=1e-5, rtol=0)
    torch.testing.assert_close(wrapped.decode(codes), sae(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(wrapped(x), sae(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(codes.reshape(-1, LATENTS) != 0, sae.encode(x).to_dense() != 0)
    assert (wrapped.W_enc.shape, wrapped.b_enc.shape, wrapped.b_dec.shape) == ((D, LATENTS), (LATENTS,), (D,))


def test_codes_are_in_units_of_the_decoder_s_norms(make):
    sae = make("relu")
    norms = sae.W_dec.norm(dim=1)
    assert (norms - 1).abs().max() > 0.1
    x = torch.randn(6, D)
    wrapped = wrap(sae, "gpt2", "blocks.7.hook_resid_pre")
    torch.testing.assert_close(wrapped.encode(x), sae.encode(x).to_dense() * norms)
    pre = (x - sae.b_dec if sae.coder.centred else x) @ wrapped.W_enc + wrapped.b_enc
    torch.testing.assert_close(wrapped.encode(x), pre.relu(), atol=1e-5, rtol=1e-5)


def test_the_configuration_says_where_it_belongs_and_can_be_completed_and_written(sae):
    wrapped = wrap(sae)
    cfg = wrapped.cfg
    assert (cfg.model_name, cfg.hook_name, cfg.hook_layer) == ("gpt2", "blocks.7.hook_resid_pre", 7)
    assert (cfg.d_in, cfg.d_sae, cfg.context_size, cfg.prepend_bos) == (D, LATENTS, 96, False)
    for name in ("metadata", "exclude_special_tokens", "architecture_str"):  # as SAEBench does
        setattr(cfg, name, object())
    assert json.loads(json.dumps(cfg.to_dict()))["dtype"] == "float32"
    assert (wrapped.device.type, wrapped.dtype) == ("cpu", torch.float32)


def test_another_precision_is_taken_on_whole(sae, monkeypatch):
    monkeypatch.setenv("SAELAB_KERNELS", "reference")  # nothing to compile for one small product
    x = torch.randn(4, D)
    wrapped = wrap(sae).to(device="cpu", dtype=torch.float64)
    assert wrapped.dtype == wrapped.encode(x).dtype == wrapped(x).dtype == torch.float64
    torch.testing.assert_close(wrapped(x.double()), wrapped.sae(x.double()))


def test_what_saebench_could_not_measure_is_refused(make, sae):
    with pytest.raises(SaelabError, match="is a transcoder"):
        wrap(make("topk", d_out=D), "gpt2", "blocks.7.hook_resid_pre")
    with pytest.raises(SaelabError, match="in units of each token's own scale"):
        wrap(SAE.load(FIXTURES / "saelens" / "topk_layer_norm"), "gpt2", "blocks.7.hook_resid_pre")
    with pytest.raises(SaelabError, match="does not say where it belongs"):
        wrap(make("topk"))
    with pytest.raises(SaelabError, match="only the inference form"):
        wrap(build("topk", D, {"n_latents": LATENTS, "k": 4}).sae, "gpt2", "blocks.7.hook_resid_pre")
