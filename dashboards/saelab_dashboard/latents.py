"""Latents by number and label, as text and as links."""

from __future__ import annotations

from functools import cached_property

from saelab.features import render
from saelab_dashboard import links, panels
from saelab_dashboard.session import OpenRun

_SHORT = 48


class Names:
    """What a run's latents are called."""

    def __init__(self, run: OpenRun):
        self.run = run

    @cached_property
    def labels(self) -> dict[int, str]:
        """Of the latents that have one."""
        if self.run.bundle is None:
            return {}
        labelled = self.run.annotations.labelled(self.run.bundle.sae_sha256)
        return {latent: found.label for latent, found in labelled.items() if found.label}

    def plain(self, latent: int) -> str:
        """For a widget's option."""
        label = self.labels.get(latent)
        return f"{latent} · {render.shown(_shortened(label))}" if label else str(latent)

    def link(self, latent: int) -> str:
        """HTML, to the latent's page."""
        label = self.labels.get(latent)
        said = f"{latent} <small>{render.text(_shortened(label))}</small>" if label else str(latent)
        return links.anchor(said, "feature", self.run.name, latent=latent)

    def described(self, latent: int) -> str:
        """`link`, and where there is no label the tokens it fires on."""
        said = "" if latent in self.labels else self.fires_on(latent, 2)
        return f"{self.link(latent)} {said}"

    def fires_on(self, latent: int, n: int = 3) -> str:
        """HTML: the tokens it fires on most, where there is an index."""
        bundle = self.run.bundle
        if bundle is None:
            return '<span class="sl-dim">no index</span>'
        tokens = [i for i in bundle.columns["fire_tokens"][latent][:n].tolist() if i >= 0]
        return " ".join(panels.token(bundle.token(i)) for i in tokens) or '<span class="sl-dim">nothing: dead</span>'


def _shortened(label: str) -> str:
    return label if len(label) <= _SHORT else f"{label[: _SHORT - 1]}…"
