"""An SAE attached to a model does there what saelab's own splice does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.lm.mask import Mask
from saelab.lm.splice import reconstruct, splice, splice_from, transcode
from saelab.sae import SAE, Scaling, build

D = 32
HOOK = "blocks.1.hook_resid_post"
MASK = Mask(first_position=True, special=(0, 1, 2), norm_limits={})


def make_sae(d_out: int | None = None, **provenance: Any) -> SAE:
    torch.manual_seed(0)
    sae = build("topk", D, {"n_latents": 96, "k": 5}, d_out).sae
    scaling = Scaling(0.1 * torch.randn(D), 1.3)
    sae = sae.inference(scaling, None if d_out is None else scaling)
    sae.identity.provenance = {"hook": HOOK, "mask": MASK.as_json(), **provenance}
    return sae


@pytest.fixture(scope="module")
def sae() -> SAE:
    return make_sae()


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    torch.manual_seed(1)
    tokens = torch.randint(3, 90, (2, 12))
    tokens[:, 0] = 0
    tokens[1, 7] = 1
    return tokens


@pytest.fixture(scope="module")
def plain(tiny_model_dir) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


def test_saelab_s_own_model_is_taken_too(lm, sae, tokens):
    with splice(lm, lm.hook(HOOK), reconstruct(sae), mask=MASK, tokens=tokens):
        expected = lm.logits(tokens)
    with sae.attached(lm):
        same(lm.logits(tokens), expected)


@pytest.fixture(params=["transformers", "TransformerLens"])
def run(request: pytest.FixtureRequest, lm, plain) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """A model, and what runs it."""
    if request.param == "transformers":
        return plain, lambda tokens: plain(tokens).logits
    return lm.bridge, lambda tokens: lm.bridge(tokens)


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_it_splices_as_evaluation_does(run, lm, sae, tokens):
    model, logits = run
    with splice(lm, lm.hook(HOOK), reconstruct(sae), mask=MASK, tokens=tokens):
        expected = lm.logits(tokens)
    with torch.no_grad(), sae.attached(model) as seen:
        found = logits(tokens)
    same(found, expected)
    assert not torch.allclose(found, lm.logits(tokens), atol=1e-3)
    assert torch.equal(seen.keep, MASK.keep_tokens(tokens))
    assert seen.code.support.n_tokens == int(seen.keep.sum())
    assert (seen.code.l0() <= 5).all()


def test_with_the_error_term_the_clean_run_is_left(run, sae, tokens):
    model, logits = run
    clean = logits(tokens)
    with sae.attached(model, error_term=True):
        same(logits(tokens), clean)
    same(logits(tokens), clean)


def test_a_changed_code_is_what_the_error_term_leaves_to_see(run, lm, sae, tokens):
    model, logits = run

    def halve(code):
        return type(code)(code.values / 2, code.support)

    with splice(lm, lm.hook(HOOK), reconstruct(sae, halve, keep_error=True), mask=MASK, tokens=tokens):
        expected = lm.logits(tokens)
    with torch.no_grad(), sae.attached(model, error_term=True, change=halve):
        same(logits(tokens), expected)


def test_a_path_and_the_names_of_the_stream_are_one_place(plain, sae, tokens):
    with torch.no_grad():
        with sae.attached(plain, "model.layers.1"):
            by_path = plain(tokens).logits
        for name in (HOOK, "blocks.1.hook_out", "blocks.2.hook_resid_pre", "blocks.2.hook_in"):
            with sae.attached(plain, name):
                assert torch.equal(plain(tokens).logits, by_path), name


def test_gradients_go_through_the_code_and_past_masked_positions(run, sae, tokens):
    model, logits = run
    values: list[Tensor] = []

    def keep(code):
        code.values.retain_grad()
        values.append(code.values)
        return code

    start = torch.zeros(D, requires_grad=True)
    shift = start.expand(2, 12, D)
    early = model.get_submodule("model.layers.0") if hasattr(model, "model") else model.hook_dict["blocks.0.hook_out"]
    handle = early.register_forward_hook(lambda module, args, output: output + shift)
    try:
        with sae.attached(model, error_term=True, change=keep):
            logits(tokens)[:, -1].square().sum().backward()
    finally:
        handle.remove()
    assert values[0].grad is not None
    assert (values[0].grad != 0).any()
    assert start.grad is not None
    assert (start.grad != 0).all()


def test_sae_within_sae(run, lm, sae, tokens):
    model, logits = run
    other = make_sae(hook="blocks.0.hook_resid_post")
    inner = splice(lm, lm.hook("blocks.0.hook_resid_post"), reconstruct(other), mask=MASK, tokens=tokens)
    with torch.no_grad():
        with inner, splice(lm, lm.hook(HOOK), reconstruct(sae), mask=MASK, tokens=tokens):
            expected = lm.bridge(tokens)
        with sae.attached(model), other.attached(model):
            same(logits(tokens), expected)
        with sae.attached(model), sae.attached(model):  # the second encodes what the first made
            twice = logits(tokens)
        with sae.attached(model):
            assert not torch.equal(twice, logits(tokens))


def test_hooks_are_gone_after_an_exception(run, sae, tokens):
    model, logits = run
    clean = logits(tokens)
    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())

    def fail(code):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), sae.attached(model, change=fail):
        logits(tokens)
    assert torch.equal(logits(tokens), clean)
    assert hooks == sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def test_positions_are_counted_through_generation_and_from_behind_padding(plain, sae, tokens):
    """Left padding moves the first position; with a cache, later passes begin in the middle of a context."""
    short = tokens[:1, 1:5]  # no BOS: position 0 is an ordinary token
    padded = torch.cat([torch.full((1, 3), 2), short], 1)
    attention = (padded != 2).long()
    with torch.no_grad(), sae.attached(plain) as seen:
        plain(short)
        assert seen.keep.tolist() == [[False, True, True, True]]
        plain(padded, attention_mask=attention)
        assert seen.keep.tolist() == [[False] * 4 + [True] * 3]
        cache = plain(short, use_cache=True).past_key_values
        plain(short[:, :1], past_key_values=cache)
        assert seen.keep.tolist() == [[True]]
        plain.generate(short, max_new_tokens=3, do_sample=False, pad_token_id=2)
        assert seen.keep.shape == (1, 1)


def test_an_sae_that_says_nothing_of_masks_encodes_every_position(plain, tokens):
    sae = make_sae(mask=None)
    with torch.no_grad(), sae.attached(plain) as seen:
        plain(inputs_embeds=plain.get_input_embeddings()(tokens))
    assert seen.keep.all()


def test_long_activations_keep_their_own(plain, tokens):
    sae = make_sae(mask=None)
    norms: list[Tensor] = []
    with torch.no_grad():
        handle = plain.model.layers[1].register_forward_hook(lambda m, a, out: norms.append(out.norm(dim=-1)))
        plain(tokens)
        handle.remove()
        limit = float(norms[0].median())
        with sae.attached(plain, "model.layers.1", mask=Mask(False, (), {"model.layers.1": limit})) as seen:
            plain(tokens)
        assert torch.equal(seen.keep, norms[0] <= limit)
        with sae.attached(plain, mask=Mask(False, (), {HOOK: limit})) as seen:
            plain(tokens)
    assert torch.equal(seen.keep, norms[0] <= limit)


def test_a_transcoder_reads_one_hook_and_stands_in_for_another(lm, tokens):
    source, target = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
    sae = make_sae(D, hook=source, target_hook=target)
    with splice_from(lm, lm.hook(source), lm.hook(target), transcode(sae), mask=MASK, tokens=tokens):
        expected = lm.logits(tokens)
    with torch.no_grad():
        with sae.attached(lm.bridge):
            same(lm.bridge(tokens), expected)
        with sae.attached(lm.bridge, target, source), pytest.raises(SaelabError, match="comes after"):
            lm.bridge(tokens)


def test_heads_are_flattened(lm, tokens):
    hook = "blocks.0.attn.hook_z"
    sae = make_sae(hook=hook)
    with splice(lm, lm.hook(hook), reconstruct(sae), mask=MASK, tokens=tokens):
        expected = lm.logits(tokens)
    with torch.no_grad(), sae.attached(lm.bridge):
        same(lm.bridge(tokens), expected)


def test_what_does_not_fit_is_said(run, plain, sae, tokens):
    model = run[0]
    with (
        pytest.raises(SaelabError, match=r"no hook 'blocks.7.hook_resid_post'"),
        sae.attached(model, "blocks.7.hook_resid_post"),
    ):
        pass
    with pytest.raises(SaelabError, match="does not say which hook it has"), make_sae(hook=None).attached(model):
        pass
    with (
        pytest.raises(SaelabError, match="training form"),
        build("topk", D, {"n_latents": 96, "k": 5}).sae.attached(model),
    ):
        pass
    with pytest.raises(SaelabError, match="cannot be read"), make_sae(mask={"special": 3}).attached(model):
        pass
    with torch.no_grad(), sae.attached(plain), pytest.raises(SaelabError, match="not given as many tokens"):
        plain(inputs_embeds=plain.get_input_embeddings()(tokens))
    with torch.no_grad(), sae.attached(plain, mask=Mask.everything()):
        plain(inputs_embeds=plain.get_input_embeddings()(tokens))
    with torch.no_grad(), sae.attached(plain, "lm_head"), pytest.raises(SaelabError, match="width 32, not"):
        plain(tokens)


def test_modules_that_give_several_things_keep_the_others(plain, tokens):
    """Attention gives its output and its weights."""
    sae = make_sae(hook=None, mask=None)
    given: list[Tensor] = []
    attention = plain.model.layers[1].self_attn
    with torch.no_grad(), sae.attached(plain, "model.layers.1.self_attn") as seen:
        handle = attention.register_forward_hook(lambda module, args, output: given.append(output[0]))
        changed = plain(tokens).logits
        handle.remove()
    same(given[0].flatten(0, 1), sae.decode(seen.code))
    assert not torch.equal(changed, plain(tokens).logits)


def test_another_architecture_s_blocks_are_found(tmp_path, tokens):
    from transformers import AutoModelForCausalLM

    from saelab.testing.tiny import tiny_model

    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / "gpt2", "gpt2"), dtype=torch.float32).eval()
    with torch.no_grad():
        with make_sae().attached(model):
            by_name = model(tokens).logits
        with make_sae().attached(model, "transformer.h.1"):
            assert torch.equal(model(tokens).logits, by_name)
        assert not torch.equal(model(tokens).logits, by_name)
