"""The page says what is known, what is missing and how to get it, and no text of any file becomes markup."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saelab.evals.family import Comparison as FamilyComparison
from saelab.evals.family import FamilyTable
from saelab.evals.report import Comparison, Member, of_comparison, of_run, read
from saelab.evals.report.features import chosen
from saelab.evals.report.measured import read_evaluation
from saelab.features import Bundle
from saelab.features.annotations import Annotations
from saelab.testing.bundles import HOSTILE, tiny_bundle
from saelab.testing.markup import Elements
from tests.evals.report_runs import SCRIPT, hostile_run, matching_index, whole_run

OURS = set(
    """html head meta title style body header main nav footer section div h1 h2 h3 p a b br span bdi code pre ul ol li
    dl dt dd small details summary figure figcaption article mark table thead tbody tr th td svg g path rect circle
    text""".split()  # noqa: SIM905
)
ATTRIBUTES = set(
    """lang charset http-equiv content name class id aria-labelledby aria-label aria-hidden role viewbox x y cx cy r
    width height d text-anchor scope dir style title href tabindex""".split()  # noqa: SIM905
)

WriteRun = Callable[..., Path]


def page(path: Path) -> str:
    return of_run(read(path))


def check_markup(written: str) -> Elements:
    """Raises where anything but our own markup is in it."""
    seen = Elements(written)
    assert set(seen.tags) <= OURS, set(seen.tags) - OURS
    assert {name for name, _ in seen.attributes} <= ATTRIBUTES
    assert all((value or "").startswith("#") for name, value in seen.attributes if name == "href")
    assert all((value or "").startswith("--sl-s:") for name, value in seen.attributes if name == "style")
    assert not {"\u202e", "\u200b", "\0", "\x1b"} & set(written)
    assert "url(" not in written
    assert "@import" not in written
    return seen


# -- one run ------------------------------------------------------------------------------------------


def test_the_page_says_what_was_trained_and_how_it_did(tmp_path: Path, write_run: WriteRun):
    run = matching_index(whole_run(tmp_path / "mine", write_run))
    seen = check_markup(page(run))
    for said in (
        "A topk SAE with 64 latents and k 8 on blocks.1.hook_resid_post of tiny-lm, trained on 1,000 tokens of a.txt.",
        "share not reconstructed", "1,234 tokens", "0.8 to 0.95",  # a metric: what it is, on what, between what
        "Of a plug in", "share of charm", "25 %", "40 examples", "Charms", "By name.", "Charm by k",
        "strangeness: not measurable, because the dictionary is too small",
        "Loss", "Held-out FVU in training", "Latent ", "saelab browse",
        "Set-up", "The whole config",
    ):  # fmt: skip
        assert said in seen.text, said
    assert seen.tags.count("article") == 11  # all that ever fire
    assert "Not measured yet: downstream." not in seen.text  # nothing was planned: the config is not read here


def test_every_picture_is_said_in_words_and_every_section_is_in_the_contents(tmp_path: Path, write_run: WriteRun):
    seen = Elements(page(whole_run(tmp_path / "mine", write_run)))
    labels = [value for name, value in seen.attributes if name == "aria-label"]
    assert any("Charm by k: charm by k. own 0.1 to 0.2; null 0." in (label or "") for label in labels)
    ids = {value for name, value in seen.attributes if name == "id"}
    links = {(value or "")[1:] for name, value in seen.attributes if name == "href"}
    assert links <= ids
    assert {"training", "eval-reconstruction", "eval-of-a-plug-in", "features", "set-up"} <= links


def test_the_page_depends_on_nothing_but_the_files(tmp_path: Path, write_run: WriteRun):
    run = whole_run(tmp_path / "mine", write_run)
    assert page(run) == page(run)


@pytest.mark.parametrize(
    ("state", "said", "command"),
    [
        ("training", "This run is not finished: training. The command that began it goes on.", ""),
        ("failed", "training failed: its loss is no longer finite at step 5", ""),
        ("trained", "This run is not measured yet.", "saelab eval {run}"),
        ("evaluated", "No example features: there is no feature index yet.", "saelab index {run}"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_makes_it(
    tmp_path: Path, write_run: WriteRun, state: str, said: str, command: str
):
    run = write_run(tmp_path / "mine", state)
    seen = check_markup(page(run))
    assert said in seen.text
    assert command.format(run=run) in seen.text
    if state == "trained":
        assert "~0.4" in seen.text
        assert "found while training" in seen.text


def test_an_unfinished_run_of_its_own_goes_on_by_its_own_config(tmp_path: Path, write_run: WriteRun):
    run = write_run(tmp_path / "mine", "training")
    assert "saelab run" not in page(run)
    (run / "checkpoints").mkdir()
    assert f"<code>saelab run {run}/config.yaml</code>" in page(run)


def test_evaluators_that_were_planned_or_begun_are_named(tmp_path: Path, write_run: WriteRun):
    from saelab.evals.records import Plan

    run = whole_run(tmp_path / "mine", write_run)
    document = json.loads((run / "eval.json").read_text())
    (run / "eval.json").write_text(json.dumps(document | {"unfinished": {"probing": {}}}))
    shown = of_run(read(run, Plan(evaluators=("reconstruction", "downstream", "probing"))))
    assert "Not measured yet: downstream, probing (begun)." in Elements(shown).text


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "summary.json", "eval.json", "sae/config.json"])
@pytest.mark.parametrize("content", ["", "[]", "{", "\0\0", None])
def test_damaged_and_missing_files_do_not_stop_the_page(
    tmp_path: Path, write_run: WriteRun, name: str, content: str | None
):
    run = whole_run(tmp_path / "mine", write_run)
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    seen = check_markup(page(run))
    assert "mine" in seen.text
    if name == "eval.json" and content in ("", "{"):
        assert "eval.json: not a readable JSON file" in seen.text


def test_a_damaged_index_or_another_ones_is_said(tmp_path: Path, write_run: WriteRun):
    run = whole_run(tmp_path / "mine", write_run)
    assert "the index is of another SAE than the one in sae/" in page(run)
    matching_index(run)
    (run / "index" / "features.parquet").write_bytes(b"")
    assert "the index cannot be read: this file of the index is missing or damaged" in page(run)
    (run / "index" / "manifest.json").unlink()
    (run / "index" / "progress.json").write_text("{}")
    assert "the index is not finished yet" in page(run)


# -- hostile text -------------------------------------------------------------------------------------


def test_no_text_of_a_run_becomes_markup(tmp_path: Path, write_run: WriteRun):
    run = matching_index(hostile_run(tmp_path / "<b>mine</b>", write_run))
    Annotations.beside(run).set_label(Bundle(run / "index").sae_sha256, 1, SCRIPT)
    written = page(run)
    seen = check_markup(written)
    assert seen.text.count(SCRIPT) > 10
    assert "<b>mine</b>" in seen.text
    assert "x" * 2_001 not in written
    assert seen.tags.count("script") == 0
    assert "Nothing to draw." in seen.text


def test_no_text_of_several_runs_becomes_markup(tmp_path: Path, write_run: WriteRun):
    runs = [read(hostile_run(tmp_path / name, write_run)) for name in ("a", "b")]
    members = [Member(SCRIPT, 0, runs[:1]), Member(HOSTILE[1], 1, runs[1:])]
    seen = check_markup(of_comparison(Comparison(SCRIPT, members, notes=[SCRIPT])))
    assert seen.text.count(SCRIPT) > 10


def test_what_an_entry_should_not_hold_is_left_out():
    found = read_evaluation(
        "x", {"metrics": {"a": True, "b": "1", "c": 2}, "tables": "none", "charts": [{"series": 5}]}
    )
    assert (found.metrics, found.tables, found.charts, found.counted) == ({"c": 2}, [], [], "")
    table = {"title": 5, "columns": ["a", 1], "rows": [[1, 2, 3], ["x"], None]}
    (read,) = read_evaluation("x", {"tables": [table]}).tables
    assert (read.title, read.columns, read.rows) == ("", ["a", "1"], [[1, 2], ["x", None], [None, None]])
    chart = {"series": {"a": [[1, 2, 5, 3], [1, 2, None, 3], ["", 1], [None, 1], []], "b": 4}, "kind": "pie"}
    (drawn,) = read_evaluation("x", {"charts": [chart]}).charts
    assert (drawn.kind, drawn.series) == ("line", {"a": [[1, 2, 3, 5], [1, 2], ["", 1]]})


# -- features -----------------------------------------------------------------------------------------


def test_examples_are_those_written_about_and_others_spread_over_all_densities(tmp_path: Path):
    bundle = Bundle(tiny_bundle(tmp_path / "index", n_latents=60))
    notes = Annotations(tmp_path / "notes.sqlite")
    notes.set_label(bundle.sae_sha256, 5, "five")
    notes.set_label(bundle.sae_sha256, 3, "dead")
    written, spread = chosen(bundle, notes)
    assert written == [5]
    assert len(spread) == len(set(spread)) == 11
    assert not {3, 5} & set(spread)
    densities = [bundle.density[latent] for latent in spread]
    assert densities == sorted(densities)
    ranks = sorted(bundle.density[bundle.density > 0]).index
    assert ranks(densities[0]) < 10
    assert ranks(densities[-1]) > 48


# -- several runs -------------------------------------------------------------------------------------


def compared(tmp_path: Path, write_run: WriteRun) -> Comparison:
    members = []
    for number, (name, fvu, l0) in enumerate((("sparse", 0.3, 8.0), ("dense", 0.2, 16.0), ("other", 0.25, 8.0))):
        runs = [read(whole_run(tmp_path / f"seed-{s}" / name, write_run, fvu=fvu + s / 100, l0=l0)) for s in (0, 1)]
        members.append(Member(name, number, runs))
    return Comparison("family", members)


def test_several_runs_stand_side_by_side(tmp_path: Path, write_run: WriteRun):
    seen = check_markup(of_comparison(compared(tmp_path, write_run)))
    for said in (
        "3 SAEs, each on 2 seeds, side by side, on blocks.1.hook_resid_post of tiny-lm.",
        "Lowest FVU", "dense at L0 16", "FVU against L0", "Lost CE against L0", "Held-out FVU in training",
        "sparse, seed 1", "share not reconstructed", "Charm by k: own", "Tables, side by side", "Not measurable",
    ):  # fmt: skip
        assert said in seen.text, said
    assert "Charm by k: null" not in seen.text  # the same for all
    labels = [value or "" for name, value in seen.attributes if name == "aria-label"]
    assert any(label.startswith("FVU of 3: 0.2 to 0.31") for label in labels)


def test_a_family_is_shown_beside_its_reference(tmp_path: Path, write_run: WriteRun):
    found = compared(tmp_path, write_run)
    comparison = FamilyComparison(("sparse", "dense", "other"), (0, 1), curve=("sparse", "dense"), label="the curve")
    records = {(m.name, s): m.runs[s].record for m in found.members for s in (0, 1)}
    table = FamilyTable.of(comparison, records)
    seen = check_markup(of_comparison(Comparison("family", found.members, table)))
    for said in ("FVU beside the reference", "better than the curve at the same L0", "× 0.83", "± reaches both seeds"):
        assert said in seen.text, said
    labels = [value or "" for name, value in seen.attributes if name == "aria-label"]
    assert any("the curve 0.2" in label or "the curve 0.3" in label or "the curve 0.20" in label for label in labels)


def test_what_is_not_measured_yet_stands_there_all_the_same(tmp_path: Path, write_run: WriteRun):
    runs = [read(write_run(tmp_path / state, state)) for state in ("training", "trained", "evaluated")]
    shown = of_comparison(Comparison("x", [Member(run.name, i, [run]) for i, run in enumerate(runs)]))
    seen = check_markup(shown)
    assert "Not measured yet: training: training; trained: trained." in seen.text
    assert "~0.4" in seen.text
    assert "~ on the few held-out tokens" in seen.text
