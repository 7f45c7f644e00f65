"""The conformance suite over every variant, on variants a third party could add, and on broken ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from saelab.kernels import Above, Support, select_from
from saelab.kernels.products import Tiles
from saelab.sae import VARIANTS
from saelab.sae.affine import PreActivations
from saelab.sae.code import Encoding, Seen
from saelab.sae.coders import OneStep
from saelab.sae.model import SAE
from saelab.sae.rules import SelectionRule, Step, Threshold
from saelab.sae.variants import Blueprint, LossTerm, assemble, one_step, variant
from saelab.testing.conformance import CHECKS, Case, check

PLAIN = {"n_latents": 64}
BUDGET = PLAIN | {"k": 4, "aux_k": 8}
GROUPS = PLAIN | {"groups": 4, "highest": 0.3, "lowest": 0.02, "period_tokens": 256}

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "topk": BUDGET,
    "topk, multi_k": BUDGET | {"multi_k": 12},
    "abs_topk": BUDGET,
    "batch_topk": BUDGET,
    "matryoshka": BUDGET | {"prefixes": (8, 24, 64)},
    "mutual_choice": BUDGET,
    "feature_choice": BUDGET | {"mutual_frac": 0.4},
    "feature_choice, uniform": BUDGET | {"quotas": "uniform", "mutual_frac": 0.0},
    "gradient_topk": BUDGET,
    "gradient_topk, raw scores": BUDGET | {"normalise": False},
    "top_afa": PLAIN | {"aux_k": 8},
    "relu": PLAIN | {"l1": 0.5, "l1_warmup_frac": 0.3},
    "relu, annealed and steered": PLAIN
    | {"l1": 0.5, "l1_warmup_frac": 0.1, "target_l0": 6.0, "p_end": 0.5, "p_updates": 3},
    "jumprelu": PLAIN | {"target_l0": 4.0, "warmup_frac": 0.3},
    "jumprelu, tanh": PLAIN
    | {"penalty": "tanh", "target_l0": None, "coefficient": 1.0, "warmup_frac": 1.0}
    | {"reach": "all", "bandwidth": 2.0, "threshold": 0.1, "pre_act_on": "all"},
    "jumprelu, steered": PLAIN | {"penalty": "l0", "target_l0": 4.0, "coefficient": 0.1, "warmup_frac": 0.3},
    "gated": PLAIN | {"l1": 0.5, "l1_warmup_frac": 0.3},
    "gated, steered": PLAIN | {"l1": 0.5, "l1_warmup_frac": 0.3, "target_l0": 6.0},
    "matching_pursuit": {"n_latents": 24, "k": 2},
    "matching_pursuit, absolute": {"n_latents": 24, "k": 3, "selection": "absolute", "residual_threshold": 1.0},
    "variational": BUDGET | {"noise": 0.3, "kl_warmup_frac": 0.3},
    "variational, learned": BUDGET | {"variance": "learned", "kl_warmup_frac": 0.3},
    "variational, relu": PLAIN | {"base": "relu", "noise": 0.3, "aux_k": 8},
    "variational, no noise": BUDGET | {"noise": 0.0, "kl": 0.0},
    "group_bias": GROUPS | {"l0": 6.0},
    "group_bias, cold": GROUPS | {"l0": None, "warm_start": False},
    "codebook": PLAIN | {"k": 3},
}
"""Small, with every schedule inside a short training; by the variant and, after a comma, the mode it is in."""


def kind_of(name: str) -> str:
    return name.partition(",")[0]


def test_every_variant_is_here():
    assert {kind_of(name) for name in SETTINGS} == set(VARIANTS)


@pytest.mark.parametrize("promise", CHECKS, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", SETTINGS)
def test_conformance(name, promise):
    promise(Case(kind_of(name), SETTINGS[name]))


# -- what a third party would write -----------------------------------------------------------------------------


class AboveSpread(SelectionRule):
    """Entries more than `spreads` standard deviations of the batch above 0. Deployed as one threshold."""

    per_token = False
    threshold: Tensor

    def __init__(self, spreads: float):
        super().__init__()
        self.spreads = spreads
        self.register_buffer("threshold", torch.tensor(0.0))

    def candidates(self, pre: Tensor, seen: Seen) -> Support:
        return Support.from_mask(pre > self.spreads * pre.std(correction=0)) if len(pre) else Support.from_mask(pre > 0)

    def activate(self, values: Tensor, support: Support) -> Tensor:
        return torch.relu(values)

    def calibrate(self, pre: PreActivations) -> None:
        self.threshold.fill_(self.spreads * pre.of(torch.arange(len(pre.bias))).std(correction=0))

    def inference(self) -> Threshold:
        return Threshold(self.threshold)


class EveryOther(SelectionRule):
    """Every other latent where it is positive: the least a rule can be."""

    def candidates(self, pre: Tensor, seen: Seen) -> Support:
        return Support.from_mask((pre > 0) & (torch.arange(pre.shape[1]) % 2 == 0))

    def activate(self, values: Tensor, support: Support) -> Tensor:
        return torch.relu(values)


SQUARED = (LossTerm("sum_squared_error"),)


@pytest.fixture
def toys() -> Iterator[None]:
    """Variants that are there for one test."""
    before = set(VARIANTS)

    @variant("above_spread")
    def above_spread(d_model: int, *, n_latents: int = 64, spreads: float = 1.5) -> Blueprint:
        return Blueprint(one_step(d_model, n_latents, AboveSpread(spreads), centred=True), SQUARED, True)

    @variant("every_other")
    def every_other(d_model: int, *, n_latents: int = 64) -> Blueprint:
        return Blueprint(one_step(d_model, n_latents, EveryOther(), centred=False), SQUARED, False)

    for name, rule in BROKEN_RULES.items():
        variant(name)(broken_variant(rule))
    variant("forgets_a_parameter")(forgets_a_parameter)
    variant("idle_channel")(idle_channel)
    variant("backwards")(backwards)
    yield
    for name in set(VARIANTS) - before:
        VARIANTS.remove(name)


@pytest.mark.parametrize("kind", ["above_spread", "every_other"])
def test_a_variant_of_a_third_party_takes_one_rule_and_one_function(toys, kind):
    check(Case(kind))


# -- broken on purpose: each is caught with the sentence that says why ----------------------------------------------


class Counts(EveryOther):
    """Learns something that no buffer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def candidates(self, pre: Tensor, seen: Seen) -> Support:
        return Support.from_mask(pre > 0.01 * self.steps)

    def adapt(self, step: Step) -> None:
        self.steps += 1


class NotPerToken(AboveSpread):
    """Says that it is per token, and is not."""

    per_token = True

    def inference(self) -> AboveSpread:  # type: ignore[override]
        return self


class LowThreshold(AboveSpread):
    """Calibrates too low."""

    def calibrate(self, pre: PreActivations) -> None:
        self.threshold.fill_(0.5 * self.spreads)


class FixedThreshold(EveryOther):
    """A threshold in units of the activations that does not follow their scale."""

    def candidates(self, pre: Tensor, seen: Seen) -> Support:
        return Support.from_mask(pre > 1.0)


class AboveOne(Above):
    """Keeps other entries once it knows exact scores; says that they are few, so that they are screened."""

    def density(self, pre: Tiles) -> float:
        return 0.0

    def narrow(self, scores: Tensor, candidates: Support, ops: ModuleType) -> tuple[Support, Tensor]:
        kept = scores > 1
        return candidates.keep(kept), kept.nonzero().squeeze(1)


class Shy(EveryOther):
    """Screens, and keeps less then."""

    def budget(self, seen: Seen, n_latents: int) -> Above:
        return AboveOne(seen.x.new_zeros(()))

    def candidates(self, pre: Tensor, seen: Seen) -> Support:
        return select_from(pre, self.budget(seen, pre.shape[1]))


class Undefined(EveryOther):
    """Divides by a count that may be 0."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.0))

    def adapt(self, step: Step) -> None:
        self.mean.copy_(step.code.values.mean())


class Draws(EveryOther):
    """Draws its support from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()
        self.generator.seed()

    def __deepcopy__(self, memo: Any) -> Draws:
        return Draws()

    def candidates(self, pre: Tensor, seen: Seen) -> Support:
        return Support.from_mask((pre > 0) & (torch.rand(pre.shape, generator=self.generator) < 0.5))


class Twice(EveryOther):
    """Names a latent twice in a row."""

    def candidates(self, pre: Tensor, seen: Seen) -> Support:
        return Support.from_rows(torch.zeros(len(pre), 2, dtype=torch.int64), pre.shape[1])


class Silent(EveryOther):
    """Declares a channel that it does not provide."""

    provides = frozenset({"step"})


BROKEN_RULES: Mapping[str, type[SelectionRule]] = {
    "counts": Counts,
    "low_threshold": LowThreshold,
    "not_per_token": NotPerToken,
    "fixed_threshold": FixedThreshold,
    "shy": Shy,
    "undefined": Undefined,
    "draws": Draws,
    "twice": Twice,
    "silent": Silent,
}


def broken_variant(rule: Any) -> Any:
    def broken(d_model: int, *, n_latents: int = 64) -> Blueprint:
        made = rule(1.5) if issubclass(rule, AboveSpread) else rule()
        return Blueprint(one_step(d_model, n_latents, made, centred=False), SQUARED, False)

    return broken


class Idle(OneStep):
    """Provides its code's values as a channel, without their gradient."""

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"values"})

    def encode(self, seen: Seen) -> Encoding:
        code = super().encode(seen).code
        return Encoding(code, {"values": code.values.detach()})


def idle_channel(d_model: int, *, n_latents: int = 64) -> Blueprint:
    return Blueprint(
        assemble(d_model, n_latents, Idle(d_model, n_latents, EveryOther(), centred=False)), SQUARED, False
    )


def forgets_a_parameter(d_model: int, *, n_latents: int = 64) -> Blueprint:
    sae: SAE = one_step(d_model, n_latents, EveryOther(), centred=False)
    sae.coder.gain = torch.nn.Parameter(torch.ones(n_latents))
    return Blueprint(sae, SQUARED, False)


def backwards(d_model: int, *, n_latents: int = 64) -> Blueprint:
    sae = one_step(d_model, n_latents, EveryOther(), centred=False)
    return Blueprint(sae, (LossTerm("sum_squared_error", -1.0),), False)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("counts", "a fresh object with the same state dict: different bits in the loss"),
        ("low_threshold", "latents are active per token in inference form"),
        ("not_per_token", "in inference form a token's code depends on its batch"),
        ("fixed_threshold", "a folded scaling changes codes: they differ by up to"),
        ("shy", "screened selection shares [0-9.]+% of its active entries with exact selection"),
        ("undefined", "a batch with no token, at first in training, leaves sae.coder.rule.mean not finite"),
        ("backwards", "the reconstruction loss does not fall"),
        ("draws", "different bits in"),
        ("twice", "a latent occurs twice in a token's code"),
        ("silent", r"declares that it provides \['step'\], and provides \[\]"),
        ("idle_channel", "the channel 'values' has no gradient for any parameter"),
        ("forgets_a_parameter", "no loss term has a gradient for coder.gain"),
    ],
)
def test_broken_variants_fail_with_the_reason(toys, kind, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(Case(kind))
