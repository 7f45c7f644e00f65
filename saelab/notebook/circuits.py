"""Pictures of circuits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from saelab.circuits import Pairs, Scores, Truth
from saelab.circuits.findings import Findings
from saelab.circuits.report import figures
from saelab.circuits.report.drawing import draw
from saelab.circuits.report.heat import heat
from saelab.circuits.report.measured import KEPT, drawn_together
from saelab.circuits.report.table import method_table
from saelab.circuits.scores import ranks, strongest
from saelab.errors import SettingError
from saelab.evals.base import Chart
from saelab.evals.report.words import said
from saelab.lm import vocabulary
from saelab.lm.model import LanguageModel
from saelab.notebook.picture import Picture, beside, chart, framed
from saelab.notebook.written import Written, table
from saelab.tasks import Prompts


def prompts(lm: LanguageModel, pairs: Pairs, n: int = 4) -> Written:
    """The first pairs as a person reads them, and the right answers."""
    rows = []
    for row in range(min(n, len(pairs))):
        right = pairs.clean.answers[pairs.clean.right[row]].tolist()
        answers = [answer.strip() for answer in vocabulary.texts(lm.tokenizer, right)]
        shown = ", ".join(answers[:_ANSWERS]) + (", …" if len(answers) > _ANSWERS else "")
        rows.append([prompt_text(lm, pairs.clean, row), prompt_text(lm, pairs.corrupted, row), shown])
    return table(["clean", "corrupted", "right"], rows)


_ANSWERS = 4


def prompt_text(lm: LanguageModel, prompts: Prompts, row: int) -> str:
    """One prompt, without what its tokenizer puts in front."""
    tokens = prompts.tokens[row, : int(prompts.end[row]) + 1].tolist()
    return vocabulary.running(lm.tokenizer, tokens[tokens[0] == lm.tokenizer.bos_token_id :])


def heads(title: str, scores: Scores | Tensor, truth: Truth | None = None) -> Picture:
    """A number for every head, `[layer, head]`, those of the truth framed."""
    values, signed = (scores.heads, scores.signed) if isinstance(scores, Scores) else (scores, True)
    inside = values.new_zeros(values.shape).bool() if truth is None else truth.members

    def tell(layer: int, head: int) -> str:
        return f"{layer}.{head}: {said(float(values[layer, head]), 3)}"

    return framed(title, heat(title, values, tell, inside=inside, signed=signed))


def rocs(found: Findings) -> Picture:
    """How well methods rank the circuit's heads before the others, for each truth."""
    shown = [figures.rocs(found, name) for name in found.truths]
    return beside(*(chart(one, title=f"ROC; in the circuit: {one.title}") for one in shown))


def kept(found: Findings) -> Picture:
    """What circuits of growing size keep of the effect alone, and what is left without them."""
    shown = {label: figures.kept(found, label, "strength") for label in found.curves}
    return beside(*(chart(one, title=f"What circuits by {label} keep", looks=KEPT) for label, one in shown.items()))


def drawn(found: Findings, label: str | None = None) -> Picture:
    """The circuit of a method: parts by layer, the truth's framed. Orange where they help and blue where they hurt, or
    orange alone where the method does not say which."""
    if found.shown is None:
        raise SettingError("found", "there is no circuit shown in it")
    label = found.shown[0] if label is None else label
    return framed(f"The {found.shown[1]} strongest heads by {label}", draw(found, label))


def together(found: Findings) -> Picture:
    """Heads ablated at once, beside sets of others that are like them."""
    if found.together is None:
        raise SettingError("found", "no heads were ablated together in it")
    named = ", ".join(f"{layer}.{head}" for layer, head in found.together.heads)
    return framed(f"Ablated together: {named}", drawn_together(found.together)[2])


def places(found: Findings, labels: Sequence[str], n: int = 10) -> Written:
    """The `n` heads of the truth that matter most, and their places in the lists of some methods; 1 is the first."""
    effects = found.truth.effects
    if effects is None:
        raise SettingError("found", "there are no effects of exact patching in it")
    inside = [head for head in strongest(effects.abs()) if found.truth.members[head]][:n]
    numbers = {label: ranks(found.methods[label].strength) for label in labels}
    rows = [
        [
            f"{layer}.{head}",
            f"{float(effects[layer, head]):+.1%}",
            *(float(numbers[label][layer, head]) for label in labels),
        ]
        for layer, head in inside
    ]
    return table(["head", "share of the effect", *labels], rows)


def methods(found: Findings) -> Written:
    """The table of methods, the best first."""
    return table(method_table(found))


def areas(found: Findings) -> Chart:
    """Areas under the ROC curves, a row for each method."""
    return figures.aucs(found)
