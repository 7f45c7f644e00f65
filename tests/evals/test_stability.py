"""Stability of dictionaries whose common part is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saelab.errors import SaelabError, SettingError
from saelab.evals import EVALUATORS
from saelab.evals.base import NotMeasurable
from saelab.evals.cosines import unit
from saelab.evals.stability import Stability, drawn_like
from saelab.sae import build
from saelab.testing import recovery


def random_rows(n: int, seed: int = 0):
    return recovery.random_dictionary(n, 32, torch.Generator().manual_seed(seed))


@pytest.fixture
def against(subject_of, tmp_path):
    """Measure an SAE against others, which are saved first."""

    def measure(sae, *others, **settings):
        here = tmp_path / str(len(list(tmp_path.iterdir())))
        paths = [str(here / str(number)) for number in range(len(others))]
        for path, other in zip(paths, others, strict=True):
            other.save(path)
        return Stability(against=tuple(paths), **settings)(subject_of(sae))

    return measure


def test_a_permuted_dictionary_is_the_same_one(against, with_rows):
    rows = random_rows(64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    result = against(with_rows(rows), with_rows(3 * rows[order]))
    for name in ("mean_cosine", "nearest_cosine", "above_0.7_frac", "above_0.9_frac"):
        assert result.metrics[f"stability_{name}"] == pytest.approx(1)
    assert result.metrics["stability_random_mean_cosine"] < 0.6
    assert result.metrics["stability_random_above_0.9_frac"] == 0
    assert set(result.metrics) == set(result.meaning)


def test_an_unrelated_dictionary_sits_at_the_nulls(against, with_rows):
    found = against(with_rows(random_rows(256, 1)), with_rows(random_rows(256, 2))).metrics
    for null in ("random", "shaped"):
        assert found["stability_mean_cosine"] == pytest.approx(found[f"stability_{null}_mean_cosine"], abs=0.02)
        assert found["stability_nearest_cosine"] == pytest.approx(found[f"stability_{null}_nearest_cosine"], abs=0.02)


def test_uneven_directions_are_near_by_chance(against, with_rows):
    """In a space of few real dimensions anything finds a partner: the shaped null says so, the random one does not."""
    squeeze = torch.cat([torch.ones(4), torch.full((28,), 0.01)])
    left, right = (with_rows(unit(random_rows(128, seed) * squeeze)) for seed in (1, 2))
    found = against(left, right).metrics
    assert found["stability_mean_cosine"] > 0.8
    assert found["stability_shaped_mean_cosine"] == pytest.approx(found["stability_mean_cosine"], abs=0.03)
    assert found["stability_random_mean_cosine"] < 0.6


def test_signs_count_unless_codes_are_signed(against, with_rows):
    eye = torch.eye(32)
    turned = torch.cat([eye[:16], -eye[16:]])
    assert against(with_rows(eye), with_rows(turned)).metrics["stability_mean_cosine"] == pytest.approx(0.5)
    signed = against(with_rows(eye, "abs_topk"), with_rows(turned, "abs_topk"))
    assert signed.metrics["stability_mean_cosine"] == pytest.approx(1)
    assert signed.details["signed"] is True
    mixed = against(with_rows(eye), with_rows(turned, "abs_topk"))
    assert mixed.metrics["stability_mean_cosine"] == pytest.approx(1)


def test_by_density(against, with_rows, small_store):
    """Only the latents that fire more than half as often as any are found again."""
    sae = with_rows(torch.cat([random_rows(60), torch.zeros(4, 32)]), k=6)
    x = torch.cat([small_store.read(shard)["blocks.1.hook_resid_post"] for shard in small_store.of("heldout")])
    counts = sae.encode(x).firing_counts()
    common = counts >= counts[counts > 0].median()
    other = with_rows(torch.where(common[:, None], sae.W_dec, random_rows(64, 9)), k=6)
    result = against(sae, other, max_tokens=None)
    rows = {row[1]: dict(zip(result.tables[1].columns, row, strict=True)) for row in result.tables[1].rows}
    assert rows["10"]["mean"] == pytest.approx(1)
    assert rows["10"]["above_0.9"] == 1
    assert rows["1"]["mean"] < 0.8
    assert rows["never active"]["latents"] == int((counts == 0).sum())
    assert sum(row["latents"] for row in rows.values()) == 64
    assert rows["10"]["to"] == pytest.approx(int(counts.max()) / len(x))
    assert result.n_tokens == len(x)
    assert len(result.charts[0].series[result.tables[1].rows[0][0]]) == 10


def test_means_over_runs_of_other_widths(against, with_rows):
    rows = random_rows(40)
    result = against(with_rows(rows), with_rows(rows[:30]), with_rows(torch.cat([rows, random_rows(10, 3)])))
    assert result.metrics["stability_mean_cosine"] == pytest.approx(1)
    assert [row[4] for row in result.tables[0].rows] == [30, 40]
    assert result.metrics["stability_nearest_cosine"] < 1


def test_what_cannot_be_compared(against, with_rows, subject_of, tmp_path):
    sae = with_rows(random_rows(16))
    with pytest.raises(NotMeasurable, match=r"no other run is named \(eval.stability.against: \[runs/...\]\)"):
        Stability()(subject_of(sae))
    with pytest.raises(NotMeasurable, match="names nothing but this SAE itself"):
        against(sae, sae)
    result = against(sae, sae, with_rows(random_rows(16, 1)))
    assert list(result.not_measurable.values()) == ["it is this SAE itself"]
    narrow = build("topk", 8, {"n_latents": 16, "k": 2}).sae.inference()
    with pytest.raises(SaelabError, match=r"eval.stability.against: .*width 8, the measured one of 32(.|\n)*same hook"):
        against(sae, narrow)
    with pytest.raises(SaelabError, match="this directory does not exist"):
        Stability(against=(str(tmp_path / "nowhere"),))(subject_of(sae))


def test_it_goes_on_with_the_next_run(subject_of, with_rows, tmp_path):
    for number in (1, 2):
        with_rows(random_rows(16, number)).save(tmp_path / str(number))
    paths = tuple(str(tmp_path / str(number)) for number in (1, 2))
    kept, made = {}, []

    def part(name, make):
        if name not in kept:
            made.append(name)
            kept[name] = make()
        return kept[name]

    subject = subject_of(with_rows(random_rows(16)), part=part)
    first = Stability(against=paths)(subject)
    assert made == list(paths)
    assert Stability(against=paths)(subject).metrics == first.metrics
    assert made == list(paths)
    told = []
    Stability(against=paths)(replace(subject, part=lambda _, make: make(), report=lambda *at: told.append(at)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


def test_directions_drawn_like_others_have_their_second_moments():
    rows = unit(random_rows(4000) * torch.linspace(0.1, 2, 32))
    drawn = drawn_like(rows, torch.Generator().manual_seed(0))
    assert drawn.norm(dim=1) == pytest.approx(1)
    assert torch.allclose(drawn.T @ drawn / 4000, rows.T @ rows / 4000, atol=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"above": (0.5, 1.0)}, "above: cosines between 0 and 1, found 1.0"),
        ({"candidates": 0}, "candidates: must be at least 1, found 0"),
        ({"max_tokens": 0}, "max_tokens: must be at least 1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(SettingError, match=message):
        EVALUATORS["stability"](**settings)
