"""OpenAI's sparse_autoencoder (Gao et al. 2024, arXiv 2406.04093): a state dictionary in a `.pt` file.

```
pre_bias [d]  encoder.weight [lat, d]  latent_bias [lat]  decoder.weight [d, lat]  activation  activation_state_dict
```
`code = activation((x - pre_bias) encoder^T + latent_bias)`, `decoder code + pre_bias`. The releases with TopK
standardise each token first (`v5`): by the official code, that is what the activation's name means. A bias behind a
standardisation cannot be folded into weights, so these are refused; ReLU (`v1`, `v4`) is read.
"""

from __future__ import annotations

from pathlib import Path

from saelab.errors import SaelabError
from saelab.interop.origin import Source
from saelab.interop.parts import Parts, assemble
from saelab.interop.reading import expect_names, expect_shapes, floating, matrix, read_pickled, shown
from saelab.sae import SAE
from saelab.sae.foreign import Format

_TENSORS = ("pre_bias", "encoder.weight", "latent_bias", "decoder.weight")
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_ACTIVATION = ("activation", "activation_state_dict")


def recognises(path: Path) -> bool:
    return path.suffix == ".pt" and path.is_file()


def read(path: Path) -> SAE:
    """The SAE in a `.pt` file.

    Raises:
        SaelabError: damaged, or one that standardises its input.
    """
    state, where = read_pickled(path), str(path)
    expect_names({name: 0 for name in state if name not in (*_STATISTICS, *_ACTIVATION)}, _TENSORS, where)
    activation, settings = state.get("activation", "ReLU"), state.get("activation_state_dict", {})
    if not isinstance(activation, str) or not isinstance(settings, dict):
        raise SaelabError("its activation is neither named nor described as in the official code", where=where)
    if activation == "TopK":
        raise SaelabError(
            "this SAE standardises every token (in the official code, TopK does), which saelab cannot express: "
            "its biases are in units of each token's own standard deviation",
            where=where,
        )
    if activation != "ReLU" or settings:
        found = f"{shown(activation)} with {shown(settings)}" if settings else shown(activation)
        raise SaelabError(f"the activation {found} is none that saelab knows of this format", where=where)
    tensors = floating({name: state[name] for name in _TENSORS}, _TENSORS, where)
    n_latents, d = matrix(tensors, "encoder.weight", where)
    expect_shapes(tensors, {"pre_bias": (d,), "latent_bias": (n_latents,), "decoder.weight": (d, n_latents)}, where)
    coder = {"W_enc": tensors["encoder.weight"], "b_enc": tensors["latent_bias"]}
    parts = Parts("relu", {}, coder, tensors["decoder.weight"].T, tensors["pre_bias"], centred=True, d_in=d)
    return assemble(parts, Source("openai", (path,)))


FORMAT = Format("OpenAI", "a .pt file", recognises, read)
