"""Other tools that a run's metrics can go to, beside its own file; none is imported before it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from contextvars import Context
from dataclasses import dataclass
from importlib import import_module

from saelab.errors import SaelabError
from saelab.training.sinks.base import Sink, SinkRun
from saelab.training.spec import TrackioSpec, TrainSpec, WandbSpec

EVENTS = "tensorboard"
"""TensorBoard's directory inside a run's."""


class Wandb:
    """A Weights & Biases run whose id is the directory's, so that a resumed run goes on in it.

    It cannot forget steps it was told: a resumed run leaves them out (`Guarded.told`). Without a network
    (`offline`) each sitting is a directory of its own under `<run>/wandb`, and `wandb sync` puts them into one run.
    """

    def __init__(self, spec: WandbSpec, run: SinkRun):
        import wandb

        self._run = wandb.init(
            project=spec.project,
            entity=spec.entity,
            name=run.name,
            config=run.config,
            dir=str(run.directory),
            mode="online" if spec.mode == "online" else "offline",
            resume="allow",
            id=run.id,
            reinit="create_new",  # a sweep has several at a time
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def close(self) -> None:
        self._run.finish()


class TensorBoard:
    """Event files under `<run>/tensorboard`; `tensorboard --logdir runs` shows every run in `runs`.

    A resumed run writes another file there, which says that what came after its checkpoint no longer counts.
    """

    def __init__(self, run: SinkRun):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.directory / EVENTS), purge_step=run.step + 1)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Trackio:
    """A trackio run called `<name>-<id>`: trackio finds the one to go on with by its name.

    It cannot forget steps it was told: a resumed run leaves them out (`Guarded.told`), and the half second that it
    keeps in memory is missing where a process was killed.
    """

    def __init__(self, spec: TrackioSpec, run: SinkRun):
        trackio = import_module("trackio")
        # trackio ends the run that it finds in its context, and a sweep has several at a time: each has its own.
        # It talks on standard output, which is ours.
        with redirect_stdout(sys.stderr):
            self._run = Context().run(
                trackio.init,
                project=spec.project,
                name=f"{run.name}-{run.id}",
                config=run.config,
                space_id=spec.space,
                resume="allow",
                embed=False,
            )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()


@dataclass(frozen=True)
class Remote:
    """A sink that is asked for.

    Attributes:
        package: what it imports; the extra that installs it has the same name.
        title: as people call it.
        setting: what asks for it.
        connect: opens it.
        rewinds: it drops by itself what came after the step that a run goes on from, and is told again.
    """

    package: str
    title: str
    setting: str
    connect: Callable[[SinkRun], Sink]
    rewinds: bool = False

    def check_installed(self) -> None:
        try:
            import_module(self.package)
        except ImportError as error:
            raise SaelabError(
                f"{self.title} is not installed",
                where=f"train.{self.setting}",
                fix=f"pip install 'saelab[{self.package}]'",
            ) from error


def asked_for(spec: TrainSpec) -> list[Remote]:
    """The sinks that `spec` asks for."""
    wandb, trackio = spec.wandb, spec.trackio
    known = [
        (wandb.mode != "off", Remote("wandb", "Weights & Biases", "wandb.mode", lambda run: Wandb(wandb, run))),
        (spec.tensorboard.enabled, Remote("tensorboard", "TensorBoard", "tensorboard.enabled", TensorBoard, True)),
        (trackio.enabled, Remote("trackio", "trackio", "trackio.enabled", lambda run: Trackio(trackio, run))),
    ]
    return [remote for wanted, remote in known if wanted]
