"""Where training's batches come from: a store on disk, or the language model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Protocol

from saelab.activations.capture import CaptureSpec
from saelab.activations.forward import Forward
from saelab.activations.loader import Batches, Columns, Loader, Wanted
from saelab.activations.store import Store
from saelab.activations.stream import Blocks, Stream
from saelab.errors import SettingError, check_least
from saelab.lm.corpus import DataSpec, documents
from saelab.lm.model import LanguageModel
from saelab.lm.windows import WindowSpec
from saelab.registry import Registry


@dataclass(frozen=True)
class Text:
    """What activations are made from: a model, loaded where it is needed, and text cut into windows."""

    model: Callable[[], LanguageModel]
    data: DataSpec
    windows: WindowSpec


class Source(Protocol):
    """One way to come by batches. Beside each stands a store: held-out tokens, statistics, evaluation."""

    def check(self, windows: WindowSpec) -> None:
        """Raise where there could be no batches of such windows."""
        ...

    def capture_spec(self, spec: CaptureSpec) -> CaptureSpec:
        """What is to be stored before training begins."""
        ...

    def batches(self, store: Store, wanted: Wanted, text: Text, spec: CaptureSpec) -> Batches:
        """Training batches, in raw units, beside the store that `capture_spec(spec)` made of `text`."""
        ...


@dataclass(frozen=True)
class FromStore:
    """All training tokens are stored first, and read as often as training wants."""

    def check(self, windows: WindowSpec) -> None:
        pass

    def capture_spec(self, spec: CaptureSpec) -> CaptureSpec:
        return spec

    def batches(self, store: Store, wanted: Wanted, text: Text, spec: CaptureSpec) -> Batches:
        return Loader.of(store, wanted)


@dataclass(frozen=True)
class FromStream:
    """Training tokens come straight from the language model, the whole text an epoch; a sample is stored."""

    buffer_tokens: Annotated[int, "rows are shuffled across this many consecutive tokens, held in memory"] = 131_072
    sample_tokens: Annotated[int, "training tokens to store, for statistics and thresholds"] = 100_000

    def __post_init__(self) -> None:
        check_least(self, 1, "buffer_tokens", "sample_tokens")

    def check(self, windows: WindowSpec) -> None:
        if self.buffer_tokens < windows.context_length:
            raise SettingError(
                "source.buffer_tokens",
                f"{self.buffer_tokens} is less than one context of {windows.context_length} tokens",
            )

    def capture_spec(self, spec: CaptureSpec) -> CaptureSpec:
        return replace(spec, tokens=min(spec.tokens, self.sample_tokens))

    def batches(self, store: Store, wanted: Wanted, text: Text, spec: CaptureSpec) -> Batches:
        """Rows are those a store would hold: of the same mask, dtype and hooks.

        Raises:
            SaelabError: the store lacks a hook or gradients; a buffer smaller than a context, or too large.
        """
        self.check(text.windows)
        columns = Columns.of(store, wanted.hook, wanted.target_hook, loss_grad=wanted.loss_grad)
        lm = text.model()
        # A norm limit at any hook decides whether a token counts, so that hook is read too.
        read = [name for name in spec.hooks if name in columns.names or name in store.mask.norm_limits]
        blocks = Blocks(
            documents=partial(documents, text.data),
            window=text.windows,
            forward=Forward(lm, [lm.hook(name) for name in read], store.dtype, wanted.loss_grad),
            store=store,
            columns=columns,
            contexts=self._contexts(text.windows.context_length, spec.batch_contexts),
            batch_contexts=spec.batch_contexts,
            seed=wanted.seed,
        )
        return Stream(blocks, batch_tokens=wanted.batch_tokens, ahead=True, pin=wanted.pin)

    def _contexts(self, context_length: int, batch_contexts: int) -> int:
        """Per block: as many as fit the buffer, in whole forward passes where there is more than one."""
        contexts = self.buffer_tokens // context_length
        return contexts - contexts % batch_contexts if contexts > batch_contexts else contexts


SOURCES: Registry[Callable[..., Source]] = Registry("source")
SOURCES.add("store", FromStore)
SOURCES.add("stream", FromStream)
