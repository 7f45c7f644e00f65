"""Exact patching is what it says; what estimates it agrees where it must."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saelab.circuits import METHODS, Circuits, Pairs, draw, pairs_of
from saelab.circuits.anatomy import Anatomy, mlp_hook, stream_hook, z_hook
from saelab.circuits.direct import answer_direction
from saelab.circuits.passes import Passes
from saelab.errors import SaelabError
from saelab.lm.model import ModelSpec, load
from saelab.tasks import answer
from saelab.testing.planted_circuit import PlantedTask, plant


def run(lm, prompts, metric):
    return answer(lm, prompts).score(prompts, metric)


def nothing(circuits: Circuits) -> torch.Tensor:
    return ~circuits.everything


def test_patching_everything_is_the_corrupted_run_and_nothing_the_clean_one(word_lm, pairs):
    circuits = Circuits(word_lm, pairs, batch_prompts=5)
    assert len(pairs.clean.end.unique()) > 1  # so that padding is seen not to matter
    no_mlps = torch.zeros(3, dtype=torch.bool)
    clean, corrupted = (run(word_lm, prompts, pairs.metric) for prompts in (pairs.clean, pairs.corrupted))
    assert (clean - corrupted).abs().max() > 0.01
    assert torch.allclose(circuits.scores(circuits.everything), clean, atol=1e-5)
    assert torch.allclose(circuits.scores(nothing(circuits), no_mlps, inputs=False), corrupted, atol=1e-5)


def test_heads_one_by_one_are_whole_passes_with_that_head_replaced(word_lm, pairs):
    """Batches, layers passed over and grouped heads change nothing."""
    exact = METHODS["patching"](mlps=True, batch_prompts=5)(word_lm, pairs)
    circuits = Circuits(word_lm, pairs)
    clean = circuits.scores(circuits.everything)
    assert exact.samples is not None
    for layer, head in [(0, 0), (1, 3), (2, 2)]:
        kept = circuits.everything
        kept[layer, head] = False
        loss = clean - circuits.scores(kept)
        assert torch.allclose(exact.samples[:, layer, head], loss, atol=1e-5)
    assert torch.allclose(exact.heads, exact.samples.mean(0))
    assert exact.mlps is not None
    for layer in range(3):
        mlps = torch.arange(3) != layer
        loss = clean - circuits.scores(circuits.everything, mlps)
        assert torch.allclose(exact.mlps[layer], loss.mean(), atol=1e-5)
    # 12 prompts, clean and corrupted, and from the layer on once for each of 4 heads and an MLP
    assert exact.cost.forwards == pytest.approx(24 + 12 * 5 * (1 + 2 / 3 + 1 / 3))
    assert exact.cost.prompts == 24


def test_denoising_is_patching_the_other_way_round(word_lm, pairs):
    gains = METHODS["denoising"]()(word_lm, pairs)
    reverse = METHODS["patching"]()(word_lm, Pairs("ioi", pairs.metric, pairs.corrupted, pairs.clean))
    assert torch.equal(gains.heads, -reverse.heads)


def test_mean_ablation_puts_a_heads_mean_everywhere_but_at_the_first_token(word_lm, pairs):
    losses = METHODS["mean_ablation"](batch_prompts=7)(word_lm, pairs)
    hook, rows = word_lm.hook(z_hook(1)), []
    for prompts in (pairs.clean, pairs.corrupted):
        z = word_lm.capture(prompts.tokens, [hook])[hook.name].unflatten(2, (4, 8))
        rows += [row[1 : end + 1] for row, end in zip(z, prompts.end, strict=True)]
    mean = torch.cat(rows).mean(0)[2]

    def ablate(value):
        value = value.unflatten(2, (4, 8)).clone()
        value[:, 1:, 2] = mean
        return value.flatten(2)

    clean = run(word_lm, pairs.clean, pairs.metric)
    with word_lm.edited(hook, ablate):
        left = run(word_lm, pairs.clean, pairs.metric)
    assert torch.allclose(losses.heads[1, 2], (clean - left).mean(), atol=1e-5)


def test_edges_that_leave_a_component_sum_to_its_attribution(word_lm, pairs):
    """The gradient of what a component writes is the sum of those of all that reads it."""
    whole = METHODS["attribution"](mlps=True)(word_lm, pairs)
    edges = METHODS["eap"](batch_prompts=5)(word_lm, pairs).edges
    assert edges is not None
    assert whole.mlps is not None
    out = dict(zip(edges.sources, edges.values.sum(1).tolist(), strict=True))
    for layer in range(3):
        assert out[f"m{layer}"] == pytest.approx(float(whole.mlps[layer]), rel=1e-3, abs=1e-5)
        for head in range(4):
            assert out[f"a{layer}.h{head}"] == pytest.approx(float(whole.heads[layer, head]), rel=1e-3, abs=1e-5)
    assert not edges.values[~edges.exist].any()


def test_direct_effects_sum_to_the_score(word_lm, pairs):
    """A logit difference is a sum over what is written, the norm's scale being held (and its bias left out)."""
    direct = METHODS["direct"](mlps=True)(word_lm, pairs)
    assert direct.mlps is not None
    passes = Passes(word_lm, pairs)
    last = passes.record(pairs.clean, [stream_hook(0), stream_hook(2)]).values
    direction = answer_direction(passes, pairs.clean, last[stream_hook(2)])
    embedded = (last[stream_hook(0)][torch.arange(12), pairs.clean.end] * direction).sum(1).mean()
    total = direct.heads.sum() + direct.mlps.sum() + embedded
    assert torch.allclose(total, run(word_lm, pairs.clean, pairs.metric).mean(), atol=1e-4)


@pytest.fixture(scope="module")
def linear_lm(tmp_path_factory):
    """A model that is linear in what its heads write: they look everywhere alike, MLPs say nothing, and a large
    constant keeps the norms' scale."""
    directory = tmp_path_factory.mktemp("models") / "linear"
    plant(directory)
    lm = load(ModelSpec(str(directory), dtype="float32", device="cpu"))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model: Any = lm.bridge.original_model
        for block in model.transformer.h:
            width = block.attn.embed_dim
            block.attn.c_attn.weight.zero_()
            block.attn.c_attn.bias.zero_()
            block.attn.c_attn.weight[:, 2 * width :] = 0.1 * torch.randn(width, width, generator=rng)
            block.attn.c_proj.weight.copy_(0.1 * torch.randn(width, width, generator=rng))
    return lm


@pytest.fixture(scope="module")
def linear_pairs():
    return pairs_of("planted", PlantedTask(), 10, "train", 0)


def test_attribution_is_exact_in_a_linear_model(linear_lm, linear_pairs):
    exact = METHODS["patching"]()(linear_lm, linear_pairs)
    estimate = METHODS["attribution"]()(linear_lm, linear_pairs)
    assert exact.heads.abs().min() > 1e-4
    assert torch.allclose(estimate.heads, exact.heads, rtol=0.01, atol=0.003 * float(exact.heads.abs().max()))


def test_edges_are_the_same_on_any_way_through_a_linear_model(linear_lm, linear_pairs):
    straight, integrated = (METHODS[name]()(linear_lm, linear_pairs).edges for name in ("eap", "eap_ig"))
    assert straight is not None
    assert integrated is not None
    assert torch.allclose(integrated.values, straight.values, atol=0.02 * float(straight.values.abs().max()))


def test_a_model_whose_heads_do_not_simply_add_up_has_no_edges(word_lm, monkeypatch):
    monkeypatch.setattr(
        Anatomy, "written", lambda self, layer, z: torch.einsum("...hd,hdm->...hm", 2 * z, self.W_O[layer])
    )
    with pytest.raises(SaelabError, match="is changed before it is added to the residual stream") as caught:
        METHODS["eap"]()(word_lm, draw("ioi", 4, "train", 0, word_lm))
    assert "use a method that patches or ablates" in str(caught.value)


def test_mlp_hooks_are_those_of_the_bridge(word_lm):
    anatomy = Anatomy.of(word_lm)
    assert anatomy.has_mlps
    assert (anatomy.n_layers, anatomy.n_heads, anatomy.d_head, anatomy.d_model) == (3, 4, 8, 32)
    assert word_lm.hook(mlp_hook(0)).shape == (32,)


def test_no_prompts_at_once(word_lm, pairs):
    with pytest.raises(SaelabError, match="batch_prompts: must be at least 1, found 0"):
        METHODS["attribution"](batch_prompts=0)(word_lm, pairs)


def test_edges_leave_the_bridge_as_it_was(word_lm, pairs, monkeypatch):
    monkeypatch.setattr(word_lm.bridge, "set_use_hook_mlp_in", refuse)
    with pytest.raises(SaelabError, match="cannot be split into what its heads read: no such hook"):
        METHODS["eap"]()(word_lm, pairs)
    assert not word_lm.bridge.cfg.use_split_qkv_input


def refuse(wanted: bool) -> None:
    if wanted:
        raise NotImplementedError("no such hook")


def test_a_model_without_heads_is_refused():
    bridge = SimpleNamespace(hook_dict={z_hook(0): None})
    lm: Any = SimpleNamespace(bridge=bridge, n_layers=2, identity={"name": "states"})
    with pytest.raises(SaelabError, match="layer 1 of states has no attention heads that can be read one by one"):
        Anatomy.of(lm)
