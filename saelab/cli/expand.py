"""One config that describes many SAEs on one stream, as the configs of each: sweeps and comparisons."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from saelab.cli.schema import RunConfig
from saelab.config import as_dict, build_config
from saelab.errors import SaelabError
from saelab.training.trainer import STREAM_SETTINGS

_SAME_SECTIONS = ("model", "data", "windows", "mask", "activations", "source", "hook", "target_hook")
"""What defines the stream, with `STREAM_SETTINGS` of `train`."""


def swept(config: RunConfig) -> list[RunConfig]:
    """The members of a sweep, in the order of its values; a run that sweeps nothing is its own only member.

    Every combination of `grid`, each with every column of `zip`. A member's name says what varies.

    Raises:
        SaelabError: a value that its key refuses, or a key that one stream cannot vary.
    """
    if config.sweep is None:
        return [config]
    points = list(_points(config.sweep.grid, config.sweep.zip))
    short = _short_names(points[0])
    members = []
    for point in points:
        name = "_".join(f"{short[key]}-{_in_a_name(value)}" for key, value in point.items())
        data = _bare(config) | {"name": name, "runs_dir": str(group_directory(config))}
        for key, value in point.items():
            _set(data, key, value)
        members.append(build_config(RunConfig, data, f"sweep member {name}"))
    _check_distinct([member.name for member in members], "sweep", fix="leave one out")
    _check_one_stream(members)
    return members


def group_directory(config: RunConfig) -> Path:
    """Where the members of a sweep or a comparison have their run directories."""
    return Path(config.runs_dir) / config.name


def compared(config: RunConfig, seed: int) -> list[RunConfig]:
    """The members of a comparison for one seed: the reference's curve, then the others.

    Raises:
        SaelabError: there is nothing to compare, or a member that its variant or the stream refuses.
    """
    if config.compare is None:
        raise SaelabError("this config compares nothing", where="compare", fix="compare: {members: {...}}")
    ((setting, values),) = config.compare.curve.items() if config.compare.curve else (("", []),)
    reference = config.sae
    members = [
        _compared_member(config, seed, f"{reference.kind}-{_in_a_name(value)}", sae={setting: value})
        for value in values
    ]
    for name, spec in config.compare.members.items():
        sae = {"kind": spec.sae.kind, **spec.sae.settings}
        members.append(_compared_member(config, seed, name, sae=sae, whole=True, train=spec.train))
    names = [member.name for member in members]
    names += [companion_name(config, name) for name in config.compare.companions]
    _check_distinct(names, "compare", fix="leave one out, or call the member otherwise")
    _check_one_stream(members)
    return members


def companions(config: RunConfig, seed: int, l0: Mapping[str, float]) -> list[RunConfig]:
    """For each of `compare.companions` in `l0`, the reference with as many latents as that member came out with."""
    assert config.compare is not None
    setting = next(iter(config.compare.curve), "k")
    return [
        _compared_member(config, seed, companion_name(config, name), sae={setting: max(1, round(l0[name]))})
        for name in config.compare.companions
        if name in l0
    ]


def companion_name(config: RunConfig, member: str) -> str:
    return f"{config.sae.kind}-like-{member}"


def _compared_member(
    config: RunConfig,
    seed: int,
    name: str,
    *,
    sae: Mapping[str, Any],
    whole: bool = False,
    train: Mapping[str, Any] | None = None,
) -> RunConfig:
    data = _bare(config)
    data |= {"name": name, "runs_dir": str(group_directory(config) / f"seed-{seed}")}
    data["sae"] = dict(sae) if whole else data["sae"] | sae
    data["train"] = data["train"] | dict(train or {}) | {"seed": seed}
    return build_config(RunConfig, data, f"compare.members.{name}")


def _bare(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in as_dict(config).items() if key not in ("sweep", "compare")}


def _points(grid: Mapping[str, Sequence[Any]], zipped: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    columns = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)] or [{}]
    for values in itertools.product(*grid.values()):
        for column in columns:
            yield dict(zip(grid, values, strict=True)) | column


def _short_names(keys: Mapping[str, Any]) -> dict[str, str]:
    """The last part of each dotted key; the whole of it where two share that."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _in_a_name(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace("+", "")).strip("-")


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    section = data
    for part in path:
        if not isinstance(section.get(part), dict):
            raise SaelabError(f"'{part}' is no section of a run", where=f"sweep: {key}", fix="as in sae.k or train.lr")
        section[part] = dict(section[part])
        section = section[part]
    section[last] = value


def _check_distinct(names: Sequence[str], where: str, *, fix: str) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SaelabError(f"two members would be called {', '.join(twice)}", where=where, fix=fix)


def _check_one_stream(members: Sequence[RunConfig]) -> None:
    first = as_dict(members[0])
    for member in members[1:]:
        other = as_dict(member)
        keys = [key for key in _SAME_SECTIONS if first.get(key) != other.get(key)]
        keys += [f"train.{key}" for key in STREAM_SETTINGS if first["train"][key] != other["train"][key]]
        if keys:
            raise SaelabError(
                f"{', '.join(keys)} cannot vary: all members are trained on one stream",
                where=f"member {member.name}",
                fix="make one sweep for each value",
            )
