from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from saelab.errors import SaelabError
from saelab.lm import assets, corpus
from saelab.lm.corpus import DataSpec, Document, Place, documents, identity


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No hub, a cache of our own, no progress bars."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SAELAB_HOME", str(tmp_path / "home"))
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def spec(path: Path | str, **fields: Any) -> DataSpec:
    return DataSpec(str(path), **fields)


def texts(path: Path | str, **fields: Any) -> list[str]:
    return [document.text for document in documents(spec(path, **fields))]


def error_of(path: Path | str, **fields: Any) -> str:
    with pytest.raises(SaelabError) as caught:
        list(documents(spec(path, **fields)))
    return str(caught.value)


def write_lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A dataset repository as on the hub: two subsets, two splits, a card."""
    root = tmp_path / "repository"
    for subset in ("news", "prose"):
        for split in ("train", "test"):
            rows = [{"title": f"{subset} {number}", "text": f"{subset} {split} {number}"} for number in range(2)]
            write_lines(root / subset / f"{split}.jsonl", *rows)
    configs = "".join(f"- config_name: {name}\n  data_dir: {name}\n" for name in ("news", "prose"))
    (root / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# Card\n")
    return root


def test_every_field_has_its_description():
    hints = get_type_hints(DataSpec, include_extras=True)
    assert all(isinstance(hints[field.name].__metadata__[0], str) for field in dataclasses.fields(DataSpec))


def test_a_text_file_is_one_document(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"\xef\xbb\xbfOne.\n\nStill one.\n")
    assert list(documents(spec(path))) == [Document(0, "notes", "One.\n\nStill one.\n")]


def test_json_lines_and_parquet_give_titles_and_skip_blank_documents(tmp_path: Path):
    expected = [Document(0, "A", "a"), Document(1, None, "c")]
    lines = write_lines(tmp_path / "a.jsonl", {"title": "A", "text": "a"}, {"text": " \n"}, {"text": "c", "title": 3})
    assert list(documents(spec(lines))) == expected
    table = write_parquet(tmp_path / "a.parquet", title=["A", "B", None], text=["a", " \t\n", "c"], other=[1, 2, 3])
    assert list(documents(spec(table))) == expected


def test_another_text_column(tmp_path: Path):
    assert texts(write_lines(tmp_path / "a.json", {"body": "b", "text": 3}), text_column="body") == ["b"]
    assert texts(write_parquet(tmp_path / "a.parquet", body=["b"], text=[3]), text_column="body") == ["b"]


def test_a_directory_is_read_in_one_order_without_hidden_files(tmp_path: Path):
    root = tmp_path / "texts"
    write_lines(root / "b" / "z.jsonl", {"text": "2"})
    write_lines(root / "b.jsonl", {"text": "1"})
    (root / "a.txt").write_text("0")
    (root / "test of time.txt").write_text("3")
    (root / ".cache").mkdir()
    (root / ".cache" / "hidden.bin").write_bytes(b"\0")
    assert texts(root) == ["0", "1", "2", "3"]


def test_large_files_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "_ROWS_PER_BATCH", 2)
    numbers = [str(number) for number in range(5)]
    assert texts(write_parquet(tmp_path / "a.parquet", text=numbers)) == numbers
    broken = write_lines(tmp_path / "a.jsonl", {"text": "fine"}, "not an object")
    assert next(documents(spec(broken))).text == "fine"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_local_repository_has_subsets_and_splits(repository: Path, streaming: bool):
    read = spec(repository, subset="prose", split="test", streaming=streaming)
    assert list(documents(read)) == [
        Document(0, "prose 0", "prose test 0"),
        Document(1, "prose 1", "prose test 1"),
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_files_named_for_splits_are_a_repository_without_a_card(tmp_path: Path, streaming: bool):
    for split in ("train", "validation"):
        write_lines(tmp_path / "plain" / "data" / f"{split}-00000-of-00001.jsonl", {"text": split})
        (tmp_path / "prose").mkdir(exist_ok=True)
        (tmp_path / "prose" / f"{split}.txt").write_text(f"{split}\n\nstill the same document")
    assert texts(tmp_path / "plain", streaming=streaming) == ["train"]
    assert texts(tmp_path / "plain", split="validation", streaming=streaming) == ["validation"]
    assert texts(tmp_path / "prose", streaming=streaming) == ["train\n\nstill the same document"]


def test_a_saved_dataset_and_a_saved_dictionary_of_them(tmp_path: Path):
    rows = Dataset.from_dict({"text": ["a", "b"], "title": ["A", None]})
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "two")
    assert list(documents(spec(tmp_path / "one"))) == [Document(0, "A", "a"), Document(1, None, "b")]
    assert texts(tmp_path / "two", split="test") == ["b"]
    message = f"{tmp_path / 'two'}: there is no split 'dev' in this saved dataset, only splits: train, test"
    assert error_of(tmp_path / "two", split="dev") == message
    assert "there is no subset 'x' in this saved dataset" in error_of(tmp_path / "one", subset="x")


def test_an_asset_is_its_text_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asset = assets.ASSETS["wikipedia-sample"]
    place = tmp_path / "home" / "assets" / asset.name
    place.mkdir(parents=True)
    assert "did you mean 'wikipedia-sample'?" in error_of("asset:wikipedia-samples")
    assert "fix: run `saelab assets fetch wikipedia-sample`" in error_of("asset:wikipedia-sample")
    write_parquet(place / "wikipedia.parquet", title=["A"], text=["a"])
    (place / "questions-words.txt").write_text("not a document")
    record = {"source": asset.source, "conversion": asset.conversion, "files": {"wikipedia.parquet": ""}}
    (place / "asset.json").write_text(json.dumps(record))
    assert list(documents(spec("asset:wikipedia-sample"))) == [Document(0, "A", "a")]
    assert list(identity(spec("asset:wikipedia-sample"))["files"]) == ["wikipedia.parquet"]
    assert "is a model, not a text" in error_of("asset:smollm2-135m-instruct")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved", "repository", "stream"])
def test_documents_from_a_place_on_are_those_that_were_left(tmp_path: Path, kind: str):
    rows = [" " if number % 3 == 1 else f"text {number}" for number in range(20)]
    lines = [{"text": text, "title": text[-1]} for text in rows]
    if kind == "jsonl":
        read = spec(write_lines(tmp_path / "a.jsonl", *lines))
    elif kind == "parquet":
        read = spec(write_parquet(tmp_path / "a.parquet", text=rows, title=[text[-1] for text in rows]))
    elif kind == "saved":
        Dataset.from_list(lines).save_to_disk(tmp_path / "saved")
        read = spec(tmp_path / "saved")
    else:
        for part in range(3):
            write_lines(tmp_path / "repository" / f"train-0000{part}.jsonl", *lines[7 * part : 7 * part + 7])
        read = spec(tmp_path / "repository", streaming=kind == "stream")
    everything = list(documents(read))
    assert [document.text for document in everything] == [text for text in rows if text != " "]
    assert [document.row for document in everything] == [row for row, text in enumerate(rows) if text != " "]
    for number, document in enumerate(everything):
        place = Place(document.row, document.index)
        left = list(documents(read, place))
        assert left == everything[number:]
        assert [d.row for d in left] == [d.row for d in everything[number:]]


# The hub.


def test_a_hub_dataset_is_asked_for_by_all_its_fields(monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        return Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    wanted = DataSpec("org/name", subset="en", split="validation", revision="v2", streaming=True)
    assert list(documents(wanted)) == [Document(0, None, "a")]
    options = {"name": "en", "split": "validation", "revision": "v2", "streaming": True}
    assert asked == [(("org/name",), options)]


def test_the_identity_of_a_hub_dataset_holds_the_commit(repository: Path, monkeypatch: pytest.MonkeyPatch):
    builder = datasets.load_dataset_builder(str(repository), name="news")
    builder.hash = "c0ffee"
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *arguments, **options: builder)
    assert identity(DataSpec("org/name", split="test", revision="main")) == {
        "hub": "org/name",
        "subset": "news",
        "revision": "c0ffee",
        "split": "test",
        "text_column": "text",
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_that_is_not_there_names_the_alternatives(streaming: bool):
    message = error_of("org/name", streaming=streaming)
    assert message == (
        "org/name: could not read this dataset: Couldn't reach 'org/name' on the Hub (OfflineModeIsEnabled)\n"
        "  fix: check the name, `subset`, `split` and `revision`, and the connection to the hub (HF_HUB_OFFLINE=1 "
        "forbids one). If a local path was meant: there is none of that name. Without the hub, use a .txt, .jsonl "
        "or .parquet file, a directory of them, or asset:wikipedia-sample"
    )
    with pytest.raises(SaelabError, match="Couldn't reach 'org/name' on the Hub"):
        identity(DataSpec("org/name"))


def test_a_hub_dataset_that_is_a_script_is_read_from_the_hubs_own_copy(monkeypatch: pytest.MonkeyPatch):
    def load_dataset(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("Dataset scripts are no longer supported, but found name.py")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert error_of("org/name").endswith(
        "fix: set `revision: refs/convert/parquet`, where the hub keeps a copy of most datasets that needs no script"
    )


# Identity.


def test_the_same_data_elsewhere_has_the_same_identity(tmp_path: Path, repository: Path):
    lines = write_lines(tmp_path / "a.jsonl", {"text": "a"})
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "saved")
    plain = tmp_path / "plain"
    write_lines(plain / "sub" / "a.jsonl", {"text": "a"})
    for source in (lines, tmp_path / "saved", plain, repository):
        other = tmp_path / "elsewhere" / source.name
        other.parent.mkdir(exist_ok=True)
        copied = shutil.copyfile(source, other) if source.is_file() else shutil.copytree(source, other)
        found = identity(spec(source))
        assert found == identity(spec(copied))
        assert str(tmp_path) not in json.dumps(found)
    assert list(identity(spec(plain))["files"]) == ["sub/a.jsonl"]
    assert list(identity(spec(tmp_path / "saved"))["files"]) == ["data-00000-of-00001.arrow"]


def test_other_content_has_another_identity(tmp_path: Path, repository: Path):
    path = write_lines(tmp_path / "a.jsonl", {"text": "a"})
    before = identity(spec(path))
    assert identity(spec(path, text_column="title")) != before
    write_lines(path, {"text": "b"})
    assert identity(spec(path)) != before
    chosen = [identity(spec(repository, subset=subset, split="test")) for subset in ("news", "prose")]
    assert chosen[0] != chosen[1]
    assert identity(spec(repository, subset="news")) != chosen[0]
    assert identity(spec(repository, subset="news", streaming=True)) == identity(spec(repository, subset="news"))


# What can be wrong.


def test_a_path_that_does_not_exist(tmp_path: Path):
    for missing in (tmp_path / "nothing", "texts/nothing.jsonl", "nothing", "./a/b/c"):
        assert error_of(missing) == (
            f"{missing}: there is no such file or directory, and a dataset on the hub would be called "
            "'owner/name'\n  fix: correct the path, or use a demo text: asset:wikipedia-sample"
        )


def test_a_long_text_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    paragraphs = [f"paragraph {i} " * 100 for i in range(30)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    found = [document.text for document in documents(DataSpec(str(tmp_path / "book.txt")))]
    assert "\n\n".join(found) == "\n\n".join(paragraphs)
    assert all(len(text) >= 4000 for text in found[:-1])
    assert len(found) > 5


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_an_empty_file(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    assert error_of(tmp_path / name) == f"{tmp_path / name}: this file is empty"


def test_an_unknown_type_of_file(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text\na\n")
    expected = (
        f"{tmp_path / 'a.csv'}: saelab reads .txt, .jsonl, .json, .parquet files, not '.csv'\n"
        "  fix: convert it, name the wanted file itself, or keep other files out of the directory"
    )
    assert error_of(tmp_path / "a.csv") == expected
    assert error_of(tmp_path) == expected


def test_a_directory_without_files(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert error_of(tmp_path / "empty") == f"{tmp_path / 'empty'}: this directory holds no files"


def test_what_is_not_text_is_named_with_its_offset(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9 au lait")
    assert error_of(path) == (
        f"{path}: this is not UTF-8 text: byte 0xe9 at offset 3\n  fix: convert the file to UTF-8"
    )
    path.write_bytes(b"PK\x03\x04\x00")
    assert error_of(path) == f"{path}: this is not text: there is a zero byte at offset 4"
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    assert "byte 0xff at offset 24" in error_of(lines)


def test_a_line_that_is_not_an_object(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", {"text": "a"}, ["b"])
    assert error_of(path) == (
        f"{path}:2: this line should be a JSON object, but is a list\n"
        '  fix: write one document per line: {"text": "..."}'
    )
    path.write_text('{"text": "a"}\n\n{"text": "b"\n')
    assert error_of(path).startswith(f"{path}:3: this line is not JSON: Expecting ',' delimiter")
    path.write_text("[" * 100_000)
    assert error_of(path).startswith(f"{path}:1: this line is not JSON: maximum recursion depth")


def test_a_missing_text_column(tmp_path: Path, repository: Path):
    Dataset.from_dict({"body": ["a"], "texts": ["b"]}).save_to_disk(tmp_path / "saved")
    lines = write_lines(tmp_path / "a.jsonl", {"body": "a", "texts": "b"})
    table = write_parquet(tmp_path / "a.parquet", body=["a"], texts=["b"])
    for path, where in ((lines, f"{lines}:1"), (table, table), (tmp_path / "saved", tmp_path / "saved")):
        assert error_of(path) == (
            f"{where}: there is no column 'text' here, only: body, texts\n"
            "  fix: set `text_column` to the one that holds the text: did you mean 'texts'?"
        )
    for streaming in (False, True):
        message = error_of(repository, subset="news", text_column="body", streaming=streaming)
        assert "there is no column 'body' here, only: title, text" in message


def test_a_text_that_is_not_a_string(tmp_path: Path):
    lines = write_lines(tmp_path / "a.jsonl", {"text": "a"}, {"text": None})
    assert error_of(lines) == f"{lines}:2: 'text' should be text, but is null"
    table = write_parquet(tmp_path / "a.parquet", text=[7])
    assert error_of(table) == f"{table}: row 0 (counted from 0): 'text' should be text, but is int"
    Dataset.from_dict({"text": ["a", None]}).save_to_disk(tmp_path / "saved")
    saved = tmp_path / "saved"
    assert error_of(saved) == f"{saved}: row 1 (counted from 0): 'text' should be text, but is null"


def test_half_a_character(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ab\\ud83d"}\n')
    assert error_of(path) == (
        f"{path}:1: the text holds half a character, U+D83D, at position 2\n"
        "  fix: leave that document out, or repair how it was written"
    )


def test_nothing_but_blank_documents(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", {"text": ""}, {"text": " \n"})
    assert error_of(path) == f"{path}: there is no document here, or all are blank"


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert error_of(tmp_path / "a.txt") == f"{tmp_path / 'a.txt'}: this file cannot be read: Permission denied"


def test_a_parquet_file_that_is_none(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    assert error_of(tmp_path / "a.parquet").startswith(f"{tmp_path / 'a.parquet'}: not a readable parquet file: ")


def test_fields_without_a_meaning_for_local_files(tmp_path: Path, repository: Path):
    path = write_lines(tmp_path / "a.jsonl", {"text": "a"})
    for key, value in (("split", "test"), ("subset", "en"), ("revision", "main")):
        assert error_of(path, **{key: value}) == (
            f"{path}: `{key}: {value}` has no meaning for local files\n  fix: remove `{key}`"
        )
    assert "`revision: main` has no meaning" in error_of(repository, subset="news", revision="main")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_or_subset_that_a_repository_does_not_have(repository: Path, streaming: bool):
    message = error_of(repository, subset="news", split="dev", streaming=streaming)
    assert message.startswith(f"{repository}: could not read this dataset: ")
    assert "['train', 'test']" in message
    assert message.endswith("fix: check `subset` and `split`, and the files themselves")
    assert "['news', 'prose']" in error_of(repository, subset="poems", streaming=streaming)


def test_a_broken_repository_says_why(repository: Path):
    (repository / "news" / "train.jsonl").write_bytes(b"\xff\xfe not json")
    message = error_of(repository, subset="news")
    assert message.startswith(f"{repository}: could not read this dataset: ")
    assert "\n  fix: check `subset` and `split`, and the files themselves" in message
    assert "An error occurred while generating the dataset" not in message


def test_plain_files_do_not_need_the_datasets_library(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", {"text": "a"})
    code = (
        "import sys; from saelab.lm.corpus import DataSpec, documents, identity; "
        f"spec = DataSpec({str(path)!r}); list(documents(spec)); identity(spec); "
        "assert not {'datasets', 'torch', 'transformers', 'pydantic', 'pyarrow'} & set(sys.modules)"
    )
    root = str(Path(corpus.__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": root})
