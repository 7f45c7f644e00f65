"""The evaluations of SAELens and of SAEBench on a run's SAE, beside `saelab eval --convention saebench`.

SAELens' `run_evals` measures the exported SAE, SAEBench's core evaluation the one that `saebench.wrap` makes. Both are
handed saelab's contexts in place of their store, and the same model. What saelab measures is asked for from saelab's
own environment: theirs pin another TransformerLens, and SAEBench an older NumPy besides.
"""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# They are installed in environments of their own alone.

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

TOLERANCE = 1e-3
"""Of the value, or of 1 where that is smaller."""
COMPARED = {
    "saebench_l0": ("sparsity", "l0"),
    "ce_loss_score": ("model_performance_preservation", "ce_loss_score"),
    "kl_div_score": ("model_behavior_preservation", "kl_div_score"),
}
"""What must agree: by saelab's name, where SAELens has it."""
SHOWN = {
    "ce_loss_without_sae": ("model_performance_preservation", "ce_loss_without_sae"),
    "ce_loss_with_sae": ("model_performance_preservation", "ce_loss_with_sae"),
    "ce_loss_with_ablation": ("model_performance_preservation", "ce_loss_with_ablation"),
    "kl_div_with_sae": ("model_behavior_preservation", "kl_div_with_sae"),
    "kl_div_with_ablation": ("model_behavior_preservation", "kl_div_with_ablation"),
    "cossim": ("reconstruction_quality", "cossim"),
    "saebench_explained_variance": ("reconstruction_quality", "explained_variance"),
}
"""What else both report."""


def compare(
    run: Path, by: str, contexts: int, python: str, console: Console
) -> tuple[dict[str, dict[str, float]], bool]:
    """Both sides' numbers, printed, and whether those that must agree do.

    Args:
        by: of `MEASURERS`.
        contexts: how many of the run's held-out contexts are looked at.
        python: of saelab's environment.
    """
    options = ["--convention", "saebench", "-o", f"eval.saebench_core.contexts={contexts}", "--json"]
    ours = _saelab(python, "saelab.cli", "eval", str(run), *options)
    mine = json.loads(ours)["evaluations"]["saebench_core"]["metrics"]
    with TemporaryDirectory() as temporary:
        _saelab(python, "tests.interop_peers.windows", str(run), temporary)
        found = MEASURERS[by](Path(temporary), run)
    theirs = {name: found[group][key] for name, (group, key) in (COMPARED | SHOWN).items()}
    table = Table(title=f"{by}: its own evaluation beside saelab's", box=None, pad_edge=False, title_justify="left")
    for column in ("metric", "saelab", by, "difference", ""):
        table.add_column(column, justify="left" if column in ("metric", "") else "right", no_wrap=True)
    agreed = True
    for name in theirs:
        difference = abs(mine[name] - theirs[name])
        close = difference <= TOLERANCE * max(1.0, abs(theirs[name]))
        agreed &= close or name not in COMPARED
        verdict = "" if name not in COMPARED else "[green]ok[/]" if close else "[red]RED[/]"
        table.add_row(name, f"{mine[name]:.6f}", f"{theirs[name]:.6f}", f"{difference:.1e}", verdict)
    console.print(table)
    return {"saelab": {name: mine[name] for name in theirs}, by: theirs}, agreed


def _saelab(python: str, module: str, *arguments: str) -> str:
    """What a module of saelab's prints, run where saelab runs."""
    sys.stderr.write(f"saelab: {module} {' '.join(arguments)}\n")
    command = [python, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


class Contexts:
    """Stands for SAELens' `ActivationsStore`: gives out contexts, and starts over when it is reset."""

    def __init__(self, tokens: Tensor, batch: int):
        self.tokens, self.store_batch_size_prompts, self.context_size = tokens, batch, tokens.shape[1]
        self.n_batches = -(-len(tokens) // batch)
        self.reset_input_dataset()

    def reset_input_dataset(self) -> None:
        self.batches = iter(self.tokens.split(self.store_batch_size_prompts))

    def get_batch_tokens(self, batch_size: int) -> Tensor:
        return next(self.batches)


_BATCH = 8
_MEASURED = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")


def run_saelens(place: Path, run: Path) -> dict[str, Any]:
    """SAELens' metrics, by group, of the export and on the contexts that `windows` wrote into `place`."""
    from sae_lens import SAE
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    contexts = Contexts(load_file(place / "tokens.safetensors")["tokens"], _BATCH)
    metrics, _ = run_evals(
        sae=SAE.load_from_disk(place / "saelens"),
        activation_store=contexts,
        model=bridge(place),
        activation_scaler=ActivationScaler(),
        eval_config=EvalConfig(**_asked(contexts)),
        exclude_special_tokens=True,
        verbose=True,
    )
    return metrics


def run_saebench(place: Path, run: Path) -> dict[str, Any]:
    """SAEBench's metrics, by group, of the run's SAE as `saebench.wrap` gives it, with all that it computes."""
    from sae_bench.evals.core.eval_config import CoreEvalConfig
    from sae_bench.evals.core.main import calculate_misc_metrics, run_evals
    from sae_bench.sae_bench_utils.general_utils import load_and_format_sae

    from saelab.interop import saebench
    from saelab.sae import SAE

    contexts, model = Contexts(load_file(place / "tokens.safetensors")["tokens"], _BATCH), bridge(place)
    loaded: Any = load_and_format_sae("saelab", saebench.wrap(SAE.load(run / "sae")), "cpu")
    tokenizer = model.tokenizer
    special = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}
    config = CoreEvalConfig(
        **_asked(contexts),
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=True,  # as in every script of SAEBench's own
    )
    metrics, features = run_evals(
        sae=loaded[1].to(device="cpu", dtype=loaded[1].dtype),
        activation_store=contexts,
        model=model,
        eval_config=config,
        ignore_tokens=special - {None},
        verbose=True,
    )
    return metrics | {"misc_metrics": calculate_misc_metrics(features)}


def _asked(contexts: Contexts) -> dict[str, Any]:
    batches = {f"n_eval_{part}_batches": contexts.n_batches for part in ("reconstruction", "sparsity_variance")}
    return {"batch_size_prompts": _BATCH, **batches, **{f"compute_{name}": True for name in _MEASURED}}


MEASURERS = {"SAELens": run_saelens, "SAEBench": run_saebench}


def bridge(place: Path) -> Any:
    """The language model that `windows` names, behind the TransformerLens that is there."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    facts = json.loads((place / "facts.json").read_text())
    source, dtype = facts["model"], getattr(torch, facts["dtype"])
    options = {} if facts["revision"] is None else {"revision": facts["revision"]}
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    return TransformerBridge.boot_transformers(source, hf_model=model, tokenizer=tokenizer, device="cpu", dtype=dtype)
