"""The page of an experiment: pictures stand where numbers say, whatever they are; no text becomes markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.circuits.findings import Findings, findings
from saelab.circuits.report import of_findings
from saelab.circuits.report.drawing import draw
from saelab.circuits.report.figures import all_kept, kept, random_band, rocs, short_name, truth_name
from saelab.circuits.report.heads import about, circuit, scores
from saelab.circuits.report.heat import heat, level
from saelab.circuits.report.latents import fed_by, feeds
from saelab.circuits.report.layout import lay_out
from saelab.circuits.report.table import method_table
from saelab.evals.report.marks import WIDTH
from tests.circuits.documents import SCRIPT, document


@pytest.fixture
def found() -> Findings:
    return findings(document(), "x")


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def by_class(svg: str, name: str) -> list[ElementTree.Element]:
    return [one for one in drawn(svg).iter() if name in (one.get("class") or "").split()]


# -- heat maps ----------------------------------------------------------------------------------------


def test_shades_grow_with_the_number_and_tell_signs():
    assert [level(x, 1.0) for x in (0, 0.01, 0.5, 1, 2, -1, -0.01)] == ["z", "z", "p5", "p8", "p8", "n8", "z"]
    assert level(0.0, 0.0) == "z"
    shades = [int(level(x / 100, 1.0).strip("pz") or 0) for x in range(101)]
    assert shades == sorted(shades)


def test_every_head_has_a_cell_that_says_its_number_and_members_are_framed():
    values = torch.tensor([[0.5, -1.0], [0.0, 0.25], [2.0, -0.125]])
    inside = values > 0.4
    svg = heat("Scores", values, lambda layer, head: f"{layer}.{head}: {values[layer, head]:g}", inside=inside)
    cells = by_class(svg, "h")
    said = [cell[0].text for cell in cells]
    assert said == ["0.0: 0.5", "0.1: -1", "1.0: 0", "1.1: 0.25", "2.0: 2", "2.1: -0.125"]
    assert [cell.get("class") for cell in cells][4] == "h p8"
    assert [cell.get("class", "").split()[1][0] for cell in cells] == ["p", "n", "z", "p", "p", "n"]
    (frames,) = by_class(svg, "in")
    assert frames.get("d", "").count("M") == int(inside.sum())
    assert (
        drawn(svg).get("aria-label")
        == "Scores, by layer and head. Strongest: 2.0 2; 0.1 −1; 0.0 0.5; 1.1 0.25; 2.1 −0.125."
    )


def test_without_a_sign_what_is_below_0_is_nothing():
    values, nowhere = torch.tensor([[0.5, -1.0], [0.0, 0.25]]), torch.zeros(2, 2, dtype=torch.bool)
    svg = heat("Scores", values, lambda layer, head: "", inside=nowhere, signed=False)
    assert [cell.get("class") for cell in by_class(svg, "h")] == ["h p8", "h z", "h z", "h p5"]
    assert "Strongest: 0.0 0.5; 1.1 0.25; 1.0 0; 0.1 −1." in (drawn(svg).get("aria-label") or "")
    assert 'class="n' not in svg  # the scale begins at 0
    assert level(-1.0, 1.0, signed=False) == "z"


def test_ranks_and_lists_follow_strength_alone():
    whole = document(seeds=1)
    for label, signed in (("first", True), ("third", False)):
        whole["methods"][label]["seeds"][0] |= {"heads": [[-2.0, 1.0, 0.0, 0.0], *[[0.0] * 4] * 5], "signed": signed}
    found = findings(whole, "x")
    assert "0.0: −2, number 1<" in scores(found, "first")
    assert "0.1: 1, number 1<" in scores(found, "third")
    assert "0.0: −2, number 24<" in scores(found, "third")
    assert "Orange helps, blue hurts." in circuit(found, "first")
    assert "does not say whether it helps or hurts" in circuit(found, "third")
    assert "blue" not in circuit(found, "third")


@pytest.mark.parametrize("shape", [(1, 1), (3, 6), (12, 12), (30, 9), (80, 64), (200, 8)])
@pytest.mark.parametrize("kind", ["zero", "one", "mixed"])
def test_cells_stay_inside_of_the_picture(shape: tuple[int, int], kind: str):
    values = {"zero": torch.zeros(shape), "one": torch.ones(shape), "mixed": torch.randn(shape)}[kind]
    svg = heat("Scores", values, lambda layer, head: "", inside=torch.ones(shape, dtype=torch.bool))
    height = float((drawn(svg).get("viewBox") or "").split()[3])
    for cell in by_class(svg, "h"):
        x, y, w, h = map(float, re.findall(r"[\d.]+", cell.get("d", ""))[:4])
        assert x >= 0
        assert x + w <= WIDTH
        assert y >= 0
        assert y + h <= height
    assert len(by_class(svg, "h")) == shape[0] * shape[1]


# -- the circuit --------------------------------------------------------------------------------------


def test_parts_stand_layer_above_layer_and_edges_go_upwards(found: Findings):
    layout = lay_out(found, "edges")
    nodes = layout.nodes
    assert nodes["input"].line == 0
    assert nodes["logits"].line == layout.lines - 1
    heads = {name for name in nodes if "h" in name}
    assert heads == {f"a{layer}.h{head}" for layer, head in found.circuit("edges")}
    placed = sorted((node for node in nodes.values() if node.layer is not None), key=lambda node: node.line)
    assert [node.layer for node in placed] == sorted(node.layer for node in placed if node.layer is not None)
    for way in layout.ways:
        assert nodes[way.source].line < nodes[way.target].line
    assert all(0 <= node.x <= 1 for node in nodes.values())


def test_heads_that_share_a_key_are_all_told():
    whole = document(seeds=1)
    whole["methods"]["edges"]["seeds"][0]["edges"] = [["a0.h1", "a3.g1<k>", 0.75], ["a0.h1", "a3.h2<q>", -1.0]]
    whole["circuit"]["heads"] = 24
    layout = lay_out(findings(whole, "x"), "edges")
    ways = {(way.source, way.target): dict(way.parts) for way in layout.ways}
    assert ways == {("a0.h1", "a3.h2"): {"k": 0.75, "q": -1.0}, ("a0.h1", "a3.h3"): {"k": 0.75}}


def test_pairs_of_heads_without_direction_are_drawn_once():
    whole = document(seeds=1)
    whole["methods"]["edges"]["seeds"][0]["edges"] = [
        ["a4.h1", "a2.h3", 7.0],
        ["a2.h3", "a4.h1", 7.0],
        ["a1.h0", "a1.h2", 9.0],
    ]
    whole["circuit"]["heads"] = 24
    layout = lay_out(findings(whole, "x"), "edges")
    assert [(way.source, way.target) for way in layout.ways] == [("a2.h3", "a4.h1")]


def test_the_picture_names_every_part_and_frames_what_is_true(found: Findings):
    svg = draw(found, "edges")
    layout = lay_out(found, "edges")
    names = [one.text for one in by_class(svg, "on")]
    assert sorted(names, key=str) == sorted(node.label for node in layout.nodes.values())
    assert len(by_class(svg, "edge")) == len(layout.ways)
    true = {f"{layer}.{head}" for layer, head in found.truth.members.nonzero().tolist()}
    framed = {str(one[0].text).partition(":")[0] for one in by_class(svg, "true")}
    assert framed == true & set(names)
    said = drawn(svg).get("aria-label") or ""
    assert all(f"layer {layer}: " in said for layer, _ in found.circuit("edges"))
    assert "the strongest 5.3 → logits: 2." in said


def test_a_method_without_edges_has_the_residual_stream(found: Findings):
    svg = draw(found, "first")
    assert len(by_class(svg, "stream")) == 1
    assert by_class(svg, "edge") == []
    assert len(by_class(svg, "head")) == 7


def test_without_edges_parts_stand_beside_the_residual_stream_by_number(found: Findings):
    layout = lay_out(found, "first")
    lines = [[node for node in layout.nodes.values() if node.line == line] for line in range(layout.lines)]
    (embedding,), *rungs, (logits,) = lines
    assert embedding.x == logits.x < rungs[0][0].x
    for rung in rungs:
        assert sorted(rung, key=lambda node: node.x) == sorted(rung, key=lambda node: node.name)
        assert min(node.x for node in rung) == rungs[0][0].x
        assert max(node.x for node in rung) < 0.95


def test_a_layer_of_many_heads_takes_several_lines():
    whole = document(seeds=1)
    whole |= {"shape": [2, 20], "kv_heads": 20, "curves": {}, "truths": {}, "methods": {}, "features": None}
    whole["truths"] = {"0.02": {"source": "x", "heads": [[0, 19]], "effects": None}}
    row = {"auc": 1.0, "average_precision": 1.0, "rank_correlation": None}
    seed = {"method": "random", "heads": [[1.0] * 20] * 2, "mlps": None, "signed": False}
    cost = {"prompts": 0, "forwards": 0.0, "backwards": 0.0, "seconds": 0.0}
    whole["methods"] = {"all": {"seeds": [seed | {"cost": cost, "rankings": {"0.02": row}}]}}
    whole["circuit"] = {"method": "all", "heads": 40}
    layout = lay_out(findings(whole, "x"), "all")
    lines = [sum(node.line == line for node in layout.nodes.values()) for line in range(layout.lines)]
    assert lines == [1, 6, 6, 6, 2, 6, 6, 6, 2, 1]
    places = [node.x for node in layout.nodes.values() if node.line == 1]
    assert min(b - a for a, b in pairwise(places)) > 0.13


# -- charts and tables --------------------------------------------------------------------------------


def test_roc_curves_go_from_corner_to_corner(found: Findings):
    chart = rocs(found, "0.02")
    assert list(chart.series) == ["first", "edges", "third"]
    for series in chart.series.values():
        heights = [float(y) for _, y in series]
        assert heights == sorted(heights)
        assert (series[-1][0], heights[-1]) == (1.0, 1.0)
    assert "3 of 24 heads are in the circuit" in chart.caption


def test_curves_leave_the_empty_circuit_out_and_random_ones_span_a_band(found: Findings):
    chart = kept(found, "first", "strength")
    assert chart.series["kept by the circuit"] == [
        [2, 0.8, pytest.approx(0.7), pytest.approx(0.9)],
        [24, 1.0, 1.0, 1.0],
    ]
    assert chart.series["left without it"] == [[2, 0.1], [24, 0.0]]
    assert random_band(found) == [[2, *map(pytest.approx, (0.15, 0.105, 0.195))], [24, 1.0, 1.0, 1.0]]
    assert "left without it" not in kept(found, "edges", "strength").series
    assert list(all_kept(found, "signed").series) == ["first", "random circuits"]


def test_truths_are_named(found: Findings):
    assert [short_name(name) for name in found.truths] == ["≥ 2 %", "a paper"]
    assert [truth_name(name) for name in found.truths] == ["at least 2 % of the effect", "a paper"]


def test_the_table_has_means_and_spreads_over_seeds(found: Findings):
    shown = method_table(found)
    assert shown.rows[0] == ["first", "0.910 ± 0.010", "0.910 ± 0.010", "0.500 ± 0.000", "–", 64.0, 1.5]
    assert method_table(findings(document(seeds=1), "x")).rows[0][1] == "0.900"
    assert method_table(findings(document(seeds=3), "x")).rows[0][1] == "0.920 ± 0.020"  # as of a sample
    some = document(seeds=3)
    none = {"auc": None, "average_precision": None, "rank_correlation": None}
    some["methods"]["first"]["seeds"][0]["rankings"] = dict.fromkeys(some["truths"], none)
    assert method_table(findings(some, "x")).rows[0][1] == "0.930 ± 0.010"  # two seeds: it reaches both
    assert "± is one standard deviation over seeds." in of_findings(findings(some, "x"))
    assert "± reaches both seeds." in of_findings(found)


def test_what_feeds_a_latent_is_named_strongest_first(found: Findings):
    assert found.features is not None
    first, second = found.features.latents
    assert fed_by(found.features, first.fed) == [((4, 0), 1.0), ((1, 2), 0.25)]
    assert fed_by(found.features, second.fed) == []
    assert feeds(found.features, (4, 0)) == [(3, 1.0)]
    assert feeds(found.features, (5, 3)) == []  # not looked at


def test_methods_say_what_they_are(found: Findings):
    assert about(found.methods["first"]).startswith("(clean - corrupted) · gradient of the clean run's score")
    assert about(found.methods["third"]) == ""


# -- the page -----------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tags(page: str) -> list[str]:
    found = Tags()
    found.feed(page)
    assert found.open == []
    return found.seen


def test_the_page_has_every_section_and_ends_all_it_begins(found: Findings):
    page = of_findings(found)
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert titles == [
        *("Methods", "The circuit", "Scores of heads", "ROC curves", "What circuits keep"),
        *("Ablated together", "Features", "Set-up"),
    ]
    assert not set(tags(page)) & {"script", "iframe", "img", "form", "link", "object", "embed"}
    assert "default-src 'none'" in page
    assert "of 2 sets of as many other heads" in page.lower()
    assert "none costs as much" in page
    assert "<td><bdi>4.0 1; 1.2 0.25</bdi></td>" in page  # to the left: no number, though it begins as one


def test_hostile_names_are_text():
    page = of_findings(findings(document(text=SCRIPT), "x"))
    assert SCRIPT not in page
    assert "&lt;script&gt;" in page
    assert not set(tags(page)) & {"script", "img", "b"}


def test_what_is_not_there_is_left_out():
    whole = document(seeds=1)
    for key in ("features", "circuit", "config"):
        del whole[key]
    whole |= {"curves": {}, "together": None}
    whole["truths"]["0.02"]["effects"] = None
    page = of_findings(findings(whole, "x"))
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page)[:2] == ["Methods", "Ground truth"]
    assert "No config" in page
    tags(page)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1e29, 1e29), min_size=24, max_size=24))
def test_any_numbers_make_a_page(values: list[float]):
    whole = document(seeds=1)
    whole["methods"]["first"]["seeds"][0]["heads"] = [values[4 * layer : 4 * layer + 4] for layer in range(6)]
    whole["circuit"]["method"] = "first"
    tags(of_findings(findings(whole, "x")))


def test_no_circuit_at_all_is_no_error(found: Findings):
    empty = {name: replace(truth, members=torch.zeros_like(truth.members)) for name, truth in found.truths.items()}
    page = of_findings(replace(found, truths=empty))
    assert "Nothing to draw." in page
