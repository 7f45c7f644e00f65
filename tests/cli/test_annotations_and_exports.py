"""`saelab annotations` and `saelab export` as a user meets them."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from saelab.cli import app
from saelab.features.annotations import Annotations
from saelab.sae import variants
from saelab.sae.io import save
from saelab.testing.bundles import tiny_bundle

RUN = Path("runs/tiny")


@pytest.fixture
def saelab(tmp_path, monkeypatch, capsys):
    """Calls the command in a directory with one indexed run; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    tiny_bundle(RUN / "index")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["saelab", *arguments])
        with pytest.raises(SystemExit) as left:
            app.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def sae(saelab) -> str:
    return json.loads((RUN / "index" / "manifest.json").read_text())["sae"]["sha256"]


@pytest.fixture
def notes(saelab, sae) -> Annotations:
    """Something written about two latents of the run, and one of another SAE."""
    found = Annotations.beside(RUN)
    found.set_label(sae, 1, "[red]river[/] \x1b[31m")
    found.set_note(sae, 1, "near\nwater")
    found.add_to_list(sae, 1, "nature")
    found.set_bookmark(sae, 5, True)
    found.set_label("f" * 64, 9, "elsewhere")
    return found


# -- annotations --------------------------------------------------------------------------------------


def test_annotations_are_listed_as_text(saelab, notes) -> None:
    code, out, _ = saelab("annotations", "list", "runs/tiny")
    assert code == 0
    assert out.splitlines()[1].split() == ["1", "[red]river[/]", "⟨U+001B⟩[31m", "near↵water", "nature"]
    assert out.splitlines()[2].split() == ["5", "★"]
    assert "elsewhere" not in out
    code, out, _ = saelab("annotations", "list")
    assert sorted(line.split()[0] for line in out.splitlines()) == ["SAE", "ffffffff", "tiny", "tiny"]


def test_annotations_come_as_json(saelab, notes, sae) -> None:
    code, out, _ = saelab("annotations", "list", "runs/tiny", "--json")
    found = json.loads(out)
    assert (code, found["file"]) == (0, str(notes.path))
    assert [(a["sae"], a["latent"], a["lists"]) for a in found["annotations"]] == [(sae, 1, ["nature"]), (sae, 5, [])]


@pytest.mark.parametrize("name", ["notes.csv", "notes.jsonl"])
def test_annotations_go_to_another_directory(saelab, notes, name) -> None:
    code, out, _ = saelab("annotations", "export", name)
    assert (code, out) == (0, f"3 annotations of runs/annotations.sqlite -> {name}\n")
    Path("other").mkdir()
    code, out, _ = saelab("annotations", "import", name, "other")
    assert (code, out.splitlines()[0]) == (0, "3 added, 0 changed, 0 unchanged -> other/annotations.sqlite")
    assert out.splitlines()[1] == "note: 3 are of SAEs that no indexed run beside it has"
    assert Annotations(Path("other/annotations.sqlite")).all() == notes.all()
    code, out, _ = saelab("annotations", "import", name, "runs/tiny", "--json")
    numbers = {"added": 0, "changed": 0, "unchanged": 3, "of_other_saes": 1}
    assert json.loads(out) == {"file": str(notes.path), **numbers}


def test_one_runs_annotations_are_exported_alone(saelab, notes) -> None:
    _, out, _ = saelab("annotations", "export", "notes.csv", "runs/tiny", "--json")
    assert json.loads(out) == {"file": "notes.csv", "annotations": 2}


def test_a_conflict_is_settled_as_asked(saelab, notes, sae) -> None:
    Path("n.jsonl").write_text(json.dumps({"sae": sae, "latent": 1, "label": "sea", "updated": "2020-01-01T00:00:00Z"}))
    ours = notes.get(sae, 1).label
    for how, label in (("newer", ours), ("keep", ours), ("replace", "sea")):
        assert saelab("annotations", "import", "n.jsonl", "--on-conflict", how)[0] == 0
        assert notes.get(sae, 1).label == label


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["list", "nowhere"],
            "error: nowhere: this directory does not exist\n  fix: name a run, or a directory of runs\n",
        ),
        (["list", "runs/bare"], "error: runs/bare/index: there is no feature index here\n  fix: saelab index RUN\n"),
        (["export", "notes.txt"], "error: notes.txt: no format has the ending '.txt'\n  fix: name it .csv or .jsonl\n"),
        (["import", "wrong.csv"], "error: wrong.csv:2: latent has to be a number, found 'x'\n"),
    ],
)
def test_what_went_wrong_is_one_paragraph(saelab, notes, arguments, message) -> None:
    Path("runs/bare/sae").mkdir(parents=True)
    Path("wrong.csv").write_text("sae,latent\ns,x\n")
    before = notes.all()
    assert saelab("annotations", *arguments) == (2, "", message)
    assert notes.all() == before


def test_nothing_written_is_said(saelab) -> None:
    assert saelab("annotations", "list")[1] == "nothing is written here (runs/annotations.sqlite)\n"
    assert not Path("runs/annotations.sqlite").exists()


# -- exports ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "latents"),
    [
        ([], list(range(12))),
        (["--latents", "5, 1,7-9"], [5, 1, 7, 8, 9]),
        (["--list", "nature"], [1]),
        (["--bookmarked"], [5]),
        (["--top", "2"], None),
    ],
)
def test_features_are_chosen(saelab, notes, which, latents) -> None:
    import pyarrow.parquet as pq

    code, out, _ = saelab("export", "features", "runs/tiny", "--format", "parquet", "-o", "out", "--json", *which)
    said = json.loads(out)
    assert (code, said["paths"]) == (0, ["out/features.parquet", "out/examples.parquet"])
    found = pq.read_table("out/features.parquet").column("latent").to_pylist()
    assert found == latents or (latents is None and len(found) == 2)
    assert said["features"] == len(found)
    assert said["annotated"] == len({1, 5} & set(found))


def test_a_page_is_written(saelab, notes) -> None:
    code, out, _ = saelab("export", "features", "runs/tiny", "--format", "html", "-o", "out", "--latents", "1,5")
    assert (code, out) == (0, "2 features, 2 of them annotated\n  -> out/features.html\n")
    assert "[red]river[/] ⟨U+001B⟩[31m" in Path("out/features.html").read_text()


def _indexed_sae() -> None:
    """Give the run an SAE, and let its index be of that one."""
    sae = variants.build("topk", 8, {"n_latents": 12, "k": 4}).sae
    save(sae, RUN / "sae")
    manifest = json.loads((RUN / "index" / "manifest.json").read_text())
    manifest["sae"]["sha256"] = sae.sha256()
    (RUN / "index" / "manifest.json").write_text(json.dumps(manifest))


def test_neuronpedia_gets_the_decoder(saelab) -> None:
    _indexed_sae()
    command = ["export", "features", "runs/tiny", "--format", "neuronpedia", "-o", "out"]
    code, out, _ = saelab(*command, "--model-id", "Some/LM", "--creator", "me", "--top", "1")
    assert (code, out) == (0, "1 features, 0 of them annotated\n  -> out/lm/1-tiny\n")
    rows = gzip.decompress(Path("out/lm/1-tiny/features/batch-0.jsonl.gz").read_bytes())
    row = json.loads(rows)
    assert (len(row["vector"]), row["hasVector"], row["creatorId"]) == (8, True, "me")
    assert saelab(*command, "--no-vectors", "--source-set", "bare")[0] == 0
    assert b'"vector": []' in gzip.decompress(Path("out/tiny/1-bare/features/batch-0.jsonl.gz").read_bytes())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/none", "--format", "html"], "error: runs/none: this run does not exist\n"
         "  fix: saelab runs lists those there are\n"),
        (["runs", "--format", "html"], "error: runs/index: there is no feature index here\n  fix: saelab index RUN\n"),
        (["runs/tiny", "--format", "html", "--latents", "1,x"], "error: --latents: not a latent's number: 'x'\n"
         "  fix: numbers and ranges with commas between them, such as 1,5,20-29\n"),
        (["runs/tiny", "--format", "html", "--latents", "9-1"], "error: --latents: not a range: '9-1'\n"
         "  fix: the smaller number first\n"),
        (["runs/tiny", "--format", "html", "--latents", "12"], "error: runs/tiny/index: there is no latent 12; "
         "they go from 0 to 11\n"),
        (["runs/tiny", "--format", "html", "--top", "1", "--bookmarked"],
         "error: --bookmarked and --top each say which features to take\n  fix: give one of them\n"),
        (["runs/tiny", "--format", "html", "--list", "x"],
         "error: runs/annotations.sqlite: this SAE has no list 'x'\n"),
        (["runs/tiny", "--format", "neuronpedia"], "error: runs/tiny/sae: the index is of another SAE than the one "
         "that is here\n  fix: saelab index RUN --again, or --no-vectors\n"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_says_why(saelab, tmp_path, arguments, message) -> None:
    if "neuronpedia" in arguments:
        save(variants.build("topk", 8, {"n_latents": 12, "k": 4}).sae, RUN / "sae")
    code, out, err = saelab("export", "features", *arguments, "-o", "out")
    assert (code, out, err.replace(f"{tmp_path}/", "")) == (2, "", message)
    assert not Path("out").exists()
