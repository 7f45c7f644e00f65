"""Evaluators on cases whose answer is known: a perfect SAE scores 1, a zero SAE 0."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saelab.errors import SaelabError
from saelab.evals import EVALUATORS, Result, Subject, downstream, evaluate, heldout
from saelab.lm.model import LanguageModel, ModelSpec, load
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


def load_loud(directory: Path) -> LanguageModel:
    """The tiny model with predictions far from even, so that ablations cost something."""
    lm = load(ModelSpec(str(directory), dtype="float32", device="cpu"))
    model: Any = lm.bridge.original_model
    model.get_output_embeddings().weight.mul_(30)
    return lm


@pytest.fixture(scope="module")
def loud_lm(tiny_model_dir):
    return load_loud(tiny_model_dir)


@pytest.fixture
def loud(store, loud_lm):
    return lambda sae: Subject(sae, store, HOOK, store.mask, lambda: loud_lm)


def random_sae(seed: int = 0) -> SAE:
    """A ReLU SAE whose decoder knows nothing of its encoder, nor either of activations."""
    torch.manual_seed(seed)
    sae = build("relu", 32, {"n_latents": 48}).sae
    with torch.no_grad():
        encoder(sae).W_enc.normal_(std=0.2)
        encoder(sae).b_enc.normal_(std=0.1)
        sae.W_dec.normal_(std=0.2)
        sae.b_dec.normal_(std=0.1)
    return sae.inference()


def by_hand(sae: SAE, x: Tensor) -> Tensor:
    """What a ReLU SAE makes of `[tok, d]`, in float64."""
    shift = sae.b_dec.double() if sae.coder.centred else 0
    pre = (x.double() - shift) @ encoder(sae).W_enc.double().T + encoder(sae).b_enc.double()
    return pre.relu() @ sae.W_dec.double() + sae.b_dec.double()


def test_a_perfect_sae_scores_1(loud):
    perfect = loud(identity_sae())
    found = EVALUATORS["reconstruction"]()(perfect).metrics
    assert found["fvu"] == pytest.approx(0, abs=1e-10)
    assert found["explained_variance"] == found["cosine"] == found["shrinkage"] == pytest.approx(1, abs=1e-6)
    found = EVALUATORS["downstream"](contexts=6)(perfect).metrics
    assert found["delta_ce_nats"] == pytest.approx(0, abs=1e-5)
    for score in ("ce_score", "ce_score_mean", "kl_score", "kl_score_mean"):
        assert found[score] == pytest.approx(1, abs=1e-5)


def test_a_zero_sae_scores_0(loud):
    """Against zero ablation, which it is; of the norm, all is missing."""
    zero = loud(identity_sae(0.0))
    assert EVALUATORS["reconstruction"]()(zero).metrics["nmse"] == pytest.approx(1)
    found = EVALUATORS["downstream"](contexts=6)(zero).metrics
    assert (found["ce_score"], found["kl_score"]) == (0, 0)
    assert found["ce_sae_nats"] == found["ce_zero_nats"]


def test_the_mean_sae_scores_0_against_mean_ablation(loud, store):
    sae = identity_sae(0.0)
    with torch.no_grad():
        sae.b_dec.copy_(store.mean(HOOK))
    found = EVALUATORS["downstream"](contexts=6)(loud(sae)).metrics
    assert found["ce_score_mean"] == pytest.approx(0, abs=1e-5)
    assert found["kl_score_mean"] == pytest.approx(0, abs=1e-5)
    assert EVALUATORS["reconstruction"]()(loud(sae)).metrics["explained_variance"] == pytest.approx(0, abs=0.02)


def test_a_random_dictionary_explains_nothing(loud, store):
    """It is at the null: its reconstruction is unrelated, and only adds its own variance to the error."""
    found = [EVALUATORS["reconstruction"]()(loud(random_sae(seed))).metrics for seed in range(8)]
    for metrics in found:
        assert metrics["explained_variance"] < 0
    assert np.mean([metrics["cosine"] for metrics in found]) == pytest.approx(0, abs=0.1)
    scores = [EVALUATORS["downstream"](contexts=6)(loud(random_sae(seed))).metrics for seed in range(3)]
    assert np.mean([metrics["ce_score_mean"] for metrics in scores]) < 0.1


def test_reconstruction_against_an_independent_computation(loud, store):
    sae = random_sae()
    found = EVALUATORS["reconstruction"]()(loud(sae)).metrics
    x = torch.cat([store.read(shard)[HOOK] for shard in store.of("heldout")]).double()
    r = by_hand(sae, x)
    fvu = float(((x - r) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())
    assert found["fvu"] == pytest.approx(fvu, rel=1e-5)
    assert found["explained_variance"] == pytest.approx(1 - fvu, rel=1e-5)
    assert found["mse"] == pytest.approx(float(((x - r) ** 2).mean()), rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(x, r, eps=0).mean()
    assert found["cosine"] == pytest.approx(float(cosine), abs=1e-5)


def test_downstream_against_an_independent_computation(loud, tiny_model_dir, store):
    sae = random_sae()
    result = EVALUATORS["downstream"](contexts=1000, batch_contexts=5)(loud(sae))
    exact = load_loud(tiny_model_dir).bridge.double()
    contexts = torch.cat([part.tokens for part in store.contexts("heldout")]).long()
    keep = store.mask.keep_tokens(contexts)

    def log_probs(edit):
        def hook(value, hook):
            value = value.clone()
            value[keep] = edit(value[keep])
            return value

        return exact.run_with_hooks(contexts, fwd_hooks=[(HOOK, hook)]).log_softmax(-1)[:, :-1]

    with torch.no_grad():
        clean = log_probs(lambda x: x)
        edits = {"sae": lambda x: by_hand(sae, x), "zero": torch.zeros_like}
        edits["mean"] = lambda x: store.mean(HOOK).double().expand_as(x)
        runs = {"clean": clean} | {name: log_probs(edit) for name, edit in edits.items()}
    ce = {name: -float(run.gather(2, contexts[:, 1:, None]).mean()) for name, run in runs.items()}
    kl = {name: float((clean.exp() * (clean - run)).sum(-1).mean()) for name, run in runs.items()}
    found = result.metrics
    assert found["delta_ce_nats"] == pytest.approx(ce["sae"] - ce["clean"], abs=1e-5)
    assert found["kl_nats"] == pytest.approx(kl["sae"], abs=1e-5)
    for suffix, bad in (("", "zero"), ("_mean", "mean")):
        assert abs(ce[bad] - ce["clean"]) > 0.1
        assert found[f"ce_score{suffix}"] == pytest.approx((ce[bad] - ce["sae"]) / (ce[bad] - ce["clean"]), abs=1e-5)
        assert found[f"kl_score{suffix}"] == pytest.approx(1 - kl["sae"] / kl[bad], abs=1e-5)
    assert result.n_tokens == contexts[:, 1:].numel()


def test_results_do_not_depend_on_batches_or_order(loud, store, monkeypatch):
    sae = build("topk", 32, {"n_latents": 64, "k": 3}).sae.inference()
    whole = EVALUATORS["downstream"](contexts=7, batch_contexts=7)(loud(sae)).metrics
    for batch in (1, 3):
        part = EVALUATORS["downstream"](contexts=7, batch_contexts=batch)(loud(sae)).metrics
        assert part == pytest.approx(whole, rel=1e-6, abs=1e-6)
    in_order = downstream.batches
    monkeypatch.setattr(downstream, "batches", lambda *of: reversed([[x.flip(0) for x in b] for b in in_order(*of)]))
    assert EVALUATORS["downstream"](contexts=7, batch_contexts=3)(loud(sae)).metrics == pytest.approx(
        whole, rel=1e-6, abs=1e-6
    )
    names = ("reconstruction", "density")
    whole = {name: EVALUATORS[name]()(loud(sae)).metrics for name in names}
    forwards = store.of("heldout")
    monkeypatch.setattr(type(store), "of", lambda self, split: forwards[::-1])
    monkeypatch.setattr(heldout, "_CHUNK_TOKENS", 7)
    for name in names:
        assert EVALUATORS[name]()(loud(sae)).metrics == pytest.approx(whole[name], rel=1e-6, abs=1e-6)


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
    before.store.content_sha256 = "made of something else"
    changed = evaluate(
        before, {"density": {}}, config_sha256="abc", write_to=path, report=lambda *_: calls.append("again")
    )
    assert "again" in calls
    assert changed["store_sha256"] == "made of something else"
    other = evaluate(subject(identity_sae(0.5)), {"density": {"max_tokens": 60}}, config_sha256="abc", write_to=path)
    assert set(other["evaluations"]) == {"density"}


def test_settings_of_several_values_are_known_again(subject, tmp_path):
    """A file gives lists back for tuples."""
    calls = []

    @dataclass(frozen=True)
    class Several:
        k: tuple[int, ...] = (1, 2)

        def __call__(self, subject: Subject) -> Result:
            calls.append(self.k)
            return Result({"a": 1.0}, 1)

    EVALUATORS.add("several", Several)
    for settings in ({}, {}, {"k": (1, 2)}, {"k": (3,)}, {"k": (3,)}):
        evaluate(subject(identity_sae()), {"several": settings}, config_sha256="abc", write_to=tmp_path / "eval.json")
    EVALUATORS.remove("several")
    assert calls == [(1, 2), (3,)]


def test_unknown_evaluators_are_named():
    with pytest.raises(SaelabError, match=r"unknown evaluator 'densty'(.|\n)*did you mean 'density'"):
        EVALUATORS["densty"]
