"""Starting from another SAE: scalings are taken out exactly, and training goes on from where that one was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saelab.errors import SaelabError
from saelab.sae import SAE, Blueprint, Scaling, build
from saelab.sae.coders import OneStep
from saelab.sae.rules import JumpReLU, Threshold
from saelab.training import Member, Trainer, TrainSpec
from saelab.training.start import load_start, start_from

D, F = 12, 40
DOUBLE = torch.float64
HOOK, HEADS = "blocks.1.hook_resid_post", "blocks.0.attn.hook_z"
KINDS: dict[str, dict[str, Any]] = {
    "topk": {"k": 5},
    "batch_topk": {"k": 5},
    "feature_choice": {"k": 5},
    "relu": {},
    "jumprelu": {"threshold": 0.5},
    "gated": {},
    "matching_pursuit": {"k": 3},
    "variational": {"k": 5, "noise": 0.0, "kl": 0.0},
    "group_bias": {"l0": 5.0},
    "codebook": {"k": 3},
}
TARGETED = ["topk", "batch_topk", "relu", "jumprelu", "gated", "variational"]


def made(kind: str, d_out: int | None = None, *, seed: int = 0, skip: bool = False, **changes: Any) -> Blueprint:
    """In float64; with weights off where they start, and rows of norm 1 where they are held there."""
    torch.manual_seed(seed)
    blueprint = build(kind, D, {"n_latents": F} | KINDS[kind] | changes, d_out, skip=skip)
    sae = blueprint.sae.double()
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        if blueprint.unit_norm_decoder:
            sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    return blueprint


def tokens(width: int = D, seed: int = 0) -> Tensor:
    return torch.randn(100, width, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def some_scaling(width: int, seed: int) -> Scaling:
    draw = torch.Generator().manual_seed(seed)
    mean = 5 * torch.randn(width, generator=draw, dtype=DOUBLE)
    return Scaling(mean, 10 ** float(2 * torch.rand((), generator=draw) - 1))


def deployed(sae: SAE, scaling: Scaling | None = None, target: Scaling | None = None) -> SAE:
    sae.calibrate(tokens(seed=9))
    return sae.inference(scaling, target)


# -- exact --------------------------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_it_is_the_exact_reverse_of_folding(kind, seed):
    first, second, x = made(kind), made(kind, seed=1), tokens()
    first.sae.encode(x)  # group_bias starts at its first batch
    source = some_scaling(D, seed)
    start_from(second.sae, deployed(first.sae, source), source, unit_norm=second.unit_norm_decoder)
    for (name, wanted), found in zip(first.sae.named_parameters(), second.sae.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(second.sae.eval()(x), first.sae.eval()(x), rtol=1e-9, atol=1e-9)


@given(st.sampled_from(TARGETED), st.booleans(), st.integers(1, 20), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_so_it_is_for_a_transcoder(kind, skip, d_out, seed):
    first, second, x = made(kind, d_out, skip=skip), made(kind, d_out, seed=1, skip=skip), tokens()
    source, target = some_scaling(D, seed), some_scaling(d_out, seed + 1)
    other = deployed(first.sae, source, target)
    start_from(second.sae, other, source, target, unit_norm=second.unit_norm_decoder)
    torch.testing.assert_close(second.sae.eval()(x), first.sae.eval()(x), rtol=1e-9, atol=1e-9)


def test_another_scaling_gives_the_same_raw_output():
    first, second = made("topk").sae, made("topk", seed=1).sae
    other, now = deployed(first, some_scaling(D, 1)), some_scaling(D, 2)
    start_from(second, other, now)
    torch.testing.assert_close(second.inference(now)(tokens()), other(tokens()))


def test_the_source_stays_as_it_is():
    other, source = deployed(made("topk").sae, some_scaling(D, 1)), some_scaling(D, 1)
    before = other.sha256()
    start_from(made("topk", seed=1).sae, other, source)
    assert other.sha256() == before


# -- between kinds ------------------------------------------------------------------------------------------------


def test_thresholds_that_are_learned_start_where_they_were():
    first, second = made("jumprelu"), made("jumprelu", seed=1, threshold=3.0)
    source = some_scaling(D, 3)
    start_from(second.sae, first.sae.inference(source), source)
    rules = [b.sae.coder.rule for b in (first, second) if isinstance(b.sae.coder, OneStep)]
    assert all(isinstance(rule, JumpReLU) for rule in rules)
    torch.testing.assert_close(rules[1].threshold, rules[0].threshold)


def test_a_jumprelu_form_gives_its_weights_to_batch_topk():
    """One that subtracts no bias and has rows of other norms: what another tool may have exported."""
    first, second, source, x = made("jumprelu"), made("batch_topk", seed=1), some_scaling(D, 4), tokens()
    with torch.no_grad():
        first.sae.W_dec.mul_(torch.linspace(0.1, 3, F, dtype=DOUBLE)[:, None])
        first.sae.W_dec[7] = 0.0
    start_from(second.sae, first.sae.inference(source), source, unit_norm=True)
    sae, old, own = second.sae, first.sae.coder, second.sae.coder
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(F, dtype=DOUBLE))
    assert isinstance(old, OneStep)
    assert isinstance(own, OneStep)
    pre = x @ old.W_enc.T + old.b_enc
    mine = (x - sae.b_dec) @ own.W_enc.T + own.b_enc
    torch.testing.assert_close(mine[..., None] * sae.W_dec, pre[..., None] * first.sae.W_dec)
    assert float(sae.encode(x).l0().double().mean()) == pytest.approx(5.0, abs=0.1)
    sae.calibrate(x)
    assert isinstance(sae.inference().coder.rule, Threshold)  # type: ignore[attr-defined]


def test_the_deployed_form_of_batch_topk_starts_a_jumprelu_with_its_threshold():
    first, second, x = made("batch_topk"), made("jumprelu", seed=1), tokens()
    other = deployed(first.sae)
    start_from(second.sae, other)
    torch.testing.assert_close(second.sae.eval()(x), other(x))


def test_a_skip_connection_that_was_not_there_starts_at_0():
    first, second, x = made("topk", 7), made("topk", 7, seed=1, skip=True), tokens()
    with torch.no_grad():
        second.sae.decoder.W_skip.zero_()  # type: ignore[union-attr]
    start_from(second.sae, first.sae.inference())
    torch.testing.assert_close(second.sae(x), first.sae(x))


@pytest.mark.parametrize(
    ("mine", "other", "message"),
    [
        (
            lambda: made("topk", n_latents=64),
            lambda: made("topk"),
            "cannot start 'topk' from this 'topk': it has 40 latents from width 12 to 12, not 64 latents from width 12",
        ),
        (lambda: made("topk"), lambda: made("topk", 7), "it has 40 latents from width 12 to 7, not 40 latents"),
        (lambda: made("topk"), lambda: made("topk", D), "it reconstructs another target, not its input"),
        (lambda: made("topk", D), lambda: made("topk"), "it reconstructs its input, not another target"),
        (lambda: made("topk", 7), lambda: made("topk", 7, skip=True), "it has a skip connection\n  fix: skip: true"),
        (
            lambda: made("gated"),
            lambda: made("topk"),
            "cannot start 'gated' from this 'topk': its encoder is a OneStep, not a Gated",
        ),
        (lambda: made("topk"), lambda: made("matching_pursuit"), "its encoder is a Pursuit, not a OneStep"),
        (
            lambda: made("group_bias"),
            lambda: made("topk"),
            "from this 'topk': its encoder's rows are not its decoder's",
        ),
    ],
)
def test_what_does_not_fit_is_refused(mine, other, message):
    with pytest.raises(SaelabError, match=message):
        start_from(mine().sae, other().sae.inference())


def test_a_training_form_is_refused():
    with pytest.raises(SaelabError, match=r"it is in training form(.|\n)*save its inference\(\) form"):
        start_from(made("topk").sae, made("topk", seed=1).sae)


# -- runs -----------------------------------------------------------------------------------------------------------


def spec(**changes: Any) -> TrainSpec:
    values: dict[str, Any] = {"tokens": 3200, "batch_tokens": 64, "lr": 3e-3, "warmup_steps": 10, "mix_shards": 2}
    values |= {"heldout_tokens": 200, "dead_after_tokens": 1500}
    return TrainSpec(**(values | changes))


def member(s: TrainSpec, kind: str, d_out: int | None) -> Member:
    torch.manual_seed(s.seed)
    own = {"n_latents": 64, "k": 6} if kind != "jumprelu" else {"n_latents": 64, "target_l0": 6.0}
    blueprint = build(kind, 32, own, d_out, skip=d_out is not None)
    return Member(kind, blueprint, s, precision="exact", device=torch.device("cpu"))


@pytest.mark.parametrize("target", [None, HEADS])
@pytest.mark.parametrize("kind", ["topk", "batch_topk", "jumprelu"])
def test_a_run_begins_where_the_other_ended(store, tmp_path, kind, target):
    d_out = None if target is None else 32
    old = member(spec(), kind, d_out)
    trainer = Trainer([old], store, HOOK, target_hook=target, directory=tmp_path / "old")
    trainer.run()
    trainer.deploy(old).save(tmp_path / "old" / "sae")

    new = member(spec(seed=1, centre=False), kind, d_out)
    again = Trainer([new], store, HOOK, target_hook=target, directory=tmp_path / "new")
    source = load_start(tmp_path / "old")
    start_from(
        new.sae,
        source,
        again.scaling,
        None if target is None else again.target_scaling,
        unit_norm=new.unit_norm,
    )
    assert not new.optimiser.state
    found, wanted = again.heldout(new)["fvu"], trainer.heldout(old)["fvu"]
    assert found == pytest.approx(wanted, abs=1e-5)
    again.run()
    assert again.heldout(new)["fvu"] < found + 0.01


def test_where_a_start_is_looked_for(tmp_path):
    sae = build("topk", 16, {"n_latents": 64, "k": 4}).sae.inference()
    sae.save(tmp_path / "imported")
    sae.save(tmp_path / "run" / "sae")
    (tmp_path / "run" / "config.yaml").write_text("name: run\n")
    for name in ("imported", "run", "run/sae"):
        assert load_start(str(tmp_path / name)).sha256() == sae.sha256()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("name: begun\n")
    with pytest.raises(SaelabError, match="this run has no trained SAE yet"):
        load_start(tmp_path / "begun")
    with pytest.raises(SaelabError, match="this directory does not exist"):
        load_start(tmp_path / "nowhere")
