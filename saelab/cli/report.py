"""`saelab report`: runs, directories of runs, or the config of a comparison or a sweep, as one page."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from saelab.cli.expand import companion_name, compared, group_directory, swept
from saelab.cli.family import family
from saelab.cli.runs import plan, read_config
from saelab.cli.schema import RunConfig
from saelab.cli.shipped import find
from saelab.config import load_config
from saelab.errors import SaelabError
from saelab.evals.family import FILE, FamilyTable
from saelab.evals.family import read as read_family
from saelab.evals.records import find_runs, is_run
from saelab.evals.report import Comparison, Member, Run, of_comparison, of_run, read
from saelab.files import write_text
from saelab.training.run_directory import RunDirectory

_SEED = re.compile(r"seed-\d+")


def report(targets: Sequence[Path], output: Path | None = None) -> Path:
    """Write the page, complete or not at all, and say where.

    Args:
        targets: of one run its directory; of several, their directories, one that holds them, or the config of a
            comparison or a sweep.
        output: the file (none: report.html in the run's directory, or in the one that holds all runs).

    Raises:
        SaelabError: there is no run.
    """
    if len(targets) == 1 and not targets[0].is_dir():
        config = load_config(RunConfig, find(targets[0]), [])
        return of_config(config, output)
    runs = [run for target in targets for run in _runs(target)]
    if len(runs) == 1:
        return _of_one(runs[0], output)
    root = targets[0] if len(targets) == 1 else _above(runs)
    written = root / FILE
    table = read_family(written) if written.is_file() else None
    return _of_several(root, runs, table, output)


def of_config(config: RunConfig, output: Path | None = None) -> Path:
    """The page of what a config describes: a run, or the members of a sweep or a comparison that have begun.

    Raises:
        SaelabError: none has.
    """
    root = group_directory(config)
    if config.compare is None and config.sweep is None:
        return _of_one(root, output)
    if config.compare is None:
        places, table = [root / member.name for member in swept(config)], None
    else:
        names = [member.name for member in compared(config, config.compare.seeds[0])]
        names += [companion_name(config, name) for name in config.compare.companions]
        places = [root / f"seed-{seed}" / name for name in names for seed in config.compare.seeds]
        table = family(config)
    runs = [place for place in places if is_run(place)]
    if not runs:
        fix = "saelab run CONFIG" if config.compare is None else "saelab compare CONFIG"
        raise SaelabError("none of its runs has begun", where=str(root), fix=fix)
    return _of_several(root, runs, table, output)


def renew(run: RunDirectory) -> None:
    """Write the page of a run anew, where there is one."""
    if run.report.exists():
        _of_one(run.path, None)


def _runs(target: Path) -> list[Path]:
    """The run in a directory, or those below it."""
    if not target.is_dir():
        raise SaelabError("this run does not exist", where=str(target), fix="saelab runs lists those there are")
    found = list(find_runs(target).runs)
    if not found:
        raise SaelabError("there is no run here", where=str(target), fix="name a run's directory, such as runs/demo")
    return found


def _above(runs: Sequence[Path]) -> Path:
    """The directory that holds all of them, as it would be named where they are."""
    alike = len({run.is_absolute() for run in runs}) == 1
    return Path(os.path.commonpath([run.parent if alike else run.absolute().parent for run in runs]))


def _of_one(path: Path, output: Path | None) -> Path:
    if not is_run(path):
        raise SaelabError("there is no run here", where=str(path), fix="saelab run CONFIG")
    return _write(of_run(_read(path)), output or RunDirectory(path).report)


def _of_several(root: Path, paths: Sequence[Path], table: FamilyTable | None, output: Path | None) -> Path:
    runs: dict[str, list[Run]] = {}
    notes = []
    for path in paths:
        try:
            run = _read(path)
        except SaelabError as error:
            notes.append(str(error))
            continue
        runs.setdefault(_name(root, path), []).append(run)
    if not runs:
        raise SaelabError("none of these runs can be read", where=str(root), fix=notes[0])
    comparison = Comparison(root.absolute().name, _members(runs, table), table, notes)
    return _write(of_comparison(comparison), output or RunDirectory(root).report)


def _name(root: Path, path: Path) -> str:
    """Of a run below the directory of all; seeds share one."""
    parts = [part for part in Path(os.path.relpath(path, root)).parts if not _SEED.fullmatch(part)]
    return "/".join(parts) or path.absolute().name


def _members(runs: Mapping[str, Sequence[Run]], table: FamilyTable | None) -> list[Member]:
    """In the order of the table; all of a reference curve look alike."""
    order = [name for name in table.comparison.members if name in runs] if table else []
    curve = table.comparison.curve if table else ()
    names = [*order, *(name for name in runs if name not in order)]
    others = [name for name in names if name not in curve]
    first = 1 if curve else 0
    return [Member(name, 0 if name in curve else first + others.index(name), runs[name]) for name in names]


def _read(path: Path) -> Run:
    config, problem = read_config(path)
    run = read(path, plan(config) if config else None, config)
    return run if problem is None else replace(run, problems=[problem, *run.problems])


def _write(page: str, path: Path) -> Path:
    write_text(path, page)
    return path
