"""Language-model access: hooks, capture with early stop, splicing under the mask, losses in float32."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from saelab.errors import SaelabError
from saelab.lm.mask import Mask, MaskSpec
from saelab.lm.model import ModelSpec, load, next_token_losses, resolve_device, resolve_dtype, summed_loss_gradient
from saelab.lm.splice import add, constant, reconstruct, splice
from saelab.sae import build
from saelab.testing.tiny import tiny_model

HOOK = "blocks.1.hook_resid_post"
NO_MASK = Mask(first_position=False, special=(), norm_limits={})


@pytest.fixture
def tokens():
    return torch.randint(3, 90, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_capture_equals_transformers_hidden_states(tmp_path, tokens, family):
    directory = tiny_model(tmp_path / family, family)
    lm = load(ModelSpec(str(directory), dtype="float32", device="cpu"))
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        expected = plain(tokens, output_hidden_states=True)
    found = lm.capture(tokens, [lm.hook("blocks.0.hook_resid_post"), lm.hook(HOOK)])
    torch.testing.assert_close(found["blocks.0.hook_resid_post"], expected.hidden_states[1])
    torch.testing.assert_close(found[HOOK], expected.hidden_states[2])
    torch.testing.assert_close(lm.logits(tokens), expected.logits)


def test_hooks_of_any_shape_are_flattened(lm, tokens):
    hook = lm.hook("blocks.0.attn.hook_z")
    assert (hook.shape, hook.width, hook.layer) == ((4, 8), 32, 0)
    assert lm.capture(tokens, [hook])[hook.name].shape == (3, 12, 32)


def test_capture_stops_after_the_last_hook(lm, tokens, monkeypatch):
    ran = []
    handles = [block.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(lm.bridge.blocks)]
    lm.capture(tokens, [lm.hook(HOOK)])
    for handle in handles:
        handle.remove()
    assert set(ran) == {0, 1}


def summed_loss(lm, tokens, length):
    losses = next_token_losses(lm.logits(tokens), tokens).double()
    return sum(float(row[: n - 1].sum()) for row, n in zip(losses, length.tolist(), strict=True))


@pytest.fixture(params=["llama", "gpt2"])
def family_lm(request, tmp_path):
    return load(ModelSpec(str(tiny_model(tmp_path / request.param, request.param)), dtype="float32", device="cpu"))


NUDGED = ["blocks.0.hook_resid_pre", "blocks.0.attn.hook_z", HOOK, "blocks.1.hook_resid_mid", "blocks.2.hook_mlp_out"]


def test_gradients_are_those_of_the_summed_loss_when_an_activation_is_nudged(family_lm, tokens):
    lm, length = family_lm, torch.tensor([12, 12, 7])
    hooks = [lm.hook(name) for name in NUDGED]
    _, gradients = lm.capture_with_loss_grad(tokens, length, hooks)
    generator = torch.Generator().manual_seed(0)
    for hook in hooks:
        direction = torch.randn(gradients[hook.name].shape, generator=generator)
        direction /= direction.norm()
        up, down = (summed_loss_with(lm, hook, step * direction, tokens, length) for step in (0.005, -0.005))
        expected = float((gradients[hook.name] * direction).sum())
        assert (up - down) / 0.01 == pytest.approx(expected, abs=5e-4 * float(gradients[hook.name].norm()))


def summed_loss_with(lm, hook, shift, tokens, length):
    with lm.edited(hook, lambda x: x + shift):
        return summed_loss(lm, tokens, length)


def test_activations_beside_gradients_are_the_captured_ones_to_the_bit(family_lm, tokens):
    hooks = [family_lm.hook(name) for name in NUDGED]
    found, gradients = family_lm.capture_with_loss_grad(tokens, torch.full((3,), 12), hooks)
    expected = family_lm.capture(tokens, hooks)
    assert list(found) == list(gradients) == NUDGED
    for name in NUDGED:
        assert torch.equal(found[name], expected[name])
        assert gradients[name].shape == found[name].shape
        assert not found[name].requires_grad


def test_neither_the_order_of_hooks_nor_their_number_changes_a_gradient(family_lm, tokens):
    length = torch.full((3,), 12)
    hooks = [family_lm.hook(name) for name in NUDGED]
    together = family_lm.capture_with_loss_grad(tokens, length, hooks)[1]
    backwards = family_lm.capture_with_loss_grad(tokens, length, hooks[::-1])[1]
    for hook in hooks:
        alone = family_lm.capture_with_loss_grad(tokens, length, [hook])[1]
        torch.testing.assert_close(together[hook.name], alone[hook.name])
        assert torch.equal(together[hook.name], backwards[hook.name])
    assert all(p.grad is None and not p.requires_grad for p in family_lm.bridge.parameters())


def test_the_loss_is_a_sum_a_context_alone_has_the_same_gradient(lm, tokens):
    hook = lm.hook(HOOK)
    together = lm.capture_with_loss_grad(tokens, torch.full((3,), 12), [hook])[1][HOOK]
    for row in range(3):
        alone = lm.capture_with_loss_grad(tokens[row : row + 1], torch.tensor([12]), [hook])[1][HOOK]
        torch.testing.assert_close(together[row : row + 1], alone)


def test_padding_has_neither_influence_nor_gradient(lm, tokens):
    hook, length = lm.hook(HOOK), torch.tensor([12, 7, 2])
    other = tokens.clone()
    other[1, 7:], other[2, 2:] = 0, 5
    gradients = [lm.capture_with_loss_grad(t, length, [hook])[1][HOOK] for t in (tokens, other)]
    short = lm.capture_with_loss_grad(tokens[1:2, :7], torch.tensor([7]), [hook])[1][HOOK]
    assert torch.equal(*gradients)
    torch.testing.assert_close(gradients[0][1, :7], short[0])
    for row, n in enumerate(length.tolist()):
        assert not gradients[0][row, n:].any()
        assert gradients[0][row, : n - 1].any(1).all()


def test_a_contexts_last_token_predicts_nothing_so_nothing_reaches_it_at_the_last_layer(lm, tokens):
    last, length = lm.hook("blocks.2.hook_resid_post"), torch.tensor([12, 7, 2])
    gradient = lm.capture_with_loss_grad(tokens, length, [last])[1][last.name]
    for row, n in enumerate(length.tolist()):
        assert not gradient[row, n - 1].any()
        assert gradient[row, n - 2].any()


def test_a_hook_the_loss_does_not_depend_on_has_no_gradient(lm, tokens):
    aside = lm.hook("rotary_emb.hook_in")
    for hooks in ([aside], [lm.hook(HOOK), aside]):
        with pytest.raises(SaelabError, match=r"the loss does not depend on hook 'rotary_emb\.hook_in'"):
            lm.capture_with_loss_grad(tokens, torch.full((3,), 12), hooks)


def test_the_loss_gradient_is_softmax_minus_target_at_real_predictions(tokens):
    logits, length = torch.randn(3, 12, 50), torch.tensor([12, 7, 2])
    tokens = tokens % 50
    expected = torch.zeros_like(logits)
    for row, n in enumerate(length.tolist()):
        target = torch.nn.functional.one_hot(tokens[row, 1:n], 50)
        expected[row, : n - 1] = logits[row, : n - 1].softmax(-1) - target
    torch.testing.assert_close(summed_loss_gradient(logits, tokens, length), expected)
    low = summed_loss_gradient(logits.bfloat16(), tokens, length)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, atol=0.02, rtol=0.02)


def test_unknown_and_unfit_hooks(lm):
    with pytest.raises(SaelabError, match=r"unknown hook 'blocks.1.hook_resid_pots'(.|\n)*'blocks.1.hook_resid_post'"):
        lm.hook("blocks.1.hook_resid_pots")
    for name in ("blocks.1.attn.hook_pattern", "blocks.1.attn.hook_cos"):
        with pytest.raises(SaelabError, match="does not carry one activation per token"):
            lm.hook(name)


def test_replacing_an_activation_by_itself_changes_nothing(lm, tokens):
    with splice(lm, lm.hook(HOOK), lambda x: x, mask=NO_MASK, tokens=tokens):
        same = lm.logits(tokens)
    assert torch.equal(same, lm.logits(tokens))


def test_the_splice_ends_with_the_block_even_when_it_raises(lm, tokens):
    clean = lm.logits(tokens)

    def look_then_fail():
        with splice(lm, lm.hook(HOOK), constant(0.0), mask=NO_MASK, tokens=tokens):
            assert not torch.equal(lm.logits(tokens), clean)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        look_then_fail()
    assert torch.equal(lm.logits(tokens), clean)


@pytest.mark.parametrize("name", [HOOK, "blocks.1.attn.hook_z"])
def test_masked_positions_keep_their_activation_in_every_edit(lm, tokens, name):
    tokens[1, 5] = 1  # a special token in the middle
    mask = Mask.of(MaskSpec(), lm.tokenizer)
    hook = lm.hook(name)
    clean = lm.capture(tokens, [hook])[name]
    sae = build("topk", 32, {"n_latents": 64, "k": 4}).sae.inference()
    for edit in (constant(0.0), constant(torch.ones(32)), add(torch.ones(32), 2.0), reconstruct(sae)):
        with splice(lm, hook, edit, mask=mask, tokens=tokens):
            after = lm.capture(tokens, [hook])[name]
        keep = mask.keep_tokens(tokens)
        assert keep.sum() == 3 * 11 - 1
        assert torch.equal(after[~keep], clean[~keep])
        torch.testing.assert_close(after[keep], edit(clean[keep]))


def test_reconstruct_with_the_error_term_is_the_identity_until_the_code_is_changed(lm, tokens):
    sae = build("topk", 32, {"n_latents": 64, "k": 4}).sae.inference()
    x = torch.randn(5, 32)
    torch.testing.assert_close(reconstruct(sae, keep_error=True)(x), x)
    without = reconstruct(sae, lambda code: code.with_values(torch.zeros_like(code.values)), keep_error=True)(x)
    torch.testing.assert_close(without, x - sae(x) + sae.b_dec)


def test_losses_are_float32_and_match_cross_entropy(tokens):
    logits = torch.randn(3, 12, 50).to(torch.bfloat16)
    tokens = tokens % 50
    losses = next_token_losses(logits, tokens)
    assert losses.dtype == torch.float32
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    torch.testing.assert_close(losses.flatten(), expected)


def test_the_norm_filter_leaves_out_long_activations():
    mask = Mask(first_position=True, special=(7,), norm_limits={"h": 10.0})
    activations = torch.ones(1, 4, 9)
    activations[0, 2] *= 30
    assert mask.keep(torch.tensor([[3, 7, 3, 3]]), "h", activations).tolist() == [[False, False, False, True]]
    assert mask.keep(torch.tensor([[3, 3, 3, 3]]), "other", activations).tolist() == [[False, True, True, True]]
    assert Mask.from_json(mask.as_json()) == mask
    with pytest.raises(SaelabError, match="must be more than 1"):
        MaskSpec(max_norm_ratio=1.0)


def test_models_that_cannot_be_loaded(tmp_path):
    with pytest.raises(
        SaelabError, match=r"model.name: no-such/model: this model cannot be loaded(.|\n)*local directory"
    ):
        load(ModelSpec("no-such/model"))
    broken = tiny_model(tmp_path / "broken")
    tensors = {k: v.clone() for k, v in load_file(broken / "model.safetensors").items() if "down_proj" not in k}
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(SaelabError, match=r"its weights lack .*down_proj"):
        load(ModelSpec(str(broken), device="cpu"))
    (broken / "model.safetensors").write_bytes(b"")
    with pytest.raises(SaelabError, match="this model cannot be loaded"):
        load(ModelSpec(str(broken), device="cpu"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SaelabError, match="this model cannot be loaded"):
        load(ModelSpec(str(tmp_path / "empty")))


def test_auto_follows_the_machine(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert resolve_dtype("auto", cpu) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert resolve_dtype("auto", cpu) == torch.float32
    assert resolve_dtype("float16", cpu) == torch.float16
    for device in ("tpu9", "meta"):
        with pytest.raises(SaelabError, match=f"device '{device}' cannot be used here"):
            resolve_device(device)


def test_identity_depends_on_content_not_on_place(tmp_path, lm, tiny_model_dir):
    import shutil

    elsewhere = tmp_path / tiny_model_dir.name
    shutil.copytree(tiny_model_dir, elsewhere)
    assert load(ModelSpec(str(elsewhere), dtype="float32", device="cpu")).identity == lm.identity
    text = (elsewhere / "tokenizer.json").read_text()
    (elsewhere / "tokenizer.json").write_text(text.replace('"a": 68', '"a": 69').replace('"b": 69', '"b": 68'))
    assert load(ModelSpec(str(elsewhere), dtype="float32", device="cpu")).identity != lm.identity
    other = tiny_model(tmp_path / "other" / tiny_model_dir.name, seed=1)
    assert load(ModelSpec(str(other), dtype="float32", device="cpu")).identity != lm.identity
