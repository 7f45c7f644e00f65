"""The model card of an SAE on the hub: what it is, how it measures, which positions count, how to load it.

Everything in it comes from the SAE and from what was measured; whatever could be somebody's text is escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from saelab.interop.origin import Origin
from saelab.sae import SAE
from saelab.sae.foreign import FORMATS


@dataclass(frozen=True)
class Metric:
    """One number: how large, on how much, between which bounds (95 %), and what it is."""

    name: str
    value: float
    seen: str
    interval: tuple[float, float] | None = None
    meaning: str = ""


@dataclass(frozen=True)
class Card:
    """What a card is written from.

    Attributes:
        repo: where it goes, `org/name`; name: of the run.
        sae: in inference form.
        model: what the language model is, in words, where its name alone does not say it.
        metrics: by evaluator.
        config: of the run, YAML, without places of this machine.
        exports: by format, the directory in the repository; refused: by format, why there is none.
    """

    repo: str
    name: str
    sae: SAE
    model: str | None = None
    metrics: Mapping[str, Sequence[Metric]] = field(default_factory=dict)
    config: str = ""
    exports: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Markdown behind a front matter of YAML, as the hub reads it."""
        parts = [
            _front_matter(self),
            _introduction(self),
            _measured(self.metrics, imported="imported" in self.sae.identity.provenance),
            _positions(self.sae),
            _loading(self),
        ]
        if self.config:
            parts.append(f"## Configuration\n\n<details>\n\n{_block('yaml', self.config)}\n\n</details>\n")
        return "\n".join(parts)


# -- escaping ----------------------------------------------------------------------------------------------------


def _line(value: Any) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def prose(value: Any) -> str:
    """A text on one line, in which no character means anything to Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", _line(value))


def code(value: Any) -> str:
    """A text on one line as it is, in code, also inside a table."""
    line = _line(value).replace("|", r"\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def _block(language: str, text: str) -> str:
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.strip()}\n{ticks}"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


# -- parts -------------------------------------------------------------------------------------------------------

_ON_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def _front_matter(card: Card) -> str:
    import yaml

    origin = Origin.of(card.sae.identity)
    tags = ["sparse-autoencoder", "mechanistic-interpretability", "saelab", *card.exports]
    known: dict[str, Any] = {"library_name": "saelab", "tags": tags}
    if origin.model and (_ON_HUB.fullmatch(origin.model) or _fetched_from_hub(card.sae)):
        known["base_model"] = origin.model
    if origin.dataset and _ON_HUB.fullmatch(origin.dataset) and not _read_from_files(card.sae):
        known["datasets"] = [origin.dataset]
    return f"---\n{yaml.safe_dump(known, sort_keys=False)}---\n"


def _fetched_from_hub(sae: SAE) -> bool:
    """Whether the model's name is the hub's: a directory is known by hashes of its files instead of a commit."""
    model = sae.identity.provenance.get("model")
    content = model.get("content") if isinstance(model, dict) else None
    return isinstance(content, str) and content.startswith(("commit ", "revision "))


def _read_from_files(sae: SAE) -> bool:
    """Whether its text was somebody's files, whose names may look like the hub's."""
    data = sae.identity.provenance.get("data")
    return isinstance(data, dict) and "files" in data


def _maker(sae: SAE) -> str:
    """Who trained it, as far as it says so."""
    imported = sae.identity.provenance.get("imported")
    if isinstance(imported, dict):
        format = str(imported.get("format"))
        return f"brought into saelab's format from that of {FORMATS[format].title}" if format in FORMATS else "imported"
    return "trained with saelab"


def _introduction(card: Card) -> str:
    sae, identity, origin = card.sae, card.sae.identity, Origin.of(card.sae.identity)
    what = "transcoder" if identity.transcoder else "sparse autoencoder"
    model = prose(card.model) if card.model else code(origin.model or "a language model")
    settings = ", ".join(f"{key} {value}" for key, value in identity.settings.items() if value is not None)
    trained = identity.provenance.get("trained_tokens")
    context = origin.context_length
    units = "their units" if identity.token_scale is None else "units of each token's own scale"
    rows = [
        ["Language model", model],
        ["Reads", f"{code(origin.hook or 'not said')}, {identity.d_in:,} wide"],
        *(
            [["Reconstructs", f"{code(origin.target_hook or 'not said')}, {identity.d_out:,} wide"]]
            * identity.transcoder
        ),
        ["Latents", f"{sae.n_latents:,}"],
        ["Variant", f"{code(identity.kind)}: {prose(settings)}"],
        ["Form", f"inference: raw activations in, codes in {units}; input scaling is folded into the weights"],
        ["Trained on", f"{trained:,} tokens" if isinstance(trained, int) else "an amount that is not known"],
        ["Text", code(origin.dataset or "not said")],
        [
            "Contexts",
            "not said" if context is None else f"{context:,} tokens{', BOS first' * bool(origin.prepend_bos)}",
        ],
        ["SHA-256", code(sae.sha256())],
    ]
    return (
        f"# {prose(card.name)}\n\nA {what} on the activations of a language model, {prose(_maker(sae))}.\n\n"
        + _table(["", ""], rows)
    )


_FOREMOST = ("reconstruction", "downstream", "density")


def _measured(metrics: Mapping[str, Sequence[Metric]], *, imported: bool) -> str:
    if not metrics:
        return "## Measurements\n\nNone were made.\n"
    unseen = "On documents that training did not see"
    text = "On text that was chosen for it; whether training had seen it is not known" if imported else unseen
    parts = [f"## Measurements\n\n{text}. With 95 % intervals of some.\n"]
    first = [name for name in _FOREMOST if name in metrics]
    parts += [_metrics(metrics[name]) for name in first]
    parts += [
        f"<details><summary>{html.escape(_line(name))}</summary>\n\n{_metrics(metrics[name])}\n</details>\n"
        for name in metrics
        if name not in first
    ]
    return "\n".join(parts)


def _metrics(metrics: Sequence[Metric]) -> str:
    rows = [
        [
            code(metric.name),
            f"{metric.value:.4g}",
            "" if metric.interval is None else f"{metric.interval[0]:.4g} to {metric.interval[1]:.4g}",
            prose(metric.seen),
            prose(metric.meaning),
        ]
        for metric in metrics
    ]
    return _table(["metric", "value", "95 %", "on", "what it is"], rows)


def _positions(sae: SAE) -> str:
    policy = sae.identity.provenance.get("mask")
    heading = "## Which positions count\n\n"
    if not isinstance(policy, dict):
        return f"{heading}Nothing is known of positions that were left out of its training.\n"
    limits = policy.get("norm_limits")
    left_out = ["position 0 of every context"] if policy.get("first_position") else []
    left_out += [f"the special tokens with the ids {policy['special']}"] if policy.get("special") else []
    left_out += [f"activations longer than {limit:.4g} at {hook}" for hook, limit in limits.items()] if limits else []
    if not left_out:
        return f"{heading}All: nothing was left out.\n"
    return (
        f"{heading}Left out of training and measurement: {prose('; '.join(left_out))}.\n\n"
        "Such a position keeps its own activation wherever the SAE stands in for one. Codes of such positions mean "
        "nothing, and other tools compute them all the same: leave them out there, too.\n"
    )


_OTHERS = {
    "saelens": 'from sae_lens import SAE\n\nsae = SAE.from_pretrained("{repo}", "{path}")',
    "sparsify": 'from sparsify import SparseCoder\n\nsae = SparseCoder.load_from_hub("{repo}", hookpoint="{path}")',
    "dictionary_learning": (
        "from dictionary_learning.utils import load_dictionary\nfrom huggingface_hub import snapshot_download\n\n"
        'place = snapshot_download("{repo}", allow_patterns="{path}/*")\n'
        'sae, config = load_dictionary(place + "/{path}", device="cpu")'
    ),
}


def _loading(card: Card) -> str:
    own = (
        f'from saelab import SAE\n\nsae = SAE.load("hf://{card.repo}")\ncode = sae.encode(x)  # raw activations, '
        "[tokens, width]\n\nwith sae.attached(model):  # in place of the activation, in a model of transformers'\n"
        "    logits = model(tokens).logits"
    )
    parts = ["## How to load it", f"With saelab (`pip install saelab`):\n\n{_block('python', own)}"]
    for format, snippet in _OTHERS.items():
        if format in card.exports:
            text = snippet.replace("{repo}", card.repo).replace("{path}", card.exports[format])
            parts.append(f"With {prose(FORMATS[format].title)}:\n\n{_block('python', text)}")
        elif format in card.refused:
            parts.append(f"Not with {prose(FORMATS[format].title)}: {prose(card.refused[format])}.")
    return "\n\n".join(parts) + "\n"


def export_directory(format: str, sae: SAE) -> str:
    """Where an export lies in a repository: sparsify knows what an SAE reads by its directory's name alone."""
    hook = Origin.of(sae.identity).target_hook or Origin.of(sae.identity).hook or ""
    found = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_post|mlp_out|attn_out)", hook)
    if format != "sparsify" or found is None:
        return format
    module = {"resid_post": "", "mlp_out": ".mlp", "attn_out": ".self_attn"}[found[2]]
    return str(PurePosixPath(format) / f"layers.{found[1]}{module}")
