"""saelab's exports loaded by the tools they are for, their SAEs loaded here, and both from the hub."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from saelab import interop
from saelab.cli.push import push
from saelab.files import write_text
from saelab.interop.card import export_directory
from saelab.interop.parts import CannotHoldError
from saelab.sae import SAE, VARIANTS
from tests.interop.saes import D, random_sae

from .outcomes import HUB, IN, OUT, Model, Outcome, compared

Attempt = Callable[[str, str, str, Callable[[Path], Outcome]], Outcome]
"""Of a direction, a format, a variant and the work, which is handed a directory to make."""


def every(only: Sequence[str], steps: int, place: Path) -> Iterator[Outcome]:
    """Every comparison with these tools, one after another, in directories below `place`."""
    torch.manual_seed(0)
    numbers = iter(range(10**6))

    def attempt(way: str, format: str, variant: str, work: Callable[[Path], Outcome]) -> Outcome:
        try:
            return work(place / f"{next(numbers)}")
        except Exception as error:  # whatever goes wrong there is a finding
            return Outcome(way, format, variant, failed=f"{type(error).__name__}: {error}")

    peers = {name: importlib.import_module(f".peer_{name}", __package__) for name in only}
    for peer in peers.values():
        yield from _exported(peer, attempt)
    for peer in peers.values():
        yield from _trained(peer, steps, attempt)
    yield from _pushed(peers, place, attempt)


def _ours(sae: SAE) -> Model:
    return Model(lambda x: sae.encode(x).to_dense(), sae)


def _exported(peer: Any, attempt: Attempt) -> Iterator[Outcome]:
    """Every variant of saelab's, loaded there."""
    cases: dict[str, Callable[[], Any]] = {kind: lambda kind=kind: random_sae(kind) for kind in VARIANTS}
    for kind, d_out in (("relu", 24), ("jumprelu", 24), ("batch_topk", 24), ("topk", D)):
        cases[f"{kind} transcoder"] = lambda kind=kind, d_out=d_out: random_sae(kind, d_out)
        cases[f"{kind} skip transcoder"] = lambda kind=kind, d_out=d_out: random_sae(kind, d_out, skip=True)
    x = 2 * torch.randn(512, D)
    for name, make in cases.items():

        def work(directory: Path, name: str = name, make: Callable[[], Any] = make) -> Outcome:
            sae = make()
            try:
                interop.export(sae, directory, peer.FORMAT)
            except CannotHoldError as error:
                return Outcome(OUT, peer.FORMAT, name, refused=error.message)
            return compared(OUT, peer.FORMAT, name, _ours(sae), peer.load(directory), x)

        yield attempt(OUT, peer.FORMAT, name, work)


def _trained(peer: Any, steps: int, attempt: Attempt) -> Iterator[Outcome]:
    """What was trained there, loaded here."""
    width = 16
    atoms = torch.nn.functional.normalize(torch.randn(40, width), dim=1)
    mean = 0.5 * torch.randn(width)
    x, fresh = (3 * (torch.rand(n, 40) * (torch.rand(n, 40) < 0.1)) @ atoms + mean for n in (4096, 512))
    for name, train in peer.trained(x, steps, 64).items():

        def work(directory: Path, name: str = name, train: Any = train) -> Outcome:
            made = train()
            made.save(directory)
            return compared(IN, peer.FORMAT, name, _ours(SAE.load(directory)), made.model, fresh)

        yield attempt(IN, peer.FORMAT, name, work)


def _pushed(peers: dict[str, Any], place: Path, attempt: Attempt) -> Iterator[Outcome]:
    """A run on the hub, loaded by each tool as the card says."""
    sae, run, repo = random_sae("topk"), place / "runs" / "pushed", "org/pushed"
    sae.identity.provenance = {"model": {"name": "gpt2"}, "hook": "blocks.7.hook_resid_post"}
    sae.save(run / "sae")
    write_text(run / "config.yaml", "name: pushed\n")
    push(run, repo, tuple(peers), private=False, dry_run=False)
    x = 2 * torch.randn(512, D)
    for name, peer in {"saelab": None, **peers}.items():

        def work(directory: Path, name: str = name, peer: Any = peer) -> Outcome:
            path = export_directory(name, sae)
            theirs = _ours(SAE.load(f"hf://{repo}")) if peer is None else peer.load_from_hub(repo, path)
            return compared(HUB, name, "topk", _ours(sae), theirs, x)

        yield attempt(HUB, name, "topk", work)
