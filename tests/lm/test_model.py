"""Language-model access: hooks, capture with early stop, splicing under the mask, losses in float32."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from saelab.errors import SaelabError
from saelab.lm.mask import Mask, MaskSpec
from saelab.lm.model import ModelSpec, load, next_token_losses, resolve_device, resolve_dtype
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
