"""Evaluators on cases whose answer is known: a perfect SAE scores 1, a zero SAE 0."""

import json

import pytest
import torch

from saelab.errors import SaelabError
from saelab.evals import EVALUATORS, Result, Subject, evaluate
from saelab.sae import SAE, build
from saelab.sae.coders import OneStep

HOOK = "blocks.1.hook_resid_post"


def encoder(sae: SAE) -> OneStep:
    assert isinstance(sae.coder, OneStep)
    return sae.coder


def identity_sae(scale: float = 1.0) -> SAE:
    """A ReLU SAE of 64 latents, `+e_i` and `-e_i`, that reconstructs `scale * x`."""
    sae = build("relu", 32, {"n_latents": 64}).sae
    eye = torch.cat([torch.eye(32), -torch.eye(32)])
    with torch.no_grad():
        encoder(sae).W_enc.copy_(eye)
        sae.decoder.W_dec.copy_(scale * eye)
    return sae.inference()


@pytest.fixture
def subject(store, lm):
    return lambda sae: Subject(sae, store, HOOK, store.mask, lambda: lm)


def test_a_perfect_sae(subject):
    perfect = subject(identity_sae())
    assert EVALUATORS["reconstruction"]()(perfect).metrics["fvu"] == pytest.approx(0, abs=1e-10)
    found = EVALUATORS["downstream"](contexts=6)(perfect).metrics
    assert found["delta_ce_nats"] == pytest.approx(0, abs=1e-5)
    assert found["ce_score"] == pytest.approx(1, abs=1e-3)
    assert found["ce_score_mean"] == pytest.approx(1, abs=1e-3)
    assert found["kl_score"] == pytest.approx(1, abs=1e-3)


def test_a_zero_sae_scores_zero(subject):
    found = EVALUATORS["downstream"](contexts=6)(subject(identity_sae(0.0))).metrics
    assert found["ce_score"] == pytest.approx(0, abs=1e-6)
    assert found["kl_score"] == pytest.approx(0, abs=1e-6)
    assert found["ce_sae_nats"] == pytest.approx(found["ce_zero_nats"])


def test_the_mean_sae_scores_zero_against_mean_ablation(subject, store):
    sae = identity_sae(0.0)
    with torch.no_grad():
        sae.b_dec.copy_(store.mean(HOOK))
    assert EVALUATORS["downstream"](contexts=6)(subject(sae)).metrics["ce_score_mean"] == pytest.approx(0, abs=1e-5)
    assert EVALUATORS["reconstruction"]()(subject(sae)).metrics["fvu"] == pytest.approx(1, abs=0.02)


def test_downstream_against_an_independent_computation(subject, lm, store):
    sae = build("topk", 32, {"n_latents": 64, "k": 3}).sae.inference()
    result = EVALUATORS["downstream"](contexts=1000, batch_contexts=5)(subject(sae))
    contexts = torch.cat([part.tokens for part in store.contexts("heldout")]).long()
    keep = store.mask.keep_tokens(contexts)

    def mean_loss(edit):
        def hook(value, hook):
            value = value.clone()
            value[keep] = edit(value[keep])
            return value

        logits = lm.bridge.run_with_hooks(contexts, fwd_hooks=[(HOOK, hook)]).double()
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), contexts[:, 1:].flatten()).item()

    with torch.no_grad():
        clean, spliced, zero = mean_loss(lambda x: x), mean_loss(sae), mean_loss(torch.zeros_like)
        mean = mean_loss(lambda x: store.mean(HOOK).expand_as(x))
    found = result.metrics
    assert found["delta_ce_nats"] == pytest.approx(spliced - clean, abs=1e-5)
    assert found["ce_score"] == pytest.approx((zero - spliced) / (zero - clean), abs=1e-4)
    assert found["ce_score_mean"] == pytest.approx((mean - spliced) / (mean - clean), abs=1e-3)
    assert result.n_tokens == contexts[:, 1:].numel()


def test_results_do_not_depend_on_batch_size(subject):
    sae = build("topk", 32, {"n_latents": 64, "k": 3}).sae.inference()
    one, many = (EVALUATORS["downstream"](contexts=7, batch_contexts=b)(subject(sae)).metrics for b in (1, 7))
    for name in one:
        assert one[name] == pytest.approx(many[name], rel=1e-4, abs=1e-5)


def test_density_counts_what_fires(subject, store):
    sae = identity_sae()
    with torch.no_grad():
        encoder(sae).b_enc[0] = -1e6
        encoder(sae).b_enc[1] = 1e6
    result = EVALUATORS["density"]()(subject(sae))
    assert result.metrics["dead_frac"] == pytest.approx(1 / 64)
    assert result.n_tokens == store.n_tokens("heldout")
    assert sum(result.details["histogram"]["latents"]) == 63
    (never, dead), *bars = result.charts[0].series["latents"]
    assert (never, dead, bars[-1][0]) == ("never", 1, "0.3–1")
    assert sum(float(height) for _, height in bars) == 63


@pytest.mark.parametrize("name", ["reconstruction", "downstream", "density", "profile"])
def test_every_metric_is_defined(subject, name):
    result = EVALUATORS[name]()(subject(identity_sae(0.5)))
    assert result.meaning.keys() == result.metrics.keys()


def test_fewer_tokens_when_asked(subject):
    assert EVALUATORS["reconstruction"](max_tokens=100)(subject(identity_sae())).n_tokens == 100
    assert EVALUATORS["density"](max_tokens=77)(subject(identity_sae())).n_tokens == 77


def test_what_cannot_be_measured_is_absent_and_explained():
    result = Result({"good": 1.0, "bad": float("nan")}, 3)
    assert result.metrics == {"good": 1.0}
    assert result.not_measurable == {"bad": "came out as nan"}


def test_eval_json_has_its_schema_and_keeps_what_is_measured(subject, tmp_path):
    path = tmp_path / "eval.json"
    chosen = {"reconstruction": {"max_tokens": None}, "density": {"max_tokens": 50}}
    first = evaluate(subject(identity_sae()), chosen, config_sha256="abc", write_to=path)
    written = json.loads(path.read_text())
    assert written == first
    assert (written["schema"], written["config_sha256"]) == (1, "abc")
    entry = written["evaluations"]["density"]
    assert entry["settings"] == {"max_tokens": 50}
    assert entry["n_tokens"] == 50
    assert set(entry["metrics"]) == {"dead_frac", "dense_frac", "median_density"}

    calls = []
    evaluate(
        subject(identity_sae()),
        chosen | {"density": {"max_tokens": 60}},
        config_sha256="abc",
        write_to=path,
        report=lambda name, done, total: calls.append(name),
    )
    assert set(calls) == {"density"}
    defaults = evaluate(subject(identity_sae()), {"density": {}}, config_sha256="abc", write_to=path)
    assert defaults["evaluations"]["density"]["settings"] == {"max_tokens": None}
    before = subject(identity_sae())
    before.store.manifest["content_sha256"] = "made of something else"
    changed = evaluate(
        before, {"density": {}}, config_sha256="abc", write_to=path, report=lambda *_: calls.append("again")
    )
    assert "again" in calls
    assert changed["store_sha256"] == "made of something else"
    other = evaluate(subject(identity_sae(0.5)), {"density": {"max_tokens": 60}}, config_sha256="abc", write_to=path)
    assert set(other["evaluations"]) == {"density"}


def test_unknown_evaluators_are_named():
    with pytest.raises(SaelabError, match=r"unknown evaluator 'densty'(.|\n)*did you mean 'density'"):
        EVALUATORS["densty"]
