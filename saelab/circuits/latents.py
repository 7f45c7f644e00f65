"""What the latents of an SAE do in a task: the strongest, what each is worth, and the heads it gets that from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from saelab.circuits.features import attribute_features, patch_features
from saelab.circuits.feeding import feed
from saelab.circuits.pairs import Pairs
from saelab.errors import SaelabError
from saelab.features.live import Live

Tell = Callable[[str, int, int], None]


def look_at_latents(live: Live, pairs: Pairs, heads: Sequence[tuple[int, int]], n: int, tell: Tell) -> dict[str, Any]:
    """JSON-able: of `saelab.circuits.findings.FeaturesFound`, all but the run's name.

    Args:
        heads: (layer, head) that latents may be fed by; those behind the SAE's hook are left out.
        n: latents.

    Raises:
        SaelabError: a transcoder, or a hook outside of the layers.
    """
    layer = live.hook.layer
    if layer is None:
        raise SaelabError(f"'{live.hook.name}' is in no layer", where="sae", fix="take an SAE of a layer")
    at = (live.lm, live.sae, live.hook, live.mask, pairs)
    found = attribute_features(*at, report=partial(tell, "latents"))
    best = found.strongest(n)
    tell("latents, one by one", 0, 1)
    exact = patch_features(*at, best)
    before = [head for head in heads if head[0] <= layer]
    fed = feed(*at, before, best, report=partial(tell, "what feeds latents"))
    return {
        "hook": live.hook.name,
        "layer": layer,
        "sae_sha256": live.sae.sha256(),
        "prompts": len(pairs),
        "total": found.total,
        "error": found.error,
        "masked": found.masked,
        "heads": [list(head) for head in before],
        "latents": [
            {
                "latent": latent,
                "score": float(found.latents[latent]),
                "exact": float(loss),
                "clean": float(found.clean[latent]),
                "corrupted": float(found.corrupted[latent]),
                "fed": column.tolist(),
            }
            for latent, loss, column in zip(best, exact, fed.T, strict=True)
        ],
    }
