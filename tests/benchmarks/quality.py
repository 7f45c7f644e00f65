"""What each side learns from the same batches, weights and steps: held-out FVU, in the form that is deployed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
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
    known = {(o.pair, o.contestant, o.seed, o.of): o for o in read(journal)}
    out: list[Outcome] = []
    for pair in pairs:
        for seed in SEEDS:
            for name, make in pair.contestants().items():
                of = fingerprint(pair, name)
                outcome = known.get((pair.name, name, seed, of))
                if outcome is None:
                    contestant, seconds = train(make, pair, store, seed)
                    outcome = Outcome(
                        pair.name, name, seed, of, **measure(contestant, pair.recipe, store), seconds=seconds
                    )
                    with journal.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(outcome)) + "\n")
                progress.advance(pair.seconds / len(pair.contestants()))
                progress.say(f"{pair.name}, seed {seed}, {name}: FVU {outcome.fvu:.4f} at L0 {outcome.l0:.1f}")
                out.append(outcome)
    return out


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


def fingerprint(pair: Pair, contestant: str) -> str:
    """Of sizes, settings, and saelab's sources or the peer's version and this folder's sources about it."""
    here = Path(__file__).parent
    files = [here / name for name in ("pairs.py", "contest.py", "data.py", "quality.py")]
    if contestant == "saelab":
        package = Path(saelab.__file__).parent
        folders = ("kernels", "sae", "objectives", "training", "activations")
        files += [here / "own.py", *sorted(path for folder in folders for path in (package / folder).rglob("*.py"))]
        what = ""
    else:
        what = f"{contestant} {version(_PACKAGES[contestant])}"
        files += sorted(here.glob("peer_*.py"))
    digest = hashlib.sha256(f"{what} {pair.name} {pair.recipe} torch {torch.__version__}".encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def expected_seconds(pairs: Sequence[Pair] = PAIRS) -> float:
    return sum(pair.seconds * len(SEEDS) for pair in pairs)
