"""Training a transcoder: it learns its target, a skip connection learns what is linear, and it is deployed exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from saelab.activations.loader import Batch, stored
from saelab.sae import SAE, build
from saelab.testing.conformance.case import activations, bent
from saelab.training import Member, Trainer, TrainSpec

INPUT, TARGET = "blocks.0.attn.hook_z", "blocks.1.hook_resid_post"
CPU = torch.device("cpu")


def spec(**changes: Any) -> TrainSpec:
    values: dict[str, Any] = {
        "tokens": 12800,
        "batch_tokens": 64,
        "lr": 3e-3,
        "warmup_steps": 10,
        "dead_after_tokens": 1500,
        "heldout_every_steps": 1000,
        "heldout_tokens": 200,
        "checkpoint_every_steps": 1000,
        "mix_shards": 2,
    }
    return TrainSpec(**(values | changes))


def member(
    s: TrainSpec, kind: str, settings: dict[str, Any], d_in: int = 32, d_out: int = 32, *, skip: bool = False
) -> Member:
    torch.manual_seed(s.seed)
    blueprint = build(kind, d_in, {"n_latents": 128} | settings, d_out, skip=skip)
    return Member(kind, blueprint, s, precision="exact", device=CPU)


def unexplained(sae: SAE, x: torch.Tensor, target: torch.Tensor) -> float:
    with torch.no_grad():
        return float((target - sae(x)).square().sum() / (target - target.mean(0)).square().sum())


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("kind", "settings"), [("topk", {"k": 6}), ("jumprelu", {"target_l0": 6.0})])
def test_it_learns_a_target_of_another_width(kind, settings, skip):
    s = spec(tokens=150 * 64)
    m, losses = member(s, kind, settings, 16, 24, skip=skip), []
    for number in range(s.steps):
        x = activations(16, 64, seed=number)
        losses.append(float(m.step(Batch(x, bent(x, 24)), number)[f"losses/{m.objective.names[0]}"]))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


@pytest.mark.parametrize("kernels", ["cpu", "builtin"])
def test_a_linear_target_is_learnt_by_the_skip_connection_alone(monkeypatch, kernels):
    monkeypatch.setenv("SAELAB_KERNELS", kernels)  # the optimiser in two passes, and torch's own
    s = spec(tokens=400 * 64, lr=3e-2, grad_clip=None)
    m = member(s, "relu", {"l1": 50.0, "n_latents": 16}, 8, 5, skip=True)
    torch.manual_seed(1)
    wanted = torch.randn(5, 8)
    for number in range(s.steps):
        x = torch.randn(64, 8)
        m.step(Batch(x, x @ wanted.T + 1.0), number)
    x = torch.randn(500, 8)
    assert unexplained(m.sae, x, x @ wanted.T + 1.0) < 0.01
    assert m.sae.decoder.W_skip is not None
    torch.testing.assert_close(m.sae.decoder.W_skip.detach(), wanted, atol=0.05, rtol=0)
    assert float((m.sae.decode(m.sae.encode(x)) - m.sae.b_dec).detach().abs().max()) < 0.05


def test_a_run_on_a_store_deploys_what_it_measured_in_training(store, tmp_path):
    m = member(spec(), "topk", {"k": 6}, skip=True)
    trainer = Trainer([m], store, INPUT, target_hook=TARGET, directory=tmp_path)
    before = trainer.heldout(m)["fvu"]
    trainer.run()
    after = trainer.heldout(m)["fvu"]
    assert after < 0.8 * before
    sae = trainer.deploy(m)
    assert trainer.heldout_deployed(sae)["fvu"] == pytest.approx(after, rel=1e-4)
    raw = next(stored(store, "heldout", INPUT, target_hook=TARGET))
    scaled = trainer.scaling.apply(raw.input)
    back = m.sae(scaled).detach() / trainer.target_scaling.factor + trainer.target_scaling.mean
    torch.testing.assert_close(sae(raw.input), back, rtol=1e-4, atol=1e-4)


def test_a_resumed_transcoder_ends_with_the_same_bits(store, tmp_path):
    s = spec(tokens=40 * 64, checkpoint_every_steps=15)
    straight, other = (member(s, "batch_topk", {"k": 6.0}, skip=True) for _ in range(2))
    Trainer([straight], store, INPUT, target_hook=TARGET, directory=tmp_path).run()
    checkpoints = sorted((tmp_path / "checkpoints").iterdir())
    (checkpoints[-1] / "state.json").unlink()
    checkpoints[-1].rename(tmp_path / "gone")
    trainer = Trainer([other], store, INPUT, target_hook=TARGET, directory=tmp_path)
    assert trainer.resume()
    assert trainer.step == 30
    trainer.run()
    for name, value in straight.tensors().items():
        assert torch.equal(value, other.tensors()[name]), name
    assert any("W_skip.exp_avg" in name for name in straight.tensors())


def test_where_nothing_is_centred_the_encoder_begins_without_its_inputs_mean(store, tmp_path):
    m = member(spec(centre=False), "topk", {"k": 6})
    before = m.sae.coder.get_parameter("W_enc").detach().clone()
    trainer = Trainer([m], store, INPUT, target_hook=TARGET, directory=tmp_path)
    mean = trainer.scaling.apply(store.mean(INPUT)[None])[0]
    assert float(mean.abs().max()) > 0.01
    torch.testing.assert_close(m.sae.coder.get_parameter("b_enc").detach(), -before @ mean)
    target = trainer.target_scaling.apply(store.mean(TARGET)[None])[0]
    torch.testing.assert_close(m.sae.b_dec.detach(), target)
