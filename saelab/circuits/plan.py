"""What an experiment on circuits runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from saelab.circuits.faithfulness import Ablation
from saelab.circuits.scores import METHODS, Method
from saelab.circuits.truth import CUT_OFF, OTHER_CUT_OFFS
from saelab.errors import SettingError, check_least


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        method: of `METHODS`; settings: its own. Its seed, where it has one, is the experiment's.
        prompts: pairs it may see.
    """

    method: str
    prompts: int = 32
    settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self, seed: int) -> Method:
        """The method with its settings.

        Raises:
            SaelabError: unknown method or setting.
        """
        made = METHODS[self.method]
        known = {part.name for part in fields(made)}  # type: ignore[arg-type]
        for name in self.settings:
            if name not in known:
                raise SettingError(name, f"method '{self.method}' has no setting '{name}'")
        seeded = {"seed": seed} if "seed" in known else {}
        method = made(**{**seeded, **self.settings})
        check_least(method, 1, *({"batch_prompts"} & known))
        return method

    def check(self) -> None:
        """Find before hours of work what would stop the method.

        Raises:
            SaelabError: as of `build`; fewer prompts than it needs.
        """
        least = max(2, getattr(self.build(seed=0), "least_pairs", 2))
        if self.prompts < least:
            raise SettingError("prompts", f"must be at least {least} for method '{self.method}', found {self.prompts}")


STANDARD: Mapping[str, Entry] = {
    "patching": Entry("patching", 16),
    "denoising": Entry("denoising", 16),
    "mean ablation": Entry("mean_ablation", 16),
    "attribution": Entry("attribution"),
    "EAP": Entry("eap"),
    "EAP-IG": Entry("eap_ig"),
    "direct logits": Entry("direct"),
    "mean difference": Entry("mean_difference"),
    "mean difference, by answer": Entry("mean_difference", 32, {"by_answer": True}),
    "codes (paper)": Entry("codes", 250),
    "codes (paper), null off": Entry("codes", 250, {"null": 20}),
    "code edges (paper)": Entry("code_edges", 250),
    "codes (ours)": Entry("sparse_codes", 64),
    "codes (ours), discrete": Entry("sparse_codes", 64, {"strongest": True}),
    "random": Entry("random"),
}
"""Every method as its authors have it, and our codes."""


@dataclass(frozen=True)
class Plan:
    """What to run on one task.

    Attributes:
        entries: by label.
        seeds: of prompts and methods; prompts are of the training split.
        truth_prompts, curve_prompts: pairs of the test split.
        cut_offs: shares of the whole effect from which on a head is in the circuit by exact patching, the chosen one
            first. To be fixed before anything is measured.
        curves: labels whose faithfulness is measured (with scores of the first seed); random_orders: to compare with.
        together: heads, those whose patching loses most by the ground truth, that are ablated together; sets: matched
            ones to compare with.
    """

    task: str
    entries: Mapping[str, Entry] = field(default_factory=lambda: STANDARD)
    seeds: int = 5
    truth_prompts: int = 48
    curve_prompts: int = 32
    cut_offs: tuple[float, ...] = (CUT_OFF, *OTHER_CUT_OFFS)
    curves: tuple[str, ...] = ()
    random_orders: int = 40
    together: Annotated[int, "0: not at all"] = 5
    sets: int = 20
    ablation: Ablation = "corrupted"
    at_least: Annotated[float, "accuracy below which a model is held not to do the task"] = 0.8

    def __post_init__(self) -> None:
        for label, entry in self.entries.items():
            try:
                entry.check()
            except SettingError as error:
                raise SettingError(f"entries.{label}.{error.key}", error.message, fix=error.fix) from error
        if (
            not self.cut_offs
            or len(set(self.cut_offs)) < len(self.cut_offs)
            or not all(0 < x < 1 for x in self.cut_offs)
        ):
            raise SettingError(
                "cut_offs", f"one or more shares between 0 and 1, each once, found {list(self.cut_offs)}"
            )
        for label in self.curves:
            if label not in self.entries:
                raise SettingError("curves", f"there is no entry '{label}'", fix=f"one of {', '.join(self.entries)}")
