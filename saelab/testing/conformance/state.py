"""Checks of state: what is saved is all there is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from saelab.objectives import Objective
from saelab.sae import SAE
from saelab.testing.conformance.case import Case, one_step
from saelab.testing.conformance.compare import expect, expect_same
from saelab.training import Member

_THREADS = 4
_WIDE = 32
"""Batches this many times larger, so that kernels do spread over threads."""


def state_dict_into_a_fresh_object(case: Case) -> None:
    """A fresh object with this state dict has the same code and computes the same next training step."""
    member, fresh = case.trained(), case.member(seed=1)
    fresh.sae.load_state_dict(member.sae.state_dict())
    fresh.objective.load_state_dict(member.objective.state_dict())
    batch = case.batch(1000)
    expect_same(
        one_step(fresh.sae, fresh.objective, batch),
        one_step(member.sae, member.objective, batch),
        "a fresh object with the same state dict",
    )


def save_and_load(case: Case) -> None:
    """Loaded SAEs, in training form, in inference form and folded, are the saved ones to the bit."""
    sae = case.trained().sae
    case.calibrate(sae)
    batch = case.batch(1000)
    scalings = case.scaling(1), None if case.d_out is None else case.scaling(2, of_target=True)
    saved = {"training": sae, "inference": sae.inference(), "folded inference": sae.inference(*scalings)}
    for form, original in saved.items():
        original.identity.provenance = {"form": form}
        with tempfile.TemporaryDirectory() as directory:
            original.save(Path(directory) / "sae")
            loaded = SAE.load(Path(directory) / "sae")
        what = f"saved and loaded in {form} form"
        expect(loaded.identity == original.identity, f"{what}: another identity")
        expect(loaded.sha256() == original.sha256(), f"{what}: another sha256")
        if form == "training":
            found, wanted = (
                one_step(each, Objective(case.blueprint().losses, each.coder), batch) for each in (loaded, original)
            )
        else:
            found, wanted = ({"the code": each.encode(batch.input).to_dense()} for each in (loaded, original))
        expect_same(found, wanted, what)


def meta_construction(case: Case) -> None:
    """Built on the meta device it takes no memory for weights, has the same state, and can be filled."""
    real = case.trained().sae
    with torch.device("meta"):
        hollow = case.blueprint()
        Objective(hollow.losses, hollow.sae.coder)
    hollow.sae.inference()
    for name, parameter in hollow.sae.named_parameters():
        expect(parameter.is_meta, f"built on the meta device, {name} takes memory")
    shapes = {name: list(value.shape) for name, value in hollow.sae.state_dict().items()}
    wanted = {name: list(value.shape) for name, value in real.state_dict().items()}
    expect(shapes == wanted, f"built on the meta device its state is {shapes}, on the CPU {wanted}")
    hollow.sae.load_state_dict(real.state_dict(), assign=True)
    batch = case.batch(1000)
    found, wanted = ({"the code": sae.eval().encode(batch.input, batch.side).to_dense()} for sae in (hollow.sae, real))
    expect_same(found, wanted, "built on the meta device, then filled")


def resume_at_every_step(case: Case) -> None:
    """Wherever training stops, a fresh object with a checkpoint's tensors takes the same next step; and one that goes
    on from the middle passes through the same states to the end."""
    going, halfway = case.member(), case.member(seed=1)
    for number in range(case.steps):
        batch, before = case.batch(number), snapshot(going)
        going.step(batch, number)
        after = snapshot(going)
        resumed = case.member(seed=1)
        resumed.load_tensors(before)
        resumed.step(batch, number)
        expect_same(snapshot(resumed), after, f"resumed after {number} of {case.steps} steps, one step later")
        if number == case.steps // 2:
            halfway = resumed
        elif number > case.steps // 2:
            halfway.step(batch, number)
            expect_same(snapshot(halfway), after, f"resumed after half of {case.steps} steps, {number + 1} done")


def determinism(case: Case) -> None:
    """Two trainings from one seed give the same bits, with several threads on large batches, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(threads, _THREADS))
    try:
        first, second = (trained_on_wide_batches(case) for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    expect_same(first, second, "trained twice from one seed")


def trained_on_wide_batches(case: Case) -> dict[str, Tensor]:
    member = case.member()
    for number in range(6):
        member.step(case.batch(number, _WIDE * case.batch_tokens), number)
    return snapshot(member)


def snapshot(member: Member) -> dict[str, Tensor]:
    """All that a checkpoint holds of it, copied."""
    return {name: value.clone() for name, value in member.tensors().items()}
