"""The comparison for a terminal, a README, a spreadsheet and a program."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saelab.evals.family.table import METRICS, FamilyTable, Reference, Row, Spread, said_of_spread
from saelab.files import write_json, write_text

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
FILE = "family.json"
"""What a comparison is written to, whatever it is called: it is known by its directory's name."""
NOT_KNOWN = "-"


@dataclass(frozen=True)
class Column:
    """One column of the printed tables: `{}` in the heading is the reference's name."""

    heading: str
    cell: Callable[[Row], str]


def _spread(spread: Spread | None, digits: int, *, percent: bool = False) -> str:
    """`0.153 ±.002`; of one seed the number alone."""
    if spread is None:
        return NOT_KNOWN
    unit = 100 if percent else 1
    mean, around = f"{unit * spread.mean:,.{digits}f}", f"{unit * spread.around:,.{digits}f}"
    text = mean if len(spread.values) == 1 else f"{mean} ±{around.removeprefix('0') if digits else around}"
    return f"{text} %" if percent else text


def _metric(heading: str, name: str, digits: int, *, percent: bool = False) -> Column:
    return Column(heading, lambda row: _spread(row.values.get(name), digits, percent=percent))


def _reference(heading: str, part: Callable[[Reference], Spread | None], digits: int) -> Column:
    return Column(heading, lambda row: _spread(part(row.reference) if row.reference else None, digits))


COLUMNS: dict[str, Column] = {
    "member": Column("member", lambda row: row.name),
    "l0": _metric("L0", "l0", 1),
    "fvu": _metric("FVU", "fvu", 3),
    "reference_fvu": _reference("{} at this L0", lambda reference: reference.fvu, 3),
    "fvu_ratio": _reference("ratio", lambda reference: reference.fvu_ratio, 3),
    "ce_score": _metric("CE score", "ce_score", 3),
    "reference_ce_score": _reference("{} at this L0", lambda reference: reference.ce_score, 3),
    "added_loss_ratio": _reference("ratio of added losses", lambda reference: reference.added_loss_ratio, 2),
    "ce_score_mean": _metric("CE score, mean ablation", "ce_score_mean", 3),
    "delta_ce_nats": _metric("added loss, nats", "delta_ce_nats", 3),
    "dead_frac": _metric("dead", "dead_frac", 1, percent=True),
    "dense_frac": _metric("dense", "dense_frac", 2, percent=True),
    "tokens_per_second": _metric("tokens/s", "tokens_per_second", 0),
}
"""By name, in the order of the tables."""


def cells(table: FamilyTable, columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row of texts for each member."""
    chosen = [COLUMNS[name] for name in columns]
    heading = [column.heading.format(table.comparison.label) for column in chosen]
    return heading, [[column.cell(row) for column in chosen] for row in table.rows]


def notes(table: FamilyTable) -> list[str]:
    """What a reader must know besides: the spread, other references, and what is not finished."""
    seeds = len(table.comparison.seeds)
    lines = [f"Means of {seeds} seeds; {said_of_spread(seeds)}."] if seeds > 1 else ["One seed."]
    for row in table.rows:
        reference = row.reference
        if reference and reference.name != table.comparison.label:
            lines.append(f"{row.name} stands beside {reference.name}, at L0 {_spread(reference.l0, 1)}.")
    unfinished = [f"{row.name}, seed {seed}: {state}" for row in table.rows for seed, state in row.unfinished.items()]
    return [*lines, *([f"Not measured yet: {'; '.join(unfinished)}."] if unfinished else [])]


def terminal(table: FamilyTable, columns: Sequence[str] = tuple(COLUMNS)) -> Table:
    """For a terminal."""
    from rich.markup import escape
    from rich.table import Table

    heading, rows = cells(table, columns)
    shown = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    shown.caption = escape("\n".join(notes(table)))
    for column, title in enumerate(heading):
        shown.add_column(escape(title), justify="right" if column else "left", no_wrap=not column)
    for row in rows:
        shown.add_row(*map(escape, row))
    return shown


def markdown(table: FamilyTable, columns: Sequence[str] = tuple(COLUMNS)) -> str:
    """For a README."""
    heading, rows = cells(table, columns)
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *notes(table), ""])


def document(table: FamilyTable) -> dict[str, Any]:
    """JSON-able, every number of every seed."""
    comparison = table.comparison
    return {
        "schema": SCHEMA,
        "label": comparison.label,
        "seeds": list(comparison.seeds),
        "curve": list(comparison.curve),
        "complete": table.complete,
        "members": [
            {
                "name": row.name,
                "kind": row.kind,
                "finished": list(row.finished),
                "unfinished": {str(seed): state for seed, state in row.unfinished.items()},
                "values": {name: _numbers(spread) for name, spread in row.values.items()},
                "reference": {"name": row.reference.name, **{n: _numbers(s) for n, s in _parts(row.reference)}}
                if row.reference
                else None,
            }
            for row in table.rows
        ],
    }


def _numbers(spread: Spread) -> dict[str, Any]:
    return {
        "mean": spread.mean,
        "min": min(spread.values),
        "max": max(spread.values),
        "std": spread.std,
        "seeds": list(spread.values),
    }


def _parts(reference: Reference) -> Iterator[tuple[str, Spread]]:
    """The numbers of a reference that are known."""
    for name in ("l0", "fvu", "ce_score", "fvu_ratio", "added_loss_ratio"):
        spread = getattr(reference, name)
        if spread is not None:
            yield name, spread


def csv(table: FamilyTable) -> str:
    """One line a member: mean, least and largest of each number; empty where it is not known."""
    import csv as writer

    names = [*METRICS, *(f"reference_{n}" for n in ("l0", "fvu", "ce_score", "fvu_ratio", "added_loss_ratio"))]
    text = io.StringIO()
    out = writer.writer(text, lineterminator="\n")
    heads = [f"{name}_{part}" for name in names for part in ("mean", "min", "max")]
    out.writerow(["member", "kind", "seeds", "unfinished", "reference", *heads])
    for row in table.rows:
        known = dict(row.values)
        if row.reference:
            known |= {f"reference_{name}": spread for name, spread in _parts(row.reference)}
        numbers = [
            number
            for name in names
            for spread in [known.get(name)]
            for number in ((spread.mean, min(spread.values), max(spread.values)) if spread else ("", "", ""))
        ]
        unfinished = "; ".join(f"seed {seed}: {state}" for seed, state in row.unfinished.items())
        reference = row.reference.name if row.reference else ""
        out.writerow([row.name, row.kind or "", len(row.finished), unfinished, reference, *numbers])
    return text.getvalue()


def write(table: FamilyTable, directory: Path) -> list[Path]:
    """Write `family.json`, `.csv`, `.md`, and where anything is measured `.png` and `.svg`; returns their paths."""
    from saelab.evals.family.plot import draw

    paths = {kind: (directory / FILE).with_suffix(f".{kind}") for kind in ("json", "csv", "md", "png", "svg")}
    write_json(paths["json"], document(table))
    write_text(paths["csv"], csv(table))
    write_text(paths["md"], markdown(table))
    drawn = draw(table, paths["png"], paths["svg"])
    return [path for kind, path in paths.items() if drawn or kind not in ("png", "svg")]
