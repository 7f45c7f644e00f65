"""Lengths of codes where they are known."""

from __future__ import annotations

import pytest
import torch

from saelab.errors import SettingError
from saelab.evals import EVALUATORS
from saelab.evals.norms import Norms
from saelab.sae import SAE


@pytest.fixture
def exact(with_rows):
    """Reconstructs everything: latents `+e_i` and `-e_i`, each so many times; rows as long as asked."""

    def make(copies: int = 1, length: float = 1.0) -> SAE:
        eye = torch.cat([torch.eye(32), -torch.eye(32)]).repeat(copies, 1)
        sae = with_rows(eye, "relu")
        with torch.no_grad():
            sae.decoder.W_dec.mul_(length)
            sae.coder.W_enc.div_(length * copies)
        return sae

    return make


def measure(subject, **settings):
    return Norms(**settings)(subject)


@pytest.mark.parametrize("length", [1.0, 5.0])
def test_exact_codes_on_an_orthonormal_dictionary(subject_of, exact, length):
    result = measure(subject_of(exact(length=length)))
    found = result.metrics
    assert found["norms_ratio"] == pytest.approx(1, abs=1e-6)
    assert found["norms_recon_ratio"] == pytest.approx(1, abs=1e-6)
    assert found["norms_epsilon_width"] == pytest.approx(0, abs=1e-6)
    assert found["norms_epsilon_l0"] == pytest.approx(0, abs=1e-6)
    assert found["norms_band_0.25_frac"] == 1
    assert set(found) == set(result.meaning)
    assert result.n_tokens == subject_of(None).store.n_tokens("heldout")


def test_copies_make_codes_short(subject_of, exact):
    """Each direction twice with half the coefficient: ||f||^2 = ||x||^2 / 2, and the gap is all of ||f||^2."""
    found = measure(subject_of(exact(copies=2))).metrics
    assert found["norms_ratio"] == pytest.approx(0.5**0.5, abs=1e-6)
    assert found["norms_recon_ratio"] == pytest.approx(2**0.5, abs=1e-6)
    assert found["norms_over_frac"] == 0
    assert found["norms_epsilon_width"] == pytest.approx(1 / 127, abs=1e-6)
    assert found["norms_epsilon_l0"] == pytest.approx(1 / 63, abs=1e-6)
    assert found["norms_band_0.5_frac"] == 0
    close = measure(subject_of(exact(copies=2)), bands=(0.5, 0.999999)).metrics
    assert close["norms_band_0.5_frac"] == 0


def test_codes_that_leave_something_out_are_short(subject_of, with_rows):
    few = measure(subject_of(with_rows(torch.eye(32), k=4))).metrics
    more = measure(subject_of(with_rows(torch.eye(32), k=16))).metrics
    assert few["norms_ratio"] < more["norms_ratio"] < 1
    assert few["norms_recon_ratio"] == pytest.approx(1, abs=1e-6)
    assert few["norms_epsilon_l0"] > more["norms_epsilon_l0"]


def test_the_bias_is_taken_off(subject_of, exact):
    sae = exact()
    with torch.no_grad():
        sae.decoder.b_dec += 3
    shifted = measure(subject_of(sae)).metrics["norms_ratio"]
    assert shifted != pytest.approx(1, abs=0.01)
    sae.coder.centred = True
    assert measure(subject_of(sae)).metrics["norms_ratio"] == pytest.approx(1, abs=1e-6)


def test_silence_and_single_latents_say_nothing_of_epsilon(subject_of, with_rows):
    silent = with_rows(torch.eye(32), "relu")
    with torch.no_grad():
        silent.coder.b_enc.fill_(-1e6)
    result = measure(subject_of(silent))
    assert result.details["silent_tokens"] == result.n_tokens
    assert result.metrics["norms_ratio"] == 0
    assert {"norms_epsilon_width", "norms_epsilon_l0", "norms_recon_ratio"} <= set(result.not_measurable)
    one = measure(subject_of(with_rows(torch.eye(32), k=1)))
    assert one.details["tokens_with_one_latent"] == one.n_tokens
    assert set(one.not_measurable) == {"norms_epsilon_l0"}


def test_the_plot_shows_a_sample_and_bands(subject_of, exact):
    chart = measure(subject_of(exact()), points=50, bands=(0.5, 1.0)).charts[0]
    assert chart.kind == "scatter"
    assert len(chart.series["tokens"]) == 50
    assert all(x == pytest.approx(y, rel=1e-5) for x, y in chart.series["tokens"])
    assert set(chart.series) == {"tokens", "equal", "0.5 below", "0.5 above", "1 below"}
    x, y = map(float, chart.series["0.5 above"][3])
    assert x**2 == pytest.approx(y**2 * 0.5)
    assert chart.series == measure(subject_of(exact()), points=50, bands=(0.5, 1.0)).charts[0].series


@pytest.mark.parametrize("bands", [(0.0,), (1.5,)])
def test_settings_that_cannot_be(bands):
    with pytest.raises(SettingError, match=r"bands: above 0 and at most 1, found"):
        EVALUATORS["norms"](bands=bands)
