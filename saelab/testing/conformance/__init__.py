"""The conformance suite: what every SAE variant promises, a third party's included.

    from saelab.testing.conformance import Case, check

    check(Case("mine", {"n_latents": 64, "k": 4}))

A check is a function of a `Case`; it raises `AssertionError` with a sentence that says what is wrong. Under
pytest, parametrize over `CHECKS` to see each by its name.
"""

from __future__ import annotations

from collections.abc import Callable

from saelab.testing.conformance import forms, learning, state
from saelab.testing.conformance.case import Case

__all__ = ["CHECKS", "Case", "check"]

CHECKS: tuple[Callable[[Case], None], ...] = (
    state.state_dict_into_a_fresh_object,
    state.save_and_load,
    state.meta_construction,
    state.resume_at_every_step,
    state.determinism,
    learning.everything_learns,
    learning.kernels_agree,
    learning.screening_finds_the_same_code,
    learning.finite_on_odd_batches,
    learning.loss_falls,
    forms.inference_form_keeps_what_training_found,
    forms.scaling_folds_in,
)
"""Every promise, each a function of a case."""


def check(case: Case) -> None:
    """Run all `CHECKS` on one variant.

    Raises:
        AssertionError: from the first promise it breaks.
    """
    for promise in CHECKS:
        promise(case)
