"""One training step against the pieces it cannot do without, measured in alternation in one process.

    python -m saelab.bench.train_step [--n-latents 8192] [--k 32] [--batch-tokens 2048] [--json]

The floor is a hand-written composition of torch built-ins: the encoder product in the faster precision,
`torch.topk`, and the sparse gather, dots, scatters, projection, fused Adam and renormalisation. Times
are medians over rounds; ratios hold where the machine's speed drifts, single times do not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch
from torch.nn.functional import embedding_bag

from saelab.activations.loader import Batch
from saelab.lm.model import low_precision_pays
from saelab.sae.coders import Precision
from saelab.sae.variants import topk
from saelab.training import Member, TrainSpec


@dataclass(frozen=True)
class Shape:
    """Sizes of one measurement."""

    d_model: int = 576
    n_latents: int = 8192
    k: int = 32
    batch_tokens: int = 2048


def pieces(shape: Shape, precision: Precision) -> dict[str, Callable[[], object]]:
    """The parts of the floor, ready to run."""
    torch.manual_seed(0)
    x, weight = torch.randn(shape.batch_tokens, shape.d_model), torch.randn(shape.n_latents, shape.d_model)
    grad = torch.randn_like(x)
    low = torch.bfloat16 if precision == "screened" else torch.float32
    pre = x.to(low) @ weight.to(low).T
    width = shape.k + (8 if precision == "screened" else 0)
    values, latents = pre.topk(shape.k, sorted=False)
    values, flat = values.float().reshape(-1), latents.reshape(-1).int()
    offsets = torch.arange(0, flat.numel() + 1, shape.k, dtype=torch.int32)
    size = (shape.batch_tokens, shape.n_latents)
    pattern = torch.sparse_csr_tensor(offsets, flat, torch.zeros_like(values), size=size, check_invariants=False)
    parameters = [torch.nn.Parameter(torch.randn_like(weight)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    adam = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    rows, rows_grad = parameters[0].data, parameters[0].grad
    assert rows_grad is not None

    def dots() -> object:
        return torch.sparse.sampled_addmm(pattern, grad, weight.T, beta=0.0)

    def scatter() -> object:
        order = torch.sort(flat, stable=True).indices
        bounds = torch.zeros(shape.n_latents + 1, dtype=torch.int64)
        bounds[1:] = torch.bincount(flat, minlength=shape.n_latents).cumsum(0)
        bags = {"mode": "sum", "per_sample_weights": values[order], "include_last_offset": True}
        return embedding_bag(order // shape.k, grad, bounds, **bags)

    def update() -> None:
        rows_grad.addcmul_(rows, torch.linalg.vecdot(rows_grad, rows)[:, None], value=-1)
        adam.step()
        rows.div_(rows.norm(dim=1, keepdim=True))

    return {
        "encoder product": lambda: x.to(low) @ weight.to(low).T,
        "top-k": lambda: pre.topk(width, sorted=False),
        "decode": lambda: embedding_bag(
            flat, weight, offsets, mode="sum", per_sample_weights=values, include_last_offset=True
        ),
        "gradient to values": dots,
        "scatter to W_dec": scatter,
        "scatter to W_enc": scatter,
        "project, Adam, renormalise": update,
    } | ({"re-score": dots} if precision == "screened" else {})


def whole_step(shape: Shape, precision: Precision) -> Callable[[], object]:
    """saelab's own step: everything the trainer does with a batch, metrics and tracker included."""
    torch.manual_seed(0)
    blueprint = topk(shape.d_model, n_latents=shape.n_latents, k=shape.k)
    spec = TrainSpec(tokens=10**9, batch_tokens=shape.batch_tokens)
    member = Member("bench", blueprint, spec, precision=precision, device=torch.device("cpu"))
    x = torch.randn(shape.batch_tokens, shape.d_model)
    batch = Batch(x, x)
    numbers = count()
    return lambda: member.step(batch, next(numbers))


def measure(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each case, in turn, after one unmeasured round."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            if number:
                taken[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="One TopK training step against its floor.")
    for name, default in (("d-model", 576), ("n-latents", 8192), ("k", 32), ("batch-tokens", 2048), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=["auto", "exact", "screened"], default="auto")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    shape = Shape(chosen.d_model, chosen.n_latents, chosen.k, chosen.batch_tokens)
    precision: Precision = chosen.precision
    if chosen.precision == "auto":
        precision = "screened" if low_precision_pays(torch.device("cpu")) else "exact"
    cases = pieces(shape, precision)
    found = measure(cases | {"saelab step": whole_step(shape, precision)}, chosen.rounds)
    floor = sum(found[name] for name in cases)
    step = found["saelab step"]
    document = {
        "shape": vars(shape),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "ms": found,
        "floor_ms": floor,
        "step_over_floor": step / floor,
        "tokens_per_second": 1e3 * shape.batch_tokens / step,
        "floor_tokens_per_second": 1e3 * shape.batch_tokens / floor,
    }
    if chosen.json:
        print(json.dumps(document, indent=2))  # noqa: T201
        return
    for name, ms in found.items():
        print(f"{name:<28}{ms:9.1f} ms")  # noqa: T201
    print(f"{'sum of the pieces':<28}{floor:9.1f} ms  {document['floor_tokens_per_second']:10,.0f} tokens/s")  # noqa: T201
    print(f"{'saelab step / pieces':<28}{step / floor:9.2f}     {document['tokens_per_second']:10,.0f} tokens/s")  # noqa: T201


if __name__ == "__main__":
    main()
