"""Passes that begin half-way and end at one position give the bits of whole ones."""

from __future__ import annotations

import pytest
import torch

from saelab.lm.model import ModelSpec, load
from saelab.lm.resume import logits_at
from saelab.testing.tiny import tiny_model


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tmp_path_factory):
    directory = tiny_model(tmp_path_factory.mktemp("models") / request.param, request.param)
    return load(ModelSpec(str(directory), dtype="float32", device="cpu"))


def test_the_same_logits_from_every_block(model):
    tokens = torch.randint(3, 90, (4, 9), generator=torch.Generator().manual_seed(0))
    at = torch.tensor([8, 3, 0, 5])
    whole = model.logits(tokens)[torch.arange(4), at]
    assert torch.equal(logits_at(model, tokens, at), whole)
    for block in range(3):
        hook = model.hook(f"blocks.{block}.hook_resid_pre")
        stream = model.capture(tokens, [hook])[hook.name]
        assert torch.equal(logits_at(model, stream, at, block=block), whole)
    assert torch.equal(model.logits(tokens)[torch.arange(4), at], whole)  # nothing stays


def test_hooks_and_gradients(model):
    tokens, at = torch.full((2, 5), 7), torch.tensor([4, 4])
    hook = model.hook("blocks.2.hook_resid_pre")
    stream = model.capture(tokens, [hook])[hook.name].requires_grad_()
    name = "blocks.2.attn.hook_z"
    logits = logits_at(model, stream, at, block=2, hooks=[(name, lambda z, hook: z * 0)])
    (gradient,) = torch.autograd.grad(logits.sum(), stream)
    assert gradient.abs().sum() > 0
    with model.edited(model.hook(name), lambda z: z * 0):
        torch.testing.assert_close(logits.detach(), model.logits(tokens)[:, 4])
