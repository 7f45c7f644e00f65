"""An SAE at work in the language model it was trained on: what a prompt and an intervention need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saelab.errors import SaelabError
from saelab.lm import vocabulary
from saelab.lm.mask import Mask
from saelab.lm.model import Hook, LanguageModel
from saelab.lm.windows import WindowSpec, bos_token
from saelab.sae import SAE

if TYPE_CHECKING:
    import torch

MAX_TOKENS = 512
"""Of a prompt with its continuation: what an answer within seconds allows on a CPU."""
_MAX_CHARACTERS = 20_000
"""More than so many tokens hold; not worth tokenising."""


@dataclass(frozen=True, eq=False)
class Live:
    """A model, and an SAE in it under the policies of its training.

    Attributes:
        sae: in inference form.
        hook, target: what it reads, and what it reconstructs (the same but for transcoders).
        mask, windows: which positions count, and whether contexts start with BOS.
    """

    lm: LanguageModel
    sae: SAE
    hook: Hook
    target: Hook
    mask: Mask
    windows: WindowSpec

    @classmethod
    def of(cls, sae: SAE, lm: LanguageModel) -> Live:
        """As the SAE's provenance says.

        Raises:
            SaelabError: it does not say where the SAE belongs; this is another model, or its hooks do not fit.
        """
        provenance = sae.identity.provenance
        try:
            hook, mask = str(provenance["hook"]), Mask.from_json(provenance["mask"])
            target = str(provenance.get("target_hook") or hook)
            windows = WindowSpec(**provenance["windows"])
            _check_same_model(dict(provenance["model"]), lm)
        except (KeyError, TypeError, ValueError) as error:
            raise SaelabError(
                f"this SAE does not say where in a model it belongs: {error}",
                where="provenance",
                fix="use an SAE whose config.json says model, hook, mask and windows",
            ) from error
        live = cls(lm, sae, lm.hook(hook), lm.hook(target), mask, windows)
        for place, expected in ((live.hook, sae.identity.d_in), (live.target, sae.identity.d_out)):
            if place.width != expected:
                raise SaelabError(f"'{place.name}' is {place.width} wide, the SAE {expected}", where="hook")
        return live

    @property
    def limit(self) -> int:
        """Tokens that a prompt and its continuation may have together."""
        return min(MAX_TOKENS, self.lm.max_context or MAX_TOKENS)

    def tokens(self, text: str, *, new_tokens: int = 0) -> list[int]:
        """A prompt's token ids, BOS in front where training had it.

        Raises:
            SaelabError: nothing to tokenise, or too much of it beside `new_tokens` more.
        """
        ids = self.lm.tokenizer(text[:_MAX_CHARACTERS], add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise SaelabError("the prompt is empty", where="prompt", fix="type some text")
        bos = bos_token(self.lm.tokenizer, self.windows)
        found = [*([] if bos is None else [bos]), *map(int, ids)]  # type: ignore[call-overload]
        if len(found) + new_tokens > self.limit or len(text) > _MAX_CHARACTERS:
            long = f"more than {len(found):,}" if len(text) > _MAX_CHARACTERS else f"{len(found):,}"
            beside = f" beside {new_tokens:,} new ones" if new_tokens else ""
            raise SaelabError(
                f"the prompt has {long} tokens; at most {max(self.limit - new_tokens, 0):,} fit here{beside}",
                where="prompt",
                fix="shorten it",
            )
        return found

    def texts(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """What each token stands for."""
        return tuple(vocabulary.texts(self.lm.tokenizer, tokens)) if tokens else ()

    def keep(self, tokens: torch.Tensor, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """`[context, position]`: what the mask keeps at both hooks, given what they carry."""
        keep = self.mask.keep(tokens, self.hook.name, values[self.hook.name])
        return keep & self.mask.keep(tokens, self.target.name, values[self.target.name])


def _check_same_model(expected: Mapping[str, Any], lm: LanguageModel) -> None:
    parts = {"content": "weights", "tokenizer": "tokenizer"}
    differ = [word for key, word in parts.items() if expected[key] != lm.identity[key]]
    if differ:
        raise SaelabError(
            f"this SAE was trained on another model: {' and '.join(differ)} differ from those of '{expected['name']}'",
            where=f"model {lm.identity['name']}",
            fix="name the model it was trained on in the run's config.yaml, or train an SAE on this one",
        )
