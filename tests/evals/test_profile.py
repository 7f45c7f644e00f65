"""Error by position, token frequency and input norm, on SAEs whose error is planted."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from saelab.errors import SaelabError
from saelab.evals import EVALUATORS, Result, Subject
from saelab.evals.base import Table
from tests.evals.test_evaluators import HOOK, encoder, identity_sae


@pytest.fixture
def subject(store, lm):
    return lambda sae: Subject(sae, store, HOOK, store.mask, lambda: lm)


def profile(subject: Subject, **settings) -> Result:
    return EVALUATORS["profile"](bootstrap_rounds=20, **settings)(subject)


def column(table: Table, name: str) -> list:
    return [row[list(table.columns).index(name)] for row in table.rows]


def test_a_perfect_sae_has_no_error_anywhere(subject):
    found = profile(subject(identity_sae()))
    for name in ("fvu_first_positions", "fvu_rarest_tokens", "fvu_longest_inputs"):
        assert found.metrics[name] == pytest.approx(0, abs=1e-10)
    assert set(found.meaning) == set(found.metrics)
    assert {chart.title for chart in found.charts} >= {table.title for table in found.tables[:3]}


def test_groups_of_every_kind_add_up_to_the_whole(subject, store):
    half = subject(identity_sae(0.5))
    whole = EVALUATORS["reconstruction"]()(half)
    found = profile(half)
    assert found.n_tokens == whole.n_tokens == store.n_tokens("heldout")
    for table in found.tables[:3]:
        tokens = column(table, "tokens")
        assert sum(tokens) == whole.n_tokens
        assert sum(column(table, "share of all error")) == pytest.approx(1)
        mean_l0 = sum(n * l0 for n, l0 in zip(tokens, column(table, "mean L0"), strict=True)) / sum(tokens)
        assert mean_l0 == pytest.approx(whole.metrics["l0"])
        # The deviations weigh the groups: fvu * deviation = error, and errors add up.
        parts = zip(column(table, "share of all error"), column(table, "FVU"), strict=True)
        assert 1 / sum(share / fvu for share, fvu in parts) == pytest.approx(whole.metrics["fvu"], rel=1e-6)


def test_error_that_grows_with_the_norm_is_seen_there(subject, store):
    """A reconstruction of constant length: what it misses is what the input has beyond it."""
    sae = identity_sae(0.0)
    with torch.no_grad():
        sae.b_dec.copy_(store.mean(HOOK))
    of_norm = next(t for t in profile(subject(sae)).tables if t.title == "Error by input norm")
    assert column(of_norm, "FVU") == pytest.approx([1] * 10, abs=0.2)
    assert [row[0] for row in of_norm.rows] == ["shortest", *map(str, range(2, 10)), "longest"]
    low, high = map(float, str(of_norm.rows[-1][1]).split("–"))
    x = torch.cat([store.read(shard)[HOOK] for shard in store.of("heldout")]).norm(dim=1)
    assert high == pytest.approx(float(x.max()), rel=1e-3)
    assert low < high


def test_positions_are_grouped_by_doubling_and_those_left_out_have_no_group(subject, store):
    found = profile(subject(identity_sae(0.5)))
    positions = Counter(int(p) for shard in store.of("heldout") for p in store.read(shard)["position"])
    table = next(t for t in found.tables if t.title == "Error by position")
    assert column(table, "range") == ["1", "2–3", "4–7", "8–15", "16–31"]
    assert column(table, "tokens")[:2] == [positions[1], positions[2] + positions[3]]
    assert found.metrics["fvu_first_positions"] == table.rows[0][3]


def test_frequency_is_that_of_all_stored_text(subject, store):
    counts = Counter()
    for split in ("train", "heldout"):
        for part in store.contexts(split):
            rows = zip(part.tokens.tolist(), part.length.tolist(), strict=True)
            counts.update(token for row, length in rows for token in row[:length])
    table = next(t for t in profile(subject(identity_sae())).tables if t.title == "Error by token frequency")
    (_, commonest), *_ = [pair for pair in counts.most_common() if pair[0] > 2]  # 0 to 2 are special
    assert float(str(table.rows[-1][1]).split("–")[1]) == pytest.approx(1e6 * commonest / counts.total(), rel=1e-3)


def test_l0_is_told_token_by_token(subject):
    sae = identity_sae()
    with torch.no_grad():
        encoder(sae).b_enc.fill_(1e6)  # all 64 fire on every token
    found = profile(subject(sae))
    assert (found.metrics["l0_p5"], found.metrics["l0_median"], found.metrics["l0_p95"]) == (64, 64, 64)
    assert list(found.tables[3].rows[0]) == [64, 0, 64, 64, 64, 64, 64, 64, 64]
    assert found.charts[3].series == {"tokens": [[64, 1.0]]}
    of_half = profile(subject(identity_sae())).charts[3].series["tokens"]
    assert sum(float(y) for _, y in of_half) == pytest.approx(1)


def test_fewer_tokens_and_bad_settings(subject):
    found = profile(subject(identity_sae(0.5)), max_tokens=100)
    assert found.n_tokens == sum(column(found.tables[0], "tokens")) == 100
    with pytest.raises(SaelabError, match="bootstrap_rounds: must be at least 1, found 0"):
        EVALUATORS["profile"](bootstrap_rounds=0)
