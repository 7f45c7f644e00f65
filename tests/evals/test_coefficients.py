"""Codes whose coefficients say nothing, and codes whose coefficients say everything."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saelab.evals import EVALUATORS
from saelab.evals.base import NotMeasurable
from saelab.evals.coefficients import Active, Coefficients, levelled, recoded, recodes
from saelab.sae import SparseCode, build
from saelab.testing import recovery

SETTINGS = {"train_tokens": 1500, "max_tokens": None, "contexts": 4, "bootstrap_rounds": 50}


def rows(n: int = 48):
    return recovery.random_dictionary(n, 32, torch.Generator().manual_seed(0))


def measure(subject, **settings):
    return Coefficients(**SETTINGS | settings)(subject)


def test_a_code_without_coefficients_loses_nothing(subject_of, with_rows):
    """The codebook's values are 1 and its latents the nearest, so that every code is its own."""
    subject = subject_of(with_rows(rows(), "codebook", k=3))
    result = measure(subject)
    found = result.metrics
    for code in ("mean", "equal", "nearest"):
        assert found[f"coefficients_{code}_fvu"] == pytest.approx(found["coefficients_own_fvu"], rel=1e-5)
        assert found[f"coefficients_{code}_ce_score"] == pytest.approx(found["coefficients_own_ce_score"], abs=1e-5)
    assert result.details["k_nearest"] == 3
    assert set(found) == set(result.meaning)


def test_the_own_code_is_measured_as_elsewhere(subject_of, with_rows):
    subject = subject_of(with_rows(rows(), k=4))
    found = measure(subject).metrics
    fvu = EVALUATORS["reconstruction"]()(subject).metrics["fvu"]
    loss = EVALUATORS["downstream"](contexts=4)(subject)
    assert found["coefficients_own_fvu"] == pytest.approx(fvu, rel=1e-6)
    assert found["coefficients_own_ce_score"] == pytest.approx(loss.metrics["ce_score"], rel=1e-6)


def test_what_coefficients_are_worth(subject_of, with_rows):
    """On an orthonormal dictionary, the mean activation is the best single value, and any token's latents beat none."""
    result = measure(subject_of(with_rows(torch.cat([torch.eye(32), -torch.eye(32)]), k=8)))
    found = {name.removeprefix("coefficients_"): value for name, value in result.metrics.items()}
    assert found["own_fvu"] < found["mean_fvu"] < found["null_fvu"]
    assert found["mean_fvu"] < found["equal_fvu"]
    assert found["mean_kept_frac"] == pytest.approx((1 - found["mean_fvu"]) / (1 - found["own_fvu"]))
    assert result.tables[0].rows[0][0] == "the SAE's own coefficients"
    assert set(result.intervals) <= set(result.metrics)


def test_rows_of_other_lengths_make_no_difference(subject_of, with_rows):
    plain, scaled = with_rows(rows(), "relu"), with_rows(rows(), "relu")
    factor = torch.linspace(0.5, 3, 48)
    with torch.no_grad():
        scaled.decoder.W_dec.mul_(factor[:, None])
        scaled.coder.W_enc.div_(factor[:, None])
    found, again = (measure(subject_of(sae)).metrics for sae in (plain, scaled))
    for code in ("own", "mean", "equal"):
        assert found[f"coefficients_{code}_fvu"] == pytest.approx(again[f"coefficients_{code}_fvu"], rel=1e-4)


def test_levels_keep_the_sign_of_signed_codes_alone():
    code = SparseCode.from_dense(torch.tensor([[0, -2.0, 5], [3, 0, 0]]))
    levels = torch.tensor([10.0, 20, 30])
    assert levelled(code, levels, signed=True).to_dense().tolist() == [[0, -20, 30], [10, 0, 0]]
    assert levelled(code, levels, signed=False).to_dense().tolist() == [[0, 0, 30], [10, 0, 0]]


def test_mean_activations_on_training_tokens(subject_of, with_rows, small_store):
    sae = with_rows(torch.cat([rows(), torch.zeros(2, 32)]), "abs_topk", k=3)
    active = Active.of(subject_of(sae), 600)
    x = torch.cat([small_store.read(shard)["blocks.1.hook_resid_post"] for shard in small_store.of("train")])
    codes = sae.encode(x[:600]).to_dense()
    counts = (codes != 0).sum(0)
    expected = codes.abs().sum(0) / counts.clamp(min=1)
    torch.testing.assert_close(active.levels[counts > 0], expected[counts > 0])
    assert active.signed is True
    assert (active.k, active.tokens, active.never) == (3, 600, int((counts == 0).sum()))
    assert active.levels[-1] == 0
    assert active.length == pytest.approx(float(codes.abs().sum() / counts.sum()), rel=1e-5)


def test_the_nearest_by_cosine(subject_of, with_rows):
    for kind in ("topk", "abs_topk"):
        sae = with_rows(rows(), kind, k=3)
        with torch.no_grad():
            sae.decoder.b_dec += 0.5
        active = Active(torch.arange(48.0) + 1, 1.0, 2, kind == "abs_topk", 0, 1)
        x = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
        code = recoded(sae, recodes(sae, active)["nearest"]).encode(x).to_dense()
        cosines = torch.nn.functional.cosine_similarity(x[:, None] - 0.5, sae.W_dec[None], dim=2)
        best = (cosines.abs() if active.signed else cosines).topk(2).indices
        for row, latents, cosine in zip(code, best, cosines, strict=True):
            assert set(row.nonzero()[:, 0].tolist()) == set(latents.tolist())
            torch.testing.assert_close(row[latents], active.levels[latents] * cosine[latents].sign())


def test_a_transcoder_has_no_nearest_latents(subject_of):
    sae = build("topk", 32, {"n_latents": 40, "k": 3}, 32).sae
    with torch.no_grad():
        torch.nn.init.normal_(sae.decoder.W_dec)
    subject = replace(subject_of(sae.inference()), hook="blocks.0.attn.hook_z", target_hook="blocks.1.hook_resid_post")
    result = measure(subject)
    assert result.not_measurable["coefficients_nearest"].startswith("a transcoder's decoder rows lie in another space")
    assert "coefficients_mean_fvu" in result.metrics


def test_a_silent_code_has_no_mean_activations(subject_of, with_rows):
    silent = with_rows(rows(), "relu")
    with torch.no_grad():
        silent.coder.b_enc.fill_(-1e6)
    with pytest.raises(NotMeasurable, match="no latent is active on any of 1500 training tokens"):
        measure(subject_of(silent))


def test_it_goes_on_with_the_next_code(subject_of, with_rows):
    kept, made = {}, []

    def part(name, make):
        if name not in kept:
            if len(made) == 3:
                raise KeyboardInterrupt
            made.append(name)
            kept[name] = make()
        return kept[name]

    subject = subject_of(with_rows(rows()), part=part)
    with pytest.raises(KeyboardInterrupt):
        measure(subject)
    assert made == ["fvu", "own", "mean"]
    made.clear()
    found = measure(subject).metrics
    assert made == ["equal", "nearest"]
    assert found == measure(subject_of(with_rows(rows()))).metrics
