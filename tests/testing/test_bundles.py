"""The hand-made index is one the reader takes, and its numbers agree with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from saelab.features import Bundle
from saelab.testing.bundles import HOSTILE, tiny_bundle


@pytest.mark.parametrize("signed", [False, True])
def test_a_tiny_bundle_is_whole(tmp_path: Path, signed: bool) -> None:
    bundle = Bundle(tiny_bundle(tmp_path, signed=signed))
    assert bundle.feature(3).dead
    assert bundle.examples(3) == []
    for latent in range(bundle.n_latents):
        feature, examples = bundle.feature(latent), bundle.examples(latent)
        assert sum(feature.histogram) == feature.count
        assert (feature.negative > 0) == (signed and not feature.dead)
        if not feature.dead:
            assert examples[0].value == pytest.approx(feature.max, rel=1e-3)
            assert min(e.value for e in examples) < 0 if signed else True
            assert all(feature.min - 0.01 <= v <= feature.max + 0.01 for e in examples for v in e.values.values())
    context = bundle.context(0)
    assert len(context.tokens) == len(context.documents) == 16
    assert np.isfinite(bundle.density).all()


def test_hostile_texts_are_among_the_tokens(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path, hostile=True, lens=False, n_latents=3))
    assert set(HOSTILE) <= set(bundle.vocabulary)
    assert bundle.feature(0).promoted == []
