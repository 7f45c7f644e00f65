"""What was trained on what, by whom and where: a run in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saelab.evals.report.run import Run, mapping, number
from saelab.evals.report.words import count, size

_LISTED = 12
"""So many parts of a list are written out."""


def lead(run: Run) -> str:
    """The run in a sentence."""
    record = run.record
    kind = f"{record.kind} SAE" if record.kind else "SAE"
    parts = [f"{'An' if kind[0] in 'aeiouAEIOUS' else 'A'} {kind}"]
    latents = number(record.settings, "n_latents")
    sized = [count(int(latents), "latent")] if latents else []
    sized += [record.target] if record.target else []
    parts += [f"with {' and '.join(sized)}"] if sized else []
    parts += [f"on {hooks(run)}" if hooks(run) else "", f"of {model(run)}" if model(run) else ""]
    said = " ".join(part for part in parts if part)
    if not record.tokens:
        return f"{said}."
    text = data(run)
    return f"{said}, trained on {size(record.tokens)} tokens{f' of {text}' if text else ''}."


def essentials(run: Run) -> dict[str, str]:
    """What a reader asks first."""
    record, sae = run.record, run.sae
    latents, width = number(record.settings, "n_latents"), number(sae, "d_in")
    found = {
        "model": model(run),
        "hook": hooks(run),
        "text": data(run),
        "variant": record.kind or "",
        "sparsity": record.target or "",
        "latents": f"{latents:,.0f}{f' on {width:,.0f} dimensions' if width else ''}" if latents else "",
        "trained on": f"{size(record.tokens)} tokens" if record.tokens else "",
        "seed": "" if record.seed is None else str(record.seed),
    }
    return {name: value for name, value in found.items() if value}


def in_full(run: Run) -> dict[str, dict[str, str]]:
    """By title, everything that the run's files say of how it came about; the config has the rest."""
    provenance, summary = run.provenance, run.summary
    left = {key: provenance.get(key) for key in ("config_sha256", "git_revision", "init_from")}
    speed = {key: summary.get(key) for key in ("steps", "tokens", "training_seconds", "tokens_per_second", "precision")}
    memory = number(summary, "peak_memory_bytes")
    speed |= {"on_one_stream_with": summary.get("on_one_stream_with")}
    speed |= {"peak_memory": f"{memory / 2**30:.2f} GiB" if memory else None}
    groups: dict[str, Mapping[str, Any]] = {
        "Language model": mapping(provenance.get("model")),
        "Text": mapping(provenance.get("data")),
        "Windows": mapping(provenance.get("windows")),
        "Mask": mapping(provenance.get("mask")),
        "SAE": {"kind": run.record.kind, **run.record.settings, "sha256": summary.get("sae_sha256")},
        "Training": speed,
        "Origin": left,
        "Versions": mapping(summary.get("versions") or provenance.get("versions")),
        "Machine": mapping(summary.get("machine")),
    }
    written = {title: flat(group) for title, group in groups.items()}
    return {title: group for title, group in written.items() if group}


def model(run: Run) -> str:
    """The language model's name, without where it lies."""
    name = mapping(run.provenance.get("model") or run.config.get("model")).get("name")
    return str(name).removeprefix("asset:").rstrip("/").rpartition("/")[2] if name else ""


def hooks(run: Run) -> str:
    """What the SAE reads, and what it reconstructs where that is another."""
    activations = mapping(run.config.get("activations")).get("hooks")
    first = activations[0] if isinstance(activations, list) and activations else None
    source = run.provenance.get("hook") or run.config.get("hook") or first
    target = run.provenance.get("target_hook") or run.config.get("target_hook")
    return f"{source} → {target}" if source and target else str(source or "")


def data(run: Run) -> str:
    """The text that was learnt from."""
    known = mapping(run.provenance.get("data"))
    named = mapping(run.config.get("data")).get("dataset") or known.get("name") or known.get("dataset")
    files = list(mapping(known.get("files")))
    names = [str(named)] if named else files[:3] + ([f"and {len(files) - 3} more"] if len(files) > 3 else [])
    return ", ".join(name.rpartition("/")[2] if name.startswith("/") else name.removeprefix("asset:") for name in names)


def flat(found: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Dotted names and values as text; what is not there is left out."""
    written: dict[str, str] = {}
    for key, value in found.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            written |= flat(value, f"{name}.")
        elif value is not None and value != []:
            written[name] = _value(value)
    return written


def _value(value: Any) -> str:
    if isinstance(value, list):
        more = f" and {len(value) - _LISTED} more" if len(value) > _LISTED else ""
        return ", ".join(map(_value, value[:_LISTED])) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
