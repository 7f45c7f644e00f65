"""What each side learns from the same batches, weights and steps: held-out FVU, in the form that is deployed."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import mean

import torch

import saelab
from saelab.activations import Store
from saelab.metrics.reconstruction import Reconstruction

from . import data
from .contest import Contestant, Recipe, random_start
from .pairs import PAIRS, MakeContestant, Pair
from .progress import Progress

SEEDS = (0, 1, 2)
WITHIN = 1.03
"""saelab's FVU may be so many times the peer's."""
_SOURCES = ("kernels", "sae", "objectives", "training", "activations")
"""Packages of saelab on which a training run depends."""
_CALIBRATION_BATCHES = 32
_PACKAGES = {"SAELens": "sae-lens", "sparsify": "eai-sparsify", "dictionary_learning": "dictionary-learning"}


@dataclass(frozen=True)
class Outcome:
    """One training run, measured on held-out documents.

    Attributes:
        of: fingerprint of what determines it: code or version, sizes, settings.
        fvu, l0: of the deployed form.
        dead: share of latents that no held-out token activates.
    """

    pair: str
    contestant: str
    seed: int
    of: str
    fvu: float
    l0: float
    dead: float
    seconds: float


def train(make: MakeContestant, pair: Pair, store: Store, seed: int) -> tuple[Contestant, float]:
    """One run, and the seconds its steps took (reading batches not counted)."""
    torch.manual_seed(seed)
    contestant = make(pair.recipe, random_start(pair.recipe, seed, norm=pair.norm))
    batches = data.training(store, pair.recipe.batch_tokens, seed=seed)
    seconds = 0.0
    for batch in islice(batches, pair.recipe.steps):
        started = time.perf_counter()
        contestant.step(batch)
        seconds += time.perf_counter() - started
    sample = [batch.input for batch in islice(batches, _CALIBRATION_BATCHES)]
    contestant.finish(torch.cat(sample))
    return contestant, seconds


def measure(contestant: Contestant, recipe: Recipe, store: Store) -> dict[str, float]:
    """FVU, L0 and dead latents by one formula for all, from dense reconstructions and codes."""
    found, fired = Reconstruction(), torch.zeros(recipe.n_latents, dtype=torch.bool)
    for x in data.heldout(store):
        recon, code = contestant.deployed(x)
        found.update(x, recon, (code != 0).sum(1))
        fired |= (code != 0).any(0)
    result = found.result()
    return {"fvu": result["fvu"], "l0": result["l0"], "dead": (~fired).double().mean().item()}


def compare(store: Store, journal: Path, progress: Progress, pairs: Sequence[Pair] = PAIRS) -> list[Outcome]:
    """Every pair and seed; runs that `journal` holds already are not run again."""
    known = {(outcome.contestant, outcome.seed, outcome.of): outcome for outcome in read(journal)}
    out: list[Outcome] = []
    for pair in pairs:
        for seed in SEEDS:
            for name, make in pair.contestants().items():
                key = (name, seed, fingerprint(pair, name, store))
                if key not in known:
                    contestant, seconds = train(make, pair, store, seed)
                    found = measure(contestant, pair.recipe, store)
                    known[key] = Outcome(pair.name, *key, **found, seconds=seconds)
                    _write(known[key], journal)
                outcome = replace(known[key], pair=pair.name)  # another pair may have had the same run
                out.append(outcome)
                progress.advance(pair.seconds / len(pair.contestants()))
                progress.say(f"{pair.name}, seed {seed}, {name}: FVU {outcome.fvu:.4f} at L0 {outcome.l0:.1f}")
    return out


def _write(outcome: Outcome, journal: Path) -> None:
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def judge(found: Sequence[Outcome]) -> list[dict[str, object]]:
    """Per variant and peer, the means over seeds, the ratio of FVUs (mean of the seeds' ratios), and the bar."""
    at = {(outcome.pair, outcome.contestant, outcome.seed): outcome for outcome in found}
    out: list[dict[str, object]] = []
    for pair in PAIRS:
        for peer in pair.peers:
            both = [(at[pair.name, "saelab", seed], at[pair.name, peer, seed]) for seed in SEEDS]
            ratio = mean(mine.fvu / theirs.fvu for mine, theirs in both)
            out.append(
                {
                    "pair": pair.name,
                    "peer": peer,
                    "fvu": mean(mine.fvu for mine, _ in both),
                    "peer_fvu": mean(theirs.fvu for _, theirs in both),
                    "l0": mean(mine.l0 for mine, _ in both),
                    "peer_l0": mean(theirs.l0 for _, theirs in both),
                    "ratio": ratio,
                    "met": ratio <= WITHIN,
                    "differs": pair.differs,
                }
            )
    return out


def read(journal: Path) -> Iterator[Outcome]:
    """The runs that are done; a line cut off by a kill is left out."""
    if not journal.exists():
        return
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            yield Outcome(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue


def fingerprint(pair: Pair, contestant: str, store: Store) -> str:
    """Of data, sizes, settings, this folder's code about a contestant, and saelab's sources or the peer's version."""
    make = pair.contestants()[contestant]
    made = make.func if isinstance(make, partial) else make
    files = [Path(inspect.getfile(made))]
    what = [store.content_sha256, repr(pair.recipe), str(pair.norm), repr(make), torch.__version__]
    if contestant == "saelab":
        package = Path(saelab.__file__).parent
        files += sorted(path for folder in _SOURCES for path in (package / folder).rglob("*.py"))
    else:
        what.append(version(_PACKAGES[contestant.partition(",")[0]]))
    digest = hashlib.sha256("\n".join(what).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def expected_seconds(pairs: Sequence[Pair] = PAIRS) -> float:
    return sum(pair.seconds * len(SEEDS) for pair in pairs)
