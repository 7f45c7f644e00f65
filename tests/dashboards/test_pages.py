"""Every page in each of its states, without a browser."""

from __future__ import annotations

import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from saelab.features import Bundle
from saelab.features.annotations import Annotations
from saelab.features.bundle import FEATURES, PROGRESS
from saelab.testing.bundles import HOSTILE
from tests.circuits.documents import SCRIPT, document

from .conftest import DASHBOARDS, MakeRun

PAGES = ("overview", "features", "feature")
TAGS = {"a", "bdi", "br", "code", "dd", "div", "dl", "dt", "figcaption", "figure", "h1", "h2", "i", "li", "mark", "nav"}
TAGS |= {"p", "small", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"}
ATTRIBUTES = {"aria-hidden", "aria-label", "aria-sort", "class", "data-shows", "data-stay", "dir", "href", "id", "rel"}
ATTRIBUTES |= {"role", "scope", "style", "tabindex", "title"}


@pytest.fixture(autouse=True)
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The app is asked for the runs below `tmp_path`."""
    monkeypatch.syspath_prepend(str(DASHBOARDS))
    monkeypatch.setattr(sys, "argv", ["app.py", str(tmp_path)])
    st.cache_data.clear()
    st.cache_resource.clear()


def opened(page: str, /, **params: Any) -> AppTest:
    found = AppTest.from_string(f"from saelab_dashboard import {page}\n{page}.show()", default_timeout=30)
    for name, value in params.items():
        found.query_params[name] = str(value)
    return run(found)


def run(page: AppTest) -> AppTest:
    page.run()
    assert not page.exception
    return page


def shown(page: AppTest) -> str:
    """All HTML of a page."""
    return "".join(element.proto.body for element in page.get("html"))


def words(page: AppTest) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", shown(page)))


def latents(page: AppTest) -> list[int]:
    """Those the table of features lists."""
    body = shown(page).partition("<tbody>")[2]
    return [int(latent) for latent in re.findall(r"<tr><td[^>]*><a[^>]*>(\d+)</a>", body)]


# -- which run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_no_runs_says_where_it_looked_and_what_to_do(page: str, tmp_path: Path):
    found = opened(page)
    assert "There are no runs here yet" in words(found)
    assert str(tmp_path) in words(found)
    assert found.code[0].value == "saelab run demo"


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", ["../../etc", "/etc", "nothing", "<b>x</b>", "a/../tiny", "."])
def test_a_name_that_is_no_run_is_refused_with_a_way_on(page: str, name: str, tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny")
    found = opened(page, run=name)
    assert f"There is no run “{name.replace('<', '&lt;').replace('>', '&gt;')}” here" in words(found)
    assert 'href="./?run=tiny"' in shown(found)


def test_the_address_names_what_is_looked_at(tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "a", index=False)
    make_run(tmp_path / "b" / "c")
    found = opened("feature")
    assert found.query_params == {"run": "b/c", "latent": "0"}


def test_the_side_says_where_an_sae_comes_from(tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny")
    found = AppTest.from_file(str(DASHBOARDS / "app.py"), default_timeout=30)
    run(found)
    for said in ("topk, 12 latents", "tiny-model", "blocks.1.hook_resid_post", "1,000 tokens", "320 tokens"):
        assert said in words(found)
    assert found.sidebar.selectbox[0].value == "tiny"


def test_another_run_is_chosen_at_the_side(tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "one")
    make_run(tmp_path / "two", index=False)
    found = AppTest.from_file(str(DASHBOARDS / "app.py"), default_timeout=30)
    run(found).sidebar.selectbox[0].select("two")
    run(found)
    assert found.query_params["run"] == "two"
    assert "no feature index yet" in words(found)


# -- the index ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_no_index_comes_with_the_command_that_builds_it(page: str, tmp_path: Path, make_run: MakeRun):
    path = make_run(tmp_path / "a run", index=False)
    found = opened(page)
    assert "This run has no feature index yet" in words(found)
    assert found.code[0].value == f"saelab index '{path}'"


@pytest.mark.parametrize("page", PAGES)
def test_a_run_without_an_sae_says_so(page: str, tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny", index=False, trained=False)
    assert "This run has no SAE yet" in words(opened(page))


@pytest.mark.parametrize("progress", ['{"stage": "encode", "done": 3, "total": 8}', "{}", "[", '{"stage": "<b>"}'])
def test_an_index_on_its_way_shows_how_far_it_is(progress: str, tmp_path: Path, make_run: MakeRun):
    path = make_run(tmp_path / "tiny", index=False)
    (path / "index").mkdir()
    (path / "index" / PROGRESS).write_text(progress)
    found = opened("features")
    assert "This index is being built" in words(found)
    assert ("encode: 3 of 8" if "encode" in progress else "starting") in words(found)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("file", ["manifest.json", FEATURES, "examples-00000.safetensors"])
def test_a_damaged_index_is_named_and_can_be_built_again(page: str, file: str, tmp_path: Path, make_run: MakeRun):
    path = make_run(tmp_path / "tiny")
    (path / "index" / file).write_bytes(b"{")
    found = opened(page)
    assert "This index cannot be shown" in words(found)
    assert file in words(found)
    assert found.code[0].value == f"saelab index {path} --again"


def test_an_index_of_another_sae_is_not_shown(tmp_path: Path, make_run: MakeRun):
    path = make_run(tmp_path / "tiny")
    (path / "summary.json").write_text(json.dumps({"sae_sha256": Bundle(path / "index").sae_sha256}))
    assert "cannot be shown" not in words(opened("features"))
    st.cache_data.clear()
    (path / "summary.json").write_text(json.dumps({"sae_sha256": "another"}))
    found = opened("features")
    assert "it is of another SAE than the one that the run holds now" in words(found)
    assert found.code[0].value == f"saelab index {path} --again"


def test_damage_that_is_met_while_reading_is_a_state_too(tmp_path: Path, make_run: MakeRun):
    path = make_run(tmp_path / "tiny") / "index" / FEATURES
    path.write_bytes(b"x" * path.stat().st_size)
    found = run(AppTest.from_file(str(DASHBOARDS / "app.py"), default_timeout=30))
    assert "not a readable table" in words(found)


def test_an_index_that_is_built_anew_is_opened_anew(tmp_path: Path, make_run: MakeRun):
    path = make_run(tmp_path / "tiny")
    assert "looked at" in words(opened("overview"))
    manifest = path / "index" / "manifest.json"
    document = json.loads(manifest.read_text())
    document["numbers"]["tokens"] = 12345
    manifest.write_text(json.dumps(document))
    assert "12,345" in words(opened("overview"))


# -- overview -----------------------------------------------------------------------------------------


def test_the_overview_tells_what_is_measured_from_what_is_not(tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny")
    found = words(opened("overview"))
    assert "FVU ~0.25 variance" in found
    assert "KL – not measured" in found
    assert "latents 12" in found
    assert "dead 1 8.33%" in found


def test_the_map_has_an_alternative_text_and_can_be_left_out(tmp_path: Path, make_run: MakeRun):
    path = make_run(tmp_path / "tiny")
    assert "PCA, all latents" in words(opened("overview"))
    manifest = path / "index" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"pca"', '"none"'))
    assert "without a map" in words(opened("overview"))


# -- features -----------------------------------------------------------------------------------------


def test_features_are_sorted_by_any_statistic_both_ways(tmp_path: Path, make_run: MakeRun):
    bundle = Bundle(make_run(tmp_path / "tiny", signed=True) / "index")
    for name in ("max", "min", "mean"):
        ordered = np.argsort(bundle.columns[name], kind="stable").tolist()
        assert latents(opened("features", sort=name, down=0)) == ordered
    assert latents(opened("features", sort="latent", down=1)) == list(range(12))[::-1]


def test_dead_latents_are_shown_where_they_are_asked_for(tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny")
    assert 3 in latents(opened("features"))
    assert 3 not in latents(opened("features", show="alive"))
    assert latents(opened("features", show="dead")) == [3]


def test_a_token_finds_the_latents_that_fire_on_it_or_promote_it(tmp_path: Path, make_run: MakeRun):
    bundle = Bundle(make_run(tmp_path / "tiny") / "index")
    king = bundle.vocabulary.index(" tree")
    for by, column in (("fires", "fire_tokens"), ("promotes", "top_tokens")):
        wanted = {i for i in range(12) if king in bundle.columns[column][i]}
        assert 0 < len(wanted) < 12
        assert set(latents(opened("features", q="tree", by=by))) == wanted


def test_how_a_search_was_understood_is_said(tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny")
    assert "1 token matched: ·river" in words(opened("features", q="river"))
    assert "1 token matched, apart from upper and lower case: ·river" in words(opened("features", q=" RIVER"))
    assert "2 tokens matched, as a part of them: ·river ·water" in words(opened("features", q="ER"))
    nothing = words(opened("features", q="zebra"))
    assert "No token of the vocabulary contains zebra" in nothing
    assert "No latent matches" in nothing


def test_a_range_keeps_what_lies_in_it(tmp_path: Path, make_run: MakeRun):
    bundle = Bundle(make_run(tmp_path / "tiny") / "index")
    largest = bundle.columns["max"]
    middle = float(np.sort(largest)[6])
    kept = np.flatnonzero((largest >= middle) & (largest <= 100)).tolist()
    assert sorted(latents(opened("features", stat="max", low=middle, high=100))) == kept


def test_a_search_is_typed_and_the_address_follows(tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny")
    page = opened("features", page=2)
    page.text_input[0].input("king")
    run(page)
    assert page.query_params["q"] == "king"
    assert "page" not in page.query_params
    page.selectbox[0].select("promotes")
    run(page)
    assert page.query_params["by"] == "promotes"


@pytest.mark.parametrize(
    "params", [{"sort": "x"}, {"page": "-1"}, {"page": "9999"}, {"page": "٣"}, {"low": "nan", "stat": "__class__"}]
)
def test_an_address_that_makes_no_sense_shows_the_table(params: dict[str, str], tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny")
    assert len(latents(opened("features", **params))) == 12


def test_pages_hold_at_most_a_hundred_rows(tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny", n_latents=130)
    seen: list[int] = []
    for number in range(1, 4):
        found = latents(opened("features", page=number))
        assert len(found) <= 100
        seen += found
    assert sorted(seen) == list(range(130))


# -- one feature --------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", ["12", "-1", "1e3", "abc", "", "٣", "../3", "1" * 50, "<b>"])
def test_a_latent_that_is_none_has_a_way_on(latent: str, tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny")
    found = opened("feature", latent=latent)
    assert "There is no latent" in words(found)
    assert "They go from 0 to 11" in words(found)
    assert 'href="feature?run=tiny&amp;latent=11"' in shown(found)


def test_a_dead_latent_says_so_and_shows_what_it_writes(tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny")
    found = words(opened("feature", latent=3))
    assert "This latent is dead here" in found
    assert "Promoted tokens" in found
    assert "Strongest" not in found


def test_values_are_there_as_text_and_strongest_come_first(tmp_path: Path, make_run: MakeRun):
    bundle = Bundle(make_run(tmp_path / "tiny") / "index")
    found = shown(opened("feature", latent=5))
    strongest = bundle.examples(5)[0].value
    assert f'<span class="sl-peak" title="activation at the outlined token">{strongest:.3g}</span>' in found
    assert found.index("Strongest") < found.index("Interval 1")
    assert 'role="img" aria-label="Activation (log scale): ' in found
    assert 'role="img" aria-label="Position in the context: ' in found


def test_signed_latents_show_both_tails(tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny", signed=True)
    found = words(opened("feature", latent=5))
    assert found.index("Strongest") < found.index("Most negative") < found.index("Interval 1 below 0")


def test_a_lens_that_cannot_be_had_is_said_to_be_so(tmp_path: Path, make_run: MakeRun):
    make_run(tmp_path / "tiny", lens=False)
    assert "Not measurable: this SAE reads an MLP's input" in words(opened("feature")).replace("&#x27;", "'")


def test_more_of_a_context_shows_its_document(tmp_path: Path, make_run: MakeRun):
    bundle = Bundle(make_run(tmp_path / "tiny") / "index")
    example = bundle.examples(5)[2]
    found = shown(opened("feature", latent=5, open=2))
    side = "after" if example.context % 2 == 0 else "before"
    assert f'aria-label="the context {side}, without activations"' in found
    assert found.count("without activations") == 1  # of the same document alone
    assert "without activations" not in shown(opened("feature", latent=5))


def test_what_is_saved_is_kept_and_found(tmp_path: Path, make_run: MakeRun):
    bundle = Bundle(make_run(tmp_path / "tiny") / "index")
    page = opened("feature", latent=7)
    page.text_input[0].input("kings & queens")
    page.text_area[0].input("as in chess")
    page.checkbox[0].check()
    page.button[0].click()
    run(page)
    assert "Latent 7: kings &amp; queens" in words(page)
    kept = Annotations.beside(tmp_path / "tiny").get(bundle.sae_sha256, 7)
    assert (kept.label, kept.note, kept.bookmarked) == ("kings & queens", "as in chess", True)
    for params in ({"by": "label", "q": "quee"}, {"show": "labelled"}, {"show": "bookmarked"}):
        assert latents(opened("features", **params)) == [7]


def test_what_another_window_wrote_meanwhile_stays(tmp_path: Path, make_run: MakeRun):
    bundle = Bundle(make_run(tmp_path / "tiny") / "index")
    notes = Annotations.beside(tmp_path / "tiny")
    page = opened("feature", latent=7)
    page.checkbox[0].check()
    page.button[0].click()
    notes.add_to_list(bundle.sae_sha256, 7, "mine")
    notes.set_note(bundle.sae_sha256, 7, "theirs")
    run(page)
    kept = notes.get(bundle.sae_sha256, 7)
    assert (kept.bookmarked, kept.lists) == (True, ("mine",))


def test_lists_are_offered_and_filter_the_table(tmp_path: Path, make_run: MakeRun):
    bundle = Bundle(make_run(tmp_path / "tiny") / "index")
    Annotations.beside(tmp_path / "tiny").add_to_list(bundle.sae_sha256, 4, "to <b>check</b>")
    page = opened("feature", latent=7)
    page.multiselect[0].select("to <b>check</b>")
    page.button[0].click()
    run(page)
    assert sorted(latents(opened("features", show="list to <b>check</b>"))) == [4, 7]


# -- circuits -----------------------------------------------------------------------------------------


def experiment(path: Path, found: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "circuit.json").write_text(json.dumps(found))
    return path


def drawn(page: AppTest) -> list[str]:
    """HTML of the pieces of a report that a page shows."""
    return [json.loads(element.proto.json)["body"] for element in page.get("bidi_component")]


def test_no_circuits_come_with_the_command_that_looks_for_one(tmp_path: Path, make_run: MakeRun):
    for found in (opened("circuits"), (make_run(tmp_path / "tiny"), opened("circuits"))[1]):
        assert "There are no circuits here yet" in words(found)
        assert str(tmp_path) in words(found)
        assert found.code[0].value == "saelab circuit circuits/ioi"


def test_a_circuit_is_shown_without_any_run(tmp_path: Path):
    path = experiment(tmp_path / "a" / "ioi", document())
    found = opened("circuits")
    assert found.query_params == {"circuit": "a/ioi", "method": "edges"}
    summary, maps, circuit, curves, methods = drawn(found)
    assert "Which attention heads of some-model do the task “ioi”, as 3 methods say, with 2 seeds each" in summary
    assert maps.count("<svg") == 2
    assert 'aria-label="Scores of edges, by layer and head. ' in maps
    assert 'aria-label="Circuit from the embedding at the bottom to the logits at the top. ' in circuit
    assert "edges, strongest first" in curves
    assert "0.910 ± 0.010" in methods
    assert found.code[0].value == str(path / "circuit.html")


def test_another_method_is_looked_at_and_the_address_follows(tmp_path: Path):
    experiment(tmp_path / "ioi", document())
    page = opened("circuits", method="third")
    assert "Scores of third" in drawn(page)[1]
    page.selectbox[0].select("first")
    run(page)
    assert page.query_params["method"] == "first"
    assert "Scores of first" in drawn(page)[1]
    assert opened("circuits", method="<b>none").selectbox[0].value == "edges"


def test_circuits_are_listed_with_what_is_wrong_with_one(tmp_path: Path):
    experiment(tmp_path / "broken", {"schema": 1})
    experiment(tmp_path / "ioi", document())
    experiment(tmp_path / "other", document(seeds=1))
    found = opened("circuits", circuit="ioi")
    assert "broken this is no circuit.json of this version of saelab: no &#x27;truths" in words(found)
    assert re.search(r"ioi ioi asset:some-model 3 2 first 0.91 ", words(found))
    assert 'aria-current="page" href="circuits?circuit=ioi"' in shown(found)
    assert "There are no" not in words(found)
    assert drawn(found)
    wrong = opened("circuits")  # the first one is broken
    assert f"{tmp_path}/broken/circuit.json" in words(wrong)
    assert "saelab circuit CONFIG writes it anew" in words(wrong)
    assert drawn(wrong) == []
    (tmp_path / "broken" / "circuit.json").write_text("{")
    assert "not a readable JSON file" in words(opened("circuits", circuit="broken"))


def test_experiments_under_way_say_how_far_they_are(tmp_path: Path):
    parts = {"a": 1, "b": 2}
    expected = {"task": f"ioi{SCRIPT}", "methods": {"one": ["a", "b"], "two": ["a", "c"], "three": []}}
    made = {"parts": parts, "expected": expected, "model": {"name": "some-model"}}
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "parts.json").write_text(json.dumps(made))
    experiment(tmp_path / "ioi", document())
    assert "early is under way, or was stopped 2 of 3 methods" in words(opened("circuits", circuit="early"))
    found = opened("circuits")  # what is done comes first
    assert found.query_params["circuit"] == "ioi"
    assert "some-model under way: 2 of 3 methods" in words(found)
    assert SCRIPT not in shown(found)
    (tmp_path / "early" / "parts.json").write_text("{}")
    assert "does not say how far the experiment is" in words(opened("circuits", circuit="early"))


@pytest.mark.parametrize("name", ["../ioi", "/etc", "<b>x</b>"])
def test_a_name_that_is_no_circuit_is_refused_with_a_way_on(name: str, tmp_path: Path):
    experiment(tmp_path / "ioi", document())
    found = opened("circuits", circuit=name)
    assert f"There is no circuit “{name.replace('<', '&lt;').replace('>', '&gt;')}” here" in words(found)
    assert 'href="circuits?circuit=ioi"' in shown(found)
    assert drawn(found) == []


def test_a_circuit_that_is_written_anew_is_read_anew(tmp_path: Path):
    path = experiment(tmp_path / "ioi", document()) / "circuit.json"
    assert "2 seeds" in drawn(opened("circuits"))[0]
    path.write_text(json.dumps(document(seeds=1)))
    os.utime(path, ns=(1, 1))
    assert "1 seed " in drawn(opened("circuits"))[0]


def test_heads_lead_to_the_latents_they_feed_where_that_very_sae_is_served(tmp_path: Path, make_run: MakeRun):
    whole = document()
    whole["circuit"]["heads"] = 24
    experiment(tmp_path / "ioi", whole)
    bundle = Bundle(make_run(tmp_path / "tiny") / "index")
    found = opened("circuits")
    assert "cannot be opened here Their SAE is that of runs/ioi" in words(found)
    assert re.search(r" 4\.0 3 1 \S+ \S+ yes ", words(found))
    assert 'href="feature' not in shown(found)

    whole["features"]["sae_sha256"] = bundle.sae_sha256
    whole["features"]["latents"][1] |= {"latent": 12, "fed": [0.5, -0.25]}  # the index ends at 11
    experiment(tmp_path / "ioi", whole)
    found = opened("circuits")
    assert "cannot be opened" not in words(found)
    link = '<a class="sl-link"  href="feature?run=tiny&amp;latent=3">3</a>'
    rows = dict(re.findall(r'<tr><th scope="row" class="">([^<]*)</th>(.*?)</tr>', shown(found)))
    assert link in rows["4.0"]
    assert rows["4.0"].index(link) < rows["4.0"].index("12 <small")
    assert rows["1.2"].index("12 <small") < rows["1.2"].index(link)  # the strongest first
    assert "latent=12" not in shown(found)
    assert "behind the SAE" in rows["5.3"]
    assert "not looked at" in rows["0.0"]


def test_what_the_library_alone_wrote_is_shown_as_far_as_it_goes(tmp_path: Path):
    whole = document(seeds=1)
    for key in ("name", "features", "circuit", "config"):
        del whole[key]
    whole |= {"curves": {}, "together": None}
    whole["truths"]["0.02"]["effects"] = None
    experiment(tmp_path / "ioi", whole)
    found = opened("circuits")
    assert len(drawn(found)) == 3
    assert "Heads of the circuit" not in words(found)
    assert "What circuits keep" not in words(found)


# -- text from models and people ----------------------------------------------------------------------


class Markup(HTMLParser):
    """Notes every tag and attribute that a browser would see."""

    def __init__(self, body: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(body)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.slow
def test_hostile_text_is_text_on_every_page(tmp_path: Path, make_run: MakeRun):
    bundle = Bundle(make_run(tmp_path / "tiny", hostile=True, signed=True) / "index")
    notes = Annotations.beside(tmp_path / "tiny")
    for latent, text in enumerate(HOSTILE):
        notes.set_label(bundle.sae_sha256, latent, text[:1000])
        notes.set_note(bundle.sae_sha256, latent, text)
        notes.add_to_list(bundle.sae_sha256, latent, text[:100].strip() or "x")
    pages = [opened("overview"), opened("features")]
    pages += [opened("features", q=text[:200], show="all", run=text) for text in HOSTILE]
    pages += [opened("features", q=text[:200], by="label") for text in HOSTILE]
    pages += [opened("feature", latent=latent, open=1) for latent in range(12)]
    for page in pages:
        found = Markup(shown(page))
        assert found.tags <= TAGS
        assert found.attributes <= ATTRIBUTES
        assert not set(shown(page)) & {"\0", "\x1b", "\u202e", "\u200b"}
        assert len(shown(page)) < 500_000


def test_names_in_an_experiment_are_text_and_pieces_hold_what_their_component_lets_in(tmp_path: Path):
    from saelab_dashboard import pieces

    for number, text in enumerate(("", SCRIPT, *HOSTILE[1:5])):
        whole = document(text=text)
        whole["circuit"]["heads"] = 24
        experiment(tmp_path / str(number), whole)
    for number in range(6):
        page = opened("circuits", circuit=str(number))
        assert len(drawn(page)) == 5
        assert Markup(shown(page)).tags <= TAGS
        assert Markup(shown(page)).attributes <= ATTRIBUTES | {"colspan", "aria-current"}
        for body in drawn(page):
            assert Markup(body).tags <= pieces.TAGS
            assert Markup(body).attributes <= {name.lower() for name in pieces.ATTRIBUTES}
            assert not set(body) & {"\0", "\x1b", "\u202e", "\u200b"}
    assert not pieces.TAGS & {
        "a",
        "script",
        "style",
        "img",
        "image",
        "iframe",
        "object",
        "form",
        "use",
        "foreignObject",
    }
    assert not any(name.startswith("on") or "href" in name or name in ("style", "src") for name in pieces.ATTRIBUTES)
