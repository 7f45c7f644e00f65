"""OpenAI's sparse_autoencoder (Gao et al. 2024, arXiv 2406.04093): a state dictionary in a `.pt` file.

```
pre_bias [d]  encoder.weight [lat, d]  latent_bias [lat]  decoder.weight [d, lat]  activation  activation_state_dict
```
`code = activation((x - pre_bias) encoder^T + latent_bias)`, `decoder code + pre_bias`. By the official code, an SAE
whose activation is called TopK standardises each token first (`v5`), and one with ReLU does not (`v1`, `v4`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saelab.errors import SaelabError
from saelab.interop.origin import Source
from saelab.interop.parts import Parts, assemble
from saelab.interop.reading import Fields, expect_names, expect_shapes, floating, matrix, read_pickled, shown
from saelab.sae import SAE
from saelab.sae.foreign import Format

_TENSORS = ("pre_bias", "encoder.weight", "latent_bias", "decoder.weight")
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_ACTIVATION = ("activation", "activation_state_dict")
_COPIES = ("activation.k", "activation.postact_fn")
"""What the official code, saving a TopK, also leaves at the top level, where its own loader refuses it."""


def recognises(path: Path) -> bool:
    return path.suffix == ".pt" and path.is_file()


def read(path: Path) -> SAE:
    """The SAE in a `.pt` file.

    Raises:
        SaelabError: damaged, or with another activation than ReLU and TopK.
    """
    state, where = read_pickled(path), str(path)
    expect_names({name: 0 for name in state if name not in (*_STATISTICS, *_ACTIVATION, *_COPIES)}, _TENSORS, where)
    kind, rule, token_scale = _activation(state, where)
    tensors = floating({name: state[name] for name in _TENSORS}, _TENSORS, where)
    n_latents, d = matrix(tensors, "encoder.weight", where)
    expect_shapes(tensors, {"pre_bias": (d,), "latent_bias": (n_latents,), "decoder.weight": (d, n_latents)}, where)
    coder = {"W_enc": tensors["encoder.weight"], "b_enc": tensors["latent_bias"]}
    parts = Parts(
        kind=kind,
        settings=rule,
        coder=coder,
        W_dec=tensors["decoder.weight"].T,
        b_dec=tensors["pre_bias"],
        centred=True,
        d_in=d,
        token_scale=token_scale,
    )
    return assemble(parts, Source("openai", (path,)))


def _activation(state: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any], str | None]:
    """The variant, its settings, and the scale that each token is divided by."""
    name, settings = state.get("activation", "ReLU"), state.get("activation_state_dict", {})
    described = isinstance(settings, dict) and all(isinstance(key, str) for key in settings)
    if not isinstance(name, str) or name not in ("ReLU", "TopK") or not described:
        what = f"{shown(name)} with {shown(settings)}"
        raise SaelabError(f"the activation {what} is none of the official code's releases", where=where)
    copies = {copy: state[copy] for copy in _COPIES if copy in state}
    if any(shown(value) != shown(settings.get(copy.removeprefix("activation."))) for copy, value in copies.items()):
        raise SaelabError(f"its activation is described twice: {shown(copies)} and {shown(settings)}", where=where)
    fields = Fields(settings, f"{where}: activation_state_dict")
    found = "relu", {}, None
    if name == "TopK":
        found = "topk", {"k": fields.take("k", int)}, "standard"
        if (after := fields.take("postact_fn", str)) != "ReLU":
            raise SaelabError(f"{shown(after)} after TopK has no counterpart in saelab", where=where)
    fields.done()
    return found


FORMAT = Format("OpenAI", "a .pt file", recognises, read)
