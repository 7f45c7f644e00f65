"""Which heads latents get what they say from: what patching one at a time does, and nothing from heads behind."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from saelab.circuits import attribute_features
from saelab.circuits.anatomy import z_hook
from saelab.circuits.feeding import feed
from saelab.circuits.passes import Passes
from saelab.errors import SaelabError
from saelab.lm.mask import Mask, MaskSpec
from saelab.sae import SAE, build
from saelab.sae.coders import OneStep

HOOK = "blocks.1.hook_resid_post"


def sae_for(width: int) -> SAE:
    torch.manual_seed(0)
    return build("topk", width, {"n_latents": 64, "k": 6}).sae.inference()


def test_it_is_what_patching_a_head_changes_of_a_latent_weighted_by_what_that_is_worth(word_lm, pairs):
    mask, sae, hook = Mask.of(MaskSpec(), word_lm.tokenizer), sae_for(32), word_lm.hook(HOOK)
    latents = attribute_features(word_lm, sae, hook, mask, pairs).strongest(3)
    heads = [(0, 1), (1, 2), (2, 0)]
    found = feed(word_lm, sae, hook, mask, pairs, heads, latents, batch_prompts=5)
    assert found[2].tolist() == [0, 0, 0]  # behind the hook
    assert found[:2].abs().max() > 1e-4

    keep = mask.keep_tokens(pairs.clean.tokens)
    along = slopes(word_lm, pairs)[keep] @ sae.W_dec[latents].T
    clean = coded(word_lm, sae, hook, pairs.clean.tokens, [])[keep][:, latents]
    for row, (layer, head) in enumerate(heads[:2]):
        hooks = [head_of(word_lm, pairs, layer, head)]
        patched = coded(word_lm, sae, hook, pairs.clean.tokens, hooks)[keep][:, latents]
        expected = ((clean - patched) * along).sum(0) / len(pairs)
        assert torch.allclose(found[row], expected, rtol=1e-3, atol=1e-5)


def slopes(lm, pairs) -> torch.Tensor:
    passes = Passes(lm, pairs)
    return passes.gradients(pairs.clean, passes.first_streams(pairs.clean), [HOOK])[1][HOOK]


def coded(lm, sae, hook, tokens, hooks) -> torch.Tensor:
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad(), lm.hooked([*hooks, (hook.name, lambda value, hook: seen.update(x=value))]) as bridge:
        bridge(tokens)
        rows, positions, width = seen["x"].shape
        return sae.encode(seen["x"].reshape(-1, width)).to_dense().view(rows, positions, -1)


def head_of(lm, pairs, layer, head):
    z = lm.hook(z_hook(layer))
    instead = lm.capture(pairs.corrupted.tokens, [z])[z.name].unflatten(2, z.shape)[:, :, head]

    def edit(value, hook):
        value = value.clone()
        value[:, :, head] = instead
        return value

    return z.name, edit


def test_planted_latents_are_fed_by_the_heads_that_mark_and_copy_as_much_as_the_weights_say(
    planted, planted_lm, planted_pairs
):
    """A latent along what the copiers write of v2, in prompts that ask for v2, is fed as follows from the numbers that
    the circuit was planted with; from nothing but the circuit."""
    pairs = planted_pairs.take((planted_pairs.clean.choices["value"] == 2).nonzero()[:, 0])
    hook, mask = planted_lm.hook(HOOK), Mask.of(MaskSpec(special_tokens=False), planted_lm.tokenizer)
    layer, head = planted.circuit["copier"][0]
    copied = planted_lm.bridge.blocks[layer].attn.W_O[head, 2].detach()
    sae = build("relu", hook.width, {"n_latents": 4}).sae.inference()
    assert isinstance(sae.coder, OneStep)
    with torch.no_grad():
        for weights in (sae.W_dec, sae.coder.W_enc):
            weights[0].copy_(copied / copied.norm())
        sae.coder.b_enc[0] = 1.0  # always active, so that the latent is linear
    heads = [(layer, head) for layer in range(2) for head in range(6)]
    found = dict(zip(heads, feed(planted_lm, sae, hook, mask, pairs, heads, [0])[:, 0].tolist(), strict=True))

    def share(score: float) -> float:
        """Of a copier's attention at the end: 10 positions, of which one is marked."""
        return math.exp(score) / (math.exp(score) + 9)

    # A score of 3 by both markers (0.6 and 0.4 of it); without a key, all positions alike. The speaker (1) and the
    # denier (-0.4) look at the end with a score of 6, and are 6 times as loud in the logits.
    worth = 6 * (1 - 0.4) * share(6)
    markers = [worth * (share(3) - share(3 * left)) for left in (0.4, 0.6)]
    copiers = [worth * strength * (share(3) - share(0)) for strength in (0.6, 0.4)]
    fed = dict(zip([*planted.circuit["marker"], *planted.circuit["copier"]], [*markers, *copiers], strict=True))
    for place in heads:  # the markers look elsewhere with 1 to 2 % of their attention, and speakers with 2 %
        assert found[place] == pytest.approx(fed.get(place, 0.0), rel=0.05, abs=0.02)


def test_a_transcoder_is_refused(word_lm, pairs):
    sae = sae_for(32)
    sae.identity = replace(sae.identity, transcoder=True)
    mask = Mask.of(MaskSpec(), word_lm.tokenizer)
    with pytest.raises(SaelabError, match="a transcoder explains another hook than it reads"):
        feed(word_lm, sae, word_lm.hook(HOOK), mask, pairs, [(0, 0)], [0])
