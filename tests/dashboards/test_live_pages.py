"""The pages that run a model or read runs, in each of their states."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from saelab.cli.browse import app
from saelab.evals.family import FILE, Comparison, FamilyTable, write
from saelab.evals.records import read_run
from saelab.features import Bundle
from saelab.features.annotations import Annotations
from saelab.files import read_json, write_json

from .live_runs import log, make_runs

pytestmark = pytest.mark.slow
HOSTILE = "<script>alert(1)</script>\u202e**bold**"


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model_dir, tiny_text_file) -> Path:
    return make_runs(tmp_path_factory.mktemp("live"), tiny_model_dir, tiny_text_file)


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy of its own for each test."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture
def opened(runs: Path, monkeypatch) -> Callable[..., AppTest]:
    """A page, as it is at an address."""
    import streamlit as st

    monkeypatch.setattr(sys, "argv", ["app.py", str(runs)])
    monkeypatch.syspath_prepend(str(app().parent))

    def open_page(page: str, run: str = "one", **params: str) -> AppTest:
        st.cache_data.clear()
        at = AppTest.from_string(f"from saelab_dashboard import {page}\n{page}.show()\n", default_timeout=120)
        at.query_params.update({"run": run, **params})
        return at.run()

    return open_page


def shown(at: AppTest) -> str:
    """All HTML and captions of a page that went well."""
    assert not at.exception, at.exception
    return "\n".join([*(html.proto.body for html in at.get("html")), *(caption.value for caption in at.caption)])


def press(at: AppTest, label: str) -> AppTest:
    return next(button for button in at.button if button.label == label).click().run()


# -- try a prompt -------------------------------------------------------------------------------------


def test_a_prompt_runs_on_submit_alone(opened):
    at = opened("prompt")
    assert "appear here once the prompt has run" in shown(at)
    at.text_area[0].set_value("the moon").run()
    assert "Latents and tokens" not in shown(at)
    at.text_area[0].set_value("the moon")
    page = shown(press(at, "Run"))
    assert "9 tokens, 8 active latents each. 1 left out" in page
    assert "&lt;bos&gt;" in page  # BOS, as in training
    assert "Token by token" in page
    assert at.query_params["text"] in ("the moon", ["the moon"])  # the address leads here again
    assert opened("prompt", text="a stone").text_area[0].value == "a stone"


def test_dense_latents_are_left_out_and_rows_are_chosen(opened, runs, monkeypatch):
    at = press(opened("prompt"), "Run")
    options = list(map(int, at.selectbox[0].options))
    assert len(options) == 15
    at.slider[0].set_value(5).run()
    assert list(map(int, at.selectbox[0].options)) == options[:5]
    density = Bundle(runs / "one" / "index").density
    at.select_slider[0].set_value(0.03).run()
    assert all(density[int(latent)] <= 0.03 for latent in at.selectbox[0].options)
    monkeypatch.setattr(Bundle, "density", property(lambda self: density + 1))  # whatever the SAE has learned
    at.select_slider[0].set_value(0.001).run()
    assert "No latent is active here" in shown(at)


def test_one_latent_is_followed_and_linked(opened):
    at = press(opened("prompt"), "Run")
    latent = at.selectbox[0].options[3]
    at.selectbox[0].set_value(int(latent)).run()
    page = shown(at)
    assert f'href="feature?run=one&amp;latent={latent}">Open this feature' in page
    assert "Activation, token by token: active on" in page  # the chart's text


def test_labels_are_shown_as_text(opened, runs):
    at = press(opened("prompt"), "Run")
    latent = int(at.selectbox[0].options[0])
    Annotations.beside(runs / "one").set_label(Bundle(runs / "one" / "index").sae_sha256, latent, HOSTILE)
    at.run()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;⟨U+202E⟩**bold**" in shown(at)
    assert "<script>" not in shown(at)
    assert at.selectbox[0].options[0] == f"{latent} · <script>alert(1)</script>⟨U+202E⟩**bold**"


@pytest.mark.parametrize(
    ("text", "said"), [("", "the prompt is empty"), ("a" * 100, "the prompt has 101 tokens; at most 64 fit here")]
)
def test_prompts_that_cannot_run_say_why(opened, text, said):
    at = opened("prompt")
    at.text_area[0].set_value(text)
    assert said in shown(press(at, "Run"))


def test_hostile_prompts_are_text(opened):
    at = opened("prompt")
    at.text_area[0].set_value("<img src=x onerror=alert(1)>\n\x00</td>")
    page = shown(press(at, "Run"))
    assert "<img" not in page
    assert "↵" in page


def test_without_an_index_a_prompt_runs_too(opened):
    at = press(opened("prompt", "noindex"), "Run")
    assert "Latents and tokens" in shown(at)
    assert "With a feature index" in shown(at)


# -- what may be missing ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["prompt", "steer", "compare"])
def test_a_run_without_an_sae_says_so(opened, page):
    assert "going has no SAE yet" in shown(opened(page, "going"))
    assert "Training failed: its loss is no longer finite at step 25" in shown(opened(page, "failed"))


def test_a_model_that_is_gone_says_so(opened, runs):
    config = runs / "one" / "config.yaml"
    text = config.read_text()
    model = next(line for line in text.splitlines() if "name: /" in line).strip()
    config.write_text(text.replace(model, f"name: {runs}/gone"))
    assert "this model cannot be loaded" in shown(press(opened("prompt"), "Run"))
    config.write_text(text.replace("model:", "other:"))
    assert "does not say which language model" in shown(press(opened("prompt"), "Run"))
    config.unlink()
    assert "does not say which language model" in shown(press(opened("steer", latent="3"), "Run"))


def test_another_model_or_a_damaged_sae_says_so(opened, runs):
    path = runs / "one" / "sae" / "config.json"
    document = read_json(path)
    provenance = document["provenance"]
    other = provenance | {"model": provenance["model"] | {"content": "model.safetensors=0"}}
    write_json(path, document | {"provenance": other})
    assert "trained on another model: weights differ" in shown(press(opened("prompt"), "Run"))
    write_json(path, document | {"provenance": {}})
    assert "does not say where in a model it belongs" in shown(press(opened("prompt"), "Run"))
    (runs / "one" / "sae" / "weights.safetensors").write_bytes(b"no")
    assert "not a readable safetensors file" in shown(press(opened("prompt"), "Run"))


# -- steer --------------------------------------------------------------------------------------------


def test_steering_runs_on_submit_alone(opened, runs):
    at = opened("steer", latent="3")
    assert not at.button[0].disabled
    at.text_area[0].set_value("the king").run()
    at.slider[0].set_value(5).run()
    assert "Continuations" not in shown(at)
    page = shown(press(at, "Run"))
    largest = float(Bundle(runs / "one" / "index").columns["max"][3])
    from saelab.features.render import number

    assert f"Latent 3 held at {number(2 * largest)}; temperature 0.8, seed 0." in page
    assert "<h3>Baseline</h3>" in page
    assert "<h3>Steered</h3>" in page
    assert "KL(baseline ‖ steered)" in page
    assert "More likely when steered" in page
    assert not [button for button in at.button if button.label == "Stop"]
    assert f"its maximum of {number(largest)} = <b>{number(2 * largest)}</b>" in page


def test_a_strength_of_zero_changes_nothing(opened):
    at = opened("steer", latent="3")
    at.selectbox[0].set_value("add").run()
    at.number_input[0].set_value(0.0).run()
    at.slider[0].set_value(5).run()
    page = shown(press(at, "Run"))
    assert "<b>0 nats</b>" in page
    assert page.count("No token.") == 2


def test_latents_are_named_by_number_or_label(opened, runs):
    bundle = Bundle(runs / "one" / "index")
    Annotations.beside(runs / "one").set_label(bundle.sae_sha256, 7, "moons")
    at = opened("steer")
    assert at.button[0].disabled
    assert "Choose one latent" in shown(at)
    assert at.multiselect[0].options == ["7 · moons"]
    at.multiselect[0].set_value(["7 · moons"]).run()
    assert "latent=7" in shown(at)
    from saelab_dashboard import session, steer  # type: ignore[import-not-found]
    from saelab_dashboard.latents import Names  # type: ignore[import-not-found]

    names = Names(session.OpenRun("one", None, "complete", bundle, None))  # type: ignore[arg-type]
    assert steer._latent(names, "12") == 12


def test_steering_says_what_is_wrong(opened):
    at = opened("steer", latent="999")
    assert "There is no latent 999; they go from 0 to 127" in shown(at)
    at = opened("steer", latent="3")
    at.text_area[0].set_value("").run()
    assert "the prompt is empty" in shown(press(at, "Run"))
    at.text_area[0].set_value("a" * 60).run()
    assert "at most 34 fit here beside 30 new ones" in shown(press(at, "Run"))


def test_without_an_index_strengths_are_raw(opened):
    at = opened("steer", "noindex", latent="3")
    at.slider[0].set_value(5).run()
    assert "in its own units" in shown(at)
    assert "Latent 3 held at 10;" in shown(press(at, "Run"))


# -- compare ------------------------------------------------------------------------------------------


def test_two_runs_side_by_side(opened):
    at = opened("compare", other="two")
    page = shown(at)
    assert "<tr><th" in page
    assert "Matching compares" in page
    page = shown(press(at, "Match latents"))
    assert "matched pairs" in page
    assert "Best cosine of each latent of one: half of 128 latents are above" in page
    assert "Only in two" in page
    at.slider[0].set_value(0.0).run()
    pairs = [html.proto.body for html in at.get("html") if 'aria-label="matched latents"' in html.proto.body]
    assert 'href="feature?run=two&amp;latent=' in pairs[0]


def test_the_same_sae_matches_itself(opened):
    page = shown(press(opened("compare", "two", other="noindex"), "Match latents"))
    assert "<dd>128<small>each the other" in page
    assert page.count("<p class='sl-dim'>None.</p>") == 2


def test_nothing_to_compare_with_says_so(opened, runs):
    for name in ("two", "noindex"):
        shutil.rmtree(runs / name)
    assert "There is nothing to compare with" in shown(opened("compare"))


def test_a_link_to_an_unknown_other_run_says_so(opened):
    assert "no other trained run “../../etc”" in shown(opened("compare", other="../../etc"))


def test_other_widths_and_places_are_told_apart(opened, runs):
    path = runs / "two" / "sae" / "config.json"
    document = read_json(path)
    write_json(path, document | {"provenance": document["provenance"] | {"hook": "blocks.0.hook_resid_post"}})
    assert "These SAEs are of different places" in shown(opened("compare", other="two"))


# -- runs ---------------------------------------------------------------------------------------------


def test_curves_of_several_runs(opened):
    at = opened("runs")
    assert at.multiselect[0].value == ["one"]
    at.multiselect[0].set_value(["one", "two"]).run()
    page = shown(at)
    assert 'href="./?run=two"' in page
    assert "follows it" not in page
    charts = at.get("vega_lite_chart")
    assert len(charts) == len(at.multiselect[1].value) > 0
    assert "losses/total over training steps: one ends at" in charts[0].proto.spec
    for toggle in at.toggle:
        toggle.set_value(True)
    at.run()
    assert '"type": "log"' in at.get("vega_lite_chart")[0].proto.spec.replace('":"', '": "')
    at.multiselect[0].set_value([]).run()
    assert "Choose a run." in shown(at)


def test_a_run_that_trains_is_followed(opened, runs):
    at = opened("runs", "going")
    assert "going is training, or was stopped; this page follows it." in shown(at)
    with (runs / "going" / "metrics.jsonl").open("a") as file:
        file.write('tal": 0.3}\n')  # the line that was being written
    log(runs, "going", 400, **{"losses/total": 0.125})
    at.run()
    assert "400" in shown(at)
    shutil.copytree(runs / "one" / "sae", runs / "going" / "sae")
    at.run()
    assert "follows it" not in shown(at)


def test_a_run_that_failed_or_has_logged_nothing_says_so(opened, runs):
    assert "its loss is no longer finite" in shown(opened("runs", "failed"))
    (runs / "failed" / "failed.json").write_text("{}")
    assert "its failed.json cannot be read" in shown(opened("runs", "failed"))
    assert "its failed.json cannot be read" in shown(opened("prompt", "failed"))
    (runs / "going" / "metrics.jsonl").write_text('{"step": 1, "los')
    assert "Nothing has been logged yet" in shown(opened("runs", "going"))
    (runs / "going" / "metrics.jsonl").unlink()
    assert "Nothing has been logged yet" in shown(opened("runs", "going"))


def test_a_comparison_is_shown_with_links_to_its_members(opened, runs):
    for name, member in {"one": "topk-8", "two": HOSTILE[:8]}.items():
        (runs / "mine" / "seed-0").mkdir(parents=True, exist_ok=True)
        shutil.move(runs / name, runs / "mine" / "seed-0" / member)
    table = FamilyTable.of(
        Comparison(("topk-8", HOSTILE[:8], "later"), (0,), curve=("topk-8",), label="topk"),
        {(name, 0): read_run(runs / "mine" / "seed-0" / name) for name in ("topk-8", HOSTILE[:8])},
    )
    write(table, runs / "mine")  # as the command does, whatever the config is called
    page = shown(opened("runs", "mine/seed-0/topk-8"))
    assert 'aria-label="comparison mine"' in page
    assert 'href="./?run=mine%2Fseed-0%2Ftopk-8">topk-8' in page
    assert "&lt;script&gt;" in page
    assert '<img class="sl-picture" alt="FVU and CE score' in page
    assert "Not measured yet: later, seed 0: missing." in page
    (runs / "mine" / FILE).write_text("{}")
    assert "not a comparison of schema 1" in shown(opened("runs", "mine/seed-0/topk-8"))
