"""Runs on one stream: cached once, trained in lock-step, measured one after another. Usually there is one run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from saelab.activations import Store
from saelab.cli.console import Reporter
from saelab.cli.report import report
from saelab.cli.schema import RunConfig
from saelab.cli.stages import Loaded, Run
from saelab.errors import Interrupted, RunFailedError
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
    """

    def __init__(self, configs: Sequence[RunConfig], place: Path, reporter: Reporter, loaded: Loaded | None = None):
        loaded = loaded or Loaded(configs[0].model, reporter)
        self.runs = [Run(config, reporter, loaded, place) for config in configs]
        self.directory, self.reporter = RunDirectory(place), reporter

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the group's directory and every member's."""
        with ExitStack() as held:
            for directory in dict.fromkeys([self.directory, *(run.directory for run in self.runs)]):
                held.enter_context(directory.claimed())
            yield

    def prepare(self, *, fresh: bool) -> Store:
        """Everything that can fail before a directory is touched; then the activations."""
        for run in self.runs:
            run.check_trainable(fresh=fresh)
        if not fresh:
            for run in self.runs:
                run.check_same_config()
        for run in self.runs:
            check_installed(run.config.train)
        return self.runs[0].store(fresh=fresh)

    def begin(self, *, fresh: bool) -> None:
        """Take the directories over for these configs; call inside `claimed()`."""
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
        """Train what is not trained yet; from the newest checkpoint where there is one.

        Raises:
            RunFailedError: of the only run; of several, after the others are done, some.
        """
        for run in self.runs:
            if run.directory.finished:
                self.reporter.say(f"train      {run.config.name} is already done -> {run.directory.sae}")
        while pending := [run for run in self.runs if not run.directory.finished and run.directory.failure is None]:
            begun = checkpoint.members(self.directory.checkpoints)
            together = [run for run in pending if run.config.name in begun]
            if begun and not together:  # all of an earlier group are done: it is of no more use
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
                trainer.run()
        finally:
            trainer.batches.close()
            for sink in (sink for sinks in trainer.sinks for sink in sinks):
                sink.close()
        if stop.signal is not None and trainer.step < trainer.spec.steps:
            raise Interrupted(trainer.step, stop.signal)
        for run, member in zip(runs, trainer.members, strict=True):
            if member.name in trainer.failed:
                run.directory.write_failure(trainer.failed[member.name])
            else:
                run.finish(trainer, member, store)

    def check_failures(self) -> None:
        """Raise where members have diverged."""
        failures = {run.config.name: run.directory.failure for run in self.runs if run.directory.failure}
        if failures:
            raise RunFailedError(
                "; ".join(f"{name}: {reason}" for name, reason in failures.items()),
                where=str(self.directory.path),
                fix="lower train.lr or raise train.warmup_steps; the others are done",
            )

    # -- measuring ------------------------------------------------------------------------------------

    def evaluate(self, store: Store) -> dict[str, dict[str, Any]]:
        """What `eval.json` of each finished run holds, by the run's name."""
        return {run.config.name: run.evaluate(store) for run in self.runs if run.directory.finished}


def _note(progress: Progress, members: int) -> str:
    metrics = progress.metrics
    shown = [f"{members} SAEs"] if members > 1 else []
    shown += [f"{progress.tokens_per_second:,.0f} tokens/s"]
    shown += [f"{name.split('/')[1]} {value:.4g}" for name, value in metrics.items() if name.startswith("losses/")]
    shown += [f"L0 {metrics['metrics/l0']:.1f}", f"dead {metrics['metrics/dead_latents']:.0f}"]
    if "heldout/fvu" in metrics:
        shown.append(f"held-out FVU {metrics['heldout/fvu']:.4f}")
    return "  ".join(shown)
