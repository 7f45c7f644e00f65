"""A hook edited by what an earlier hook carries in the same pass: how transcoders are spliced in."""

from __future__ import annotations

import pytest
import torch

from saelab.errors import SaelabError
from saelab.lm.mask import Mask, MaskSpec
from saelab.lm.splice import constant, reconstruct, splice, splice_from, transcode
from saelab.sae import SAE, build

EARLY, WIDE, LATE = "blocks.0.attn.hook_z", "blocks.1.mlp.hook_post", "blocks.1.hook_resid_post"
NO_MASK = Mask(first_position=False, special=(), norm_limits={})


@pytest.fixture
def tokens():
    return torch.randint(3, 90, (3, 12), generator=torch.Generator().manual_seed(0))


def transcoder(d_in: int, d_out: int) -> SAE:
    torch.manual_seed(0)
    sae = build("topk", d_in, {"n_latents": 64, "k": 4}, d_out, skip=True).sae
    with torch.no_grad():
        for parameter in sae.decoder.parameters():
            parameter.normal_()
    return sae.inference()


@pytest.mark.parametrize("names", [(EARLY, LATE), (EARLY, WIDE), (WIDE, LATE), (LATE, LATE)])
def test_the_target_becomes_what_the_transcoder_makes_of_the_input(lm, tokens, names):
    tokens[1, 5] = 1  # a special token in the middle
    mask, (source, hook) = Mask.of(MaskSpec(), lm.tokenizer), [lm.hook(name) for name in names]
    clean, sae = lm.capture(tokens, [source, hook]), transcoder(source.width, hook.width)
    with splice_from(lm, source, hook, transcode(sae), mask=mask, tokens=tokens):
        lm.capture(tokens + 1, [hook])  # a second pass reads anew
        after = lm.capture(tokens, [hook])[hook.name]
    keep = mask.keep_tokens(tokens)
    assert torch.equal(after[~keep], clean[hook.name][~keep])
    torch.testing.assert_close(after[keep], sae(clean[source.name][keep]))
    torch.testing.assert_close(lm.capture(tokens, [hook])[hook.name], clean[hook.name])


def test_from_the_hook_itself_it_is_the_plain_splice(lm, tokens):
    hook, sae = lm.hook(LATE), transcoder(32, 32)
    with splice(lm, hook, reconstruct(sae), mask=NO_MASK, tokens=tokens):
        plain = lm.logits(tokens)
    with splice_from(lm, hook, hook, transcode(sae), mask=NO_MASK, tokens=tokens):
        assert torch.equal(lm.logits(tokens), plain)


def test_the_input_is_what_flows_in_this_pass(lm, tokens):
    """An edit before the input hook is seen by the transcoder."""
    source, hook, sae = lm.hook(WIDE), lm.hook(LATE), transcoder(64, 32)
    with splice(lm, lm.hook(EARLY), constant(0.0), mask=NO_MASK, tokens=tokens):
        read = lm.capture(tokens, [source])[WIDE]
        with splice_from(lm, source, hook, transcode(sae), mask=NO_MASK, tokens=tokens):
            after = lm.capture(tokens, [hook])[LATE]
    torch.testing.assert_close(after.flatten(0, 1), sae(read).flatten(0, 1))


def test_a_target_before_its_input_is_refused(lm, tokens):
    clean, edit = lm.logits(tokens), transcode(transcoder(32, 32))
    with (
        pytest.raises(SaelabError, match=rf"'{LATE}' comes after '{EARLY}' in the model(.|\n)*read the earlier"),
        splice_from(lm, lm.hook(LATE), lm.hook(EARLY), edit, mask=NO_MASK, tokens=tokens),
    ):
        lm.logits(tokens)
    assert torch.equal(lm.logits(tokens), clean)


def test_positions_count_that_the_mask_keeps_at_both_hooks(lm, tokens):
    source, hook = lm.hook(EARLY), lm.hook(LATE)
    clean = lm.capture(tokens, [source, hook])
    limit = float(clean[EARLY].norm(dim=-1).median())
    mask = Mask(first_position=False, special=(), norm_limits={EARLY: limit})
    with splice_from(lm, source, hook, lambda x, y: torch.zeros_like(y), mask=mask, tokens=tokens):
        after = lm.capture(tokens, [hook])[LATE]
    short = clean[EARLY].norm(dim=-1) <= limit
    assert 0 < int(short.sum()) < short.numel()
    assert not after[short].any()
    assert torch.equal(after[~short], clean[LATE][~short])


def test_the_error_term_is_what_the_transcoder_misses_of_the_target():
    sae, x, y = transcoder(32, 16), torch.randn(5, 32), torch.randn(5, 16)
    torch.testing.assert_close(transcode(sae, keep_error=True)(x, y), y)
    without = transcode(sae, lambda code: code.with_values(torch.zeros_like(code.values)), keep_error=True)(x, y)
    torch.testing.assert_close(without, y - sae.decode(sae.encode(x)) + sae.b_dec)  # the skip connection stays
