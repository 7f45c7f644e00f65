"""What a coder is."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from saelab.errors import SaelabError, SettingError
from saelab.sae.code import Encoding, Seen
from saelab.sae.rules import SelectionRule, Step

Precision = Literal["exact", "screened"]


def check_n_latents(n_latents: int) -> None:
    """Raise where there cannot be so many latents."""
    if not 1 <= n_latents < 2**31:  # latents are int32
        raise SettingError("n_latents", f"n_latents must be at least 1 and below 2^31, not {n_latents}")


class Coder(nn.Module):
    """From activations to a sparse code. Subclasses: one way of encoding each.

    Attributes:
        centred: whether it reads the input minus the decoder's bias.
        homogeneous: codes of `c x` are c times the codes of x (once biases and thresholds are scaled along);
            False: they are the same codes.
        bound_to_input: why it cannot reconstruct anything but its input, as the end of a sentence that begins
            with "it"; None where it can.
        requires: names in `Seen.side` that it needs in training form.
        provides: names of the channels in its encodings.
        precision: "exact" selects in the dtype of the weights; "screened", where the coder can, computes all
            pre-activations in bfloat16, keeps a margin of candidates and re-scores those exactly.
    """

    homogeneous: ClassVar[bool] = True

    def __init__(self, *, centred: bool):
        super().__init__()
        self.centred = centred
        self.precision: Precision = "exact"

    @property
    def bound_to_input(self) -> str | None:
        return None

    @property
    def per_token(self) -> bool:
        """A token's code depends on that token alone."""
        return True

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    @property
    def provides(self) -> frozenset[str]:
        return frozenset()

    def set_precision(self, precision: Precision) -> None:
        if precision not in get_args(Precision):
            raise SettingError("precision", f"precision is 'exact' or 'screened', not '{precision}'")
        self.precision = precision

    def check_batch(self, batch_tokens: int, n_latents: int) -> None:
        """Raise `SettingError` where training batches of so many tokens cannot work."""

    def initialise(self, W_dec: Tensor) -> None:
        """Set the weights for a decoder that has just been initialised."""

    def encode(self, seen: Seen) -> Encoding:
        """`[tok, d_in]` -> the code of each token, and the channels it provides."""
        raise NotImplementedError

    def encode_by(self, rule: SelectionRule, seen: Seen) -> Encoding:
        """The encoding that another rule makes of the same pre-activations, where the coder has any."""
        raise SaelabError(f"{type(self).__name__} cannot select by another rule")

    def pre_activations(self, seen: Seen, latents: Tensor) -> Tensor:
        """`[tok, len(latents)]`, dense and differentiable: for few latents."""
        raise NotImplementedError

    def adapt(self, step: Step, W_dec: Tensor) -> None:
        """Called after each training step, when the optimiser has moved."""

    def calibrate(self, seen: Seen) -> None:
        """Set what the inference form needs to know of training tokens."""

    def inference(self, W_dec: Tensor) -> Coder:
        """The per-token form; self is a copy that may be changed or given back."""
        raise NotImplementedError

    @property
    def deployed_as(self) -> type[Coder]:
        """What `inference` gives."""
        return type(self)

    def adopt(self, other: Coder, W_dec: Tensor) -> None:
        """Start from the weights of an inference form, a `deployed_as` in the same units with the decoder rows
        `W_dec`. What that does not have stays as it is: a second head, say."""
        theirs = dict(other.named_parameters(recurse=False))
        for name, parameter in self.named_parameters(recurse=False):
            if name in theirs:
                parameter.copy_(theirs[name])

    def rescale(self, factor: Tensor) -> None:
        """Multiply each latent's activations by its `factor` `[lat]`, positive; thresholds go along.

        Raises:
            SaelabError: activations have no scale of their own.
        """
        raise SaelabError(f"the latents of {type(self).__name__} have the scale of the decoder's rows")

    def fold(self, mean: Tensor, factor: float) -> None:
        """Take over the input map `factor * (x - mean)`: afterwards raw `x` goes in.

        `mean` `[d_in]` is already gone from what a `centred` coder sees.
        """
        raise NotImplementedError


class RuleCoder(Coder):
    """A coder that ends in a selection rule, and answers for it."""

    def __init__(self, rule: SelectionRule, n_latents: int, *, centred: bool):
        super().__init__(centred=centred)
        check_n_latents(n_latents)
        rule.check(n_latents)
        rule.prepare(n_latents)
        self.rule = rule

    @property
    def bound_to_input(self) -> str | None:
        return self.rule.bound_to_input

    @property
    def per_token(self) -> bool:
        return self.rule.per_token

    @property
    def requires(self) -> frozenset[str]:
        return self.rule.requires

    @property
    def provides(self) -> frozenset[str]:
        return self.rule.provides

    def check_batch(self, batch_tokens: int, n_latents: int) -> None:
        self.rule.check_batch(batch_tokens, n_latents)

    def adapt(self, step: Step, W_dec: Tensor) -> None:
        self.rule.adapt(step)

    def adopt(self, other: Coder, W_dec: Tensor) -> None:
        super().adopt(other, W_dec)
        if isinstance(other, RuleCoder):
            self.rule.adopt(other.rule)
