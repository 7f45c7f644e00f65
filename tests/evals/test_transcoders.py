"""Evaluators on transcoders, and what subjects on one store share."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from saelab.activations.loader import stored
from saelab.errors import SaelabError
from saelab.evals import EVALUATORS, Subject, evaluate
from saelab.sae import SAE, build

INPUT, TARGET = "blocks.0.attn.hook_z", "blocks.1.hook_resid_post"


def transcoder(seed: int = 0) -> SAE:
    torch.manual_seed(seed)
    sae = build("topk", 32, {"n_latents": 64, "k": 3}, 32, skip=True).sae
    with torch.no_grad():
        sae.decoder.W_skip.normal_(0, 0.1)  # type: ignore[union-attr]
    return sae.inference()


@pytest.fixture
def subject(store, lm):
    def make(sae: SAE, shared: dict | None = None, hook: str = INPUT, target: str | None = TARGET) -> Subject:
        own = {} if shared is None else shared
        return Subject(sae, store, hook, store.mask, lambda: lm, target_hook=target, shared=own)

    return make


def test_reconstruction_is_measured_against_the_target(subject, store):
    sae = transcoder()
    batches = list(stored(store, "heldout", INPUT, target_hook=TARGET))
    x, y = (torch.cat([getattr(batch, side) for batch in batches]) for side in ("input", "target"))
    found = EVALUATORS["reconstruction"]()(subject(sae))
    expected = (y - sae(x)).square().sum() / (y - y.mean(0)).square().sum()
    assert found.metrics["fvu"] == pytest.approx(float(expected), rel=1e-4)
    assert found.n_tokens == len(x)
    assert EVALUATORS["reconstruction"](max_tokens=77)(subject(sae)).n_tokens == 77


def test_downstream_against_an_edit_by_hand(subject, lm, store):
    sae = transcoder()
    result = EVALUATORS["downstream"](contexts=1000, batch_contexts=5)(subject(sae))
    contexts = torch.cat([part.tokens for part in store.contexts("heldout")]).long()
    keep = store.mask.keep_tokens(contexts)

    def mean_loss(edit):
        seen = {}

        def read(value, hook):
            seen["input"] = value.flatten(2)

        def write(value, hook):
            value = value.clone()
            value[keep] = edit(seen["input"][keep], value[keep])
            return value

        logits = lm.bridge.run_with_hooks(contexts, fwd_hooks=[(INPUT, read), (TARGET, write)]).double()
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), contexts[:, 1:].flatten()).item()

    with torch.no_grad():
        clean, spliced = mean_loss(lambda x, y: y), mean_loss(lambda x, y: sae(x))
        zero, mean = mean_loss(lambda x, y: y * 0), mean_loss(lambda x, y: store.mean(TARGET).expand_as(y))
    assert result.metrics["delta_ce_nats"] == pytest.approx(spliced - clean, abs=1e-5)
    assert result.metrics["ce_zero_nats"] == pytest.approx(zero, abs=1e-5)
    assert result.metrics["ce_mean_nats"] == pytest.approx(mean, abs=1e-5)


def test_a_target_before_its_input_is_refused(subject):
    with pytest.raises(SaelabError, match=f"'{TARGET}' comes after '{INPUT}' in the model"):
        EVALUATORS["downstream"](contexts=4)(subject(transcoder(), hook=TARGET, target=INPUT))


def test_eval_json_says_the_target_and_measures_anew_for_another(subject, tmp_path):
    path, sae = tmp_path / "eval.json", transcoder()
    evaluate(subject(sae), {"reconstruction": {}}, config_sha256="abc", write_to=path)
    written = json.loads(path.read_text())
    assert (written["hook"], written["target_hook"]) == (INPUT, TARGET)
    other = evaluate(subject(sae, target=None), {"reconstruction": {}}, config_sha256="abc", write_to=path)
    assert other["target_hook"] is None
    first, second = (d["evaluations"]["reconstruction"]["metrics"] for d in (written, other))
    assert first != second


def test_a_second_sae_costs_two_passes_and_gets_the_same_bits(subject, lm, monkeypatch):
    downstream, shared, counted = EVALUATORS["downstream"](contexts=7, batch_contexts=3), {}, Counter()
    alone = [downstream(subject(transcoder(seed))) for seed in (0, 1)]
    real = lm.logits
    monkeypatch.setattr(lm, "logits", lambda tokens: counted.update(passes=1) or real(tokens))
    together = []
    for seed in (0, 1):
        together.append(downstream(subject(transcoder(seed), shared)))
        counted[f"after {seed}"] = counted["passes"]
    assert together == alone
    assert (counted["after 0"], counted["after 1"]) == (4 * 3, 4 * 3 + 2 * 3)


@pytest.mark.parametrize("change", ["hooks", "settings", "mask"])
def test_what_is_shared_is_not_taken_for_something_else(subject, change):
    shared: dict = {}
    EVALUATORS["downstream"](contexts=4)(subject(transcoder(), shared))
    other, changed = subject(transcoder(), shared), EVALUATORS["downstream"](contexts=4)
    if change == "hooks":
        other = subject(transcoder(), shared, target=None)
    elif change == "settings":
        changed = EVALUATORS["downstream"](contexts=5)
    else:
        object.__setattr__(other, "mask", type(other.mask)(False, (), {}))
    found = changed(other)
    assert len(shared) == 2
    alone = Subject(other.sae, other.store, other.hook, other.mask, other.model, target_hook=other.target_hook)
    assert found == changed(alone)
