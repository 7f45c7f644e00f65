"""Our codes: what is compared with what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saelab.circuits import METHODS
from saelab.circuits.dictionary import DictionarySpec
from saelab.circuits.pairs import same_answers
from saelab.circuits.sparse_codes import SparseCodes, _Gaps
from saelab.errors import SaelabError

QUICK = DictionarySpec(epochs=5, unit_columns=True, scaled=True)


def test_differences_that_cancel_over_answers_count_where_answers_are_looked_at_apart():
    gaps = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
    for answers, expected in (([0, 0, 0, 0], [0.0, 0.0]), ([0, 0, 1, 1], [2.0, 0.0])):
        found = _Gaps(torch.tensor(answers), (2,))
        found.add(torch.tensor([0, 2]), gaps[[0, 2]])
        found.add(torch.tensor([1, 3]), gaps[[1, 3]])
        assert found.sure(0.0).tolist() == expected


def test_standard_errors_are_taken_off():
    gaps = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 1.0, -5.0])
    found = _Gaps(torch.zeros(50, dtype=torch.int64), (3,))
    found.add(torch.arange(50), gaps)
    error = gaps.std(0) / 50**0.5
    assert torch.allclose(found.sure(2.0), (gaps.mean(0).abs() - 2 * error).clamp_min(0), atol=1e-5)
    assert found.sure(3.0)[0] == 0


def test_prompts_share_answers_or_are_all_alike(planted_pairs):
    answers = same_answers(planted_pairs.clean)
    assert answers.bincount().tolist() == [10] * 6
    few = planted_pairs.take(torch.arange(20)).clean
    assert not same_answers(few).any()


def test_the_answers_position_alone(planted, planted_lm, planted_pairs):
    """Markers speak behind the key alone: the answer's position adds nothing to them, and much to the speaker."""
    with_answer, without = (
        SparseCodes(dictionary=QUICK, answer_weight=weight)(planted_lm, planted_pairs).heads for weight in (1.0, 0.0)
    )
    gained = with_answer - without
    assert (gained >= 0).all()
    assert max(gained[head] for head in planted.circuit["marker"]) < 0.01 * max(
        gained[head] for head in planted.circuit["speaker"]
    )


def test_a_mean_difference_by_answer_sees_what_cancels(planted, planted_lm, planted_pairs):
    pooled, apart = (METHODS["mean_difference"](by_answer=by)(planted_lm, planted_pairs).heads for by in (False, True))
    (speaker,) = planted.circuit["speaker"]
    assert apart[speaker] > 1.5 * pooled[speaker]


def test_wrong_settings(planted_lm, planted_pairs):
    with pytest.raises(SaelabError, match="examples: must be at most 60, one for each pair, found 61"):
        SparseCodes(examples=61)(planted_lm, planted_pairs)
    with pytest.raises(SaelabError, match="errors: must be at least 0, found -1"):
        replace(SparseCodes(), errors=-1)
