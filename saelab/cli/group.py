"""Runs on one stream: cached once, trained in lock-step, measured one after another. Usually there is one run."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from saelab.activations import Store
from saelab.cli.console import Reporter
from saelab.cli.report import report
from saelab.cli.schema import RunConfig
from saelab.cli.stages import Loaded, Run
from saelab.errors import Interrupted, RunFailedError, SaelabError
from saelab.files import writing
from saelab.training import Progress, Trainer, checkpoint
from saelab.training.interrupt import stop_on_signals
from saelab.training.run_directory import RunDirectory
from saelab.training.sinks import check_installed
from saelab.training.trainer import wanted


class Group:
    """Runs whose configs agree on everything that defines their stream.

    Args:
        configs: of the members.
        place: holds their checkpoints; the run's own directory where there is one run.
        later: names of runs that the same command trains here afterwards.
    """

    def __init__(
        self,
        configs: Sequence[RunConfig],
        place: Path,
        reporter: Reporter,
        loaded: Loaded | None = None,
        *,
        later: Collection[str] = (),
    ):
        loaded = loaded or Loaded(configs[0].model, reporter)
        self.runs = [Run(config, reporter, loaded, place) for config in configs]
        self.directory, self.reporter = RunDirectory(place), reporter
        self.asked_for = {*later, *(config.name for config in configs)}

    @property
    def _directories(self) -> list[RunDirectory]:
        """The group's and every member's; one where there is one run."""
        return list(dict.fromkeys([self.directory, *(run.directory for run in self.runs)]))

    @property
    def _pending(self) -> list[Run]:
        return [run for run in self.runs if not run.directory.ended]

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the group's directory and every member's."""
        with ExitStack() as held:
            for directory in self._directories:
                held.enter_context(directory.claimed())
            yield

    def prepare(self, *, fresh: bool) -> Store:
        """Everything that can fail before a directory is touched; then the activations."""
        for directory in self._directories:
            directory.check_ours()
        for run in self.runs:
            run.check_trainable(fresh=fresh)
        if not fresh:
            for run in self.runs:
                run.check_same_config()
        self._check_others(fresh=fresh)
        for run in self.runs:
            check_installed(run.config.train)
        for run in self.runs:
            run.check_start(fresh=fresh)
        self.runs[0].check_stream()
        return self.runs[0].store(fresh=fresh)

    def _check_others(self, *, fresh: bool) -> None:
        """Raise where training these would drop what others, whom nobody has asked for, have learned so far."""
        if not (fresh or self._pending):
            return
        left = sorted(under_way(self.directory.path, damaged_too=fresh) - self.asked_for)
        if left:
            command = " ".join(["saelab compare CONFIG", *(f"--only {name}" for name in left)])
            raise SaelabError(
                f"training these would drop what {', '.join(left)} learned so far",
                where=str(self.directory.checkpoints),
                fix=f"finish them first, by the command that began them (of a comparison: {command}); with --fresh it "
                "starts them over; deleting their directories gives them up",
            )

    def begin(self, *, fresh: bool) -> None:
        """Take the directories over for these configs; call inside `claimed()`."""
        self._check_others(fresh=fresh)
        if fresh:
            self.directory.start_over()
        for run in self.runs:
            run.begin(fresh=fresh)
        self.reporter.log_to(self.directory.log)

    def make(self, *, fresh: bool = False) -> dict[str, dict[str, Any]]:
        """Everything that the configs describe, as far as it is not made yet: activations, SAEs, measurements, the
        index of a run that is alone, the report; what `evaluate` returns."""
        store = self.prepare(fresh=fresh)
        with self.claimed():
            self.begin(fresh=fresh)
            self.train(store)
            documents = self.evaluate(store)
            if len(self.runs) == 1 and documents and self.runs[0].config.index is not None:
                self.runs[0].index(store)
            if documents:
                self.reporter.say(f"report     {report([run.directory.path for run in self.runs])}")
        return documents

    # -- training -------------------------------------------------------------------------------------

    def train(self, store: Store) -> None:
        """Train what is not trained yet, first what the newest checkpoint holds. Of a run that diverges its directory
        says so, and `check_failures`.

        Raises:
            Interrupted: it was asked to stop, and has left a checkpoint.
        """
        for run in self.runs:
            if run.directory.finished:
                self.reporter.say(f"train      {run.config.name} is already done -> {run.directory.sae}")
        while pending := self._pending:
            begun = checkpoint.members(self.directory.checkpoints)
            together = [run for run in pending if run.config.name in begun]
            if begun and not together:  # all of an earlier group are done: it is of no more use
                with writing(self.directory.checkpoints):
                    shutil.rmtree(self.directory.checkpoints)
            self._train(together or pending, store)

    def _train(self, runs: Sequence[Run], store: Store) -> None:
        members = [run.member(store) for run in runs]
        by_name = {run.config.name: run for run in runs}
        hook, target = runs[0].config.sae_hook, runs[0].config.target_hook
        batches = runs[0].batches(store, wanted(members, hook, target))
        trainer = Trainer(members, store, hook, directory=self.directory.path, target_hook=target, batches=batches)
        if trainer.resume():
            self.reporter.say(f"train      going on from step {trainer.step}")
            if trainer.changed is not None:
                self.reporter.say(f"note       since it was begun: {trainer.changed}; its last bits may differ")
        else:
            for run, member in zip(runs, members, strict=True):
                run.start(trainer, member)
        trainer.keep = lambda step, member: by_name[member.name].keep(step, trainer, member, store)
        try:
            trainer.sinks = [run.open_sinks(trainer.step) for run in runs]
            with self.reporter.stage("train", trainer.spec.steps) as stage, stop_on_signals() as stop:
                trainer.stop = stop
                trainer.report = lambda progress: stage.update(progress.step, _note(progress, len(trainer.active)))
                with suppress(RunFailedError):  # none is left: why is in `failed`
                    trainer.run()
        finally:
            trainer.batches.close()
            for sink in (sink for sinks in trainer.sinks for sink in sinks):
                sink.close()
        if stop.signal is not None:
            raise Interrupted(trainer.step, stop.signal)
        for run, member in zip(runs, trainer.members, strict=True):
            if member.name in trainer.failed:
                run.directory.write_failure(trainer.failed[member.name])
            else:
                run.finish(trainer, member, store)

    # -- measuring ------------------------------------------------------------------------------------

    def evaluate(self, store: Store) -> dict[str, dict[str, Any]]:
        """What `eval.json` of each finished run holds, by the run's name."""
        return {run.config.name: run.evaluate(store) for run in self.runs if run.directory.finished}


def under_way(place: Path, *, damaged_too: bool = False) -> set[str]:
    """Members of a group whose training has come to a checkpoint in `place`, and to no end.

    Args:
        damaged_too: none where the checkpoint cannot be read, since none can go on from it.

    Raises:
        SaelabError: it cannot be read.
    """
    try:
        begun = checkpoint.members(RunDirectory(place).checkpoints)
    except SaelabError:
        if not damaged_too:
            raise
        return set()
    directories = {name: RunDirectory(place / name) for name in begun}
    return {name for name, directory in directories.items() if directory.config.exists() and not directory.ended}


def check_failures(groups: Iterable[Group]) -> None:
    """Raise where members have diverged."""
    runs = {run.directory.path: run for group in groups for run in group.runs}
    failures = {path: run.directory.failure for path, run in runs.items() if run.directory.failure is not None}
    if failures:
        others = "; the others are done" if len(failures) < len(runs) else ""
        raise RunFailedError(
            "; ".join(f"{path}: {reason}" for path, reason in failures.items()),
            fix=f"lower train.lr or raise train.warmup_steps, and start over with --fresh{others}",
        )


def _note(progress: Progress, members: int) -> str:
    metrics = progress.metrics
    shown = [f"{members} SAEs"] if members > 1 else []
    shown += [f"{progress.tokens_per_second:,.0f} tokens/s"]
    shown += [f"{name.split('/')[1]} {value:.4g}" for name, value in metrics.items() if name.startswith("losses/")]
    shown += [f"L0 {metrics['metrics/l0']:.1f}", f"dead {metrics['metrics/dead_latents']:.0f}"]
    if "heldout/fvu" in metrics:
        shown.append(f"held-out FVU {metrics['heldout/fvu']:.4f}")
    return "  ".join(shown)
