"""SAEBench's conventions: against a float64 computation by hand, and closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saelab.errors import SettingError
from saelab.evals import EVALUATORS, Subject
from saelab.lm.model import LanguageModel, ModelSpec, load
from saelab.metrics import explained_by_token
from saelab.sae import SAE, build

HOOK = "blocks.1.hook_resid_post"


def loud(directory: Path) -> LanguageModel:
    lm = load(ModelSpec(str(directory), dtype="float32", device="cpu"))
    model: Any = lm.bridge.original_model
    model.get_output_embeddings().weight.mul_(30)
    return lm


@pytest.fixture(scope="module")
def loud_lm(tiny_model_dir):
    return loud(tiny_model_dir)


@pytest.fixture
def measure(store, loud_lm):
    def measured(sae: SAE, **settings: Any):
        return EVALUATORS["saebench_core"](**settings)(Subject(sae, store, HOOK, store.mask, lambda: loud_lm))

    return measured


def linear_sae(scale: float) -> SAE:
    """Reconstructs `scale * x` with 32 active latents of 64."""
    sae = build("relu", 32, {"n_latents": 64}).sae
    eye = torch.cat([torch.eye(32), -torch.eye(32)])
    with torch.no_grad():
        sae.coder.get_parameter("W_enc").copy_(eye)
        sae.W_dec.copy_(scale * eye)
    return sae.inference()


def test_perfect_and_zero_saes(measure):
    perfect = measure(linear_sae(1.0)).metrics
    for name in ("ce_loss_score", "kl_div_score", "saebench_explained_variance", "explained_variance_legacy", "cossim"):
        assert perfect[name] == pytest.approx(1, abs=1e-5)
    assert perfect["saebench_mse"] == pytest.approx(0, abs=1e-9)
    assert perfect["saebench_l0"] == 32
    zero = measure(linear_sae(0.0), exclude_special_tokens=False).metrics
    assert zero["ce_loss_with_sae"] == zero["ce_loss_with_ablation"]
    assert (zero["ce_loss_score"], zero["kl_div_score"]) == (0, 0)
    assert measure(linear_sae(0.5)).metrics["relative_reconstruction_bias"] == pytest.approx(0.5)


@pytest.mark.parametrize("exclude", [True, False])
def test_against_an_independent_computation(measure, store, tiny_model_dir, exclude):
    """Every position is ablated, and BOS is replaced only where that is asked for; it counts in no mean, and predicts
    nothing that is counted."""
    scale, exact = 0.8, loud(tiny_model_dir).bridge.double()
    found = measure(linear_sae(scale), contexts=1000, batch_contexts=4, exclude_special_tokens=exclude).metrics
    contexts = torch.cat([part.tokens for part in store.contexts("heldout")]).long()
    assert (contexts[:, 0] == 0).all()  # BOS
    counted = (contexts != 0) & (contexts != 1) & (contexts != 2)
    kept: list[Tensor] = []

    def log_probs(edit):
        hook = lambda value, hook: edit(value)  # noqa: E731
        return exact.run_with_hooks(contexts, fwd_hooks=[(HOOK, hook)]).log_softmax(-1)

    with torch.no_grad():
        clean = log_probs(lambda x: kept.append(x) or x)
        replaced = (counted | (not exclude))[..., None]
        sae = log_probs(lambda x: torch.where(replaced, scale * x, x))
        runs = {"clean": clean, "sae": sae, "zero": log_probs(torch.zeros_like)}
    predicting = counted[:, :-1]
    ce = {
        name: -float(run[:, :-1].gather(2, contexts[:, 1:, None])[..., 0][predicting].mean())
        for name, run in runs.items()
    }
    kl = {name: float((clean.exp() * (clean - run)).sum(-1)[counted].mean()) for name, run in runs.items()}
    assert found["ce_loss_without_sae"] == pytest.approx(ce["clean"], abs=1e-5)
    assert found["ce_loss_with_ablation"] == pytest.approx(ce["zero"], abs=1e-5)
    assert found["ce_loss_score"] == pytest.approx((ce["zero"] - ce["sae"]) / (ce["zero"] - ce["clean"]), abs=1e-5)
    assert found["kl_div_with_sae"] == pytest.approx(kl["sae"], abs=1e-5)
    assert found["kl_div_score"] == pytest.approx(1 - kl["sae"] / kl["zero"], abs=1e-5)
    x = kept[0][counted]
    fvu = float(((1 - scale) * x).square().sum() / (x - x.mean(0)).square().sum())
    assert found["saebench_explained_variance"] == pytest.approx(1 - fvu, abs=1e-5)
    legacy = 1 - ((1 - scale) * x).square().sum(1) / (x - store.mean(HOOK).double()).square().sum(1)
    assert found["explained_variance_legacy"] == pytest.approx(float(legacy.mean()), abs=1e-5)
    assert found["saebench_mse"] == pytest.approx(float(((1 - scale) * x).square().mean()), rel=1e-5)


def test_no_name_is_another_evaluators(measure, store, loud_lm):
    """A run's record, and with it every table, knows a metric by its name alone."""
    sae = linear_sae(1.0)
    subject = Subject(sae, store, HOOK, store.mask, lambda: loud_lm)
    usual = {"reconstruction": {}, "density": {}, "downstream": {"contexts": 2, "bootstrap_rounds": 2}}
    for name, settings in usual.items():
        assert not measure(sae, contexts=2).metrics.keys() & EVALUATORS[name](**settings)(subject).metrics.keys()


def test_batches_do_not_matter(measure):
    sae = build("topk", 32, {"n_latents": 64, "k": 3}).sae.inference()
    whole = measure(sae, contexts=7, batch_contexts=7)
    parts = measure(sae, contexts=7, batch_contexts=2)
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-6, abs=1e-6)
    assert parts.intervals.keys() == {"ce_loss_score", "kl_div_score", "kl_div_with_sae"}
    assert set(whole.meaning) == set(whole.metrics)


def test_a_transcoder_is_spliced_in_at_its_target(store, loud_lm, monkeypatch):
    target = "blocks.2.hook_resid_post"
    monkeypatch.setitem(store.manifest["hooks"], target, store.manifest["hooks"][HOOK])
    monkeypatch.setitem(store.manifest["scaling"], target, store.manifest["scaling"][HOOK])
    subject = Subject(linear_sae(1.0), store, HOOK, store.mask, lambda: loud_lm, target_hook=target)
    found = EVALUATORS["saebench_core"](contexts=4)(subject).metrics
    assert found["saebench_l0"] == 32
    assert found["saebench_explained_variance"] < 1


def test_explained_by_token_is_its_closed_form():
    target, mean = torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.zeros(2)
    assert explained_by_token(target, torch.tensor([[1.0, 0.0], [0.0, 4.0]]), mean).tolist() == [0.75, 1.0]


def test_settings_that_cannot_be():
    with pytest.raises(SettingError, match="contexts: must be at least 1, found 0"):
        EVALUATORS["saebench_core"](contexts=0)
