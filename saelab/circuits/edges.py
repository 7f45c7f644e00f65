"""Edge attribution patching: estimates for what one component tells another.

Sources: Syed et al. 2023 (arXiv 2310.10348) for EAP; Hanna et al. 2024 (arXiv 2403.17806) for EAP-IG, "inputs".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saelab.circuits.anatomy import INPUT, OUTPUT, Anatomy, head_name, mlp_hook, mlp_name, out_hook, stream_hook, z_hook
from saelab.circuits.pairs import Pairs
from saelab.circuits.passes import Passes
from saelab.circuits.scores import Edges, Report, Scores, quiet
from saelab.errors import SaelabError, check_least
from saelab.lm.model import LanguageModel
from saelab.lm.resume import NamedHook


@dataclass(frozen=True)
class EdgeAttribution:
    """EAP: `(clean - corrupted) output of the source . gradient at the target's input in the clean run`, summed over
    positions: the estimated loss of score where the edge is patched.

    An edge's score is signed. A head's (or MLP's) is the largest absolute score of its edges, in or out: the cut-off at
    which the first of them brings it into the circuit. The sum over the edges that leave a head is what
    `AttributionPatching` says of it.
    """

    batch_prompts: int = 8

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        return _edge_scores("eap", lm, pairs, _EdgeRun((1.0,), self.batch_prompts, report))


@dataclass(frozen=True)
class IntegratedEdgeAttribution:
    """EAP-IG: the same with gradients averaged over runs whose first residual stream lies between the corrupted and the
    clean one.

    Attributes:
        steps: how many. They are taken in the middles of equal parts, where the original takes the parts' ends: a more
            exact integral for the same work.
    """

    steps: int = 5
    batch_prompts: int = 8

    def __post_init__(self) -> None:
        check_least(self, 1, "steps")

    def __call__(self, lm: LanguageModel, pairs: Pairs, report: Report = quiet) -> Scores:
        ways = tuple((step + 0.5) / self.steps for step in range(self.steps))
        return _edge_scores("eap_ig", lm, pairs, _EdgeRun(ways, self.batch_prompts, report))


@dataclass(frozen=True)
class _EdgeRun:
    """Attributes: ways: how far from the corrupted to the clean input gradients are taken."""

    ways: Sequence[float]
    batch_prompts: int
    report: Report


def _edge_scores(method: str, lm: LanguageModel, pairs: Pairs, run: _EdgeRun) -> Scores:
    passes = Passes(lm, pairs)
    anatomy = passes.anatomy
    anatomy.check_additive()
    graph = Graph.of(anatomy)
    total = torch.zeros(graph.exist.shape)
    done = 0
    for rows, some in pairs.batches(run.batch_prompts):
        outputs = _output_gaps(passes, some)
        ends = [passes.first_streams(some.corrupted), passes.first_streams(some.clean)]
        for way in run.ways:
            stream = torch.lerp(ends[0], ends[1], way)
            slopes = _input_slopes(passes, some, graph, stream)
            for names, slope in slopes:
                columns = [graph.target[name] for name in names]
                upto = int(graph.exist[:, columns[0]].sum())  # sources are in the order of the model
                found = outputs[:upto].flatten(1) @ slope.flatten(1).T
                total[:upto, columns] += found.cpu() / (len(run.ways) * len(pairs))
        done += len(rows)
        run.report(done, len(pairs))
    edges = Edges(graph.sources, graph.targets, total, graph.exist)
    heads, mlps = strongest_edges(edges, anatomy)
    return Scores(method, heads, passes.cost.stop(), False, mlps, edges)


@dataclass(frozen=True, eq=False)
class Graph:
    """Which edges there are.

    Attributes:
        sources, targets: names, in the order of the model; see `Edges`.
        exist: `[source, target]`.
        target: where each target stands.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    exist: Tensor
    target: dict[str, int]

    @classmethod
    def of(cls, anatomy: Anatomy) -> Graph:
        sources, targets, seen = [INPUT], list[str](), list[int]()
        for layer in range(anatomy.n_layers):
            inputs = head_inputs(anatomy, layer)
            targets += inputs
            seen += [len(sources)] * len(inputs)
            sources += [head_name(layer, head) for head in range(anatomy.n_heads)]
            if anatomy.has_mlps:
                targets.append(mlp_name(layer))
                seen.append(len(sources) - anatomy.n_heads * anatomy.parallel)
                sources.append(mlp_name(layer))
        targets.append(OUTPUT)
        seen.append(len(sources))
        exist = torch.arange(len(sources))[:, None] < torch.tensor(seen)
        return cls(tuple(sources), tuple(targets), exist, {name: i for i, name in enumerate(targets)})


def head_inputs(anatomy: Anatomy, layer: int) -> list[str]:
    """What a layer's heads read: a query each, a key and a value for each group of heads."""
    groups = "h" if anatomy.n_kv_heads == anatomy.n_heads else "g"
    queries = [f"a{layer}.h{head}<q>" for head in range(anatomy.n_heads)]
    return queries + [f"a{layer}.{groups}{i}<{part}>" for part in "kv" for i in range(anatomy.n_kv_heads)]


def _output_gaps(passes: Passes, some: Pairs) -> Tensor:
    """`[source, row, position, d_model]` float32: how much more sources write in the clean run."""
    anatomy = passes.anatomy
    layers = range(anatomy.n_layers)
    names = [stream_hook(0), *map(z_hook, layers), *(mlp_hook(layer) for layer in layers if anatomy.has_mlps)]
    clean, corrupted = (passes.record(prompts, names).values for prompts in (some.clean, some.corrupted))
    gaps = {name: (clean[name] - corrupted[name]).float() for name in names}
    found = [gaps[stream_hook(0)][None]]
    for layer in layers:
        found.append(anatomy.written(layer, gaps[z_hook(layer)]).movedim(2, 0))
        if anatomy.has_mlps:
            found.append(gaps[mlp_hook(layer)][None])
    return torch.cat(found)


def _input_slopes(passes: Passes, some: Pairs, graph: Graph, stream: Tensor) -> list[tuple[list[str], Tensor]]:
    """Names of targets that read the same sources, and the gradients at their inputs, `[target, row, position,
    d_model]` float32."""
    anatomy = passes.anatomy
    layers = range(anatomy.n_layers)
    reads = {f"blocks.{layer}.hook_{part}_input": part for layer in layers for part in "qkv"}
    mlps = [f"blocks.{layer}.hook_mlp_in" for layer in layers if anatomy.has_mlps]
    last = out_hook(anatomy.n_layers - 1)
    with split_inputs(anatomy) as long_way:
        hooks = [long_way(layer) for layer in layers]
        _, slopes = passes.gradients(some.clean, stream, [*reads, *mlps, last], hooks)
    found: list[tuple[list[str], Tensor]] = []
    for layer in layers:
        parts = [slopes[f"blocks.{layer}.hook_{part}_input"].float().movedim(2, 0) for part in "qkv"]
        found.append((head_inputs(anatomy, layer), torch.cat(parts)))
        if anatomy.has_mlps:
            found.append(([mlp_name(layer)], slopes[f"blocks.{layer}.hook_mlp_in"].float()[None]))
    return [*found, ([OUTPUT], slopes[last].float()[None])]


@contextmanager
def split_inputs(anatomy: Anatomy) -> Iterator[Callable[[int], NamedHook]]:
    """While inside, heads read queries, keys and values from copies of the residual stream that have hooks of their
    own. Yields what makes a layer take the way that has them.

    Raises:
        SaelabError: this model's attention cannot be split so.
    """
    with anatomy.lm.hooked([]) as any_bridge:  # no other thread runs the model meanwhile
        bridge: Any = any_bridge
        try:
            _split(anatomy, bridge)
            yield lambda layer: (f"blocks.{layer}.attn.hook_pattern", lambda value, hook: None)
        finally:
            bridge.set_use_split_qkv_input(False)
            bridge.set_use_hook_mlp_in(False)


def _split(anatomy: Anatomy, bridge: Any) -> None:
    try:
        bridge.set_use_split_qkv_input(True)
        bridge.set_use_hook_mlp_in(anatomy.has_mlps)
    except (NotImplementedError, ValueError) as error:
        raise SaelabError(
            f"attention of {anatomy.lm.identity['name']} cannot be split into what its heads read: {error}",
            fix="use attribution, which needs no edges",
        ) from error


def strongest_edges(edges: Edges, anatomy: Anatomy) -> tuple[Tensor, Tensor | None]:
    """`[layer, head]` and `[layer]`: the largest absolute score of each one's edges. A group's edges count for all its
    heads."""
    values = edges.values.abs()
    out = dict(zip(edges.sources, values.amax(1).tolist(), strict=True))
    into = dict(zip(edges.targets, values.amax(0).tolist(), strict=True))
    heads = torch.zeros(anatomy.n_layers, anatomy.n_heads)
    shared = anatomy.n_heads // anatomy.n_kv_heads
    for layer in range(anatomy.n_layers):
        inputs = head_inputs(anatomy, layer)
        n, kv = anatomy.n_heads, anatomy.n_kv_heads
        for head in range(n):
            group = head // shared
            reads = (inputs[head], inputs[n + group], inputs[n + kv + group])
            heads[layer, head] = max(out[head_name(layer, head)], *(into[name] for name in reads))
    if not anatomy.has_mlps:
        return heads, None
    names = [mlp_name(layer) for layer in range(anatomy.n_layers)]
    return heads, torch.tensor([max(out[name], into[name]) for name in names])
