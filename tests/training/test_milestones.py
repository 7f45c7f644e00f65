"""Milestones: which steps, what is kept, and that training does not notice."""

from dataclasses import replace

import pytest
import torch

from saelab.errors import SaelabError
from saelab.sae import SAE, VARIANTS, build
from saelab.training import Member, Trainer, TrainSpec
from saelab.training.milestones import milestone_steps, write_milestone

HOOK = "blocks.1.hook_resid_post"
LOSS_GRAD = {"gradient_topk"}


def spec(**changes) -> TrainSpec:
    return replace(TrainSpec(tokens=64 * 20, batch_tokens=64, warmup_steps=2, mix_shards=2), **changes)


def member(kind: str, s: TrainSpec) -> Member:
    torch.manual_seed(0)
    return Member(kind, build(kind, 32, {"n_latents": 256}), s, precision="exact", device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, set()),
        ({"milestones": 1}, {1000}),
        ({"milestones": 2}, {10, 1000}),
        ({"milestones": 3}, {10, 100, 1000}),
        ({"milestones": 4, "milestone_first_step": 1}, {1, 10, 100, 1000}),
        ({"milestones": 5, "milestone_first_step": 1000}, {1000}),
        ({"milestones": 9, "milestone_first_step": 1, "tokens": 4 * 64}, {1, 2, 3, 4}),
        ({"milestones": 3, "tokens": 64}, {1}),
    ],
)
def test_steps_are_even_on_a_logarithmic_scale(settings, steps):
    assert milestone_steps(spec(**({"tokens": 64_000} | settings))) == steps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"milestones": -1}, "milestones: must be at least 0, found -1"),
        ({"milestone_first_step": 0}, "milestone_first_step: must lie between 1 and the last step, 20, found 0"),
        ({"milestone_first_step": 21}, "milestone_first_step: must lie between 1 and the last step, 20, found 21"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(SaelabError, match=message):
        spec(**settings)


@pytest.mark.parametrize("kind", sorted(set(VARIANTS) - LOSS_GRAD))
def test_a_milestone_is_the_inference_form_and_training_does_not_notice(store, tmp_path, kind):
    m = member(kind, spec())
    trainer = Trainer([m], store, HOOK, directory=tmp_path)
    for number in range(5):
        m.step(trainer.next_batch(), number)
    before, generator = {name: value.clone() for name, value in m.tensors().items()}, torch.get_rng_state()
    path = write_milestone(tmp_path / "milestones", 5, m, trainer.deploy, {"model": "tiny", "trained_tokens": 1280})
    for name, value in m.tensors().items():
        assert torch.equal(value, before[name]), name
    assert m.sae.training
    assert m.sae.W_dec.requires_grad
    assert torch.equal(torch.get_rng_state(), generator)

    kept = SAE.load(path)
    assert path.name == "step-00000005"
    assert kept.identity.form == "inference"
    assert kept.identity.provenance == {"model": "tiny", "trained_tokens": 320}
    deployed = trainer.deploy(m)
    assert kept.sha256() == deployed.sha256()
    x = torch.randn(7, 32)
    torch.testing.assert_close(kept(x), deployed(x))


def test_one_that_is_there_stays_and_a_half_written_one_is_swept(store, tmp_path):
    m = member("batch_topk", spec())
    trainer = Trainer([m], store, HOOK, directory=tmp_path)
    directory = tmp_path / "milestones"
    (directory / "step-00000003.tmp-0123abcd").mkdir(parents=True)
    path = write_milestone(directory, 3, m, trainer.deploy, {})
    first = SAE.load(path).sha256()
    m.step(trainer.next_batch(), 0)

    def refuse(_: Member) -> SAE:
        raise AssertionError("calibrated for nothing")

    assert write_milestone(directory, 3, m, refuse, {}) == path
    assert SAE.load(path).sha256() == first
    assert [entry.name for entry in directory.iterdir()] == [path.name]


def test_a_failed_one_leaves_thresholds_as_they_were(store, tmp_path):
    m = member("batch_topk", spec())
    trainer = Trainer([m], store, HOOK, directory=tmp_path)
    before = {name: value.clone() for name, value in m.sae.named_buffers()}

    def fail(wanted: Member) -> SAE:
        trainer.deploy(wanted)
        raise SaelabError("the disk is full")

    with pytest.raises(SaelabError, match="the disk is full"):
        write_milestone(tmp_path / "milestones", 1, m, fail, {})
    for name, value in m.sae.named_buffers():
        assert torch.equal(value, before[name]), name
