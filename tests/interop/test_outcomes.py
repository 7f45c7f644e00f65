"""What `make interop` calls red."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from tests.interop_peers.outcomes import HUB, IN, OUT, Model, Outcome, compared, tables


def model(shift: float = 0.0, *, extra: bool = False) -> Model:
    def code(x):
        found = torch.relu(x) + shift * (x > 0)
        found[0, 0] = 1e-7 if extra else found[0, 0]
        return found

    return Model(code, lambda x: x + shift)


X = torch.linspace(-2, 2, 24).view(4, 6)


@pytest.mark.parametrize(
    ("theirs", "red"),
    [
        (model(), False),
        (model(1e-6), False),
        (model(1e-3), True),
        (model(extra=True), True),
        (model(float("nan")), True),
    ],
)
def test_a_difference_beyond_the_tolerance_or_another_latent_is_red(theirs, red):
    assert compared(IN, "saelens", "topk", model(), theirs, X).red is red


def test_comparing_nothing_is_red_and_having_no_form_is_not():
    silent = Model(torch.zeros_like, torch.zeros_like)
    assert compared(IN, "saelens", "topk", silent, silent, X).red
    assert Outcome(OUT, "saelens", "topk", failed="ValueError: x").red
    assert not Outcome(OUT, "saelens", "topk", refused="no form").red


def test_everything_is_in_the_tables():
    one = compared(OUT, "saelens", "topk", model(), model(1e-3), X)
    none = Outcome(OUT, "sparsify", "topk", refused="no form")
    came = [Outcome(IN, "saelens", "gated", failed="x"), compared(HUB, "saelens", "topk", model(), model(), X)]
    console = Console(width=200, record=True, file=io.StringIO())
    for table in tables([one, none, *came]):
        console.print(table)
    text = console.export_text()
    for part in ("RED 1.0e-03", "no form", "gated", "failed", "hub -> there"):
        assert part in text
