"""What is known of one latent besides its contexts, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from saelab.features import Bundle, Feature, render
from saelab.features.annotations import Annotation
from saelab_dashboard import charts, links
from saelab_dashboard.session import OpenRun

Pairs = Sequence[tuple[int, float]]


def token(text: str, limit: int = 200) -> str:
    """A token's text in a frame, so that spaces at its ends are seen."""
    return f'<bdi class="sl-token">{render.text(text, limit)}</bdi>'


def cards(run: OpenRun, bundle: Bundle, feature: Feature) -> str:
    """Logit lens, tokens, histogram, positions, neighbours: tables and charts, one after the other."""
    labels = run.annotations.labelled(bundle.sae_sha256)
    found = [_lens(bundle, feature)]
    if not feature.dead:
        fires = [(token(bundle.token(i)), f"{share:.1%}", share) for i, share in feature.fires_on]
        found += [
            _table("Tokens it fires on", "share of its activation", fires),
            _activations(feature),
            _positions(feature),
        ]
    found.append(_latents(run, labels, "Nearest latents", "cosine of decoder rows", feature.neighbours))
    if not feature.dead:
        found.append(_latents(run, labels, "Active together", "tokens in common", feature.coactive))
    if sum(feature.logit_histogram):
        found.append(_logits(feature))
    return f'<div data-shows="{feature.latent}">{"".join(found)}</div>'


def _lens(bundle: Bundle, feature: Feature) -> str:
    missing = bundle.manifest.get("lens")
    if missing:
        return (
            f'<h2>Promoted and suppressed tokens</h2><p class="sl-dim">Not measurable: {render.text(str(missing))}</p>'
        )
    parts = [("Promoted tokens", feature.promoted), ("Suppressed tokens", feature.suppressed)]
    return "".join(
        _table(title, "change of logit", [(token(bundle.token(i)), render.number(x), x) for i, x in pairs])
        for title, pairs in parts
    )


def _latents(run: OpenRun, labels: Mapping[int, Annotation], title: str, unit: str, pairs: Pairs) -> str:
    def name(latent: int) -> str:
        label = f" {render.text(labels[latent].label, 100)}" if latent in labels else ""
        return links.anchor(f"{latent}{label}", "feature", run.name, latent=latent)

    return _table(title, unit, [(name(latent), f"{x:.3f}", x) for latent, x in pairs])


def _table(title: str, unit: str, rows: Sequence[tuple[str, str, float]]) -> str:
    """Of (HTML, number as text, number)."""
    if not rows:
        return f'<h2>{title}</h2><p class="sl-dim">none</p>'
    most = max(abs(share) for _, _, share in rows) or 1.0
    body = "".join(
        f'<tr><td>{what}</td><td class="sl-n">{number}</td><td style="width:30%">{_meter(share / most)}</td></tr>'
        for what, number, share in rows
    )
    return f'<h2>{title} <small>{unit}</small></h2><table class="sl-table sl-panel"><tbody>{body}</tbody></table>'


def _meter(share: float) -> str:
    kind = " sl-negative" if share < 0 else ""
    return f'<span class="sl-meter{kind}" aria-hidden="true" style="width:{100 * min(abs(share), 1):.0f}%"></span>'


def _activations(feature: Feature) -> str:
    low, high = min(feature.min, 0.0), max(feature.max, 0.0)
    chart = charts.histogram("Activation", feature.histogram, feature.min, feature.max, unit="tokens")
    return chart if high > low else ""


def _positions(feature: Feature) -> str:
    shares, most = feature.positions, max(feature.positions) or 1.0
    n = len(shares)
    said = [f"part {i + 1} of {n} of the context: active on {share:.3%} of tokens" for i, share in enumerate(shares)]
    peak = int(np.argmax(shares))
    return charts.bars(
        "Position in the context",
        [share / most for share in shares],
        ["begin", "end"],
        said,
        summary=f"most often in part {peak + 1} of {n}, on {shares[peak]:.3%} of tokens there",
    )


def _logits(feature: Feature) -> str:
    low = min((x for _, x in feature.suppressed), default=0.0)
    high = max((x for _, x in feature.promoted), default=0.0)
    return charts.histogram("Change of logit over the vocabulary", feature.logit_histogram, low, high, unit="tokens")
