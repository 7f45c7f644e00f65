"""Concepts as a subject sees them: the activations of labelled tokens, and the classes that can be told apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saelab.activations.store import Store
from saelab.errors import SaelabError, SettingError, did_you_mean
from saelab.evals.base import NotMeasurable, Subject
from saelab.files import sha256_json
from saelab.lm.mask import Mask
from saelab.lm.model import Hook, LanguageModel
from saelab.tasks import CONCEPTS, Labelled, Text, Tokenizer

MIN_EXAMPLES = 10
"""Of a class, and of all others together, in train and in test: fewer are not worth a probe."""
_BATCH_CONTEXTS = 32
Report = Callable[[int, int], None]
Concept = Callable[[Tokenizer, Text, int, int], Labelled]
"""See `saelab.tasks.CONCEPTS`."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Labelled tokens, those alone that the mask keeps, and what a hook carries there: `[example, d_hook]` float32."""

    concept: Labelled
    x: Tensor


def check_concepts(chosen: Sequence[str] | None) -> None:
    """Raise where a chosen concept does not exist."""
    for name in chosen or ():
        if name not in CONCEPTS:
            raise SettingError("concepts", f"unknown concept '{name}'", fix=did_you_mean(name, CONCEPTS) or None)


def seen(
    subject: Subject,
    name: str,
    examples: int,
    seed: int,
    hook: str | None = None,
    make: Concept | None = None,
    report: Report = lambda done, total: None,
) -> Seen:
    """A concept and its activations at a hook (None: what the SAE reads), kept in `Subject.shared`.

    Running text that is the store's own is looked up there; prompts go through the model, in its precision.

    Args:
        make: makes the concept (None: the one that is registered by that name).
        report: called with (done, total) while prompts run.

    Raises:
        NotMeasurable: the tokenizer or the text does not give the concept.
    """
    hook = hook or subject.hook
    key = sha256_json(["labelled", subject.store.content_sha256, subject.mask.as_json(), hook, name, examples, seed])
    if key not in subject.shared:
        subject.shared[key] = _see(subject, hook, make or CONCEPTS[name], examples, seed, report)
    return subject.shared[key]


def measured(
    subject: Subject, chosen: Sequence[str] | None, measure: Callable[[str], Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What `measure` says of each concept (None: of all), and why it says nothing of some. One part a concept.

    Raises:
        NotMeasurable: it says nothing of any.
    """

    def attempt(name: str) -> dict[str, Any]:
        try:
            return {"found": measure(name)}
        except NotMeasurable as reason:
            return {"reason": reason.message}

    names = tuple(CONCEPTS) if chosen is None else tuple(chosen)
    parts: dict[str, Any] = {}
    for done, name in enumerate(names, 1):
        parts[name] = subject.part(name, lambda name=name: attempt(name))
        subject.report(done, len(names))
    found = {name: part["found"] for name, part in parts.items() if "found" in part}
    reasons = {name: part["reason"] for name, part in parts.items() if "reason" in part}
    if not found:
        told = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        raise NotMeasurable(f"no concept can be measured ({told or 'there is none'})")
    return found, reasons


def problems(concept: Labelled) -> dict[str, Tensor]:
    """`[example]` bool by class: it against all others; of two classes the second alone. Those with fewer than
    `MIN_EXAMPLES` on either side of either split are left out.

    Raises:
        NotMeasurable: none is left.
    """
    numbers = [1] if len(concept.classes) == 2 else range(len(concept.classes))
    found = {concept.classes[number]: concept.is_class(number) for number in numbers}
    kept = {name: positive for name, positive in found.items() if _rarest(positive, concept.test) >= MIN_EXAMPLES}
    if not kept:
        raise NotMeasurable(
            f"none of its classes has {MIN_EXAMPLES} examples in train and in test: {len(concept)} in all"
        )
    return kept


def mean_of(found: Mapping[str, tuple[float, float, float]]) -> tuple[float, tuple[float, float]]:
    """Mean over concepts of (value, low, high), and its interval: concepts are independent, so that half-widths add
    in squares."""
    values = list(found.values())
    mean = sum(value for value, _, _ in values) / len(values)
    below = math.sqrt(sum((value - low) ** 2 for value, low, _ in values)) / len(values)
    above = math.sqrt(sum((high - value) ** 2 for value, _, high in values)) / len(values)
    return mean, (mean - below, mean + above)


def _rarest(positive: Tensor, test: Tensor) -> int:
    return min(int((side & pole).sum()) for side in (test, ~test) for pole in (positive, ~positive))


@torch.no_grad()
def _see(subject: Subject, hook: str, make: Concept, examples: int, seed: int, report: Report) -> Seen:
    lm, text = subject.model(), heldout_text(subject.store)
    try:
        concept = make(lm.tokenizer, text, examples, seed)
    except SaelabError as error:
        raise NotMeasurable(error.message) from error
    if (numbers := _contexts_of(concept, text)) is not None:
        x, kept = _stored(subject.store, hook, numbers, concept.position)
    else:
        x, kept = _run(lm, lm.hook(hook), subject.mask, concept, report)
    others = {key: (values, label[kept]) for key, (values, label) in concept.others.items()}
    columns = {key: getattr(concept, key)[kept] for key in ("context", "position", "label", "test")}
    return Seen(replace(concept, **columns, others=others), x[kept])


def heldout_text(store: Store) -> Text:
    """All held-out contexts of a store; a context's number is its row."""
    parts = list(store.contexts("heldout"))
    names = ("tokens", "documents", "length")
    return Text(*(torch.cat([getattr(part, name) for part in parts]).long() for name in names))


def _contexts_of(concept: Labelled, text: Text) -> Tensor | None:
    """`[example]`: the number of each one's context in the text; None where some are of other text."""
    known = {row.tobytes(): number for number, row in enumerate(text.tokens.numpy())}
    numbers = [known.get(row.tobytes(), -1) for row in concept.tokens.numpy()]
    found = torch.tensor(numbers)[concept.context]
    return found if bool((found >= 0).all()) else None


def _stored(store: Store, hook: str, context: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """`[example, d_hook]`, and `[example]` bool: which the store has."""
    width = 1 + int(position.max())
    wanted = context * width + position
    x, kept = torch.zeros(len(wanted), store.width(hook)), torch.zeros(len(wanted), dtype=torch.bool)
    for shard in store.of("heldout"):
        rows = store.read(shard)
        near = rows["position"] < width
        place, order = torch.where(near, rows["context"].long() * width + rows["position"], -1).sort()
        at = torch.searchsorted(place, wanted).clamp(max=len(place) - 1)
        found = place[at] == wanted
        x[found] = rows[hook][order[at[found]]].float()
        kept |= found
    return x, kept


def _run(lm: LanguageModel, hook: Hook, mask: Mask, concept: Labelled, report: Report) -> tuple[Tensor, Tensor]:
    """`[example, d_hook]`, and `[example]` bool: what the mask keeps."""
    x, kept = torch.zeros(len(concept), hook.width), torch.zeros(len(concept), dtype=torch.bool)
    used, row = concept.context.unique(return_inverse=True)
    for start in range(0, len(used), _BATCH_CONTEXTS):
        here = (row >= start) & (row < start + _BATCH_CONTEXTS)
        at, position = row[here] - start, concept.position[here]
        tokens = concept.tokens[used[start : start + _BATCH_CONTEXTS], : int(position.max()) + 1]
        values = lm.capture(tokens, [hook])[hook.name]
        x[here] = values[at, position].float().cpu()
        kept[here] = mask.keep(tokens, hook.name, values).cpu()[at, position]
        report(min(start + _BATCH_CONTEXTS, len(used)), len(used))
    return x, kept
