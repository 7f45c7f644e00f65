"""The end of a run: where everything is, and what the numbers mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from saelab.cli.stages import Run

_MEANING: dict[tuple[str, str], str] = {
    ("reconstruction", "fvu"): "share of the activations' variance not reconstructed (0 is perfect)",
    ("reconstruction", "l0"): "latents active per token",
    ("reconstruction", "cosine"): "mean cosine between activation and reconstruction",
    ("downstream", "ce_clean_nats"): "the model's own next-token loss, nats",
    ("downstream", "delta_ce_nats"): "loss added when the SAE stands in for the activation, nats",
    ("downstream", "ce_score"): "share of the loss recovered against zero ablation (1 is perfect)",
    ("downstream", "ce_score_mean"): "the same against mean ablation, the harder baseline",
    ("downstream", "kl_nats"): "KL(clean || spliced), nats",
    ("density", "dead_frac"): "share of latents that never fired on the held-out tokens",
    ("density", "dense_frac"): "share of latents that fire on more than a tenth of tokens",
}


def explain(run: Run, document: dict[str, Any]) -> None:
    """Print the table of results and the places of the files."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (("metric", "left"), ("value", "right"), ("95 %", "left"), ("tokens", "right")):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("what it is")
    for (evaluator, metric), meaning in _MEANING.items():
        entry = document["evaluations"].get(evaluator, {})
        if metric in entry.get("metrics", {}):
            low_high = entry.get("intervals", {}).get(metric)
            interval = f"{low_high[0]:.3f} .. {low_high[1]:.3f}" if low_high else ""
            table.add_row(metric, f"{entry['metrics'][metric]:.4f}", interval, f"{entry['n_tokens']:,}", meaning)
    console = run.reporter.console
    console.print()
    console.print(table)
    console.print()
    for name, entry in document["evaluations"].items():
        if not any(name == evaluator for evaluator, _ in _MEANING):
            console.print(*_overview(name, entry), "", sep="\n", highlight=False)
    directory = run.directory
    for what, path in (
        ("the SAE, for SAE.load", directory.sae),
        ("all measurements", directory.eval),
        ("training curves", directory.metrics),
        ("the whole config", directory.config),
        ("the feature index", directory.index),
    ):
        if not path.exists():
            continue
        console.print(escape(f"{what:<24}{path}"), highlight=False, soft_wrap=True)
    if run.seconds:
        spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in run.seconds.items())
        run.reporter.say(f"{'time':<24}{spent}")
    if directory.index.exists():
        console.print(escape(f"\nsaelab browse {directory.path}"), style="bold", highlight=False, soft_wrap=True)


def _overview(name: str, entry: dict[str, Any]) -> list[Table | str]:
    """An evaluator's first table, or else its metrics; and what it could not measure."""
    reasons = entry.get("not_measurable", {})
    said: list[Table | str] = [f"[dim]{escape(f'{name}: {key}: {why}')}[/]" for key, why in reasons.items()]
    if entry.get("tables"):
        return [_cells(entry["tables"][0]), *said]
    if not entry["metrics"]:
        return said
    meanings = entry.get("meaning", {})
    rows = [(metric, value, meanings.get(metric, "")) for metric, value in entry["metrics"].items()]
    return [_cells({"title": name, "columns": ("metric", "value", "what it is"), "rows": rows}), *said]


def _cells(content: dict[str, Any]) -> Table:
    table = Table(title=escape(content["title"]), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in content["columns"]:
        table.add_column(escape(column))
    for row in content["rows"]:
        table.add_row(
            *("" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else escape(str(cell)) for cell in row)
        )
    return table
