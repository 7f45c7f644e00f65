"""One run: its config, its place, and what it does alone: build its SAE, write the finished one, measure it.

Training is `saelab.cli.group`'s, since several runs may share a stream.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from saelab import machine
from saelab.activations import CaptureSpec, Store, capture
from saelab.activations.capture import Progress as CaptureProgress
from saelab.activations.loader import Batches, Wanted
from saelab.activations.source import SOURCES, Source, Text
from saelab.cli import provenance
from saelab.cli.console import Reporter
from saelab.cli.schema import RunConfig
from saelab.cli.trained_on import check_trained_on
from saelab.cli.what_trains import changed_settings, what_trains
from saelab.config import Choice, as_dict, load_config, to_yaml
from saelab.errors import SaelabError
from saelab.evals import EVALUATORS, Subject, evaluate
from saelab.features import Bundle, IndexSpec
from saelab.features.build import Origin, build_index
from saelab.features.codes import StoredCodes
from saelab.files import read_json, sha256_json, write_json
from saelab.lm import model as language_model
from saelab.lm.corpus import DataSpec
from saelab.lm.model import LanguageModel, ModelSpec
from saelab.lm.vocabulary import vocabulary
from saelab.lm.windows import SPLITS
from saelab.sae import SAE, Blueprint, build
from saelab.training import Member, Trainer, checkpoint, precision
from saelab.training.member import OUTLIER_NORM
from saelab.training.milestones import write_milestone
from saelab.training.run_directory import RunDirectory
from saelab.training.sinks import Sink, open_sinks
from saelab.training.start import check_start, load_start, start_from


class Loaded:
    """What several runs have in common: the language model, loaded once it is needed, and what evaluators keep."""

    def __init__(self, spec: ModelSpec, reporter: Reporter):
        self.spec, self.reporter = spec, reporter
        self.shared: dict[str, Any] = {}

    @cached_property
    def model(self) -> LanguageModel:
        started = time.perf_counter()
        lm = language_model.load(self.spec)
        self.reporter.say(
            f"model      {self.spec.name}: {lm.n_layers} layers, {lm.identity['dtype']} on {lm.device} "
            f"({time.perf_counter() - started:.0f} s)"
        )
        return lm

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Of the model, whether it is loaded or not."""
        return self.model.identity if "model" in vars(self) else language_model.identity(self.spec)

    @property
    def device(self) -> torch.device:
        """Where the model runs, or would."""
        return self.model.device if "model" in vars(self) else language_model.resolve_device(self.spec.device)


@dataclass
class Run:
    """One run on its way.

    Attributes:
        loaded: the language model, shared with other runs.
        place: what holds its checkpoints: its own directory, or its group's.
        elsewhere: whether it is looked at on other text than its own.
    """

    config: RunConfig
    reporter: Reporter
    loaded: Loaded
    place: Path
    elsewhere: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(Path(self.config.runs_dir) / self.config.name)

    @property
    def model(self) -> LanguageModel:
        return self.loaded.model

    @property
    def _begun(self) -> bool:
        """Whether there is anything that another config would spoil."""
        if self.place == self.directory.path:
            return self.directory.begun
        return self.directory.finished or self.config.name in checkpoint.members(RunDirectory(self.place).checkpoints)

    def check_trainable(self, *, fresh: bool) -> None:
        """Raise where training would have to make what was imported."""
        if self.config.imported_from is not None and (fresh or not self.directory.finished):
            raise SaelabError(
                f"this run's SAE was imported from {self.config.imported_from}: there is nothing to train",
                where=str(self.directory.path),
                fix="saelab import makes such a run; saelab eval and saelab index measure it",
            )

    def check_same_config(self) -> None:
        """Raise where the directory holds a run of another config (settings of `eval` may differ)."""
        if not self._begun:
            return
        if not self.directory.config.exists():
            raise SaelabError(
                "this directory holds a run without its config.yaml", where=str(self.directory.path), fix="--fresh"
            )
        if changed := changed_settings(self.directory, self.config):
            raise SaelabError(
                f"this directory holds a run of another config; different: {', '.join(changed)}",
                where=str(self.directory.path),
                fix="give this run another name (-o name=...), or replace the old one with --fresh",
            )

    def check_start(self, *, fresh: bool) -> None:
        """Load what `init_from` names, where it will be needed.

        Raises:
            SaelabError: it is not there, does not fit, or lies in this run.
        """
        source = self.config.init_from
        if source is None or (self._begun and not fresh):
            return
        if Path(source).resolve().is_relative_to(self.directory.path.resolve()):
            raise SaelabError(
                f"this run cannot start from itself: {source}",
                where="init_from",
                fix="give it another name (-o name=...)",
            )
        origin = self._origin
        widths = {hook: self.model.hook(hook).width for hook in self.config.activations.hooks}
        with torch.device("meta"):
            mine = self._built(widths.__getitem__).sae
        check_start(mine, origin)

    def check_stream(self) -> None:
        """Raise where batches could not be made, or what is reconstructed comes before what is read."""
        self.source.check(self.config.windows)
        if self.config.target_hook is not None:
            self.model.check_order(self.model.hook(self.config.sae_hook), self.model.hook(self.config.target_hook))

    def begin(self, *, fresh: bool) -> None:
        """Take the directory over for this config; call inside `directory.claimed()`."""
        if not fresh:
            self.check_same_config()
        if fresh or changed_settings(self.directory, self.config):  # another config's had not come to a checkpoint
            self.directory.start_over()
        config = self.directory.config
        if not config.exists() or load_config(RunConfig, config) != self.config:
            self.directory.write_config(to_yaml(self.config))

    def store(self, *, fresh: bool = False) -> Store:
        """The activations to train on; of a finished run, unless it starts over, those it was trained on, for which its
        text need not be there.

        Raises:
            SaelabError: as `cache`; the run is finished, and model or text have changed since.
        """
        if fresh or not self.directory.finished:
            return self.cache()
        kept = self._kept_store()
        if kept is None:
            return self.cache(self._check_trained_on)
        self._check_trained_on(kept.manifest["content"] | {"model": self.loaded.identity})
        self.reporter.say(f"cache      what this run was trained on -> {kept.directory}")
        return kept

    def _kept_store(self) -> Store | None:
        """The store that the summary names, where the config is as it was and the store is there, whole.

        Not for members of a group: others may be about to be trained, for which the text itself may be read.
        """
        summary = read_json(self.directory.summary) if self.directory.summary.exists() else {}
        named = summary.get("store")
        as_it_was = summary.get("config_sha256") == sha256_json(what_trains(self.config))
        if named is None or not as_it_was or self.place != self.directory.path:
            return None
        try:
            store = Store(Path(named["directory"]))
        except SaelabError:
            return None  # capture says what is the matter with it, or makes it again
        return store if store.content_sha256 == named["content_sha256"] else None

    def _check_trained_on(self, content: Mapping[str, Any]) -> None:
        """Raise where the finished SAE is of another model, or of other text, than a store of this content."""
        provenance = read_json(self.directory.sae / "config.json").get("provenance", {})
        sections = ("model",) if self.elsewhere else ("model", "data", "windows")
        note = check_trained_on(provenance, {section: content[section] for section in sections})
        if note is not None:
            self.reporter.say(f"note       {note}")

    def cache(self, check: Callable[[dict[str, Any]], None] = lambda _: None) -> Store:
        """Activations on disk: made, gone on with, or found.

        Args:
            check: called first, with what determines them; may raise.
        """
        config = self.config
        for hook in config.activations.hooks:
            self.model.hook(hook)
        started = time.perf_counter()
        spec = self.source.capture_spec(config.activations)
        first: list[CaptureProgress] = []
        with self.reporter.stage("cache", spec.tokens + spec.heldout_tokens) as stage:

            def report(progress: CaptureProgress) -> None:
                if not first:
                    first.append(progress)
                gained = progress.done_tokens - first[0].done_tokens
                rate = gained / max(time.perf_counter() - started, 1e-9)
                stage.update(progress.done_tokens, f"{rate:,.0f} tokens/s")

            store = capture(
                self.model,
                config.data,
                config.windows,
                config.mask,
                spec,
                check=check,
                report=report,
                announce=lambda room: self.reporter.say(f"disk       {room}"),
            )
        self.seconds["cache"] = time.perf_counter() - started
        self._tell_of(store, spec)
        return store

    def _tell_of(self, store: Store, spec: CaptureSpec) -> None:
        splits = {split: store.n_tokens(split) for split in SPLITS}
        self.reporter.say(
            f"cache      {splits['train']:,} training and {splits['heldout']:,} held-out tokens at "
            f"{', '.join(store.hooks)} in {self.seconds['cache']:.0f} s -> {store.directory}"
        )
        if self.config.mask.max_norm_ratio is not None:
            hits = sum(counts["norm"] for counts in store.manifest["masked_tokens"].values())
            self.reporter.say(f"mask       the norm filter left out {hits:,} tokens")
        if splits["train"] < spec.tokens:
            self.reporter.say(f"note       the text held fewer tokens than activations.tokens = {spec.tokens:,}")

    @cached_property
    def source(self) -> Source:
        """Where its training's activations come from."""
        return SOURCES[self.config.source.kind](**self.config.source.settings)

    def batches(self, store: Store, wanted: Wanted) -> Batches:
        """Training batches as a trainer wants them."""
        config = self.config
        text = Text(lambda: self.model, config.data, config.windows)
        return self.source.batches(store, wanted, text, config.activations)

    def member(self, store: Store) -> Member:
        """This run's SAE, to be trained."""
        config = self.config
        device = self.model.device
        torch.manual_seed(config.train.seed)
        try:
            blueprint = self._built(store.width)
            resolved = precision.resolve(config.train.precision, device)  # a resumed run keeps what it began with
            return Member(config.name, blueprint, config.train, precision=resolved, device=device)
        except (MemoryError, RuntimeError) as error:  # torch says both when there is no room
            reason = str(error).strip().splitlines()[0]
            raise SaelabError(
                f"this SAE does not fit on {device}: {reason}", where="sae", fix="lower n_latents"
            ) from error

    def _built(self, width: Callable[[str], int]) -> Blueprint:
        """This run's SAE in training form, by the width of a hook."""
        config = self.config
        d_out = None if config.target_hook is None else width(config.target_hook)
        return build(config.sae.kind, width(config.sae_hook), config.sae.settings, d_out, skip=config.skip)

    def start(self, trainer: Trainer, member: Member) -> None:
        """Take over the weights that `init_from` names, where it does, and put on record whose they are."""
        if self.config.init_from is not None:
            target = None if self.config.target_hook is None else trainer.target_scaling
            start_from(member.sae, self._origin, trainer.scaling, target, unit_norm=member.unit_norm)
            self.directory.write_origin(self.config.init_from, self._origin.sha256())

    @cached_property
    def _origin(self) -> SAE:
        assert self.config.init_from is not None
        return load_start(self.config.init_from)

    def open_sinks(self, step: int) -> list[Sink]:
        """Where this run's metrics go, from `step` on."""
        config = self.config
        return open_sinks(config.train, self.directory.path, name=config.name, config=as_dict(config), step=step)

    def keep(self, step: int, trainer: Trainer, member: Member, store: Store) -> None:
        """Write what the SAE is at a milestone."""
        write_milestone(self.directory.milestones, step, member, trainer.deploy, self._provenance(store))

    def finish(self, trainer: Trainer, member: Member, store: Store) -> None:
        """Write the trained SAE in its inference form, and how training went."""
        sae = trainer.deploy(member)
        heldout = {"training": trainer.heldout(member), "inference": trainer.heldout_deployed(sae)}
        sae = sae.cpu()
        sae.identity.provenance = self._provenance(store)
        self._write_summary(trainer, member, sae, heldout)
        sae.save(self.directory.sae)  # last: it says that training is done
        self.reporter.say(
            f"train      {self.config.name}: {trainer.step:,} steps, {trainer.clock.tokens:,} tokens at "
            f"{trainer.clock.alone(member.name):,.0f} tokens/s -> {self.directory.sae}"
        )
        self.reporter.say(f"held out   {'; '.join(f'{name} form: {_said(found)}' for name, found in heldout.items())}")
        if member.outlier_share > _NOTABLE_SHARE:
            self.reporter.say(
                f"note       activations {OUTLIER_NORM:.0f} times longer than the median took "
                f"{member.outlier_share:.1%} of the budget that tokens share; mask.max_norm_ratio keeps them out"
            )

    def on_text(self, dataset: str, tokens: int) -> Run:
        """The same run on other text, to be looked at."""
        held_out = max(1, round(tokens * self.config.windows.heldout_frac))
        wanted = replace(self.config.activations, tokens=tokens, heldout_tokens=held_out, loss_grad=False, dir=None)
        config = replace(self.config, data=DataSpec(dataset), activations=wanted, source=Choice("store", {}))
        return replace(self, config=config, elsewhere=True)

    def measured_by(self, only: str | None = None, *, every: bool = False, also: Sequence[str] = ()) -> Run:
        """The same run, measured by `only` these evaluators ("probing,steering"), or by `every` one there is, else by
        those of its config; and by some `also`. Their settings are the config's where it names them.

        Raises:
            SaelabError: an unknown evaluator, or both at once.
        """
        if only is not None and every:
            raise SaelabError("--only names some evaluators, --all takes every one", where="saelab eval")
        names = list(EVALUATORS) if every else list(self.config.eval)
        names = names if only is None else [name.strip() for name in only.split(",")]
        for name in (names := list(dict.fromkeys([*names, *also]))):
            EVALUATORS[name]  # unknown ones are refused before anything is measured
        chosen = {name: self.config.eval.get(name, {}) for name in names}
        return replace(self, config=replace(self.config, eval=chosen))

    def evaluate(self, store: Store, *, again: bool = False) -> dict[str, Any]:
        """Measure the finished SAE on held-out documents and write `eval.json`."""
        started = time.perf_counter()
        sae = self._finished_sae(store)
        subject = Subject(
            sae,
            store,
            self.config.sae_hook,
            store.mask,
            model=lambda: self.model,
            target_hook=self.config.target_hook,
            shared=self.loaded.shared,
        )
        with self.reporter.stages() as report:
            document = evaluate(
                subject,
                self.config.eval,
                config_sha256=sha256_json(what_trains(self.config)),
                write_to=self.directory.eval,
                again=again,
                report=lambda name, done, total: report(f"eval {name}", done, total),
            )
        self.seconds["eval"] = time.perf_counter() - started
        self.reporter.say(
            f"eval       {', '.join(self.config.eval)} in {self.seconds['eval']:.0f} s -> {self.directory.eval}"
        )
        return document

    def index(self, store: Store, *, again: bool = False) -> Bundle:
        """What each latent does on the store's tokens, for the browser: made, gone on with, or found."""
        started = time.perf_counter()
        spec = self.config.index or IndexSpec()
        sae = self._finished_sae(store)
        identity, sha256 = sae.identity, sae.sha256()
        origin = Origin(
            codes=StoredCodes(store, sae, self.config.sae_hook, spec),
            W_dec=sae.W_dec,
            hook=self.config.target_hook or self.config.sae_hook,
            model=lambda: self.model,
            texts=lambda: vocabulary(self.model.tokenizer),
            sae={"sha256": sha256, **asdict(identity)},
            content={"sae": sha256, "store": store.content_sha256, "model": self.loaded.identity},
        )
        with self.reporter.stages() as report:
            build_index(origin, spec, self.directory.index, report, again=again)
        bundle = Bundle(self.directory.index)
        self.seconds["index"] = time.perf_counter() - started
        self.reporter.say(
            f"index      {bundle.n_latents:,} latents on {bundle.n_tokens:,} tokens in {self.seconds['index']:.0f} s "
            f"-> {self.directory.index}"
        )
        return bundle

    def _finished_sae(self, store: Store) -> SAE:
        """To be measured on a store, of its own text or, on purpose, of another."""
        if not self.directory.finished:
            raise SaelabError("this run has no trained SAE yet", where=str(self.directory.path), fix="saelab train")
        sae = SAE.load(self.directory.sae)
        found = {"model": store.manifest["content"]["model"], "mask": store.manifest["mask"]}
        own = {} if self.elsewhere else {key: store.manifest["content"][key] for key in ("data", "windows")}
        check_trained_on(sae.identity.provenance, found | own)
        return sae.to(self.loaded.device)

    def _provenance(self, store: Store) -> dict[str, Any]:
        return {
            "model": self.model.identity,
            "hook": self.config.sae_hook,
            "target_hook": self.config.target_hook,
            "init_from": None if self.config.init_from is None else self.directory.origin_sha256,
            "data": store.manifest["content"]["data"],
            "windows": store.manifest["content"]["windows"],
            "mask": store.manifest["mask"],
            "trained_tokens": self.config.train.steps * self.config.train.batch_tokens,
            "config_sha256": sha256_json(what_trains(self.config)),
            "git_revision": provenance.git_revision(),
            "versions": provenance.versions(),
        }

    def _write_summary(self, trainer: Trainer, member: Member, sae: SAE, heldout: dict[str, dict[str, float]]) -> None:
        clock = trainer.clock
        write_json(
            self.directory.summary,
            {
                "name": self.config.name,
                "config_sha256": sha256_json(what_trains(self.config)),
                "sae_sha256": sae.sha256(),
                "store": {
                    "directory": str(trainer.store.directory.absolute()),
                    "content_sha256": trainer.store.content_sha256,
                },
                "steps": trainer.step,
                "tokens": clock.tokens,
                "training_seconds": round(clock.batches + clock.steps[member.name], 2),
                "tokens_per_second": round(clock.alone(member.name), 1),
                "on_one_stream_with": [other.name for other in trainer.members if other is not member],
                "precision": member.sae.coder.precision,
                "heldout": heldout,
                "outlier_share": member.outlier_share,
                "peak_memory_bytes": machine.peak_memory_bytes(),
                "versions": provenance.versions(),
                "git_revision": provenance.git_revision(),
                "machine": machine.describe(),
            },
        )


def open_run(directory: Path, overrides: list[str], reporter: Reporter) -> Run:
    """A run that exists, by its directory."""
    for override in overrides:
        if not re.match(r"(eval|index)\b", override):
            raise SaelabError(
                "a trained run can be measured in another way, but not become another run",
                where=f"-o {override}",
                fix="only eval.* and index.* can be overridden here",
            )
    config_file = directory / "config.yaml"
    if not config_file.exists():
        raise SaelabError("this is not a run: it has no config.yaml", where=str(directory), fix="runs/<name>")
    config = replace(load_config(RunConfig, config_file, overrides), runs_dir=str(directory.resolve().parent))
    if config.name != directory.resolve().name:
        raise SaelabError(
            f"the run in this directory is called '{config.name}'", where=str(directory), fix="rename it back"
        )
    return Run(config, reporter, Loaded(config.model, reporter), directory.resolve())


def _said(heldout: Mapping[str, float]) -> str:
    """FVU and L0, as far as they are known: one token has no variance."""
    shown = {"fvu": "FVU {:.4f}", "l0": "L0 {:.1f}"}
    return ", ".join(text.format(heldout[name]) for name, text in shown.items() if name in heldout)


_NOTABLE_SHARE = 0.01
"""From here on a run says what outliers took."""
