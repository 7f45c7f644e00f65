"""Discrete codes: what is counted, and what is not to be counted."""

from __future__ import annotations

import pytest
import torch

from saelab.circuits import METHODS
from saelab.circuits.codes import DiscreteCodes, among_strongest, corrected, unique_codes, unique_pairs
from saelab.circuits.dictionary import NONE, Dictionary, DictionarySpec, Slopes, train
from saelab.circuits.pairs import rows_of
from saelab.circuits.passes import Passes
from saelab.circuits.ranking import auc
from saelab.circuits.scores import quiet
from saelab.errors import SaelabError


def drawn(seed: int, examples: int = 40, kinds: tuple[int, ...] = (1, 2, 5, 9, 20)):
    """Codes of heads that know ever more of them, and labels that have nothing to do with them."""
    rng = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(n, (examples,), generator=rng) for n in kinds], 1)
    positive = torch.randperm(examples, generator=rng) < examples // 2
    return codes, positive


def test_codes_unique_to_positives_are_counted():
    codes, positive = drawn(0)
    codes[0, 0] = NONE  # counts as a code
    expected = [len(set(c[positive].tolist()) - set(c[~positive].tolist())) for c in codes.T]
    assert unique_codes(codes, positive).tolist() == expected
    assert max(expected) > 2


def test_pairs_of_codes_unique_to_positives_are_counted():
    codes, positive = drawn(1)
    found = unique_pairs(codes, positive)
    assert torch.equal(found, found.T)
    for a in range(5):
        for b in range(5):
            pairs = [tuple(pair) for pair in codes[:, [a, b]].tolist()]
            seen = [{pair for pair, p in zip(pairs, positive.tolist(), strict=True) if p == side} for side in (0, 1)]
            assert found[a, b] == (0 if a == b else len(seen[1] - seen[0]))


@pytest.mark.parametrize("count", [unique_codes, unique_pairs])
def test_which_number_a_code_has_does_not_matter(count):
    codes, positive = drawn(2)
    names = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(count(names[codes], positive), count(codes, positive))


def test_heads_of_the_strongest_pairs():
    values = torch.zeros(4, 4)
    values[1, 2] = values[2, 1] = 5.0
    values[0, 1] = values[1, 0] = 3.0
    assert among_strongest(values).tolist() == [2, 4, 2, 0]  # 16 / 4 pairs


def test_a_head_that_switches_with_the_label_comes_first():
    codes, positive = drawn(3)
    codes[:, 1] = torch.where(positive, 0, 1) + 2 * (torch.arange(40) % 3)
    assert int(corrected(unique_codes, codes, positive, null=20, seed=0).argmax()) == 1


def test_on_shuffled_labels_counts_follow_variety_until_the_null_is_taken_off():
    """The raw score calls heads of many codes a circuit; without what chance gives, nothing is left."""
    kinds, various = (2,) * 10 + (12,) * 10, torch.arange(20).numpy() >= 10
    raw, clear = [], []
    for seed in range(20):
        codes, positive = drawn(seed, kinds=kinds)
        raw.append(auc(unique_codes(codes, positive).double().numpy(), various))
        clear.append(auc(corrected(unique_codes, codes, positive, null=30, seed=seed).double().numpy(), various))
    assert torch.tensor(raw).mean() > 0.9
    assert torch.tensor(clear).mean() == pytest.approx(0.5, abs=0.1)


def test_on_shuffled_labels_of_a_model_nothing_is_left_of_a_circuit(planted, planted_lm, planted_pairs):
    method = DiscreteCodes(dictionary=DictionarySpec(epochs=150, lr=3e-3))
    codes, positive = method.codes(Passes(planted_lm, planted_pairs), quiet)
    members = planted.members().flatten().numpy()
    clear = []
    for seed in range(25):
        shuffled = positive[rows_of(len(positive), seed)]
        clear.append(auc(corrected(unique_codes, codes, shuffled, null=20, seed=seed).double().numpy(), members))
    assert torch.tensor(clear).mean() == pytest.approx(0.5, abs=0.1)


def test_a_dictionary_reconstructs_within_its_constraints():
    rng = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(6, 16, generator=rng), dim=1)
    which = torch.randint(6, (80,), generator=rng)
    x = (1 + torch.rand(80, 1, generator=rng)) * directions[which]
    found = train(x, DictionarySpec(n_latents=24, epochs=400, lr=5e-3, sparsity=1e-3, unit_columns=True), seed=0)
    for weight in (found.W_enc, found.W_dec):
        assert torch.allclose(weight.norm(dim=1), torch.ones(24), atol=0.02)
    code = torch.relu((x - found.bias) @ found.W_enc.T + found.b_enc)
    assert (code @ found.W_dec + found.bias - x).square().mean() < 0.1 * x.var()
    codes = found.codes(x)
    assert all(len(codes[which == i].unique()) <= 2 for i in range(6))
    assert len(codes.unique()) >= 6


def test_gradients_are_those_of_the_papers_loss():
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    params = [torch.randn(shape).requires_grad_() for shape in ((12, 8), (12, 8), (12,), (8,))]
    W_enc, W_dec, b_enc, bias = params
    code = torch.relu((x - bias) @ W_enc.T + b_enc)
    loss = (code @ W_dec + bias - x).square().mean() + 0.3 * code.abs().sum(1).mean()
    expected = torch.autograd.grad(loss, params)
    for found, wanted in zip(Slopes(x, 12, 0.3)(*(p.detach() for p in params)), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)


def test_the_papers_decoder_is_normalised_along_the_other_axis():
    found = train(torch.randn(20, 8), DictionarySpec(n_latents=12, epochs=3), seed=0)
    assert torch.allclose(found.W_dec.norm(dim=0), torch.ones(8), atol=0.02)


def test_what_no_latent_answers_to_has_no_code():
    found = Dictionary(torch.eye(3), torch.eye(3), torch.full((3,), -1.0), torch.zeros(3), scale=2.0)
    x = torch.tensor([[0.4, 0.1, 0.0], [0.0, 0.6, 0.0], [3.0, 4.0, 9.0]])
    assert found.codes(x).tolist() == [NONE, 1, 2]


@pytest.mark.parametrize("method", ["codes", "code_edges"])
def test_the_papers_recipe_runs_on_a_model(method, planted, planted_lm, planted_pairs):
    quick = DictionarySpec(epochs=30)
    scores = METHODS[method](dictionary=quick, null=2, seed=1)(planted_lm, planted_pairs)
    again = METHODS[method](dictionary=quick, null=2, seed=1)(planted_lm, planted_pairs)
    assert torch.equal(scores.heads, again.heads)
    assert scores.heads.shape == (3, 6)
    assert scores.cost.forwards == 120


def test_more_examples_than_there_are_prompts(planted_lm, planted_pairs):
    with pytest.raises(SaelabError, match="examples: must be at most 120, one for each prompt, found 121"):
        METHODS["codes"](examples=121)(planted_lm, planted_pairs)
