"""What a notebook shows: pictures that need nothing else, tables and cards in which no text becomes markup."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from saelab import notebook as nb
from saelab.circuits import FeatureScores
from saelab.circuits.findings import Findings, findings
from saelab.circuits.scores import Cost
from saelab.errors import SettingError
from saelab.evals.base import Chart, Table
from saelab.features import Bundle
from saelab.features.steer import Continuation, Shift, Steering
from saelab.notebook.picture import Picture
from saelab.testing.bundles import HOSTILE, tiny_bundle
from saelab.testing.markup import Elements
from tests.circuits.documents import SCRIPT, document

LINE = Chart("A title", "x", "y", {"one": [[0, 1], [1, 2]], "two": [[0, 2], [1, 1]]})


@pytest.fixture
def found() -> Findings:
    return findings(document(), "x")


def tree(picture: Picture) -> ElementTree.Element:
    return ElementTree.fromstring(picture.svg)


def every(picture: Picture, name: str) -> list[ElementTree.Element]:
    return [one for one in tree(picture).iter() if name in (one.get("class") or "").split()]


def texts(picture: Picture) -> list[str]:
    return ["".join(one.itertext()) for one in tree(picture).iter() if one.tag.endswith("text")]


def pictures(found: Findings) -> list[Picture]:
    effects = found.truth.effects
    assert effects is not None
    return [
        nb.chart(LINE),
        nb.heads("Effects", effects, found.truth),
        nb.rocs(found),
        nb.kept(found),
        nb.drawn(found),
        nb.drawn(found, "first"),
        nb.together(found),
        nb.chart(nb.areas(found)),
    ]


def test_a_picture_brings_the_rules_for_all_that_is_in_it_and_no_others(found):
    for picture in pictures(found):
        style = next(one.text or "" for one in tree(picture).iter() if one.tag.endswith("style"))
        selectors = [one.strip() for rule in re.findall(r"([^{}]+)\{", style) for one in rule.split(",")]
        assert all(one.startswith(".sl-picture") for one in selectors)
        known = {name for one in tree(picture).iter() for name in (one.get("class") or "").split()} | {"sl-picture"}
        assert {name for one in selectors for name in re.findall(r"\.([\w-]+)", one)} <= known
        assert "@media" not in style
        for variable in set(re.findall(r"var\((--[\w]+)", picture.svg)):
            assert f"{variable}:" in picture.svg, variable


def test_what_is_drawn_is_styled(found):
    for name, rule in (("line", "stroke: var(--c)"), ("grid", "stroke: var(--line)")):
        assert re.search(rf"\.sl-picture \.{name} {{[^}}]*{re.escape(rule)}", nb.chart(LINE).svg)
    heads = nb.heads("Effects", found.truth.effects, found.truth).svg
    assert re.search(r"\.sl-picture \.p8 {[^}]*fill: color-mix", heads)
    assert re.search(r"\.sl-picture {[^}]*--sheet: #fff", heads)


def test_parts_of_a_picture_have_places_and_sizes_of_their_own(found):
    """A page's sheet makes plots as wide as there is room, and keys stand beside a page's pictures."""
    for picture in pictures(found):
        for inner in tree(picture).iter():
            if inner.tag.endswith("svg") and inner.get("class") != "sl-picture":
                assert inner.get("class") is None
                assert float(inner.get("width", 0)) > 0 < float(inner.get("height", 0))


def test_several_stand_side_by_side_and_in_lines():
    one = nb.chart(LINE)
    two, four = nb.beside(one, one), nb.beside(one, one, one, one, columns=2)
    assert two.width > 2 * one.width
    assert two.height == one.height
    assert four.width == two.width
    assert four.height > 2 * one.height
    assert len(every(four, "sl-title")) == 4
    assert two.title == "A title; A title"
    width = float(tree(four).get("width", 0))
    assert one.width < float(tree(one).get("width", 0)) < width <= 940
    with pytest.raises(SettingError, match="pictures: there is none"):
        nb.beside()


def test_names_of_series_are_told_where_there_are_several(found):
    assert texts(nb.chart(LINE))[-2:] == ["one", "two"]
    single = replace(LINE, series={"one": [[0, 1], [1, 2]]})
    assert "one" not in texts(nb.chart(single))
    assert texts(nb.chart(single, title="Another"))[0] == "Another"
    assert {"kept by the circuit", "left without it", "random circuits"} <= set(texts(nb.kept(found)))


def test_a_long_title_takes_several_lines():
    title = "A title that says so very much that nobody could read it in one line of a picture"
    long = nb.framed(title, nb.chart(LINE).body)
    lines = ["".join(one.itertext()) for one in every(nb.chart(LINE, title=title), "sl-title")]
    assert " ".join(lines) == title == long.title
    assert len(lines) == 2
    assert nb.chart(LINE, title=title).height > nb.chart(LINE).height


def test_a_picture_is_saved_whole_and_shows_itself(tmp_path):
    picture = nb.chart(LINE)
    path = picture.save(tmp_path / "a.svg")
    assert path.read_text() == picture.svg == picture._repr_svg_()
    assert repr(picture) == "<picture: A title>"


@pytest.mark.parametrize("text", [*HOSTILE[:8], SCRIPT])
def test_no_text_becomes_markup(text):
    effects = findings(document(text=text), "x")
    shown = [
        nb.rocs(effects),
        nb.kept(effects),
        nb.drawn(effects),
        nb.heads(text, effects.methods[f"first{text}"].mean),
    ]
    allowed = {"svg", "style", "g", "rect", "path", "circle", "text", "title"}
    for picture in [*shown, nb.chart(replace(LINE, title=text, series={text: [[0, 1]], "b": [[1, 2]]}))]:
        assert {one.tag.rpartition("}")[2] for one in tree(picture).iter()} <= allowed
    table = nb.table(["a", text], [[text, 1.5], [text, None]])
    assert set(Elements(table.html).tags) <= {"div", "style", "table", "thead", "tbody", "tr", "th", "td", "bdi"}
    assert len(repr(table).splitlines()) == 3
    assert repr(table).replace("\n", "").isprintable()


def test_a_table_for_pages_and_for_terminals():
    table = nb.table(["name", "value"], [["a", 1.25], ["long", None]])
    assert repr(table) == "name  value\na     1.25\nlong  –"
    assert "<td" in table._repr_html_()
    assert nb.table(Table("t", ["name", "value"], [["a", 1.25], ["long", None]])).html == table.html.replace(
        'aria-label="name"', 'aria-label="t"'
    )


def test_places_of_the_heads_that_matter(found):
    lines = repr(nb.places(found, ["first", "edges"], 2)).splitlines()
    effects = found.truth.effects
    assert effects is not None
    inside = sorted(found.truth.members.nonzero().tolist(), key=lambda head: -abs(effects[head[0], head[1]]))
    assert [line.split()[0] for line in lines[1:]] == [f"{layer}.{head}" for layer, head in inside[:2]]
    scores = found.methods["first"].mean.abs()
    layer, head = inside[0]
    assert lines[1].split()[2] == str(1 + int((scores > scores[layer, head]).sum()))
    unsigned = replace(
        found.methods["first"], scores=tuple(replace(one, signed=False) for one in found.methods["first"].scores)
    )
    known = repr(nb.places(replace(found, methods={"first": unsigned}), ["first"], 1)).splitlines()[1]
    assert known.split()[2] == str(1 + int((unsigned.mean > unsigned.mean[layer, head]).sum()))


def test_what_is_not_measured_is_refused(found):
    with pytest.raises(SettingError, match="no heads were ablated together"):
        nb.together(replace(found, together=None))
    with pytest.raises(SettingError, match="there is no circuit shown"):
        nb.drawn(replace(found, shown=None))
    with pytest.raises(SettingError, match="there are no effects of exact patching"):
        nb.places(replace(found, truths={"a paper": found.truths["a paper"]}), ["first"])


# -- latents ------------------------------------------------------------------------------------------


def test_latents_are_cards_without_markup_of_their_own(tmp_path):
    bundle = Bundle(tiny_bundle(tmp_path / "index", hostile=True))
    cards = nb.latents(bundle, [0, 5])
    page = Elements(cards.html)
    assert page.tags.count("article") == 2
    assert not {"script", "img", "a"} & set(page.tags)
    assert "Latent 5" in page.text
    assert repr(cards).splitlines()[1].startswith("latent 5: ")


def test_latents_come_from_the_rarest_to_the_densest_and_live(tmp_path):
    bundle = Bundle(tiny_bundle(tmp_path / "index"))
    chosen = nb.spread(bundle, 4)
    densities = [float(bundle.density[latent]) for latent in chosen]
    assert densities == sorted(densities)
    assert len(set(chosen)) == 4
    assert 3 not in nb.spread(bundle, 12)  # it never fires


def test_a_word_leads_to_the_latent_that_is_most_about_it(tmp_path):
    bundle = Bundle(tiny_bundle(tmp_path / "index"))
    token = bundle.vocabulary.index(" river")
    shares = [dict(bundle.feature(latent).fires_on).get(token, 0.0) for latent in range(bundle.n_latents)]
    assert nb.firing_on(bundle, "river") == max(range(bundle.n_latents), key=lambda latent: shares[latent])


SCORES = FeatureScores(torch.tensor([0.5, -1.5, 0.25]), 0.125, 0.0, -0.625, torch.zeros(3), torch.zeros(3), Cost())


def test_parts_of_an_activation():
    lines = repr(nb.parts(SCORES)).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["−0.625", "−0.75", "0.125", "0"]


def test_estimated_and_exact_losses_stand_beside_each_other():
    picture = nb.losses(SCORES, [1, 0], torch.tensor([-1.0, 0.75]))
    assert {"latent 1", "latent 0", "the SAE's error", "estimated", "exact"} <= set(texts(picture))
    said = {"".join(one.itertext()) for one in tree(picture).iter() if one.tag.endswith("title")}
    assert said == {
        *("estimated, latent 1: −1.5", "estimated, latent 0: 0.5", "estimated, the SAE's error: 0.125"),
        *("exact, latent 1: −1", "exact, latent 0: 0.75"),
    }


def test_heads_that_feed_latents_the_strongest_first():
    fed = torch.tensor([[0.5, 0.0], [-1.0, 0.25]])
    lines = repr(nb.feeding([7, 9], [(0, 1), (2, 3)], fed)).splitlines()
    assert lines[0].split() == ["fed", "most", "by", "then"]
    assert [re.split(r"\s{2,}", line) for line in lines[1:]] == [
        ["latent 7", "2.3: −1", "0.1: 0.5"],
        ["latent 9", "2.3: 0.25", "0.1: 0"],
    ]


def test_what_an_intervention_does_to_the_next_token():
    risers = (Shift(1, " Kate", 0.1, 0.4), Shift(2, " he", 0.1, 0.2))
    nothing = Continuation()
    found = Steering(nothing, nothing, risers, (Shift(3, " Jack", 0.5, 0.1), Shift(4, "<b>", 0.2, 0.1)), 0.5)
    lines = repr(nb.steering(found, 2)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["·Kate", "·he", "<b>", "·Jack"]
    assert lines[-1].split()[1:] == ["0.500", "0.100", "-0.400"]
    assert "b" not in Elements(nb.steering(found).html).tags


def test_a_latent_in_texts(live_sae):
    live, latent = live_sae
    shown = nb.reading(live, ["the river", "a king"], [latent])
    assert repr(shown).splitlines()[0] == f"latent {latent}"
    page = Elements(shown.html)
    assert page.tags.count("p") == 2
    assert "<bos>" not in page.text
    assert "mark" in page.tags


@pytest.fixture(scope="module")
def live_sae(tmp_path_factory):
    from saelab.features.live import Live
    from saelab.features.prompt import trace
    from saelab.lm.mask import Mask, MaskSpec
    from saelab.lm.model import ModelSpec, load
    from saelab.lm.windows import WindowSpec
    from saelab.sae import build
    from saelab.testing.tiny import tiny_model

    place: Path = tiny_model(tmp_path_factory.mktemp("models") / "words", words=True)
    lm = load(ModelSpec(str(place), dtype="float32", device="cpu"))
    torch.manual_seed(0)
    hook = lm.hook("blocks.1.hook_resid_post")
    sae = build("topk", hook.width, {"n_latents": 64, "k": 4}).sae.inference()
    live = Live(lm, sae, hook, hook, Mask.of(MaskSpec(), lm.tokenizer), WindowSpec(context_length=16))
    return live, trace(live, "the river").peaks(1)[0].latent
