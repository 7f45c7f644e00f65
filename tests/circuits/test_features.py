"""Latents of an SAE on a task: estimates that sum to the whole, and what they estimate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saelab.circuits import attribute_features, patch_features
from saelab.errors import SaelabError
from saelab.lm.mask import Mask, MaskSpec
from saelab.sae import SAE, build

HOOK = "blocks.1.hook_resid_post"


def sae_for(width: int, mean: torch.Tensor | float = 0.0) -> SAE:
    torch.manual_seed(0)
    sae = build("topk", width, {"n_latents": 64, "k": 6}).sae
    with torch.no_grad():
        sae.b_dec.copy_(torch.as_tensor(mean))
    return sae.inference()


def test_latents_error_and_masked_positions_sum_to_the_whole(word_lm, pairs):
    mask = Mask.of(MaskSpec(), word_lm.tokenizer)
    found = attribute_features(word_lm, sae_for(32), word_lm.hook(HOOK), mask, pairs, batch_prompts=5)
    assert float(found.latents.sum()) + found.error + found.masked == pytest.approx(found.total, rel=1e-3, abs=1e-5)
    assert abs(found.total) > 1e-3
    assert found.masked == pytest.approx(0, abs=1e-6)  # the first token is the same in both
    assert found.clean.shape == found.corrupted.shape == (64,)
    assert (found.clean > 0).any()
    whole = attribute_features(word_lm, sae_for(32), word_lm.hook(HOOK), mask, pairs, batch_prompts=12)
    assert torch.allclose(found.latents, whole.latents, atol=1e-6)
    assert found.cost.backwards == 12


def test_estimates_are_near_the_truth_where_the_model_is_nearly_linear(planted_lm, planted_pairs):
    """After the planted model's second layer all is linear: its last heads look at their own position."""
    pairs = planted_pairs.take(torch.arange(20))
    hook = planted_lm.hook(HOOK)
    mask = Mask.of(MaskSpec(special_tokens=False), planted_lm.tokenizer)
    mean = planted_lm.capture(pairs.clean.tokens, [hook])[hook.name].flatten(0, 1).mean(0)
    sae = sae_for(hook.width, mean)  # else its latents say the large constant that keeps the norms' scale
    found = attribute_features(planted_lm, sae, hook, mask, pairs)
    best = found.strongest(5)
    truth = patch_features(planted_lm, sae, hook, mask, pairs, best)
    assert torch.allclose(truth, found.latents[best], rtol=0.05, atol=0.01)
    assert found.latents[best].abs().max() > 0.05


def test_a_transcoder_is_refused(word_lm, pairs):
    sae = sae_for(32)
    sae.identity = replace(sae.identity, transcoder=True)
    mask = Mask.of(MaskSpec(), word_lm.tokenizer)
    with pytest.raises(SaelabError, match="a transcoder explains another hook than it reads"):
        attribute_features(word_lm, sae, word_lm.hook(HOOK), mask, pairs)
