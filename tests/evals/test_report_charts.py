"""Charts stand where their numbers say, whatever the numbers; nothing is drawn outside of the picture."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saelab.evals.base import Chart
from saelab.evals.report import axes, charts
from saelab.evals.report.marks import NUMBERS, WIDTH, Point, looks, shape
from saelab.evals.report.pieces import figure
from saelab.evals.report.rows import Dot, rows
from saelab.evals.report.words import between, count, duration, measured, said, size, title

NUMBER = st.floats(-1e30, 1e30) | st.floats(1e-28, 1.0)


def drawn(svg: str) -> ElementTree.Element:
    """The picture, parsed: it is well-formed XML, too."""
    return ElementTree.fromstring(svg)


def by_class(svg: str, name: str) -> list[ElementTree.Element]:
    return [one for one in drawn(svg).iter() if name in (one.get("class") or "").split()]


# -- axes ---------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(NUMBER, min_size=1, max_size=9), st.booleans(), st.booleans())
@example([1.0, 1e-306], True, False)
@example([1e306, 1e-306], True, False)
def test_every_value_has_a_place_and_ticks_are_in_order(values: list[float], log: bool, from_zero: bool):
    axis = axes.of_numbers(values, log=log, from_zero=from_zero)
    places = [axis.place(value) for value in sorted(values)]
    assert all(0 <= place <= 1 for place in places)
    assert places == sorted(places)
    shares = [share for share, _ in axis.ticks]
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares)
    assert shares == sorted(shares)
    assert len(shares) <= 12


def test_equal_steps_of_a_logarithmic_axis_are_equal_ratios():
    axis = axes.of_numbers([1, 10, 100], log=True, exact=True)
    one, ten, hundred = (axis.place(value) for value in (1, 10, 100))
    assert ten - one == pytest.approx(hundred - ten)
    assert [name for _, name in axis.ticks] == ["1", "10", "100"]
    assert not axes.of_numbers([0, 10], log=True).log
    assert [name for _, name in axes.of_numbers([16, 32, 64, 128], log=True, exact=True).ticks] == [
        "16",
        "32",
        "64",
        "128",
    ]


def test_a_linear_axis_has_round_numbers_and_bars_begin_at_zero():
    assert [name for _, name in axes.of_numbers([0.03, 0.21, 0.1, 0.11, 0.05, 0.06, 0.2], log=False).ticks] == [
        "0.05", "0.1", "0.15", "0.2",
    ]  # fmt: skip
    axis = axes.of_numbers([5, 7], log=False, from_zero=True)
    assert (axis.low, axis.place(0)) == (0, 0)
    assert axes.of_numbers([-5, 7], log=False, from_zero=True).place(0) > 0
    assert axes.of_numbers([0, 0], log=False, from_zero=True).high > 0


def test_names_stand_side_by_side_and_some_go_unwritten_where_they_do_not_fit():
    axis = axes.of_names(["a", "b", "a", "c", "d"], most=2)
    assert [axis.place(name) for name in "abcd"] == [0.125, 0.375, 0.625, 0.875]
    assert axis.ticks == [(0.125, "a"), (0.625, "c")]


# -- charts -------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "<c>", "d & e"]),
        st.lists(
            st.tuples(NUMBER, NUMBER)
            | st.tuples(st.sampled_from(["x", "y 1"]), NUMBER)
            | st.tuples(NUMBER, NUMBER, NUMBER, NUMBER),
            max_size=6,
        ),
        max_size=4,
    ),
    st.sampled_from(["line", "bars", "scatter"]),
    st.booleans(),
    st.booleans(),
)
def test_any_chart_is_drawn_inside_its_picture(series, kind, log_x, log_y):
    chart = Chart("t", "x", "y", {name: list(map(list, found)) for name, found in series.items()}, kind, log_x, log_y)
    svg = charts.draw(chart)
    if not svg:
        assert not charts.points(chart)
        return
    root = drawn(svg)
    width, height = map(float, str(root.get("viewBox")).split()[2:])
    assert width == WIDTH
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<title>.*?</title>|aria-label=\".*?\"", "", svg))
    for one in root.iter():
        for key, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            if key in one.keys():  # noqa: SIM118  (an element, not a mapping)
                assert -1 <= float(str(one.get(key))) <= most + 1


def test_points_stand_where_their_numbers_say():
    svg = charts.draw(Chart("t", "k", "y", {"a": [[1, 0.0], [10, 0.5], [100, 1.0]]}, log_x=True))
    (x1, y1), (x2, y2), (x3, y3) = ((float(str(c.get("cx"))), float(str(c.get("cy")))) for c in by_class(svg, "mark"))
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert x1 < x2
    assert y1 > y2
    assert "<title>a, 10: 0.5</title>" in svg
    assert str(drawn(svg).get("aria-label")) == "t: y by k. a 0 to 1."


def test_bars_are_as_tall_as_their_numbers_and_those_below_zero_hang():
    svg = charts.draw(Chart("t", "bin", "n", {"a": [["1", 4], ["2", 2], ["3", 0], ["4", -2]]}, kind="bars"))
    tall = [float(str(bar.get("height"))) for bar in by_class(svg, "bar")]
    assert tall[0] == pytest.approx(2 * tall[1], abs=0.2)
    assert tall[2] == 0
    top = [float(str(bar.get("y"))) for bar in by_class(svg, "bar")]
    assert top[0] + tall[0] == pytest.approx(top[1] + tall[1], abs=0.2)
    assert top[3] == pytest.approx(top[0] + tall[0], abs=0.2)
    assert tall[3] == pytest.approx(tall[1], abs=0.2)


def test_named_bars_and_several_series_become_rows_with_every_name_written():
    names = [f"a long name of {letter}" for letter in "abcdefgh"]
    svg = charts.draw(Chart("t", "what", "n", {"a": [[name, 1] for name in names]}, kind="bars"))
    assert len(by_class(svg, "name")) == 8
    svg = charts.draw(Chart("t", "what", "n", {"a": [["1", 1]], "b": [["1", 2], ["2", 3]]}, kind="bars"))
    assert [one.text for one in by_class(svg, "name")] == ["1", "2"]
    assert len(by_class(svg, "mark")) == 3


def test_intervals_are_an_area_lines_or_left_out_as_there_is_room():
    def of(many: int) -> str:
        series = {f"s{i}": [[1, i, i - 0.5, i + 0.5], [2, i, i - 0.5, i + 0.5]] for i in range(many)}
        return charts.draw(Chart("t", "x", "y", series))

    assert len(by_class(of(2), "band")) == 2
    assert len(by_class(of(5), "whisker")) == 5
    assert not by_class(of(12), "whisker")
    many = charts.draw(Chart("t", "x", "y", {"a": [[x, x] for x in range(400)]}))
    assert not by_class(many, "mark")
    assert "<title>a, at last 399</title>" in many


def test_what_a_logarithmic_axis_has_no_place_for_is_left_out():
    chart = Chart("t", "x", "y", {"a": [[0, 1], [1, 0], [1, 1]], "b": [[-1, 1]]}, log_x=True, log_y=True)
    assert charts.points(chart) == {"a": [Point(1, 1)]}
    assert "Nothing to draw" in figure(Chart("t", "x", "y", {"b": [[-1, 1]]}, log_x=True))


def test_rows_put_a_dot_on_one_axis_beside_each_name():
    dots = {"one": [Dot(0, Point("one", 1.0), "one: 1")], "two": [Dot(1, Point("two", 3.0, 2.0, 4.0), "two: 3")]}
    svg = rows("told", dots, "what", mark=1.0)
    assert [one.text for one in by_class(svg, "name")] == ["one", "two"]
    line = next(one for one in by_class(svg, "axis"))
    one = by_class(svg, "mark")[0]
    assert float(re.findall(r"M([\d.]+)", str(line.get("d")))[0]) == pytest.approx(float(str(one.get("cx"))), abs=0.2)
    assert rows("told", {}, "what") == ""
    assert rows("told", {"one": [Dot(0, Point("one", 0.0), "")]}, "what", log=True) == ""


def test_no_two_of_many_series_look_alike():
    seen = {(looks(n).split()[2], shape(n, 0, 0)) for n in range(NUMBERS)}
    assert len(seen) == NUMBERS


# -- words --------------------------------------------------------------------------------------------


def test_numbers_are_written_shortly_and_in_their_units():
    assert [said(x) for x in (0.123456, 1234.5, 12.0, -0.5, 1e-7, math.inf, None)] == [
        "0.1235", "1,234", "12", "−0.5", "1e−07", "–", "–",
    ]  # fmt: skip
    assert measured("dead_frac", 0.0156) == "1.56 %"
    assert measured("delta_ce_nats", 0.21) == "0.21 nats"
    assert measured("fvu", None) == "–"
    assert between("dead_frac", (0.01, 0.02)) == "1 to 2 %"
    assert between("fvu", None) == ""
    assert (title("fvu"), title("ce_score_mean"), title("of_a_plug_in")) == ("FVU", "CE score mean", "Of a plug in")
    assert (count(1, "seed"), count(2000, "latent"), size(1_740_800), size(900)) == (
        "1 seed",
        "2,000 latents",
        "1.74 M",
        "900",
    )
    assert [duration(s) for s in (3, 600, 9000)] == ["3 s", "10 min", "2.5 h"]
