"""What an SAE makes of a text: which latents are active on which token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from saelab.features.live import Live


@dataclass(frozen=True)
class Peak:
    """Where in the prompt a latent is strongest, by magnitude."""

    latent: int
    position: int
    value: float


@dataclass(frozen=True, eq=False)
class Trace:
    """The sparse code of a prompt.

    Attributes:
        tokens, texts: ids and what they stand for; BOS is the first where training had it.
        masked: positions that the mask leaves out; nothing is active there.
        positions, latents, values: `[nnz]`, the active entries in the order of tokens.
        n_latents: of the SAE.
    """

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    masked: tuple[bool, ...]
    positions: NDArray[np.int64]
    latents: NDArray[np.int64]
    values: NDArray[np.float32]
    n_latents: int

    def only(self, keep: NDArray[np.bool_]) -> Trace:
        """Without the latents that `keep` (`[n_latents]`) leaves out: dense ones, for one."""
        kept = keep[self.latents]
        entries = (self.positions[kept], self.latents[kept], self.values[kept])
        return Trace(self.tokens, self.texts, self.masked, *entries, self.n_latents)

    def top(self, position: int, n: int) -> list[tuple[int, float]]:
        """The strongest latents of one token and their values."""
        here = self.positions == position
        return [(int(self.latents[here][i]), float(self.values[here][i])) for i in _strongest(self.values[here], n)]

    def along(self, latent: int) -> NDArray[np.float32]:
        """`[tokens]`: one latent's activation."""
        found = np.zeros(len(self.tokens), dtype=np.float32)
        here = self.latents == latent
        found[self.positions[here]] = self.values[here]
        return found

    def peaks(self, n: int | None = None, *, scale: NDArray[np.floating] | None = None) -> list[Peak]:
        """The strongest latents of the prompt, each at its peak.

        Args:
            scale: `[n_latents]`: order by value over this, each latent's maximum elsewhere for one; latents whose
                scale is 0 come last.
        """
        order = _strongest(self.values, None)
        _, first = np.unique(self.latents[order], return_index=True)
        peaks = order[np.sort(first)]
        if scale is not None:
            of = scale[self.latents[peaks]]
            ratio = np.divide(self.values[peaks], of, out=np.zeros(len(peaks)), where=of > 0)
            peaks = peaks[_strongest(ratio, None)]
        return [Peak(int(self.latents[i]), int(self.positions[i]), float(self.values[i])) for i in peaks[:n]]

    @property
    def l0(self) -> float:
        """Active latents per token that counts."""
        return len(self.values) / max(len(self.masked) - sum(self.masked), 1)


def trace(live: Live, text: str) -> Trace:
    """Run a prompt through the model and the SAE.

    Raises:
        SaelabError: empty, or too long.
    """
    ids = live.tokens(text)
    tokens = torch.tensor([ids], device=live.lm.device)
    found = live.lm.capture(tokens, list({live.hook.name: live.hook, live.target.name: live.target}.values()))
    keep = live.keep(tokens, found)[0]
    with torch.no_grad():
        code = live.sae.encode(found[live.hook.name][0, keep].float())
    active = code.active
    positions = keep.nonzero()[:, 0].to(active.device)[code.support.rows[active]]
    return Trace(
        tokens=tuple(ids),
        texts=live.texts(ids),
        masked=tuple((~keep).tolist()),
        positions=positions.cpu().numpy(),
        latents=code.latents[: code.support.nnz][active].long().cpu().numpy(),
        values=code.values[: code.support.nnz][active].float().cpu().numpy(),
        n_latents=live.sae.n_latents,
    )


def _strongest(values: NDArray[np.floating], n: int | None) -> NDArray[np.int64]:
    """Entry numbers by magnitude, largest first; equal ones in their order."""
    return np.argsort(-np.abs(values), kind="stable")[:n]
