"""The comparison of variants: means and spreads, the reference at equal L0, what is missing, tables and plot."""

from __future__ import annotations

import csv as reader
import io
import itertools
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from saelab.errors import SaelabError, SettingError
from saelab.evals.family import FILE, Comparison, FamilyTable, Spread, csv, document, markdown, read, terminal, write
from saelab.evals.family.labels import Box, Label, along, around, arrange, crowd, free_window
from saelab.evals.family.table import at_l0
from saelab.evals.records import RunRecord, State


def record(
    l0: float, fvu: float, ce: float | None = None, *, state: State = "evaluated", progress: float = 1.0, **more: float
) -> RunRecord:
    metrics = {"l0": l0, "fvu": fvu} | ({} if ce is None else {"ce_score": ce}) | more
    return RunRecord(
        Path("r"), "topk", {}, state, progress, 1000, 50.0, 0, metrics if state == "evaluated" else {}, {}, 0
    )


CURVE = {("t16", 0): record(16, 0.4, 0.9), ("t64", 0): record(64, 0.1, 0.975)}
"""FVU falls by 4 over a factor of 4 in L0, as does 1 - CE score: at L0 32 they are 0.2 and 0.05."""


def table(runs, members=("t16", "t64", "a"), seeds=(0,), **more) -> FamilyTable:
    return FamilyTable.of(Comparison(members, seeds, curve=("t16", "t64"), label="TopK", **more), runs)


def test_a_spread_is_the_range_of_two_and_one_deviation_of_three():
    assert Spread.of([]) is None
    one, two, three = Spread((2.0,)), Spread((1.0, 3.0)), Spread((1.0, 2.0, 3.0))
    assert (one.mean, one.low, one.high, one.std) == (2, 2, 2, None)
    assert (two.mean, two.low, two.high, two.std) == (2, 1, 3, None)
    assert (three.mean, three.low, three.high, three.std) == (2, 1, 3, 1)


def test_the_curve_is_straight_in_logarithms():
    points = [{"l0": 64.0, "fvu": 0.1, "ce_score": 0.975}, {"l0": 16.0, "fvu": 0.4, "ce_score": 0.9}]
    assert at_l0(points, "fvu", 32) == pytest.approx(0.2)
    assert at_l0(points, "ce_score", 32) == pytest.approx(0.95)
    assert at_l0(points, "fvu", 16) == pytest.approx(0.4)
    assert at_l0(points, "fvu", 64) == pytest.approx(0.1)
    assert at_l0(points, "fvu", 15.9) is None
    assert at_l0(points, "fvu", 64.1) is None
    assert at_l0(points, "dead_frac", 32) is None
    assert at_l0(points[:1], "fvu", 64) is None
    perfect = [{"l0": 16.0, "ce_score": 0.9}, {"l0": 64.0, "ce_score": 1.1}]
    assert at_l0(perfect, "ce_score", 32) == pytest.approx(1.0)


def test_a_member_stands_beside_the_curve_at_its_own_l0():
    row = table({**CURVE, ("a", 0): record(32, 0.25, 0.9)}).rows[2]
    assert row.reference is not None
    assert row.reference.name == "TopK"
    assert row.reference.fvu.mean == pytest.approx(0.2)
    assert row.reference.fvu_ratio.mean == pytest.approx(1.25)
    assert row.reference.ce_score is not None
    assert row.reference.ce_score.mean == pytest.approx(0.95)
    assert row.reference.added_loss_ratio is not None
    assert row.reference.added_loss_ratio.mean == pytest.approx(2.0)


def test_ratios_are_taken_within_a_seed():
    """Where seed 1 makes everything worse by half, ratios do not see it."""
    other = {(name, 1): record(r.metrics["l0"], 1.5 * r.metrics["fvu"]) for (name, _), r in CURVE.items()}
    runs = {**CURVE, **other, ("a", 0): record(32, 0.2), ("a", 1): record(32, 0.3)}
    row = table(runs, seeds=(0, 1)).rows[2]
    assert row.values["fvu"].values == (0.2, 0.3)
    assert row.reference is not None
    assert row.reference.fvu_ratio.values == pytest.approx((1.0, 1.0))
    assert row.reference.added_loss_ratio is None  # nobody has a CE score on that seed, and 'a' has none at all


def test_beyond_the_curve_a_companion_takes_over_on_all_seeds():
    runs = {("big", 0): record(300, 0.05, 0.99), ("a", 0): record(320, 0.06, 0.985), **CURVE}
    members = ("t16", "t64", "a", "big")
    assert table(runs, members).rows[2].reference is None
    row = table(runs, members, beside={"a": "big"}).rows[2]
    assert row.reference is not None
    assert (row.reference.name, row.reference.l0.mean) == ("big", 300)
    assert row.reference.fvu_ratio.mean == pytest.approx(1.2)
    inside = table({**runs, ("a", 0): record(32, 0.2)}, members, beside={"a": "big"}).rows[2]
    assert inside.reference is not None
    assert inside.reference.name == "TopK"
    straddling = {**runs, ("a", 1): record(60, 0.2), ("big", 1): record(300, 0.05)}
    both = table(straddling, members, (0, 1), beside={"a": "big"}).rows[2]
    assert both.reference is not None
    assert (both.reference.name, len(both.reference.fvu.values)) == ("big", 2)


def test_members_of_the_curve_are_in_its_order_and_have_no_reference():
    found = table(CURVE, ("t64", "t16"))
    assert [row.name for row in found.curve] == ["t16", "t64"]
    assert [row.reference for row in found.rows] == [None, None]


def test_what_is_not_measured_is_listed_and_counts_for_nothing():
    runs = {
        **CURVE,
        ("a", 0): record(0, 0, state="training", progress=0.4),
        ("a", 1): record(32, 0.2),
        ("b", 0): record(0, 0, state="failed"),
        ("t16", 1): record(0, 0, state="trained"),
    }
    found = table(runs, ("t16", "t64", "a", "b"), (0, 1))
    assert not found.complete
    unfinished = {row.name: dict(row.unfinished) for row in found.rows}
    assert unfinished == {
        "t16": {1: "trained"},
        "t64": {1: "missing"},
        "a": {0: "training 40 %"},
        "b": {0: "failed", 1: "missing"},
    }
    assert found.rows[2].finished == (1,)
    assert found.rows[2].reference is None  # seed 1 has no curve
    assert found.rows[3].values == {}
    text = markdown(found)
    assert "| b | - | - | - |" in text
    assert "Not measured yet: t16, seed 1: trained; t64, seed 1: missing; a, seed 0: training 40 %; b, seed" in text
    assert table(CURVE, ("t16", "t64")).complete


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"curve": ("t61",)}, "curve: 't61' is not a member\n  fix: did you mean 't64' or 't16'?"),
        ({"beside": {"t16": "x"}}, "beside: 'x' is not a member\n  fix: known: t16, t64"),
        ({"beside": {"t16": "t16"}}, "beside.t16: a member cannot be compared with itself"),
    ],
)
def test_a_comparison_with_what_is_not_there_is_refused(settings, message):
    with pytest.raises(SettingError) as error:
        Comparison(("t16", "t64"), (0,), **settings)
    assert str(error.value) == message


# -- written down -------------------------------------------------------------------------------------


@pytest.fixture
def measured() -> FamilyTable:
    runs = {
        **CURVE,
        ("t16", 1): record(16, 0.42, 0.9),
        ("t64", 1): record(64, 0.11, 0.975),
        ("a", 0): record(32, 0.25, 0.9, dead_frac=0.01),
        ("a", 1): record(32, 0.27, 0.92, dead_frac=0.03),
        ("b", 0): record(320, 0.05, 0.99),
    }
    return table(runs, ("t16", "t64", "a", "b"), (0, 1), beside={"b": "t64"})


def test_markdown_for_a_readme(measured):
    lines = markdown(measured, ["member", "l0", "fvu", "reference_fvu", "fvu_ratio", "dead_frac"]).splitlines()
    assert lines[:6] == [
        "| member | L0 | FVU | TopK at this L0 | ratio | dead |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| t16 | 16.0 ±.0 | 0.410 ±.010 | - | - | - |",
        "| t64 | 64.0 ±.0 | 0.105 ±.005 | - | - | - |",
        "| a | 32.0 ±.0 | 0.260 ±.010 | 0.207 ±.007 | 1.253 ±.003 | 2.0 ±1.0 % |",
        "| b | 320.0 | 0.050 | 0.100 | 0.500 | - |",
    ]
    assert lines[7:] == [
        "Means of 2 seeds; ± reaches both seeds.",
        "b stands beside t64, at L0 64.0.",
        "Not measured yet: b, seed 1: missing.",
    ]


def test_the_terminal_shows_the_same(measured):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal(measured))
    text = console.export_text()
    assert "1.253 ±.003" in text
    assert "Not measured yet: b, seed 1: missing." in text


def test_json_holds_every_seed(measured):
    found = json.loads(json.dumps(document(measured), allow_nan=False))
    assert (found["label"], found["seeds"], found["complete"]) == ("TopK", [0, 1], False)
    a, b = found["members"][2:]
    assert a["values"]["fvu"] == {"mean": 0.26, "min": 0.25, "max": 0.27, "std": None, "seeds": [0.25, 0.27]}
    assert a["reference"]["name"] == "TopK"
    assert a["values"]["tokens_per_second"]["seeds"] == [50, 50]
    assert (b["unfinished"], b["finished"], b["reference"]["l0"]["mean"]) == ({"1": "missing"}, [0], 64)


def test_what_was_written_is_read_again(measured, tmp_path):
    write(measured, tmp_path)
    assert document(read(tmp_path / FILE)) == document(measured)


@pytest.mark.parametrize("change", [{"schema": 9}, {"members": [{}]}, {"seeds": ["x"]}, {"curve": ["nobody"]}])
def test_a_damaged_comparison_says_so(measured, tmp_path, change):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document(measured) | change))
    with pytest.raises(SaelabError, match=r"mine\.json: (this comparison is damaged|not a comparison of schema 1)"):
        read(path)


def test_csv_has_a_line_for_each_member(measured):
    rows = {row["member"]: row for row in reader.DictReader(io.StringIO(csv(measured)))}
    assert list(rows) == ["t16", "t64", "a", "b"]
    assert float(rows["a"]["fvu_max"]) == 0.27
    assert float(rows["a"]["reference_fvu_ratio_mean"]) == pytest.approx(1.253, abs=1e-3)
    assert rows["a"]["dense_frac_mean"] == ""
    assert (rows["b"]["reference"], rows["b"]["unfinished"], rows["b"]["seeds"]) == ("t64", "seed 1: missing", "1")


# -- drawn --------------------------------------------------------------------------------------------

CROWDED = {
    "poor": (34, 0.3, 0.93),
    "poorer": (32.5, 0.31, 0.94),
    "a_long_name_indeed": (29, 0.19, 0.955),
    "good_one": (31, 0.185, 0.96),
    "good_two": (31.5, 0.184, 0.961),
    "good_three": (32, 0.19, 0.953),
    "just_so": (33, 0.2, 0.95),
    "far": (330, 0.02, 0.995),
    "near_far": (300, 0.021, 0.994),
}


@pytest.fixture
def family() -> FamilyTable:
    runs = {("t16", 0): record(16, 0.4, 0.9), ("t64", 0): record(64, 0.1, 0.975)}
    runs |= {(name, 0): record(*found) for name, found in CROWDED.items()}
    runs |= {
        (name, 1): record(1.01 * r.metrics["l0"], 1.02 * r.metrics["fvu"], 0.99 * r.metrics["ce_score"])
        for (name, _), r in runs.items()
    }
    return table(runs, ("t16", "t64", *CROWDED), (0, 1), title="nine of them")


def test_in_the_plot_every_member_is_named_once_and_no_label_covers_another(family):
    from saelab.evals.family.plot import PANELS, figure

    picture = figure(family)
    texts = [text for axis in picture.axes for text in axis.texts]
    names = [text.get_text() for text in texts]
    assert sorted(names) == sorted([*CROWDED, "TopK"] * len(PANELS))
    boxes = [text.get_window_extent() for text in texts]
    for one, other in itertools.combinations(boxes, 2):
        assert not Box(*one.extents).meets(Box(*other.extents))
    page = Box(0, 0, *(72 * picture.get_size_inches()))
    assert all(Box(*box.extents).inside(page) for box in boxes)
    assert len(picture.axes) == 2 * len(PANELS)  # a window on the crowd in each


def test_a_narrow_window_leaves_room_for_labels_beside_it_and_for_its_ticks():
    from saelab.evals.family.plot import figure

    curve = {
        "k16": (16, 0.202, 0.967),
        "k32": (32, 0.169, 0.977),
        "k64": (64, 0.139, 0.984),
        "k128": (128, 0.104, 0.989),
    }
    members = {
        "relu": (32.2, 0.222, 0.957),
        "gated": (33.7, 0.157, 0.981),
        "jumprelu": (34, 0.168, 0.979),
        "batch_topk": (33.6, 0.1541, 0.9824),
        "matryoshka": (32.6, 0.163, 0.9817),
        "abs_topk": (32, 0.181, 0.974),
        "mutual_choice": (33.7, 0.154, 0.9826),
        "feature_choice": (33.7, 0.16, 0.9818),
        "gradient_topk": (32, 0.172, 0.9775),
        "matching_pursuit": (32, 0.12, 0.987),
        "group_bias": (29.6, 0.334, 0.902),
        "top_afa": (91.7, 0.161, 0.978),
    }
    runs = {(name, 0): record(*found) for name, found in (curve | members).items()}
    comparison = Comparison((*curve, *members), (0,), tuple(curve), "topk")
    picture = figure(FamilyTable.of(comparison, runs))
    picture.canvas.draw()
    labels = [text for axis in picture.axes for text in axis.texts]
    for texts in (labels, *(axis.get_xticklabels() for axis in picture.axes)):
        for one, other in itertools.combinations((text.get_window_extent() for text in texts), 2):
            assert not Box(*one.extents).meets(Box(*other.extents))


@pytest.mark.slow
def test_files_are_written_and_the_same_each_time(family, tmp_path):
    paths = write(family, tmp_path / "one")
    assert [path.name for path in paths] == ["family.json", "family.csv", "family.md", "family.png", "family.svg"]
    again = write(family, tmp_path / "two")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert paths[3].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("runs", [{}, {("t16", 0): record(16, 0.4)}, {("a", 0): record(0.0, 1.0, 1.2)}])
def test_little_or_nothing_can_be_drawn_too(runs, tmp_path):
    found = write(table(runs), tmp_path)
    assert [path.suffix for path in found] == [".json", ".csv", ".md", ".png", ".svg"][: 5 if runs else 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in found)


def test_columns_of_labels_keep_order_and_distance():
    labels = [Label(50, y, 40, 10, rightwards=True) for y in (52, 50, 51, 80)]
    panel = Box(0, 0, 200, 100)
    places = arrange(labels, panel, [])
    heights = [(place.box.bottom + place.box.top) / 2 for place in places]
    assert sorted(range(4), key=heights.__getitem__) == [1, 2, 0, 3]
    assert heights[3] == 80
    assert min(b - a for a, b in itertools.pairwise(sorted(heights))) == pytest.approx(11.2)
    assert sum(heights[:3]) / 3 == pytest.approx(51)
    assert all(place.rightwards and place.box.inside(panel) for place in places)


def test_labels_turn_to_the_other_side_at_the_panels_edge():
    (place,) = arrange([Label(190, 50, 40, 10, rightwards=True)], Box(0, 0, 200, 100), [])
    assert not place.rightwards
    assert place.box.right < 190


def test_a_window_is_found_where_nothing_is():
    panel = Box(0, 0, 300, 300)
    taken = [around([point], 5) for point in along([(0, 300), (300, 0)])]
    window = free_window(panel, taken, (0, 0))
    assert window is not None
    assert not any(window.meets(box) for box in taken)
    assert window.right < 200
    assert free_window(panel, [panel], (0, 0)) is None


def test_a_crowd_is_the_largest_chain_of_near_points():
    points = [(0.0, 0.0), (8.0, 0.0), (16.0, 0.0), (100.0, 0.0), (104.0, 0.0), (300.0, 0.0)]
    assert crowd(points, 9) == [0, 1, 2]
    assert crowd([], 9) == []
    assert math.dist(points[0], points[2]) > 9
