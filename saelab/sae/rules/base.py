"""What a selection rule is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from saelab.kernels import Budget, Support, select_from
from saelab.sae.affine import PreActivations
from saelab.sae.code import Seen, SparseCode


@dataclass(frozen=True, eq=False)
class Step:
    """What a part may learn from a training step, besides its gradients.

    Attributes:
        progress: fraction of training done, in [0, 1].
        code: the step's code, detached.
    """

    progress: float
    code: SparseCode


class SelectionRule(nn.Module):
    """The proximal step that turns pre-activations into a sparse code.

    A rule has to answer two questions: which entries are in the code, and what value a kept entry takes
    (`activate`). The first by a `budget`, which encoders fuse with their product, so that pre-activations
    come in tiles and may be screened; or, where no budget says it, by `candidates`, which sees whole
    rows. The rest has defaults: override what the rule needs. State that is not a parameter goes into
    buffers, which are saved, restored and resumed.

    Attributes:
        per_token: a token's code depends on that token alone, so that a batch may be cut up.
        requires: names in `Seen.side` that the rule needs while training.
        provides: names of the channels it offers to loss terms.
        bound_to_input: why what is reconstructed has to be the input (see `Coder`); None where it need not.
    """

    per_token: ClassVar[bool] = True
    requires: ClassVar[frozenset[str]] = frozenset()
    provides: ClassVar[frozenset[str]] = frozenset()
    bound_to_input: ClassVar[str | None] = None

    def check(self, n_latents: int) -> None:
        """Raise `SettingError` where the rule cannot work on so many latents."""

    def check_batch(self, batch_tokens: int, n_latents: int) -> None:
        """Raise `SettingError` where it cannot work on batches of so many tokens."""

    def prepare(self, n_latents: int) -> None:
        """Make what state the rule keeps per latent, once the width is known."""

    def budget(self, seen: Seen, n_latents: int) -> Budget | None:
        """What the rule keeps, where one of `saelab.kernels`' budgets says it."""
        return None

    def candidates(self, pre: Tensor, seen: Seen) -> Support:
        """The support for these pre-activations `[tok, lat]`, without a gradient."""
        budget = self.budget(seen, pre.shape[1])
        if budget is None:
            raise NotImplementedError(f"{type(self).__name__} has neither a budget nor candidates")
        return select_from(pre, budget)

    def activate(self, values: Tensor, support: Support) -> Tensor:
        """Pre-activations at the support -> activations, differentiable; entries that become 0 get no
        gradient unless the rule says otherwise."""
        raise NotImplementedError

    def channels(self, values: Tensor, support: Support) -> dict[str, Tensor]:
        """What it `provides`, from the pre-activations at the support."""
        return {}

    def adapt(self, step: Step) -> None:
        """Called after each training step."""

    def calibrate(self, pre: PreActivations) -> None:
        """Set the thresholds of the inference form from training tokens; called where the rule is not `per_token`."""

    def inference(self) -> SelectionRule:
        """The per-token form in which the rule is deployed."""
        return self

    def adopt(self, other: SelectionRule) -> None:
        """Start from the thresholds of an inference form, where training has thresholds."""

    def rescale(self, factor: Tensor) -> None:
        """Multiply thresholds by each latent's factor `[lat]`, where there are any."""

    def fold(self, factor: float) -> None:
        """Divide what is in units of the pre-activations by the input's scale."""
