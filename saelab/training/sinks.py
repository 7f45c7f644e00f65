"""Where metrics go: `metrics.jsonl` always, Weights & Biases where asked for."""

from __future__ import annotations

import contextlib
import json
import math
import uuid
import warnings
from pathlib import Path
from typing import Any, Protocol

from saelab.errors import SaelabError
from saelab.files import write_text, writing
from saelab.training.spec import WandbSpec

WANDB_ID = "wandb-id.txt"


class Sink(Protocol):
    """Takes a line of metrics at a step."""

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`metrics.jsonl`: one JSON object a line, `step` first; a value that is not finite is null."""

    def __init__(self, path: Path):
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: dict[str, float]) -> None:
        clean = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with writing(self.path):
            self._file.write(json.dumps({"step": step, **clean}) + "\n")
            self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported when the line was written
            self._file.close()

    @staticmethod
    def cut_back(path: Path, step: int) -> None:
        """Drop lines after `step`, and a last line that was being written when the process died."""
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                document = json.loads(line)
            except ValueError:
                continue
            if isinstance(document, dict) and document.get("step", step + 1) <= step:
                kept.append(line)
        write_text(path, "".join(line + "\n" for line in kept))


class Wandb:
    """Weights & Biases; a failure while logging warns once and never stops training."""

    def __init__(self, spec: WandbSpec, *, name: str, config: dict[str, Any], directory: Path):
        try:
            import wandb
        except ImportError as error:
            raise SaelabError(
                "Weights & Biases is not installed", where="train.wandb.mode", fix="pip install 'saelab[wandb]'"
            ) from error
        self._failed = False
        self._run = wandb.init(
            project=spec.project,
            entity=spec.entity,
            name=name,
            config=config,
            dir=str(directory),
            mode="online" if spec.mode == "online" else "offline",
            resume="allow",
            id=_wandb_id(directory),
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        try:
            self._run.log(metrics, step=step)
        except Exception as error:  # whatever a network client may raise
            if not self._failed:
                warnings.warn(f"Weights & Biases failed, training goes on without it: {error}", stacklevel=2)
            self._failed = True

    def close(self) -> None:
        self._run.finish()


def _wandb_id(directory: Path) -> str:
    """One id per run directory, so that a resumed run goes on and a fresh one of the same name does not."""
    path = directory / WANDB_ID
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:12])
    return path.read_text().strip()


def open_sinks(spec: WandbSpec, directory: Path, *, name: str, config: dict[str, Any]) -> list[Sink]:
    """Every sink a run writes to; the file first."""
    remote: list[Sink] = []
    if spec.mode != "off":
        remote.append(Wandb(spec, name=name, config=config, directory=directory))
    return [JsonLines(directory / "metrics.jsonl"), *remote]
