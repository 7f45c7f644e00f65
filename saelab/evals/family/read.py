"""A comparison from the JSON that `render.document` made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saelab.errors import SaelabError
from saelab.evals.family.render import SCHEMA
from saelab.evals.family.table import Comparison, FamilyTable, Reference, Row, Spread
from saelab.files import read_json


def read(path: Path) -> FamilyTable:
    """What `family.json` holds.

    Raises:
        SaelabError: absent, of another schema, or damaged.
    """
    document = read_json(path)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise SaelabError(f"not a comparison of schema {SCHEMA}", where=str(path), fix="saelab compare CONFIG")
    try:
        members = document["members"]
        comparison = Comparison(
            members=tuple(str(member["name"]) for member in members),
            seeds=tuple(map(int, document["seeds"])),
            curve=tuple(map(str, document["curve"])),
            label=str(document["label"]),
        )
        return FamilyTable(comparison, tuple(map(_row, members)))
    except (KeyError, TypeError, ValueError, AttributeError, SaelabError) as error:
        raise SaelabError(
            f"this comparison is damaged: {error}", where=str(path), fix="saelab compare CONFIG"
        ) from error


def _row(member: dict[str, Any]) -> Row:
    reference = dict(member["reference"] or {})
    return Row(
        name=str(member["name"]),
        kind=None if member["kind"] is None else str(member["kind"]),
        finished=tuple(map(int, member["finished"])),
        unfinished={int(seed): str(state) for seed, state in member["unfinished"].items()},
        values={str(name): _spread(numbers) for name, numbers in member["values"].items()},
        reference=_reference(str(reference.pop("name")), reference) if reference else None,
    )


def _reference(name: str, parts: dict[str, Any]) -> Reference:
    found = {part: _spread(numbers) for part, numbers in parts.items()}
    known = {part: found.get(part) for part in ("ce_score", "added_loss_ratio")}
    return Reference(name, found["l0"], found["fvu"], known["ce_score"], found["fvu_ratio"], known["added_loss_ratio"])


def _spread(numbers: dict[str, Any]) -> Spread:
    values = tuple(map(float, numbers["seeds"]))
    if not values:
        raise ValueError("a number without seeds")
    return Spread(values)
