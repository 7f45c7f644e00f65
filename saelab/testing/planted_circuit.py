"""A transformer whose circuit is known, since its weights are set by hand, and the task that the circuit does.

A prompt has a key, and a value behind it: "<bos> n3 key v2 n7 n1 n0 v5 n4 ?" asks for " v2". Heads of the first layer
mark what is behind a key, heads of the second look for the mark and copy what stands there, and of the third one says
it and another one says the opposite. In corrupted prompts something else stands where the key was.

All other heads are distractors: *inert* ones write nothing; *varied* ones write which filler stands somewhere, which is
as various as it is irrelevant; *correlated* ones write whether there is a key, where nobody reads it: they tell clean
prompts from corrupted ones perfectly, and do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab.lm.model import quiet_transformers
from saelab.tasks import Choices, Metric, Prompts, Split, draws
from saelab.tasks.base import check_attribute
from saelab.tasks.templates import one_of

_VALUES, _FILLERS, _LENGTH = 6, 16, 10
_WORDS = (
    "<bos>", "?", "key", "no",
    *(f"v{i}" for i in range(_VALUES)),
    *(f"n{i}" for i in range(_FILLERS)),
)  # fmt: skip
_KEY_AT = (2, 4, 3)
"""Where the key stands, by template; another value stands four further. The last one is for testing."""
_FILLER_AT = (1, 9 - 1)
"""Where a filler stands in every template."""

Head = tuple[int, int]


@dataclass(frozen=True)
class PlantedCircuit:
    """What was planted: (layer, head) of every kind.

    Attributes:
        circuit: by role: `marker`, `copier`, `speaker`, `denier`.
    """

    circuit: Mapping[str, tuple[Head, ...]]
    inert: tuple[Head, ...]
    varied: tuple[Head, ...]
    correlated: tuple[Head, ...]
    shape: tuple[int, int] = (3, 6)

    def members(self) -> Tensor:
        """`[layer, head]` bool: the circuit."""
        return self.mark(tuple(head for heads in self.circuit.values() for head in heads))

    def mark(self, heads: Sequence[Head]) -> Tensor:
        """`[layer, head]` bool: some heads."""
        found = torch.zeros(self.shape, dtype=torch.bool)
        for layer, head in heads:
            found[layer, head] = True
        return found


class PlantedTask:
    """The task that the planted circuit does, as every task; the attribute is the `value`."""

    metric: Metric = "logit_difference"

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        return {"value": tuple(f"v{i}" for i in range(_VALUES))}

    def draw(self, n: int, split: Split, seed: int) -> Choices:
        rng = draws.generator(seed)
        value, other = draws.even_pairs(n, _VALUES, rng)
        fillers = torch.randint(_FILLERS // 2, (_LENGTH, n), generator=rng) * 2 + (split == "test")
        template = draws.even(n, range(2) if split == "train" else range(2, 3), rng)
        return {"value": value, "other": other, "template": template, **{f"n{i}": fillers[i] for i in range(_LENGTH)}}

    def prompts(self, choices: Choices) -> Prompts:
        first_value, first_filler = _WORDS.index("v0"), _WORDS.index("n0")
        n = len(choices["value"])
        tokens = torch.stack([choices[f"n{i}"] for i in range(_LENGTH)], 1) + first_filler
        rows, key = torch.arange(n), torch.tensor(_KEY_AT)[choices["template"]]
        hidden = choices.get("hidden", torch.zeros(n, dtype=torch.int64))
        tokens[:, 0], tokens[:, -1] = _WORDS.index("<bos>"), _WORDS.index("?")
        tokens[rows, key] = torch.where(hidden == 1, _WORDS.index("no"), _WORDS.index("key"))
        tokens[rows, key + 1] = first_value + choices["value"]
        tokens[rows, key + 4] = first_value + choices["other"]
        right = one_of(choices["value"], _VALUES)
        end = torch.full((n,), _LENGTH - 1)
        return Prompts(tokens, end, first_value + torch.arange(_VALUES), right, ~right, choices, {"key": key})

    def corrupted(self, choices: Choices, seed: int) -> Choices:
        """Without a key, among other fillers."""
        odd = choices["n0"] % 2
        fillers = torch.randint(_FILLERS // 2, (_LENGTH, len(odd)), generator=draws.generator(seed)) * 2 + odd
        shown = {f"n{i}": fillers[i] for i in range(_LENGTH)}
        return {**choices, **shown, "hidden": torch.ones_like(choices["value"])}

    def changed(self, choices: Choices, attribute: str, seed: int) -> Choices:
        check_attribute(self, attribute)
        avoided = torch.stack([choices["value"], choices["other"]], 1)
        return {**choices, "value": draws.others(avoided, _VALUES, 1, draws.generator(seed))[:, 0]}


def words(task: PlantedTask, n: int, seed: int = 0) -> list[str]:
    """Prompts as text, clean and corrupted ones, without the BOS that a tokenizer puts in front."""
    choices = task.draw(n // 2, "train", seed)
    both = [task.prompts(choices), task.prompts(task.corrupted(choices, seed + 1))]
    return [" ".join(_WORDS[token] for token in row[1:]) for side in both for row in side.tokens.tolist()]


def plant(directory: Path, *, seed: int = 0) -> PlantedCircuit:
    """Save the model (a GPT-2 of three layers of six heads) and its tokenizer into `directory`.

    Args:
        seed: of which head of a layer does what.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    planted = _placed(seed)
    space = _Space()
    config = GPT2Config(
        vocab_size=len(_WORDS),
        n_embd=space.width,
        n_layer=planted.shape[0],
        n_head=planted.shape[1],
        n_inner=4,
        n_positions=_LENGTH + 2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: Any = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        _embed(model, space)
        for layer, block in enumerate(model.transformer.h):
            for head in range(planted.shape[1]):
                _set_head(block.attn, head, _parts(planted, layer, head, space), space)
    directory.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        model.save_pretrained(directory)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_WORDS)}, unk_token="n0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>").save_pretrained(directory)
    return planted


def _placed(seed: int) -> PlantedCircuit:
    """Which head does what, each layer in an order of its own."""
    kinds = (
        ("marker", "marker", "inert", "varied", "correlated", "correlated"),
        ("copier", "copier", "inert", "varied", "varied", "correlated"),
        ("speaker", "denier", "inert", "inert", "varied", "correlated"),
    )
    rng = torch.Generator().manual_seed(seed)
    found: dict[str, list[Head]] = {}
    for layer, row in enumerate(kinds):
        for head, kind in enumerate(torch.randperm(len(row), generator=rng).tolist()):
            found.setdefault(row[kind], []).append((layer, head))
    roles = {role: tuple(found.pop(role)) for role in ("marker", "copier", "speaker", "denier")}
    inert, varied, correlated = (tuple(found[kind]) for kind in ("inert", "varied", "correlated"))
    return PlantedCircuit(roles, inert, varied, correlated)


@dataclass(frozen=True)
class _Space:
    """Orthogonal directions of the residual stream. Each is a pair of opposite coordinates, so that a layer norm takes
    no mean off; a large constant one makes its scale the same everywhere."""

    constant: float = 50.0
    names: tuple[str, ...] = field(
        default=(
            *_WORDS,
            *(f"at{i}" for i in range(_LENGTH)),
            "mark",
            *(f"copied{i}" for i in range(_VALUES)),
            *(f"said{i}" for i in range(_VALUES)),
            *(f"filler{i}" for i in range(_FILLERS)),
            "key here",
            "key gone",
            "constant",
            "spare",
        )
    )

    @property
    def width(self) -> int:
        return 2 * len(self.names)

    def __getitem__(self, name: str) -> Tensor:
        place = self.names.index(name)
        direction = torch.zeros(self.width)
        direction[2 * place], direction[2 * place + 1] = 0.5**0.5, -(0.5**0.5)
        return direction


def _embed(model: Any, space: _Space) -> None:
    gain = space.constant / space.width**0.5  # undoes the norm's scale
    body = model.transformer
    for norm in (body.ln_f, *(norm for block in body.h for norm in (block.ln_1, block.ln_2))):
        norm.weight.fill_(gain)
    for token, word in enumerate(_WORDS):
        body.wte.weight[token] = space[word] + space.constant * space["constant"]
    for position in range(_LENGTH):
        body.wpe.weight[position] = space[f"at{position}"]
    for value in range(_VALUES):
        model.lm_head.weight[_WORDS.index(f"v{value}")] = _LOUDNESS * space[f"said{value}"]


_LOUDNESS = 6.0
_SURE, _UNSURE = 6.0, 3.0
"""Attention scores of what a head looks for: of 10 positions it gets 98 % and 67 %."""

Write = tuple[str, str, float]
"""A head reads this direction where it looks, and writes that one, so strongly."""


@dataclass(frozen=True)
class _Part:
    """A head: it looks from each `query` (None: from everywhere) to each `key` of the same place in the list, and
    writes."""

    looks: Sequence[tuple[str | None, str]]
    score: float
    writes: Sequence[Write]


def _parts(planted: PlantedCircuit, layer: int, head: int, space: _Space) -> _Part:
    place = (layer, head)
    here = [(f"at{i}", f"at{i}") for i in range(_LENGTH)]
    before = [(f"at{i + 1}", f"at{i}") for i in range(_LENGTH - 1)]
    if place in planted.inert:
        return _Part([(None, "key")], _SURE, [])
    if place in planted.varied:
        looked_at = _FILLER_AT[planted.varied.index(place) % 2]
        return _Part([(None, f"at{looked_at}")], _SURE, [(f"n{i}", f"filler{i}", 1.0) for i in range(_FILLERS)])
    if place in planted.correlated:
        return _Part([(None, "key"), (None, "no")], _SURE, [("key", "key here", 2.0), ("no", "key gone", 2.0)])
    role, share = next((role, heads.index(place)) for role, heads in planted.circuit.items() if place in heads)
    strength = (0.6, 0.4)[share]
    return {
        "marker": _Part(before, _SURE, [("key", "mark", strength)]),
        "copier": _Part([(None, "mark")], _UNSURE, [(f"v{i}", f"copied{i}", strength) for i in range(_VALUES)]),
        "speaker": _Part(here, _SURE, [(f"copied{i}", f"said{i}", 1.0) for i in range(_VALUES)]),
        "denier": _Part(here, _SURE, [(f"copied{i}", f"said{i}", -0.4) for i in range(_VALUES)]),
    }[role]


def _set_head(attention: Any, head: int, part: _Part, space: _Space) -> None:
    """Write a head's matrices into GPT-2's joint ones."""
    d_head = attention.head_dim
    columns = slice(head * d_head, (head + 1) * d_head)
    query, key, value = attention.c_attn.weight.split(space.width, 1)
    bias = attention.c_attn.bias
    for dimension, (seen_from, looked_for) in enumerate(part.looks):
        axis = torch.eye(d_head)[dimension if seen_from is not None else 0]
        key[:, columns] += torch.outer(space[looked_for], axis)
        wanted = part.score * d_head**0.5 * axis
        if seen_from is not None:
            query[:, columns] += torch.outer(space[seen_from], wanted)
        elif dimension == 0:
            bias[columns] += wanted
    for dimension, (read, said, strength) in enumerate(part.writes):
        axis = torch.eye(d_head)[dimension]
        value[:, columns] += torch.outer(space[read], axis)
        attention.c_proj.weight[columns] += torch.outer(axis, strength * space[said])
