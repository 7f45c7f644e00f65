"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .machine import sentence

_MIB = 2**20


def render(document: Mapping[str, Any]) -> str:
    """Every part that `document` (the content of results.json) holds."""
    parts = {"speed": _speed, "memory": _memory, "scaling": _scaling, "screening": _screening, "quality": _quality}
    texts = [part(document[name]) for name, part in parts.items() if name in document]
    machines = dict.fromkeys(sentence(document[name]["machine"]) for name in parts if name in document)
    return "\n".join(["# saelab beside its peers", "", *machines, "", *texts])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Columns from the `left`-th on are aligned to the right."""
    line = "|" + "---|" * left + "---:|" * (len(head) - left)
    return "\n".join(["| " + " | ".join(head) + " |", line, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _verdicts(verdicts: Sequence[Mapping[str, Any]], *, digits: int = 2) -> str:
    rows = [
        [
            verdict["what"],
            f"{verdict['found']:.{digits}f}",
            verdict["bar"] + (f" (aim {verdict['aim']:g})" if verdict["aim"] is not None else ""),
            "met" if verdict["met"] else "**not met**",
        ]
        for verdict in verdicts
    ]
    return _table(["what", "found", "bar", ""], rows)


def _speed(part: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    case = ""
    for row in part["rows"]:
        shown, case = (row["case"] if row["case"] != case else ""), row["case"]
        rows.append(
            [
                shown,
                row["entry"],
                f"{row['ms_median']:,.1f}",
                f"{row['ms_min']:,.1f} - {row['ms_max']:,.1f}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['over_saelab']:.2f}",
            ]
        )
    head = ["race", "contestant", "ms a step (median)", "min - max", "tokens/s", "time / saelab's"]
    return (
        "## Speed\n\n"
        "A whole training step, d 576, fp32 parameters, batch 2,048 unless said otherwise. In a race all take turns on "
        f"the same batches of real activations; medians of {part['rounds']} rounds "
        f"({part['few_rounds']} where a step takes seconds, {part['many_rounds']} where it takes a fraction of one) "
        "after two to warm up.\n\n"
        f"{_table(head, rows, left=2)}\n{_verdicts(part['bars'])}"
    )


def _memory(part: Mapping[str, Any]) -> str:
    rows = [
        [
            row["entry"],
            f"{row['n_latents']:,}",
            str(row["k"]),
            f"{row['peak_bytes'] / _MIB:,.0f}",
            f"{row['state_bytes'] / _MIB:,.0f}",
            f"{row['above_bytes'] / _MIB:,.0f}",
        ]
        for row in part["rows"]
    ]
    head = ["contestant", "F", "k", "peak MiB", "parameters, gradients, moments", "above them"]
    return (
        "## Memory\n\nTopK, batch 2,048: peak of a process of its own, less what it held before it built anything.\n\n"
        f"{_table(head, rows)}\n{_verdicts(part['bars'])}"
    )


def _scaling(part: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(row["entry"] for row in part["rows"]))
    by_width: dict[int, dict[str, float]] = {}
    for row in part["rows"]:
        by_width.setdefault(row["n_latents"], {})[row["entry"]] = 1e3 * row["ms_median"] / row["batch_tokens"]
    rows = [[f"{width:,}", *(f"{of[name]:.1f}" for name in names)] for width, of in by_width.items()]
    return f"## Cost per token against F\n\nTopK, k 32: microseconds a token.\n\n{_table(['F', *names], rows, left=0)}"


def _screening(part: Mapping[str, Any]) -> str:
    return (
        "## Screening\n\nEntries of the exact support that selection in few bits finds as well, on held-out "
        f"activations; TopK, F 16,384, k 32, batches of 2,048.\n\n{_verdicts(part['bars'], digits=6)}"
    )


def _quality(part: Mapping[str, Any]) -> str:
    rows = [
        [
            row["pair"],
            row["peer"],
            f"{row['fvu']:.4f}",
            f"{row['peer_fvu']:.4f}",
            f"{row['l0']:.1f}",
            f"{row['peer_l0']:.1f}",
            f"{row['ratio']:.3f}",
            "met" if row["met"] else "**not met**",
        ]
        for row in part["bars"]
    ]
    head = [
        "variant",
        "peer",
        "FVU saelab",
        "FVU peer",
        "L0 saelab",
        "L0 peer",
        "FVU ratio",
        f"at most {part['within']}",
    ]
    notes = dict.fromkeys(f"- {row['pair']}: {row['differs']}." for row in part["bars"] if row["differs"])
    return (
        "## What they learn\n\n"
        f"Held-out documents, means over seeds {', '.join(map(str, part['seeds']))}; same batches, initial weights, "
        "learning rates and steps; each in the form that is deployed.\n\n"
        f"{_table(head, rows, left=2)}\nWhat is not the same by formula:\n\n" + "\n".join(notes) + "\n"
    )
