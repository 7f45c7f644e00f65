"""The one `SAE` class: a coder, a decoder, and where they came from."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saelab.errors import SaelabError
from saelab.kernels import Support, gather
from saelab.registry import named
from saelab.sae.code import Seen, SparseCode
from saelab.sae.coders import Coder
from saelab.sae.token_scale import TOKEN_SCALES, TokenScale

_ENCODE_TOKENS = 2048
"""Tokens encoded at once where nothing asks for a gradient, so that memory does not grow with the input."""


class Decoder(nn.Module):
    """`code W_dec + b_dec`, and with a skip connection `+ x W_skip^T`.

    Args:
        n_latents, d_out: of the code and of what is reconstructed.
        skip_from: width of the input where a skip connection leads past the code; it starts at 0.

    Attributes:
        W_dec: `[n_latents, d_out]`, a latent a row; b_dec: `[d_out]`.
        W_skip: `[d_out, d_in]`, or None.
    """

    W_skip: nn.Parameter | None

    def __init__(self, n_latents: int, d_out: int, *, skip_from: int | None = None):
        super().__init__()
        self.W_dec = nn.Parameter(torch.empty(n_latents, d_out))
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        skip = None if skip_from is None else nn.Parameter(torch.zeros(d_out, skip_from))
        self.register_parameter("W_skip", skip)

    def forward(self, code: SparseCode) -> Tensor:
        """The part that goes through the code."""
        return gather(code.values, code.support, self.W_dec) + self.b_dec

    def affine(self, x: Tensor) -> Tensor:
        """The part that does not: `b_dec` `[d_out]`, with a skip connection `b_dec + x W_skip^T` `[tok, d_out]`."""
        return self.b_dec if self.W_skip is None else torch.addmm(self.b_dec, x, self.W_skip.T)


@dataclass(frozen=True, eq=False)
class Scaling:
    """The affine map between raw activations and what training sees: `c * (x - mean)`.

    Attributes:
        mean: `[d]`, subtracted first (raw units).
        factor: c; with c chosen so that the mean norm is sqrt(d), coefficients carry over between models.
    """

    mean: Tensor
    factor: float

    def apply(self, x: Tensor) -> Tensor:
        """`[tok, d]` raw -> scaled, in float32."""
        return (x.float() - self.mean) * self.factor

    def inverse(self) -> Scaling:
        """The map back: scaled -> raw."""
        return Scaling(-self.factor * self.mean, 1 / self.factor)


@dataclass
class Identity:
    """What an SAE is and where it came from; written beside the weights.

    Attributes:
        kind, settings: the variant and its arguments, enough to build it again.
        d_in, d_out: widths of input and output.
        form: "training" sees scaled inputs; "inference" raw ones, token by token.
        transcoder: whether it reconstructs something else than its input; skip: with a skip connection.
        centred: whether its encoder subtracts the decoder's bias from the input, where that is said of this SAE
            (an imported one); None: as the variant has it.
        token_scale: which scale of its own each token is divided by (an imported SAE; see
            `saelab.sae.token_scale`), so that codes are in units of it; None: codes are in raw units.
        provenance: JSON-able: model, hook, mask policy, data, tokens seen, config hash, versions.
    """

    kind: str
    settings: dict[str, Any]
    d_in: int
    d_out: int
    form: str = "training"
    transcoder: bool = False
    skip: bool = False
    centred: bool | None = None
    token_scale: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


class SAE(nn.Module):
    """A sparse autoencoder: `sae(x)`, `sae.encode(x) -> SparseCode`, `sae.reconstruct(x, code)`.

    A transcoder is one whose output is not its input. Build one with `saelab.sae.variants.build`, load one
    with `SAE.load`.
    """

    def __init__(self, coder: Coder, decoder: Decoder, identity: Identity):
        super().__init__()
        self.coder = coder
        self.decoder = decoder
        self.identity = identity

    @property
    def n_latents(self) -> int:
        return self.decoder.W_dec.shape[0]

    @property
    def W_dec(self) -> Tensor:
        """`[n_latents, d_out]`."""
        return self.decoder.W_dec

    @property
    def b_dec(self) -> Tensor:
        """`[d_out]`."""
        return self.decoder.b_dec

    def see(self, x: Tensor, side: Mapping[str, Tensor] | None = None) -> Seen:
        """`[..., d_in]`, and what comes beside it, as the coder sees it.

        Raises:
            SaelabError: another width, or something that the coder requires is not at the side.
        """
        outer, x = x.ndim - 1, self._rows(x)
        side = {name: value.reshape(len(x), *value.shape[outer:]).to(x) for name, value in (side or {}).items()}
        x = x if self.identity.token_scale is None else self._token_scale(x).take_out(x)
        missing = self.coder.requires - side.keys()
        if missing:
            raise SaelabError(
                f"this SAE encodes with {', '.join(sorted(missing))} beside the activations, and there is none",
                where=f"SAE({self.identity.kind})",
                fix="pass side={...}, or use its inference form",
            )
        if not self.coder.centred:
            return Seen(x, self.W_dec, side)
        return Seen(x - self.b_dec, self.W_dec, side, None if x.requires_grad else self.b_dec)

    def encode(self, x: Tensor, side: Mapping[str, Tensor] | None = None) -> SparseCode:
        """`[..., d_in]` -> the code of its tokens, flattened in order.

        In training form a variant may select over the whole batch, draw noise, or need a `side`.
        """
        seen = self.see(x, side)
        needs_gradient = torch.is_grad_enabled() and (seen.x.requires_grad or self.W_dec.requires_grad)
        if needs_gradient or not self.coder.per_token or seen.x.shape[0] <= _ENCODE_TOKENS:
            return self.coder.encode(seen).code
        starts = range(0, seen.x.shape[0], _ENCODE_TOKENS)
        return concatenate([self.coder.encode(_part(seen, start)).code for start in starts])

    def decode(self, code: SparseCode) -> Tensor:
        """What a code says of the output, `[tok, d_out]`: all of it but for a skip connection, and in units of
        each token's own scale where the SAE has such."""
        if code.n_latents != self.n_latents:
            raise SaelabError(f"this code has {code.n_latents} latents, the SAE {self.n_latents}")
        return self.decoder(code)

    def reconstruct(self, x: Tensor, code: SparseCode) -> Tensor:
        """The output for `[..., d_in]` encoded as `code` (or as a changed one), `[tok, d_out]`."""
        if self.identity.token_scale is not None:
            return self._token_scale(self._rows(x)).put_back(self.decode(code))
        if self.decoder.W_skip is None:
            return self.decode(code)
        return self.decode(code) + self._rows(x) @ self.decoder.W_skip.T

    def forward(self, x: Tensor) -> Tensor:
        """`[..., d_in]` -> its reconstruction, `[..., d_out]`, in the dtype of the weights."""
        return self.reconstruct(x, self.encode(x)).reshape(*x.shape[:-1], self.identity.d_out)

    def _token_scale(self, x: Tensor) -> TokenScale:
        return TOKEN_SCALES[str(self.identity.token_scale)](x)

    def _rows(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.identity.d_in:
            raise SaelabError(
                f"this SAE reads activations of width {self.identity.d_in}, not {x.shape[-1]}",
                where=f"SAE({self.identity.kind})",
            )
        return x.reshape(-1, x.shape[-1]).to(self.W_dec.dtype)

    @torch.no_grad()
    def inference(self, scaling: Scaling | None = None, target: Scaling | None = None) -> SAE:
        """The per-token form on raw activations: a copy with `scaling` folded in, codes in raw units.

        Nearly every coder is positively homogeneous, so `W_enc` stays as it is: `b_enc / c`, thresholds
        `/ c`, `b_dec / c + mean`, and `b_enc - W_enc mean` where the encoder does not subtract `b_dec`.
        `W_dec` changes only where a `target` (a transcoder's output) is scaled by another factor than the
        input, or where codes have no unit; a skip connection takes the ratio of the factors, too, and its
        share of the input's mean goes to `b_dec`.

        Args:
            scaling: of the input; None where training saw raw activations.
            target: of the output; None where it is the input.

        Raises:
            SaelabError: folded already; not calibrated where that is needed; a target for an SAE whose
                encoder subtracts the output's bias, or none for a transcoder.
        """
        if self.identity.form == "inference":
            if scaling is not None or target is not None:
                raise SaelabError("this SAE already is in inference form; its scaling is folded in")
            return self
        folded = copy.deepcopy(self)
        folded.identity.form = "inference"
        folded.coder = folded.coder.inference(folded.W_dec)
        if scaling is not None or target is not None:
            folded.fold(scaling or Scaling(self.b_dec.new_zeros(self.identity.d_in), 1.0), target)
        return folded.requires_grad_(False).eval()

    @torch.no_grad()
    def fold(self, scaling: Scaling, target: Scaling | None) -> None:
        """Put `scaling` before the input and the reverse of `target` (None: of `scaling`) behind the output, in
        place; for forms whose codes depend on one token alone. See `inference`."""
        coder, decoder = self.coder, self.decoder
        if target is not None:
            self.check_other_target()
        elif self.identity.transcoder:
            raise SaelabError(
                "a transcoder's output has a scaling of its own, and none was given",
                where=f"SAE({self.identity.kind})",
            )
        target = target or scaling
        mean = scaling.mean.to(decoder.W_dec)
        coder.fold(mean, scaling.factor)
        decoder.b_dec.div_(target.factor).add_(target.mean.to(decoder.b_dec))
        carried = scaling.factor if coder.homogeneous else 1.0
        if target.factor != carried:
            decoder.W_dec.mul_(carried / target.factor)
        if decoder.W_skip is not None:
            decoder.W_skip.mul_(scaling.factor / target.factor)
            decoder.b_dec.sub_(decoder.W_skip @ mean)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the thresholds of the inference form where selection depends on the batch.

        Args:
            x: `[tok, d_in]` training activations in training units, spread over the data; the more, the
                better the thresholds of rare latents.
        """
        x = self._rows(x)
        self.coder.calibrate(Seen(x - self.b_dec if self.coder.centred else x, self.W_dec))

    def attached(
        self,
        model: Any,
        hook: str | None = None,
        target: str | None = None,
        *,
        error_term: bool = False,
        change: Callable[[SparseCode], SparseCode] | None = None,
        mask: Any = None,
    ) -> AbstractContextManager[Any]:
        """While inside, this SAE stands in for an activation of a language model, with gradients.

            with sae.attached(model, "model.layers.10") as seen:
                logits = model(tokens).logits
            seen.code  # of the latest pass

        Args:
            model: of transformers', of TransformerLens', or a `saelab.lm.model.LanguageModel`.
            hook: what it reads: in transformers' models a module's path, whose output is meant, or TransformerLens'
                name of a residual stream; None: as the SAE says.
            target: what a transcoder stands in for; None: as it says.
            error_term: add what the reconstruction leaves out, without gradient, so that only `change` has an effect.
            change: what to do to the code before it is decoded.
            mask: a `saelab.lm.mask.Mask`, which positions are encoded; the others keep their activation. None: the
                SAE's own, and every position where it has none.

        Raises:
            SaelabError: in training form; no such hook; on running the model, no tokens where the mask asks for them.
        """
        attach: Callable[..., AbstractContextManager[Any]] = named("saelab.interop.attach:attached")
        return attach(self, model, hook, target, error_term=error_term, change=change, mask=mask)

    def check_other_target(self) -> None:
        """Raise where the SAE cannot reconstruct anything but its own input."""
        if self.coder.centred:
            raise SaelabError(
                "an encoder that subtracts the decoder's bias reads what it reconstructs, "
                "and cannot have another target",
                where=f"SAE({self.identity.kind})",
                fix="build it for one: build(..., d_out=...)",
            )

    def sha256(self) -> str:
        """A fingerprint of weights, variant, settings and form: the key of annotations and indexes."""
        what = [self.identity.kind, self.identity.settings, self.identity.form]
        what += ["transcoder"] if self.identity.transcoder else []
        what += [] if self.identity.centred is None else ["centred" if self.identity.centred else "not centred"]
        what += [] if self.identity.token_scale is None else [self.identity.token_scale]
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            array = value.detach().cpu().contiguous()
            digest.update(f"{name}:{array.dtype}:{tuple(array.shape)};".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def save(self, directory: Path | str) -> None:
        """Write `config.json` and `weights.safetensors`; see `saelab.sae.io`."""
        from saelab.sae import io

        io.save(self, Path(directory))

    @classmethod
    def load(cls, source: Path | str) -> SAE:
        """Read what `save` wrote, or what another tool did: its format is recognised from the files.

        Args:
            source: a directory or a file, or one on the Hugging Face hub: `hf://org/repo[@revision][/path]`.

        Raises:
            SaelabError: absent, of another schema or a form that saelab cannot express, or with weights that do
                not fit the configuration.
        """
        from saelab.sae import io

        return io.load(source)


def _part(seen: Seen, start: int) -> Seen:
    rows = slice(start, start + _ENCODE_TOKENS)
    return Seen(seen.x[rows], seen.W_dec, {name: value[rows] for name, value in seen.side.items()})


def concatenate(codes: list[SparseCode]) -> SparseCode:
    """Codes of consecutive tokens as one."""
    first = codes[0].support
    widths = {code.support.width for code in codes}
    starts = torch.tensor([0, *(code.support.nnz for code in codes)]).cumsum(0).tolist()
    offsets = [code.offsets[:-1] + start for code, start in zip(codes, starts[:-1], strict=True)]
    end = torch.tensor([starts[-1]], dtype=torch.int32, device=first.device)
    support = Support(
        torch.cat([code.latents[: code.support.nnz] for code in codes]),
        torch.cat([*offsets, end]).to(torch.int32),
        first.n_latents,
        widths.pop() if len(widths) == 1 else None,
    )
    return SparseCode(torch.cat([code.values[: code.support.nnz] for code in codes]), support)
