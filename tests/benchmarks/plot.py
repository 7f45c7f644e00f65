"""The results as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw(document: Mapping[str, Any], path: Path) -> None:
    """A panel for each of: cost against F, races, quality; those that `document` holds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {"scaling": _scaling, "speed": _races, "quality": _quality}
    chosen = [name for name in panels if name in document]
    if not chosen:
        return
    figure, axes = pyplot.subplots(1, len(chosen), figsize=(8 * len(chosen), 6.5), squeeze=False, layout="constrained")
    for name, axis in zip(chosen, axes[0], strict=True):
        panels[name](axis, document[name])
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _scaling(axis: Any, part: Mapping[str, Any]) -> None:
    for name in dict.fromkeys(row["entry"] for row in part["rows"]):
        rows = [row for row in part["rows"] if row["entry"] == name]
        style = "--" if "GEMM" in name else "-"
        cost = [1e3 * row["ms_median"] / row["batch_tokens"] for row in rows]
        axis.loglog([row["n_latents"] for row in rows], cost, style, marker="o", label=name)
    widths = sorted({row["n_latents"] for row in part["rows"]})
    axis.set_xticks(widths, [f"{width // 1024}k" for width in widths])
    axis.minorticks_off()
    axis.set(xlabel="latents F", ylabel="microseconds a token", title="A TopK step (k 32) against the width")
    axis.legend(loc="upper left")
    axis.grid(alpha=0.3)


def _races(axis: Any, part: Mapping[str, Any]) -> None:
    rows = [row for row in part["rows"] if not row["entry"].startswith("saelab") and "GEMM" not in row["entry"]]
    labels = [
        f"{row['case'].split(',')[0]} F {row['case'].split('F ')[1].split(', ')[0]} | {row['entry']}" for row in rows
    ]
    axis.barh(range(len(rows)), [row["over_saelab"] - 1 for row in rows], left=1)
    axis.set_yticks(range(len(rows)), labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xscale("log")
    ticks = [tick for tick in (0.5, 1, 2, 3, 5, 10, 20, 50) if tick <= 1.3 * max(row["over_saelab"] for row in rows)]
    axis.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axis.minorticks_off()
    axis.axvline(1, color="black", linewidth=1)
    axis.set(xlabel="time of a step over saelab's", title="Races")
    axis.grid(alpha=0.3, axis="x")


def _quality(axis: Any, part: Mapping[str, Any]) -> None:
    rows = part["bars"]
    places = range(len(rows))
    axis.barh([place - 0.2 for place in places], [row["fvu"] for row in rows], 0.4, label="saelab")
    axis.barh([place + 0.2 for place in places], [row["peer_fvu"] for row in rows], 0.4, label="peer")
    for place, row in zip(places, rows, strict=True):
        axis.text(row["fvu"], place - 0.2, f" L0 {row['l0']:.0f}", va="center", fontsize=7)
        axis.text(row["peer_fvu"], place + 0.2, f" L0 {row['peer_l0']:.0f}", va="center", fontsize=7)
    axis.set_yticks(list(places), [f"{row['pair']} | {row['peer']}" for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="held-out FVU (lower is better)", title="What they learn from the same batches")
    axis.set_xlim(right=1.12 * max(max(row["fvu"], row["peer_fvu"]) for row in rows))  # room for the L0 of the longest
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
    axis.grid(alpha=0.3, axis="x")
