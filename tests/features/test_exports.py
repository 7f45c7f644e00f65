"""Exports hold what the index and the annotations say, as their readers expect it; no text becomes anything else."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from saelab.errors import SaelabError
from saelab.features import Bundle, charts
from saelab.features.annotations import Annotation, Annotations
from saelab.features.exports import Selection, neuronpedia, page, parquet, selection
from saelab.features.exports.neuronpedia import Source
from saelab.testing.bundles import HOSTILE, tiny_bundle
from saelab.testing.markup import Elements

AT = "2026-01-31T12:00:00.000000Z"
SOURCE = Source("tiny-lm", "demo", 1, "blocks.1.hook_resid_post", "some text", 16, created=AT)
GOLDEN = Path(__file__).with_name("neuronpedia.json")


def _selection(directory: Path, latents: list[int] | None = None, **bundle: Any) -> Selection:
    """A tiny index with something written about its first latents."""
    opened = Bundle(tiny_bundle(directory / "runs" / "tiny" / "index", **bundle))
    notes = Annotations.beside(directory / "runs" / "tiny")
    sae = opened.sae_sha256
    texts = [text[:100] for text in HOSTILE] if bundle.get("hostile") else ["river", "", "sea"]
    notes.merge(
        Annotation(sae, i, text, text * 2, i == 1, (text,) if text.strip() else (), AT) for i, text in enumerate(texts)
    )
    notes.set_label("f" * 64, 1, "another SAE's")
    return Selection.of(opened, notes, latents)


# -- which --------------------------------------------------------------------------------------------


def test_features_are_chosen_by_what_is_written(tmp_path: Path) -> None:
    chosen = _selection(tmp_path)
    notes = Annotations.beside(tmp_path / "runs" / "tiny")
    assert selection.on_list(chosen.bundle, notes, "river") == [0]
    assert selection.bookmarked(chosen.bundle, notes) == [1]
    assert list(chosen.latents) == list(range(12))
    with pytest.raises(SaelabError, match="this SAE has no list 'rivr'") as caught:
        selection.on_list(chosen.bundle, notes, "rivr")
    assert caught.value.fix == "did you mean 'river'?"
    with pytest.raises(SaelabError, match="no feature of this SAE is bookmarked"):
        selection.bookmarked(chosen.bundle, Annotations(tmp_path / "none.sqlite"))


@pytest.mark.parametrize("signed", [False, True])
def test_the_strongest_come_first_and_the_dead_never(tmp_path: Path, signed: bool) -> None:
    bundle = _selection(tmp_path, signed=signed).bundle
    found = selection.strongest(bundle, 99)
    features = [bundle.feature(latent) for latent in found]
    strength = [max(f.max, -f.min) for f in features]
    assert strength == sorted(strength, reverse=True)
    assert sorted(found) == [latent for latent in range(12) if latent != 3]
    assert selection.strongest(bundle, 2) == found[:2]


def test_latents_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SaelabError, match="there is no latent 12; they go from 0 to 11"):
        _selection(tmp_path, [3, 12])
    with pytest.raises(SaelabError, match="no feature is chosen"):
        _selection(tmp_path, [])


# -- Neuronpedia --------------------------------------------------------------------------------------


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line]


def test_neuronpedia_rows_are_those_agreed(tmp_path: Path) -> None:
    chosen = _selection(tmp_path, [0, 3], signed=True)
    place = neuronpedia.write(chosen, SOURCE, tmp_path, np.eye(12, 3, dtype=np.float32) / 3)
    assert place == tmp_path / "tiny-lm" / "1-demo"
    rows: dict[str, Any] = {
        folder: _read(place / folder / "batch-0.jsonl.gz") for folder in ("features", "activations", "explanations")
    }
    for name in ("release", "model", "sourceset", "source"):
        rows[name] = json.loads((place / f"{name}.jsonl").read_text())
    assert rows == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_neuronpedia_groups_share_out_all_tokens(tmp_path: Path) -> None:
    chosen = _selection(tmp_path)
    feature = chosen.bundle.feature(1)
    rows = list(neuronpedia.activation_rows(chosen, SOURCE, 1))
    groups = {row["binMin"]: row["binContains"] for row in rows if row["binMin"] >= 0}
    assert len(groups) == 4
    assert sum(groups.values()) == pytest.approx(1, abs=1e-3)
    assert groups[0] > 1 - feature.density
    for row in rows:
        value = row["values"][row["qualifyingTokenIndex"]]
        assert row["binMin"] == -1 or row["binMin"] - 0.01 <= value <= row["binMax"] + 0.01
        assert row["maxValue"] == row["values"][row["maxValueTokenIndex"]] == max(row["values"])
        assert len(row["tokens"]) == len(row["values"]) == 16
    assert rows[0]["maxValue"] == pytest.approx(feature.max, rel=1e-3)


def test_neuronpedia_is_written_in_batches_with_ids_of_their_own(tmp_path: Path) -> None:
    chosen = _selection(tmp_path, n_latents=300)
    done: list[int] = []
    place = neuronpedia.write(chosen, SOURCE, tmp_path, report=lambda n, total, note: done.append(n))
    assert done == [256, 300]
    assert [len(_read(place / "features" / f"batch-{n}.jsonl.gz")) for n in (0, 1)] == [256, 44]
    assert len(os.listdir(place / "explanations")) == 1
    ids = [row["id"] for n in (0, 1) for row in _read(place / "activations" / f"batch-{n}.jsonl.gz")]
    assert len(set(ids)) == len(ids) > 300
    assert all(len(i) == 25 and i.isalnum() for i in ids)


def test_neuronpedia_does_not_write_over_what_is_there(tmp_path: Path) -> None:
    chosen = _selection(tmp_path, [1])
    place = neuronpedia.write(chosen, SOURCE, tmp_path)
    with pytest.raises(SaelabError, match="this directory exists already") as caught:
        neuronpedia.write(chosen, SOURCE, tmp_path)
    assert (caught.value.where, caught.value.fix) == (str(place), "remove it, or choose another -o")


def test_neuronpedia_ids_come_from_where_the_sae_was_trained(tmp_path: Path) -> None:
    bundle = _selection(tmp_path, hostile=True).bundle
    source = neuronpedia.source_of(bundle, "../My Set!", "HuggingFaceTB/SmolLM2-135M", "me")
    assert (source.model, source.id, source.creator) == ("smollm2-135m", "1-my-set", "me")
    assert neuronpedia.source_of(bundle, "x").model == "script"
    with pytest.raises(SaelabError, match="'…' has no letter or digit; an id needs some"):
        neuronpedia.source_of(bundle, "…")
    bundle.manifest["sae"]["provenance"] = {}
    with pytest.raises(SaelabError, match="this SAE does not say which model it was trained on"):
        neuronpedia.source_of(bundle, "x")
    with pytest.raises(SaelabError, match="this SAE does not say which layer it was trained on"):
        neuronpedia.source_of(bundle, "x", "m")


# -- the page -----------------------------------------------------------------------------------------

OURS = set(
    """html head meta title style body header h1 dl div dt dd bdi nav ul li a main section h2 p br span figure
    figcaption svg rect path text table caption thead tr th tbody td code h3 ol mark footer""".split()  # noqa: SIM905
)
ATTRIBUTES = set(
    """lang charset http-equiv content name class id aria-labelledby aria-label aria-hidden role viewbox x y width
    height d text-anchor scope dir style title href""".split()  # noqa: SIM905
)


@pytest.mark.parametrize("signed", [False, True])
def test_no_text_becomes_markup(tmp_path: Path, signed: bool) -> None:
    chosen = _selection(tmp_path, hostile=True, signed=signed)
    written = page.write(chosen, tmp_path / "features.html").read_text(encoding="utf-8")
    seen = Elements(written)
    assert set(seen.tags) <= OURS
    assert {name for name, _ in seen.attributes} <= ATTRIBUTES
    assert all((value or "").startswith("#latent-") for name, value in seen.attributes if name == "href")
    assert all((value or "").startswith("--sl-s:") for name, value in seen.attributes if name == "style")
    assert seen.text.count(HOSTILE[0]) > 5
    assert not {"\u202e", "\u200b", "\0", "\x1b"} & set(seen.text)
    assert "url(" not in written
    assert "x" * 2_000 not in written


def test_the_page_says_what_is_known(tmp_path: Path) -> None:
    shown = Elements(page.page(_selection(tmp_path, [0, 1, 3], signed=True))).text
    for said in (
        "river",
        "bookmarked",
        "list: sea",
        "Promotes",
        "Most negative",
        "Interval 1 below 0, from the bottom",
    ):
        assert (said in shown) == (said != "list: sea")
    assert shown.count("This latent was never active.") == 1
    assert "Latent 0 river" in shown
    assert Elements(page.page(_selection(tmp_path / "b", [1], lens=False))).text.count("No logits: this SAE reads") == 1


def test_a_page_of_one_feature_needs_no_contents(tmp_path: Path) -> None:
    assert "nav" not in Elements(page.page(_selection(tmp_path, [1]))).tags
    assert "nav" in Elements(page.page(_selection(tmp_path, [1, 2]))).tags


def test_too_many_features_for_a_page_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SaelabError, match="501 features are too many for a page, which takes 500") as caught:
        page.write(_selection(tmp_path, n_latents=501), tmp_path / "p.html")
    assert "--top" in str(caught.value.fix)
    assert not (tmp_path / "p.html").exists()


def test_a_chart_says_in_words_what_it_shows() -> None:
    seen = Elements(charts.bars([1, 0, 4, 2], -2.0, 2.0, title="Tokens <by> activation"))
    assert ("aria-label", "Tokens <by> activation: from −2 to 2, tallest from 0 to 1") in seen.attributes
    assert [value for name, value in seen.attributes if name == "class"].count("sl-bar-negative") == 1
    assert seen.tags.count("rect") == 3
    assert Elements(charts.bars([0, 0], 0.0, 0.0, title="None")).tags.count("rect") == 0


# -- Parquet ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_tables_hold_all_of_it(tmp_path: Path, signed: bool) -> None:
    chosen = _selection(tmp_path, hostile=True, signed=signed)
    files = parquet.write(chosen, tmp_path / "out")
    features, examples = (pq.read_table(file) for file in files)
    assert features.schema.metadata[b"saelab.sae_sha256"].decode() == chosen.bundle.sae_sha256
    rows = features.to_pylist()
    assert [row["latent"] for row in rows] == list(range(12))
    for row in rows:
        feature, annotation = chosen.bundle.feature(row["latent"]), chosen.annotation(row["latent"])
        assert (row["label"], row["note"], row["lists"]) == (annotation.label, annotation.note, list(annotation.lists))
        assert (row["count"], row["max"], row["dead"]) == (feature.count, feature.max, feature.dead)
        assert [(t["id"], t["token"]) for t in row["promoted"]] == [(i, chosen.token(i)) for i, _ in feature.promoted]
        assert [n["latent"] for n in row["neighbours"]] == [i for i, _ in feature.neighbours]
    shown = examples.to_pylist()
    assert len(shown) == sum(len(chosen.bundle.examples(latent)) for latent in range(12))
    for row in shown:
        assert row["value"] == pytest.approx(row["values"][row["position"]])
        assert row["tokens"] == [chosen.token(i) for i in row["token_ids"]]


def test_exports_cover_a_token_that_is_no_unicode(tmp_path: Path) -> None:
    chosen = _selection(tmp_path, [1])
    chosen.bundle.vocabulary[:] = ["\ud800"] * len(chosen.bundle.vocabulary)
    parquet.write(chosen, tmp_path / "out")
    neuronpedia.write(chosen, SOURCE, tmp_path / "out")
    page.write(chosen, tmp_path / "out" / "p.html")
    assert "\\ud800" not in gzip.decompress(next(tmp_path.rglob("activations/*.gz")).read_bytes()).decode()
