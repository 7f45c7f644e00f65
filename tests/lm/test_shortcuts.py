"""Shortcuts: transformers' own bits, and every hook still reads and edits what it always did."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from saelab.lm.model import ModelSpec, load
from saelab.lm.shortcuts import _Shortcut, shorten
from saelab.testing.tiny import tiny_model


@pytest.fixture(params=["llama", "gpt2"])
def directory(request, tmp_path):
    return tiny_model(tmp_path / request.param, request.param)


@pytest.fixture
def tokens():
    return torch.randint(3, 90, (3, 12), generator=torch.Generator().manual_seed(0))


def shortcuts(lm) -> list[_Shortcut]:
    found = [part.__dict__.get("forward") for part in lm.bridge.modules()]
    return [shortcut for shortcut in found if shortcut is not None]


def test_activations_and_logits_are_transformers_own_bits(directory, tokens):
    lm = load(ModelSpec(str(directory), dtype="float32", device="cpu"))
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        expected = plain(tokens, output_hidden_states=True, use_cache=False)
    hook = lm.hook("blocks.1.hook_resid_post")
    assert torch.equal(lm.capture(tokens, [hook])[hook.name], expected.hidden_states[2])
    assert torch.equal(lm.logits(tokens), expected.logits)


def test_every_hook_reads_what_the_long_way_computes(directory, tokens):
    lm = load(ModelSpec(str(directory), dtype="float32", device="cpu"))
    _, long = lm.bridge.run_with_cache(tokens, return_cache_object=False)  # hooks on everything: all long
    assert len(long) > 60
    for name, expected in long.items():
        _, short = lm.bridge.run_with_cache(tokens, return_cache_object=False, names_filter=[name])
        torch.testing.assert_close(short[name], expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("name", ["blocks.1.attn.hook_pattern", "blocks.1.ln2.hook_normalized", "blocks.1.attn.hook_q"])
@pytest.mark.filterwarnings("ignore:A forward hook edited:UserWarning")
def test_an_edit_of_a_value_on_the_way_still_takes_effect(directory, tokens, name):
    lm = load(ModelSpec(str(directory), dtype="float32", device="cpu"))
    edited = lm.bridge.run_with_hooks(tokens, fwd_hooks=[(name, lambda value, hook: value * 0)])
    assert not torch.allclose(edited, lm.logits(tokens))


def test_a_model_that_computes_something_else_keeps_the_long_way(directory):
    """As a wrapped module does that leaves a step of attention to its bridge."""
    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

    lm = load(ModelSpec(str(directory), dtype="float32", device="cpu"))
    for shortcut in shortcuts(lm):
        shortcut.remove()
    model: Any = lm.bridge.original_model
    model.set_attn_implementation("eager")
    for part in lm.bridge.modules():
        if isinstance(part, AttentionBridge):
            long_way = part.forward
            part.__dict__["forward"] = lambda *args, _long=long_way, **kwargs: tuple(
                3 * value if i == 0 else value for i, value in enumerate(_long(*args, **kwargs))
            )
    assert not shorten(lm.bridge)
    assert model.config._attn_implementation == "eager"
