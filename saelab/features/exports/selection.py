"""Which features are taken, and what is written about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from saelab.errors import SaelabError, did_you_mean
from saelab.features.annotations import Annotation, Annotations
from saelab.features.bundle import Bundle, Example


@dataclass(frozen=True)
class Selection:
    """Features of one index, in the order they are wanted.

    Attributes:
        annotations: by latent, of those about which anything is written.
    """

    bundle: Bundle
    latents: Sequence[int]
    annotations: Mapping[int, Annotation]

    @classmethod
    def of(cls, bundle: Bundle, annotations: Annotations, latents: Iterable[int] | None = None) -> Selection:
        """These latents; None: every one of the SAE.

        Raises:
            SaelabError: there is no such latent, or none is named.
        """
        chosen = list(dict.fromkeys(range(bundle.n_latents) if latents is None else latents))
        for latent in chosen:
            if not 0 <= latent < bundle.n_latents:
                last = bundle.n_latents - 1
                raise SaelabError(f"there is no latent {latent}; they go from 0 to {last}", where=str(bundle.directory))
        if not chosen:
            raise SaelabError("no feature is chosen", where=str(bundle.directory))
        return cls(bundle, chosen, annotations.labelled(bundle.sae_sha256))

    def annotation(self, latent: int) -> Annotation:
        """Empty where nothing is written."""
        return self.annotations.get(latent) or Annotation(self.bundle.sae_sha256, latent)

    def token(self, number: int) -> str:
        """The text of a token id, as a file in UTF-8 can hold it."""
        return self._texts[number] if 0 <= number < len(self._texts) else self.bundle.token(number)

    def shown(self, example: Example) -> tuple[list[str], list[float]]:
        """The tokens of an example's context, and the activation at each."""
        tokens = [self.token(number) for number in self.bundle.context(example.context).tokens]
        values = [0.0] * len(tokens)
        for position, value in example.values.items():
            values[position] = value
        return tokens, values

    @cached_property
    def _texts(self) -> list[str]:
        return [token.encode(errors="replace").decode() for token in self.bundle.vocabulary]


def bookmarked(bundle: Bundle, annotations: Annotations) -> list[int]:
    """Latents with a bookmark; an error where there is none."""
    found = [latent for latent, a in annotations.labelled(bundle.sae_sha256).items() if a.bookmarked]
    if not found:
        raise SaelabError("no feature of this SAE is bookmarked", where=str(annotations.path))
    return found


def on_list(bundle: Bundle, annotations: Annotations, name: str) -> list[int]:
    """Latents on a list; an error where there is none."""
    found = [latent for latent, a in annotations.labelled(bundle.sae_sha256).items() if name in a.lists]
    if not found:
        fix = did_you_mean(name, annotations.lists(bundle.sae_sha256)) or None
        raise SaelabError(f"this SAE has no list {name!r}", where=str(annotations.path), fix=fix)
    return found


def strongest(bundle: Bundle, count: int) -> list[int]:
    """The latents with the largest absolute activation; ties to the lower number, dead ones left out."""
    order = np.argsort(-bundle.largest, kind="stable")[:count]
    return [int(latent) for latent in order if bundle.columns["count"][latent] > 0]
