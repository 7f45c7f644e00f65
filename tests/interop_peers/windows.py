"""What SAELens and SAEBench need to measure a run's SAE on what `saelab eval` measured it on.

    python -m tests.interop_peers.windows RUN DIR

Runs in saelab's environment, not in theirs: writes the contexts that `saebench_core` looks at, the SAE as SAELens
reads it, and where the model is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from saelab import interop
from saelab.activations import Store
from saelab.cli.console import Reporter
from saelab.cli.stages import open_run
from saelab.files import read_json, write_json, write_tensors
from saelab.lm import assets
from saelab.sae import SAE

EVALUATOR = "saebench_core"


def main(run: Path, out: Path) -> None:
    work = open_run(run, [], Reporter(Console(stderr=True)))
    store, sae, spec = work.cache(), SAE.load(work.directory.sae), work.config.model
    settings = read_json(work.directory.eval)["evaluations"][EVALUATOR]["settings"]
    interop.export(sae, out / "saelens", "saelens")
    write_tensors(out / "tokens.safetensors", {"tokens": contexts(store, settings["contexts"])})
    dtype = store.manifest["content"]["model"]["dtype"]
    facts = {"model": str(assets.resolve(spec.name)), "revision": spec.revision, "dtype": dtype}
    write_json(out / "facts.json", facts)


def contexts(store: Store, count: int) -> Tensor:
    """`[context, position]`: held-out contexts spread evenly over those stored, as evaluators take them.

    Contexts that their text does not fill are left out: SAELens would count the padding in.
    """
    parts = list(store.contexts("heldout"))
    tokens, length = (torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "length"))
    rows = torch.linspace(0, len(tokens) - 1, min(count, len(tokens))).round().long()
    whole = rows[length[rows] == tokens.shape[1]]
    if len(whole) < len(rows):
        sys.stderr.write(f"note: {len(rows) - len(whole)} contexts that text does not fill are left out\n")
    return tokens[whole].long()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
