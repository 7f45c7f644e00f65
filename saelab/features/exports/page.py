"""Features as one HTML page that needs nothing else: no script, no request, light and dark, to print or to send."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from saelab import __version__
from saelab.errors import SaelabError
from saelab.features import charts, render
from saelab.features.bundle import Feature
from saelab.features.document import document, facts
from saelab.features.exports import Report
from saelab.features.exports.selection import Selection
from saelab.features.render import number, text
from saelab.files import write_text

LIMIT = 500
"""More features than this make a page that no browser likes."""
_AROUND = 24


def write(selection: Selection, path: Path, report: Report | None = None) -> Path:
    """Write the page, complete or not at all.

    Raises:
        SaelabError: too many features for one page, or it cannot be written.
    """
    write_text(path, page(selection, report))
    return path


def page(selection: Selection, report: Report | None = None) -> str:
    """The whole document."""
    latents = selection.latents
    if len(latents) > LIMIT:
        fix = "choose some with --latents, --list, --bookmarked or --top; --format parquet takes all"
        raise SaelabError(f"{len(latents):,} features are too many for a page, which takes {LIMIT}", fix=fix)
    sections = []
    for done, latent in enumerate(latents, 1):
        sections.append(_section(selection, latent))
        if report:
            report(done, len(latents), "")
    title = f"{len(latents):,} feature{'s' if len(latents) > 1 else ''} of {_name(selection)}"
    body = (
        f"<header><h1>{text(title, 200)}</h1>{facts(_about(selection))}{_contents(selection)}</header>\n"
        f"<main>{''.join(sections)}</main>\n<footer>saelab {__version__}</footer>"
    )
    return document(title, body, _STYLE, render.STYLE, charts.STYLE)


# -- the SAE ------------------------------------------------------------------------------------------


def _name(selection: Selection) -> str:
    sae = selection.bundle.manifest["sae"]
    return f"a {sae.get('kind', '')} SAE with {selection.bundle.n_latents:,} latents"


def _about(selection: Selection) -> dict[str, str]:
    bundle = selection.bundle
    provenance: Mapping[str, Any] = bundle.manifest["sae"].get("provenance") or {}
    data = provenance.get("data") or {}
    return {
        "model": str((provenance.get("model") or {}).get("name", "unknown")),
        "hook": str(provenance.get("hook", "unknown")),
        "text": str(data.get("name") or ", ".join(data.get("files") or {}) or "unknown"),
        "looked at": f"{bundle.n_tokens:,} tokens in {bundle.n_contexts:,} contexts",
        "SAE": f"sha256 {bundle.sae_sha256}",
    }


def _contents(selection: Selection) -> str:
    if len(selection.latents) == 1:
        return ""
    entries = [f"<li>{_link(selection, latent)}</li>" for latent in selection.latents]
    return f'<nav aria-label="Features"><ul class="contents">{"".join(entries)}</ul></nav>'


def _link(selection: Selection, latent: int) -> str:
    """A latent by number and label; a link where it is on the page."""
    label = selection.annotation(latent).label
    name = f"{latent}" + (f" <bdi>{text(label, 80)}</bdi>" if label else "")
    return f'<a href="#latent-{latent}">{name}</a>' if latent in selection.latents else name


# -- a feature ----------------------------------------------------------------------------------------


def _section(selection: Selection, latent: int) -> str:
    feature, annotation = selection.bundle.feature(latent), selection.annotation(latent)
    label = f" <bdi>{text(annotation.label)}</bdi>" if annotation.label else ""
    note = f'<p class="note" dir="auto">{render.lines(annotation.note, 100_000)}</p>' if annotation.note else ""
    marks = ["bookmarked"] * annotation.bookmarked + [f"list: {name}" for name in annotation.lists]
    marked = f'<p class="marks">{"".join(f"<span>{text(mark)}</span>" for mark in marks)}</p>' if marks else ""
    body = "<p>This latent was never active.</p>" if feature.dead else _statistics(selection, feature)
    return (
        f'<section id="latent-{latent}" aria-labelledby="name-{latent}">'
        f'<h2 id="name-{latent}">Latent {latent}{label}</h2>{note}{marked}{body}'
        f"{_lens(selection, feature)}{_relations(selection, feature)}{_examples(selection, feature)}</section>\n"
    )


def _statistics(selection: Selection, feature: Feature) -> str:
    found = {
        "active on": f"{feature.count:,} tokens ({100 * feature.density:.3g} %)",
        "mean": number(feature.mean),
        "highest": number(feature.max),
    }
    if selection.bundle.signed:
        found |= {"lowest": number(feature.min), "below 0 on": f"{feature.negative:,} tokens"}
    histogram = charts.bars(
        feature.histogram, feature.min, feature.max, title="Tokens by activation, where it is active"
    )
    return f"{facts(found)}<figure><figcaption>Activations</figcaption>{histogram}</figure>"


def _lens(selection: Selection, feature: Feature) -> str:
    if not feature.promoted and not feature.suppressed:
        why = selection.bundle.manifest.get("lens")
        return f"<p>No logits: {text(str(why))}</p>" if why else ""
    return (
        f'<div class="columns">{_tokens(selection, "Promotes", "logit", feature.promoted)}'
        f"{_tokens(selection, 'Suppresses', 'logit', feature.suppressed)}"
        f"{_tokens(selection, 'Fires on', 'share', feature.fires_on)}</div>"
    )


def _tokens(selection: Selection, title: str, unit: str, pairs: Sequence[tuple[int, float]]) -> str:
    rows = ((f"<code><bdi>{text(selection.token(i), 200)}</bdi></code>", value) for i, value in pairs)
    return _table(title, "token", unit, rows)


def _relations(selection: Selection, feature: Feature) -> str:
    near = ((_link(selection, latent), value) for latent, value in feature.neighbours)
    together = ((_link(selection, latent), value) for latent, value in feature.coactive)
    return (
        f'<div class="columns">{_table("Nearest decoder rows", "latent", "cosine", near)}'
        f"{_table('Active together', 'latent', 'overlap', together)}</div>"
    )


def _examples(selection: Selection, feature: Feature) -> str:
    bundle, scale = selection.bundle, max(feature.max, -feature.min)
    parts = []
    for number_, examples in groupby(bundle.examples(feature.latent), lambda example: example.bin):
        parts.append(f"<h3>{_bin(number_)}</h3><ol>")
        for example in examples:
            tokens, _ = selection.shown(example)
            context = render.highlighted(tokens, example.values, scale=scale, at=example.position, around=_AROUND)
            parts.append(f'<li><span class="peak">{number(example.value)}</span>{context}</li>')
        parts.append("</ol>")
    return "".join(parts)


def _bin(number_: int) -> str:
    if number_ in (0, -1):
        return "Strongest" if number_ == 0 else "Most negative"
    return f"Interval {number_}, from the top" if number_ > 0 else f"Interval {-number_ - 1} below 0, from the bottom"


# -- pieces -------------------------------------------------------------------------------------------


def _table(title: str, what: str, unit: str, rows: Iterable[tuple[str, float]]) -> str:
    """`rows`: HTML and a number."""
    body = "".join(f"<tr><td>{name}</td><td>{number(value)}</td></tr>" for name, value in rows)
    if not body:
        return ""
    head = f'<tr><th scope="col">{what}</th><th scope="col">{unit}</th></tr>'
    return f"<table><caption>{title}</caption><thead>{head}</thead><tbody>{body}</tbody></table>"


_STYLE = re.sub(
    r"\n +",
    " ",
    """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin: 0 0 .5rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
section { border-top: 1px solid var(--line); padding: 1.2rem 0; }
dl { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; margin: .5rem 0; }
dt { font-size: .8rem; opacity: .75; } dd { margin: 0; } bdi { unicode-bidi: isolate; }
.contents { columns: 14rem; padding-left: 1.2rem; } .note { border-left: 3px solid var(--line); padding-left: .8rem; }
.marks span { border: 1px solid var(--line); border-radius: 1rem; padding: .1rem .7rem; margin-right: .4rem;
  display: inline-block; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; align-items: start;
  margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; } caption, figcaption { text-align: left; font-weight: 600; }
th { text-align: left; font-weight: 400; font-size: .8rem; opacity: .75; } td { border-top: 1px solid var(--line); }
td:last-child, th:last-child { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td code { font-size: .95em; white-space: pre-wrap; } figure { margin: 1rem 0; }
ol { list-style: none; padding: 0; margin: 0; }
ol li { display: grid; grid-template-columns: 4rem 1fr; gap: .5rem; padding: .3rem 0; }
ol li + li { border-top: 1px solid var(--line); }
.peak { text-align: right; font-variant-numeric: tabular-nums; line-height: 1.9; }
footer { opacity: .75; padding: 1rem 0; }
@media print { section { break-inside: avoid-page; } }
""",
)
