"""`saelab push`: a run's SAE onto the hub, with a card written from the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from saelab import interop
from saelab.config.document import read_document, write_document
from saelab.errors import SaelabError, did_you_mean
from saelab.files import read_json, write_text
from saelab.interop import hub
from saelab.interop.card import Card, Metric, export_directory
from saelab.interop.parts import CannotHoldError
from saelab.lm import assets
from saelab.sae import SAE, io
from saelab.training.run_directory import RunDirectory

OWN = "saelab"
USUAL = ("saelens", "sparsify")
"""Formats that go beside saelab's own unless others are asked for, as far as they can hold the SAE."""
CARD = "card.md"
"""What the card is called in a run's directory."""


@dataclass(frozen=True)
class Pushed:
    """What was published, or would be.

    Attributes:
        sizes: bytes, by path in the repository.
        card: the card's file on this machine.
        refused: by format, why the SAE is not there in it.
        url: of the commit; None on a dry run.
        removed: what an earlier push had left there, and this one has not.
    """

    repo: str
    sizes: Mapping[str, int]
    card: Path
    refused: Mapping[str, str]
    url: str | None
    removed: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {**vars(self), "card": str(self.card), "sizes": dict(self.sizes), "refused": dict(self.refused)}


def push(
    run: Path, repo: str, formats: Sequence[str] = (), *, card: Path | None = None, private: bool, dry_run: bool
) -> Pushed:
    """Publish the SAE of a finished run: saelab's own files, the card, and other tools' formats in directories.

    Args:
        repo: `org/name`.
        formats: of other tools (empty: the usual ones that can hold it); "saelab" is there always.
        card: to go in place of the one that is written from the run.
        private: whether only the owner sees a repository that is made.
        dry_run: publish nothing; the card is written all the same.

    Raises:
        SaelabError: not a finished run; measurements of another SAE; a format that is asked for and cannot hold it;
            what `hub.publish` raises.
    """
    hub.check_repo(repo)
    place = RunDirectory(run)
    if not place.finished:
        raise SaelabError("there is no trained SAE here", where=str(run), fix="name a finished run, such as runs/demo")
    unknown = [format for format in formats if format not in (OWN, *interop.WRITABLE)]
    if unknown:
        known = (OWN, *interop.WRITABLE)
        raise SaelabError(f"'{unknown[0]}' cannot be pushed", where="--format", fix=did_you_mean(unknown[0], known))
    sae = SAE.load(place.sae)
    with TemporaryDirectory() as temporary:
        files, exports, refused = _exported(sae, formats, Path(temporary))
        files |= {name: place.sae / name for name in (io.CONFIG, io.WEIGHTS)}
        files[hub.CARD] = _card_file(place, repo, sae, exports, refused, card)
        sizes = {name: path.stat().st_size for name, path in sorted(files.items())}
        pushed = Pushed(repo, sizes, files[hub.CARD], refused, url=None)
        if dry_run:
            return pushed
        made = hub.publish(repo, files, message=f"{place.path.resolve().name}, by saelab", private=private)
        return replace(pushed, url=made.url, removed=made.removed)


def _exported(
    sae: SAE, formats: Sequence[str], temporary: Path
) -> tuple[dict[str, Path], dict[str, str], dict[str, str]]:
    """Files by their paths in the repository; by format their directory there, or why it has none."""
    files: dict[str, Path] = {}
    exports: dict[str, str] = {}
    refused: dict[str, str] = {}
    for format in dict.fromkeys(formats or USUAL):
        if format == OWN:
            continue
        directory = export_directory(format, sae)
        try:
            interop.export(sae, temporary / directory, format)
        except CannotHoldError as error:
            if formats:
                raise
            refused[format] = error.message
            continue
        exports[format] = directory
        files |= {f"{directory}/{path.name}": path for path in (temporary / directory).iterdir()}
    return files, exports, refused


def _card_file(
    place: RunDirectory,
    repo: str,
    sae: SAE,
    exports: Mapping[str, str],
    refused: Mapping[str, str],
    given: Path | None,
) -> Path:
    if given is not None:
        if not given.is_file():
            raise SaelabError("there is no such file", where=f"--card {given}")
        return given
    name = place.path.resolve().name
    card = Card(repo, name, sae, _model(sae), _metrics(place, sae), _config(place.config), exports, refused)
    path = place.path / CARD
    write_text(path, card.text())
    return path


def _model(sae: SAE) -> str | None:
    """What a demo asset is; others are known by their names."""
    name = sae.identity.provenance.get("model", {}).get("name", "")
    asset = assets.ASSETS.get(name.removeprefix(assets.PREFIX)) if name.startswith(assets.PREFIX) else None
    return asset and f"{asset.title} ({asset.attribution}; {asset.licence})"


def _metrics(place: RunDirectory, sae: SAE) -> dict[str, list[Metric]]:
    """What `eval.json` holds of this SAE."""
    if not place.eval.exists():
        return {}
    document = read_json(place.eval)
    if document.get("sae_sha256") != sae.sha256():
        raise SaelabError("these are measurements of another SAE", where=str(place.eval), fix="saelab eval --again")
    return {
        name: [_metric(entry, metric) for metric in entry["metrics"]]
        for name, entry in document["evaluations"].items()
        if entry["metrics"]
    }


def _metric(entry: Mapping[str, Any], name: str) -> Metric:
    tokens, examples = entry.get("n_tokens", 0), entry.get("n_examples", 0)
    return Metric(
        name=name,
        value=entry["metrics"][name],
        seen=f"{examples:,} examples" if examples else f"{tokens:,} tokens",
        interval=entry.get("intervals", {}).get(name),
        meaning=entry.get("meaning", {}).get(name, ""),
    )


def _config(path: Path) -> str:
    """The run's configuration, without the places of this machine."""
    document = read_document(path.read_text(encoding="utf-8"), path.name).data
    return write_document(_without_places({key: value for key, value in document.items() if key != "runs_dir"}))


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_places(part) for part in value]
    if isinstance(value, str) and value.startswith(("/", "~", "./", "../")):
        return f".../{Path(value).name}"
    return value
