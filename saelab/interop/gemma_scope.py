"""Gemma Scope (Lieberum et al. 2024, arXiv 2408.05147): `params.npz`, JumpReLU SAEs on Gemma 2.

```
W_enc [d, lat]  b_enc [lat]  threshold [lat]  W_dec [lat, d]  b_dec [d]
```
`code = relu(pre) * (pre > threshold)` with `pre = x W_enc + b_enc`; `code W_dec + b_dec`. What model and hook they
belong to stands in the names of the release's directories alone: `gemma-scope-2b-pt-res/layer_20/width_16k/...`.
Transcoders come in the same form, and their hooks (behind a norm's weight) have no name here: they are refused.
"""

from __future__ import annotations

import re
from pathlib import Path

from saelab.errors import SaelabError
from saelab.interop.origin import Origin, Source
from saelab.interop.parts import Parts, assemble
from saelab.interop.reading import expect_shapes, floating, matrix, read_arrays
from saelab.sae import SAE
from saelab.sae.foreign import Format

PARAMETERS = "params.npz"
_ARRAYS = ("W_enc", "b_enc", "threshold", "W_dec", "b_dec")


def recognises(path: Path) -> bool:
    return _parameters(path).suffix == ".npz" and _parameters(path).is_file()


def _parameters(path: Path) -> Path:
    return path / PARAMETERS if path.is_dir() else path


def read(path: Path) -> SAE:
    """The SAE in a directory with `params.npz`, or in such a file.

    Raises:
        SaelabError: damaged, or a transcoder.
    """
    file = _parameters(path)
    named = file.parent.resolve() / file.name  # a cache keeps the file itself elsewhere, under its hash
    if "transcoder" in named.as_posix():
        raise SaelabError(
            "a transcoder of Gemma Scope reads behind a norm's weight, for which there is no hook", where=str(file)
        )
    arrays = floating(read_arrays(file), _ARRAYS, str(file))
    d, n_latents = matrix(arrays, "W_enc", str(file))
    shapes = {"b_enc": (n_latents,), "threshold": (n_latents,), "W_dec": (n_latents, d), "b_dec": (d,)}
    expect_shapes(arrays, shapes, str(file))
    coder = {"W_enc": arrays["W_enc"].T, "b_enc": arrays["b_enc"], "rule.threshold": arrays["threshold"].clamp(min=0)}
    parts = Parts("jumprelu", {}, coder, arrays["W_dec"], arrays["b_dec"], centred=False, d_in=d)
    return assemble(parts, Source("gemma_scope", (file,), _origin(named)))


_RELEASE = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att)\b")
_HOOKS = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


def _origin(file: Path) -> Origin:
    """What the directories' names say."""
    release, layer = _RELEASE.search(file.as_posix()), re.search(r"/layer_(\d+)/", file.as_posix())
    if release is None:
        return Origin()
    size, tuned, place = release.groups()
    return Origin(
        model=f"google/gemma-2-{size}" + ("-it" if tuned == "it" else ""),
        hook=f"blocks.{layer[1]}.{_HOOKS[place]}" if layer else None,
        context_length=1024,
        prepend_bos=True,
    )


FORMAT = Format("Gemma Scope", PARAMETERS, recognises, read)
