"""First letters planted in activations: latents that are absorbed, split, or neither."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from saelab.errors import SettingError
from saelab.evals import EVALUATORS, Subject, evaluate
from saelab.evals.absorption import Absorption, absorbed
from saelab.evals.base import NotMeasurable
from saelab.evals.first_letters import Letter, Letters, f1_score, letters, rank, read_letters
from saelab.evals.labelled import Seen
from saelab.evals.probes import Probe
from saelab.evals.splitting import Splitting
from saelab.sae import SparseCode, build
from saelab.tasks import Labelled

N, LETTERS, WIDTH = 600, "abc", 32
MAIN, OTHER = slice(0, 3), slice(10, 13)
"""Latents that stand for the letters, and latents that may take their place."""


def planted(change=lambda codes, label, test: None) -> tuple[Seen, SparseCode, Tensor]:
    """Words, the code of each, and decoder rows: latents 0, 1, 2 stand for a, b, c; 10, 11, 12 write half of a letter's
    direction and half of their own, and are off unless `change` makes them active; others fire at random."""
    rng = torch.Generator().manual_seed(0)
    label, test = torch.arange(N) % 3, torch.arange(N) % 5 < 2
    codes = torch.zeros(N, 40)
    codes[:, 20:] = torch.rand(N, 20, generator=rng) * (torch.rand(N, 20, generator=rng) < 0.2)
    codes[:, MAIN] = 2 * torch.eye(3)[label]
    change(codes, label, test)
    rows = torch.zeros(40, WIDTH)
    rows[MAIN, :3] = torch.eye(3)
    rows[OTHER, :3], rows[OTHER, 3:6] = 0.5**0.5 * torch.eye(3), 0.5**0.5 * torch.eye(3)
    rows[20:, 6:] = torch.nn.functional.normalize(torch.randn(20, WIDTH - 6, generator=rng), dim=1)
    tokens = torch.zeros(N, 4, dtype=torch.long)
    concept = Labelled(tuple(LETTERS), tokens, torch.arange(N), torch.ones(N).long(), label, test)
    return Seen(concept, codes @ rows), SparseCode.from_dense(codes), rows


@cache
def clean() -> tuple[Seen, SparseCode, Letters]:
    seen, code, _ = planted()
    return seen, code, read_letters(seen, code, seed=0)


def scored(evaluator, change=None, **settings):
    seen, code, rows = planted(change) if change else planted()
    sae = build("topk", WIDTH, {"n_latents": 40, "k": 3}).sae
    with torch.no_grad():
        sae.decoder.W_dec.copy_(rows)
    settings = {"min_letters": 1, "bootstrap_rounds": 50} | settings
    return evaluator(**settings).score(read_letters(seen, code, seed=0) if change else clean()[2], sae.inference())


def absorb(share: float, *, train: bool = False):
    """On so many of a's test words (and training words), latent 10 fires in place of latent 0, as strongly along a."""

    def change(codes, label, test):
        words = ((label == 0) & (test | train)).nonzero()[:, 0]
        words = words[: round(share * len(words))]
        codes[words, 0], codes[words, 10] = 0, 2 * 2**0.5

    return change


def of(result, letter: str, column: str):
    (row,) = (row for row in result.tables[0].rows if row[0] == letter)
    return row[list(result.tables[0].columns).index(column)]


def test_a_clean_dictionary_absorbs_nothing():
    result = scored(Absorption)
    for name in ("full", "fraction", "main_silent_frac"):
        assert result.metrics[f"absorption_{name}"] == 0
    assert result.metrics["absorption_main_f1"] == 1
    assert result.metrics["absorption_probe_f1"] == 1
    assert result.intervals["absorption_full"] == (0, 0)
    assert set(result.metrics) == set(result.meaning)
    assert result.n_examples == N * 2 // 5


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_planted_absorption_is_found_where_it_is(share):
    result = scored(Absorption, absorb(share))
    for name in ("full", "fraction", "main_silent_frac"):
        assert of(result, "a", name) == share
        assert of(result, "b", name) == of(result, "c", name) == 0
        assert result.metrics[f"absorption_{name}"] == pytest.approx(share / 3)
    assert of(result, "a", "main") == "0"
    low, high = result.intervals["absorption_full"]
    assert low <= share / 3 <= high


def test_the_wrong_main_latents_make_a_dictionary_look_absorbed():
    """Latents chosen for shuffled labels are mostly off, and the real ones look as if they had taken over."""
    result = scored(Absorption)
    assert result.metrics["absorption_null_full"] > 0.5


def code_of(*rows: dict[int, float]) -> SparseCode:
    dense = torch.zeros(len(rows), 6)
    for row, values in zip(dense, rows, strict=True):
        for latent, value in values.items():
            row[latent] = value
    return SparseCode.from_dense(dense)


COSINES = torch.tensor([1.0, 0.5, 0.02, 0.2, -0.5, 0.09], dtype=torch.float64)


@pytest.mark.parametrize(
    ("word", "projection", "full", "fraction"),
    [
        ({1: 4.0}, 4.0, 1, 1),  # 2 of 4
        ({1: 3.0}, 4.0, 0, 0),  # 1.5 of 4 is too little
        ({0: 1.0, 1: 4.0}, 4.0, 0, 2 / 3),  # main says 1 of 4, and another 2
        ({0: 3.0, 1: 4.0}, 4.0, 0, 1 / 4),  # of which 1 is taken
        ({0: 4.0, 1: 4.0}, 4.0, 0, 0),  # main says it all
        ({2: 200.0}, 4.0, 0, 0),  # cosines of 0.02 count for nothing
        ({5: 40.0}, 4.0, 1, 0),  # 0.09 is enough alone, but not for the fraction
        ({1: 2.0, 3: 5.0}, 4.0, 0, 1),  # 1 and 1: together enough, neither of them alone
        ({1: 4.0}, -1.0, 0, 0),  # the probe says no
        ({4: 8.0}, 1.0, 0, 0),  # speaks against it
        ({}, 1.0, 0, 0),
        ({0: -1.0, 1: 4.0}, 4.0, 0, 1),  # main speaks against it
    ],
)
def test_absorption_of_one_word(word, projection, full, fraction):
    found = absorbed(code_of({}, word), torch.tensor([1]), torch.tensor([projection]), COSINES, torch.tensor([0]))
    assert found[0, :2].tolist() == pytest.approx([full, fraction])
    assert bool(found[0, 2]) == (0 not in word)


def test_at_most_three_absorb():
    cosines = torch.tensor([1.0, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)
    word = code_of(dict.fromkeys(range(1, 6), 10.0))
    for projection, fraction in ((7.0, 1), (8.0, 0)):  # 3 of 7 is enough, 3 of 8 is not
        found = absorbed(word, torch.tensor([0]), torch.tensor([projection]), cosines, torch.tensor([0]))
        assert found[0, 1] == fraction


def test_a_split_letter_has_two_latents():
    def split(codes, label, test):
        words = (label == 0).nonzero()[:, 0]
        half = words[torch.rand(len(words), generator=torch.Generator().manual_seed(1)) < 0.5]
        codes[half, 0], codes[half, 10] = 0, 2 * 2**0.5

    result = scored(Splitting, split)
    assert [row[:2] for row in result.tables[0].rows] == [["a", 2], ["b", 1], ["c", 1]]
    assert set(str(of(result, "a", "main latents")).split(", ")) == {"0", "10"}
    assert of(result, "a", "cosine") == pytest.approx(0.5**0.5)
    found = {name.removeprefix("splitting_"): value for name, value in result.metrics.items()}
    assert found["latents"] == pytest.approx(4 / 3)
    assert found["frac"] == pytest.approx(1 / 3)
    assert found["main_f1"] == pytest.approx(1)
    assert found["first_f1"] < 0.95
    assert set(result.metrics) == set(result.meaning)
    assert result.intervals["splitting_latents"][0] < 4 / 3 < result.intervals["splitting_latents"][1]


def test_whole_letters_have_one_latent_and_shuffled_ones_are_at_chance():
    result = scored(Splitting)
    assert result.metrics["splitting_latents"] == 1
    assert result.metrics["splitting_first_f1"] == 1
    assert result.metrics["splitting_null_f1"] < 0.55  # always to say yes gives 0.5


def test_the_best_latents_come_first_also_by_being_negative():
    seen, code, _ = planted()
    labels = {letter: seen.concept.is_class(number) for number, letter in enumerate(LETTERS)}
    assert rank(code, labels, ~seen.concept.test)[:, 0].tolist() == [0, 1, 2]
    dense = code.to_dense()
    dense[:, 1] *= -1
    ranked = rank(SparseCode.from_dense(dense), labels, ~seen.concept.test, n=100)
    assert ranked[:, 0].tolist() == [0, 1, 2]
    assert ranked.shape == (3, 40)


def test_ranking_does_not_depend_on_units():
    seen, code, _ = planted()
    labels = {letter: seen.concept.is_class(number) for number, letter in enumerate(LETTERS)}
    one, other = (rank(code.with_values(code.values * unit), labels, ~seen.concept.test) for unit in (1.0, 1000.0))
    assert torch.equal(one[:, :1], other[:, :1])


def test_latents_count_while_f1_jumps():
    def letter(*f1: float) -> list[int]:
        return Letter(Probe(np.zeros(1), 0.0), 1.0, torch.arange(len(f1)), f1).main(0.03).tolist()

    assert letter(0.5, 0.52, 0.9) == [0]
    assert letter(0.5, 0.6, 0.62, 0.9) == [0, 1]
    assert letter(0.5, 0.6, 0.7) == [0, 1, 2]


def test_f1():
    said, truth = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert f1_score(said, truth) == 0.5
    assert f1_score(truth, truth) == 1
    assert f1_score(~truth & truth, ~truth & truth) == 0


def test_a_silent_code_says_nothing_of_letters():
    seen, code, _ = planted()
    with pytest.raises(NotMeasurable, match="no latent is active on any of the words"):
        read_letters(seen, SparseCode.from_dense(0 * code.to_dense()), seed=0)


def test_letters_that_no_probe_finds_are_left_out():
    seen, code, _ = planted()
    noise = torch.randn(seen.x.shape, generator=torch.Generator().manual_seed(0))
    blind = read_letters(replace(seen, x=noise), code, seed=0)
    with pytest.raises(NotMeasurable, match=r"find 0 first letters with an F1 above 0.6, and 2 are needed: the model"):
        blind.well_probed(0.6, 2)
    assert blind.known["a"].probe_f1 < 0.55


# -- on a model ----------------------------------------------------------------------------------------


def test_small_models_and_dictionaries_are_refused_unless_asked(subject_of):
    subject = subject_of(build("topk", 32, {"n_latents": 64, "k": 6}).sae.inference())
    n = f"{subject.model().n_parameters:,}"
    with pytest.raises(NotMeasurable) as refused:
        Absorption()(subject)
    assert str(refused.value) == (
        f"the dictionary has 64 latents, below 16,384 and the model has {n} parameters, below 1,000,000,000: even an "
        "SAE that has learned nothing looks good there (lower eval.absorption.min_latents and "
        "eval.absorption.min_parameters to measure it all the same)"
    )
    with pytest.raises(NotMeasurable, match=r"^the model has .* \(lower eval.absorption.min_parameters to measure"):
        Absorption(min_latents=64)(subject)
    with pytest.raises(NotMeasurable, match="no tokens that are whole words behind a space"):
        Absorption(min_latents=0, min_parameters=0)(subject)


@pytest.fixture(scope="module")
def reader(tmp_path_factory, tiny_text_file):
    """A tiny model that reads words, and the store of its activations."""
    from saelab.activations import CaptureSpec, capture
    from saelab.lm.corpus import DataSpec
    from saelab.lm.mask import MaskSpec
    from saelab.lm.model import ModelSpec, load
    from saelab.lm.windows import WindowSpec
    from saelab.testing.tiny import tiny_model

    here = tmp_path_factory.mktemp("reader")
    lm = load(ModelSpec(str(tiny_model(here / "model", words=True)), dtype="float32", device="cpu"))
    spec = CaptureSpec(
        hooks=("blocks.0.hook_resid_post",), tokens=600, heldout_tokens=200, dtype="float32", dir=str(here / "store")
    )
    windows = WindowSpec(context_length=48, heldout_frac=0.2)
    store = capture(lm, DataSpec(str(tiny_text_file)), windows, MaskSpec(), spec)
    sae = build("topk", 32, {"n_latents": 64, "k": 6}).sae.inference()
    return Subject(sae, store, "blocks.0.hook_resid_post", store.mask, lambda: lm)


@pytest.mark.slow
def test_both_evaluators_on_a_model_that_reads_words(reader, tmp_path):
    loose = {"min_probe_f1": 0.01, "min_letters": 3, "bootstrap_rounds": 20}
    chosen = {"splitting": loose, "absorption": loose | {"min_latents": 0, "min_parameters": 0}}
    told = []
    document = evaluate(
        reader,
        chosen,
        config_sha256="a",
        write_to=tmp_path / "eval.json",
        report=lambda name, done, total: told.append((name, done, total)),
    )
    for name in chosen:
        entry = document["evaluations"][name]
        assert entry["n_examples"] > 10
        assert set(entry["metrics"]) | set(entry.get("not_measurable", {})) == set(entry["meaning"])
    assert told[0][0] == "splitting"  # absorption finds its words read
    assert told[-1][1] == told[-1][2]
    strict = evaluate(reader, {"splitting": {}}, config_sha256="a", write_to=tmp_path / "eval.json")
    assert "and 5 are needed" in strict["evaluations"]["splitting"]["not_measurable"]["splitting"]


def test_words_are_read_once_for_each_sae(reader):
    first = letters(reader, 1000, 0)
    assert letters(reader, 1000, 0) is first
    other = replace(reader, sae=build("topk", 32, {"n_latents": 64, "k": 3}).sae.inference())
    assert letters(other, 1000, 0).seen is first.seen
    assert letters(other, 1000, 0) is not first


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("absorption", {"min_latents": -1}, "min_latents: must not be negative, found -1"),
        ("absorption", {"examples": 0}, "examples: must be at least 1, found 0"),
        ("splitting", {"min_letters": 0}, "min_letters: must be at least 1, found 0"),
    ],
)
def test_settings_that_cannot_be(name, settings, message):
    with pytest.raises(SettingError, match=message):
        EVALUATORS[name](**settings)
