"""EleutherAI's sparsify (`eai-sparsify`): `<hookpoint>/cfg.json` and `sae.safetensors`.

```
cfg.json         activation expansion_factor normalize_decoder num_latents k multi_topk skip_connection transcode d_in
sae.safetensors  encoder.weight [lat, d]  encoder.bias [lat]  W_dec [lat, d]  b_dec [d]  [W_skip [d, d]]
```
`code = topk(relu(encoder(x - b_dec)), k)`, without the subtraction where it transcodes; `W_dec^T code + b_dec
[+ W_skip x]`. Read from sparsify 1.3.3; `signed`, of its first versions, kept the largest magnitudes with their signs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from saelab.errors import SaelabError
from saelab.files import write_json, write_tensors
from saelab.interop.origin import Origin, Source
from saelab.interop.parts import Parts, assemble, check_raw_units, form_of, refusal, with_centre
from saelab.interop.reading import Fields, expect_shapes, floating, read_config, read_safetensors, shown, width
from saelab.sae import SAE
from saelab.sae.coders import OneStep
from saelab.sae.foreign import Format
from saelab.sae.rules import TopK

CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"
_TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def recognises(path: Path) -> bool:
    return (path / WEIGHTS).is_file()


def read(path: Path) -> SAE:
    """The SAE or transcoder in a hookpoint's directory.

    Raises:
        SaelabError: damaged, or of a kind that saelab cannot express: `groupmax`, or a skip connection
            beside a reconstruction of the input.
    """
    config, weights = path / CONFIG, path / WEIGHTS
    values = read_config(config)
    fields = Fields(values, str(config))
    d_in, k = width(fields, "d_in"), width(fields, "k")
    signed, transcode = fields.take("signed", bool, False), fields.take("transcode", bool, False)
    skip, activation = fields.take("skip_connection", bool, False), fields.take("activation", str, "topk")
    n_latents = fields.take("num_latents", int, 0) or d_in * fields.take("expansion_factor", int, 32)
    fields.ignore("expansion_factor", "normalize_decoder", "multi_topk")  # these only matter in training
    fields.done()
    if activation != "topk":
        raise SaelabError(
            f"the activation {shown(activation)} has no counterpart in saelab, which has 'topk'", where=str(config)
        )
    if skip and not transcode:
        raise SaelabError("a skip connection beside a reconstruction of the input would copy it", where=str(config))
    names = (*_TENSORS, "W_skip") if skip else _TENSORS
    tensors = floating(read_safetensors(weights), names, str(weights))
    shapes = {"encoder.weight": (n_latents, d_in), "encoder.bias": (n_latents,), "W_dec": (n_latents, d_in)}
    expect_shapes(tensors, shapes | {"b_dec": (d_in,)} | ({"W_skip": (d_in, d_in)} if skip else {}), str(weights))
    parts = Parts(
        kind="abs_topk" if signed else "topk",
        settings={"k": k},
        coder={"W_enc": tensors["encoder.weight"], "b_enc": tensors["encoder.bias"]},
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        centred=not transcode,
        d_in=d_in,
        W_skip=tensors.get("W_skip"),
        transcoder=transcode,
    )
    return assemble(parts, Source("sparsify", (config, weights), _origin(path, transcode), values))


_HOOKPOINT = re.compile(r"(?:layers|h)\.(\d+)(\.mlp|\.attention|\.attn|\.self_attn)?")


def _origin(path: Path, transcode: bool) -> Origin:
    """What the directory's name, a module of the model, says of the hook."""
    found = _HOOKPOINT.fullmatch(path.resolve().name)
    if found is None:
        return Origin()
    block, inside = f"blocks.{found[1]}", found[2]
    out = {None: "hook_resid_post", ".mlp": "hook_mlp_out"}.get(inside, "hook_attn_out")
    if not transcode:
        return Origin(hook=f"{block}.{out}")
    return Origin(hook=f"{block}.mlp.hook_in" if inside == ".mlp" else None, target_hook=f"{block}.{out}")


def write(sae: SAE, directory: Path) -> None:
    """Write a TopK SAE, or a transcoder between equal widths.

    Raises:
        SaelabError: it keeps another number of latents than k of each token, or the widths differ.
    """
    identity, k = sae.identity, getattr(getattr(sae.coder, "rule", None), "k", 0)
    check_raw_units(sae, FORMAT.title)
    if form_of(sae) != (OneStep, TopK):
        raise refusal(sae, FORMAT.title)
    if identity.d_in != identity.d_out:
        widths = f"it reads width {identity.d_in} and gives width {identity.d_out}, which have to be equal there"
        raise refusal(sae, FORMAT.title, widths)
    sae = with_centre(sae, not identity.transcoder)
    state = sae.state_dict()
    tensors = {"encoder.weight": state["coder.W_enc"], "encoder.bias": state["coder.b_enc"]}
    tensors |= {"W_dec": state["decoder.W_dec"], "b_dec": state["decoder.b_dec"]}
    if identity.skip:
        tensors["W_skip"] = state["decoder.W_skip"]
    config: dict[str, Any] = {
        "activation": "topk",
        "expansion_factor": max(1, sae.n_latents // identity.d_in),
        "normalize_decoder": not identity.transcoder,
        "num_latents": sae.n_latents,
        "k": k,
        "multi_topk": False,
        "skip_connection": identity.skip,
        "transcode": identity.transcoder,
        "d_in": identity.d_in,
    }
    write_json(directory / CONFIG, config)
    write_tensors(directory / WEIGHTS, tensors)


FORMAT = Format("sparsify", f"{CONFIG} and {WEIGHTS}", recognises, read, write)
