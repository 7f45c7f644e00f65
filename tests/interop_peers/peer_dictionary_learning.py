"""dictionary_learning, by its own loader and its own trainers, saved as its `trainSAE` does."""
# pyright: reportMissingImports=false
# dictionary_learning is installed in an environment of its own alone.

from __future__ import annotations

import contextlib
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from dictionary_learning import trainers
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
from dictionary_learning.utils import load_dictionary
from torch import Tensor

from .outcomes import Model, Train, Trained

FORMAT = "dictionary_learning"
_SHORT = {"warmup_steps": 2, "sparsity_warmup_steps": 4}
_BUDGET = {"k": 6, "warmup_steps": 2, "threshold_start_step": 2}
_ANNEALED = {**_SHORT, "anneal_start": 8, "n_sparsity_updates": 2, "p_end": 0.5}
_TRAINED: dict[str, tuple[Any, dict[str, Any]]] = {
    "Standard": (trainers.StandardTrainer, _SHORT),
    "StandardAprilUpdate": (StandardTrainerAprilUpdate, _SHORT),
    "PAnneal": (trainers.PAnnealTrainer, _ANNEALED),
    "Gated": (trainers.GatedSAETrainer, {**_SHORT, "lr": 3e-3}),
    "GatedAnneal": (trainers.GatedAnnealTrainer, {**_ANNEALED, "lr": 3e-3}),
    "TopK": (trainers.TopKTrainer, _BUDGET),
    "BatchTopK": (trainers.BatchTopKTrainer, _BUDGET),
    "JumpRelu": (trainers.JumpReluTrainer, {**_SHORT, "lr": 3e-3}),
    "MatryoshkaBatchTopK": (MatryoshkaBatchTopKTrainer, {**_BUDGET, "group_fractions": [0.25, 0.25, 0.5]}),
}


def load(directory: Path) -> Model:
    """What saelab exported."""
    return _model(load_dictionary(str(directory), device="cpu")[0])


def load_from_hub(repo: str, path: str) -> Model:
    """As the card says."""
    from huggingface_hub import snapshot_download

    return load(Path(snapshot_download(repo, allow_patterns=f"{path}/*")) / path)


def _model(dictionary: Any) -> Model:
    return Model(dictionary.encode, dictionary)


def trained(x: Tensor, steps: int, n_latents: int) -> dict[str, Train]:
    """What trains an SAE for a few steps, by the trainer's name."""

    def train(name: str) -> Trained:
        trainer_class, settings = _TRAINED[name]
        with contextlib.redirect_stdout(io.StringIO()):  # they print
            trainer = trainer_class(
                steps=max(steps, 10),
                activation_dim=x.shape[1],
                dict_size=n_latents,
                layer=3,
                lm_name="EleutherAI/pythia-70m-deduped",
                device="cpu",
                **settings,
            )
            for step in range(steps):
                trainer.update(step, x[torch.arange(step * 256, (step + 1) * 256) % len(x)])
        return Trained(partial(_save, trainer), _model(trainer.ae))

    return {name: partial(train, name) for name in _TRAINED}


def _save(trainer: Any, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    config = {"trainer": trainer.config, "buffer": {"d_submodule": trainer.ae.activation_dim, "io": "out"}}
    (directory / "config.json").write_text(json.dumps(config, indent=4))
    torch.save({key: value.cpu() for key, value in trainer.ae.state_dict().items()}, directory / "ae.pt")
