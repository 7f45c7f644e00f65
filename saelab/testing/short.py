"""What notebooks run on where they are tested: with `SAELAB_NOTEBOOKS=short` a tiny model in place of a real one."""

from __future__ import annotations

import atexit
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from saelab.tasks import TASKS
from saelab.testing.planted_circuit import PlantedTask, plant
from saelab.testing.planted_circuit import words as planted_words
from saelab.testing.tiny import tiny_model, tiny_text

_ASKED, _SHORT = "SAELAB_NOTEBOOKS", "short"
_TASK = "planted"


@dataclass(frozen=True)
class World:
    """A model in `place`, text that it knows the words of, and room for runs. The task is one that it does, if any."""

    model: str
    text: str
    runs: Path
    task: str = ""


def asked() -> bool:
    """Whether the environment asks for the short form."""
    return os.environ.get(_ASKED) == _SHORT


def words() -> World:
    """A random model that reads words, and random text."""
    place = _place()
    return World(str(tiny_model(place / "model", words=True)), str(tiny_text(place / "text.jsonl")), place / "runs")


def planted() -> World:
    """The model with a planted circuit; its task is among `TASKS` from now on."""
    place = _place()
    plant(place / "model")
    if _TASK not in TASKS:
        TASKS.add(_TASK, lambda tokenizer: PlantedTask())
    text = place / "text.jsonl"
    lines = [json.dumps({"text": line}) for line in planted_words(PlantedTask(), 400)]
    text.write_text("\n".join(lines), encoding="utf-8")
    return World(str(place / "model"), str(text), place / "runs", _TASK)


def _place() -> Path:
    """A directory that is gone when Python ends."""
    temporary = tempfile.TemporaryDirectory(prefix="saelab-")
    atexit.register(temporary.cleanup)
    return Path(temporary.name)
