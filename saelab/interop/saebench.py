"""SAEBench (`sae-bench`): an SAE in the shape that its evaluations expect of a custom one.

    from saelab.interop import saebench
    multiple_evals([("mine", saebench.wrap(SAE.load("runs/mine/sae")))], ...)

Written from sae-bench 0.6.0, `custom_saes/base_sae.py`: dense codes, `W_enc [d_in, lat]`, `W_dec [lat, d_in]` with rows
of norm 1, biases that are there even where they do nothing, `device` and `dtype`, and a `cfg` whose fields SAEBench
reads and completes.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from saelab.errors import SaelabError
from saelab.interop.origin import Origin
from saelab.sae import SAE

_UNIT = 1e-5
"""How far a decoder row's norm may be from 1 in SAEBench, which warns of more."""


@dataclass
class Config:
    """What SAEBench and the parts of SAELens that it uses read of an SAE; they also write to it."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    architecture: str
    dtype: str
    context_size: int
    prepend_bos: bool
    hook_head_index: int | None = None
    apply_b_dec_to_input: bool = False
    finetuning_scaling_factor: bool = False
    activation_fn_str: str = ""
    activation_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    normalize_activations: str = "none"
    device: str = ""
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = False
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = -1
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for a file of results."""
        return asdict(self)


class Wrapped(nn.Module):
    """An SAE by the names that SAEBench knows. Its decoder's rows have norm 1; codes are in units of the old norms.

    Attributes:
        sae: in inference form; cfg: what SAEBench reads of it.
        W_enc: `[d_in, lat]`; b_enc: `[lat]`; W_dec: `[lat, d_in]`; b_dec: `[d_in]`. Encoding goes through `sae`; these
            are what SAEBench looks at, and the decoder's what it decodes by.
    """

    norms: Tensor

    def __init__(self, sae: SAE, cfg: Config):
        super().__init__()
        self.sae, self.cfg = sae, cfg
        norms = sae.W_dec.detach().norm(dim=1)
        if bool(((norms - 1).abs() <= _UNIT).all()):
            norms, rows = torch.ones_like(norms), sae.W_dec  # shared, not copied
        else:
            norms = norms.clamp(min=1e-8)
            rows = nn.Parameter(sae.W_dec.detach() / norms[:, None], requires_grad=False)
        self.register_buffer("norms", norms)
        self.W_dec, self.b_dec = rows, sae.b_dec

    @property
    def W_enc(self) -> Tensor:
        rows: Tensor = getattr(self.sae.coder, "W_enc", self.sae.W_dec)  # pursuit encodes with the decoder
        return (rows * self.norms[:, None]).T

    @property
    def b_enc(self) -> Tensor:
        coder: Any = self.sae.coder
        bias: Tensor = getattr(coder, "b_enc", getattr(coder, "b_mag", torch.zeros_like(self.norms)))
        return bias * self.norms

    @property
    def device(self) -> torch.device:
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_dec.dtype

    def encode(self, x: Tensor) -> Tensor:
        """`[..., d_in]` -> `[..., lat]`, dense."""
        return (self.sae.encode(x).to_dense() * self.norms).reshape(*x.shape[:-1], -1)

    def decode(self, codes: Tensor) -> Tensor:
        """`[..., lat]` -> `[..., d_in]`."""
        return codes @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in]` -> its reconstruction."""
        return self.decode(self.encode(x))

    hook_z_reshaping_mode = False

    def turn_off_forward_pass_hook_z_reshaping(self) -> None:
        """Heads are always flattened."""


def wrap(sae: SAE, model: str | None = None, hook: str | None = None) -> Wrapped:
    """The SAE as SAEBench's evaluations take one.

    Args:
        sae: in inference form.
        model, hook: by TransformerLens' names; None: as the SAE says.

    Raises:
        SaelabError: a transcoder, or codes in units of each token's own scale, which SAEBench knows nothing of; in
            training form; nothing says which model or hook.
    """
    identity, origin = sae.identity, Origin.of(sae.identity)
    model, hook = model or origin.model, hook or origin.hook
    if identity.form != "inference":
        raise SaelabError("only the inference form can be measured there", fix="wrap sae.inference(...)")
    if identity.transcoder:
        raise SaelabError(f"SAEBench measures reconstructions of the input, and this '{identity.kind}' is a transcoder")
    if identity.token_scale is not None:
        raise SaelabError(
            "SAEBench decodes codes alone, and this SAE's are in units of each token's own scale: "
            f"{identity.token_scale}"
        )
    if model is None or hook is None:
        raise SaelabError("this SAE does not say where it belongs", fix="wrap(sae, model=..., hook=...)")
    layer = re.search(r"\d+", hook)
    cfg = Config(
        model_name=model,
        d_in=identity.d_in,
        d_sae=sae.n_latents,
        hook_layer=int(layer[0]) if layer else 0,
        hook_name=hook,
        architecture=f"saelab-{identity.kind}",
        dtype=str(sae.W_dec.dtype).removeprefix("torch."),
        context_size=origin.context_length or 128,
        prepend_bos=True if origin.prepend_bos is None else origin.prepend_bos,
        apply_b_dec_to_input=sae.coder.centred,
        dataset_path=origin.dataset or "",
    )
    return Wrapped(sae, cfg)
