"""From documents to windows of tokens, split into train and held-out by document."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from saelab.errors import SaelabError, SettingError
from saelab.lm.corpus import Document, Place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")

_BATCH_DOCUMENTS = 32
"""Documents tokenised at once."""
_BATCH_CHARACTERS = 200_000
"""No more documents are added from here on: enough for every core, and little is tokenised before it is wanted."""
_PIECE_CHARACTERS = 1_000_000
"""A longer document is tokenised in pieces of at most this many: a tokenizer takes some 150 bytes for each while it
works. Where pieces end decides tokens, so another number makes other stores of such documents."""


@dataclass(frozen=True)
class WindowSpec:
    """How text becomes contexts."""

    context_length: Annotated[int, "tokens per context, BOS included"] = 128
    packing: Annotated[
        Literal["concat", "per_document"],
        "concat: contexts run on across documents; per_document: each context holds one document's text",
    ] = "concat"
    prepend_bos: Annotated[bool, "start every context, and every document inside one, with BOS"] = True
    max_document_tokens: Annotated[
        int | None, "at most this many tokens of each document: many documents teach more than few long ones"
    ] = None
    heldout_frac: Annotated[float, "share of documents (chosen by a hash of their text) never trained on"] = 0.1

    def __post_init__(self) -> None:
        if self.context_length < 2:
            raise SettingError("context_length", f"a context needs 2 tokens or more, not {self.context_length}")
        if self.max_document_tokens is not None and self.max_document_tokens < 1:
            raise SettingError("max_document_tokens", f"must be at least 1, found {self.max_document_tokens}")
        if not 0 < self.heldout_frac < 1:
            raise SettingError("heldout_frac", f"must lie between 0 and 1, found {self.heldout_frac}")


@dataclass(frozen=True)
class Window:
    """One context: `tokens` and `documents` (which document each token is from), `[length]` int32."""

    split: Split
    tokens: np.ndarray
    documents: np.ndarray


def split_of(text: str, heldout_frac: float) -> Split:
    """Which side a document is on: by its text alone, so that copies never straddle the split and the
    order of documents does not matter."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return "heldout" if int.from_bytes(digest[:8]) < heldout_frac * 2**64 else "train"


def bos_token(tokenizer: PreTrainedTokenizerBase, spec: WindowSpec) -> int | None:
    """The id that starts a context.

    Raises:
        SaelabError: one is wanted, and the tokenizer has neither BOS nor EOS.
    """
    if not spec.prepend_bos:
        return None
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if bos is None:
        raise SaelabError("this tokenizer has no BOS token", where="windows.prepend_bos", fix="set it to false")
    return int(bos)  # type: ignore[arg-type]


@dataclass
class _Packer:
    """Cuts one split's tokens into contexts."""

    split: Split
    spec: WindowSpec
    bos: int | None
    tokens: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)

    def add(self, index: int, ids: list[int]) -> Iterator[Window]:
        if self.bos is not None:
            if len(self.tokens) == 1:  # the BOS that stands where the last context was cut
                self.tokens.clear()
                self.documents.clear()
            ids = [self.bos, *ids]
        self.tokens += ids
        self.documents += [index] * len(ids)
        start = 0
        while len(self.tokens) - start >= self.spec.context_length:
            yield self._cut(start, self.spec.context_length)
            start += self.spec.context_length - self._overlap
            if self.bos is not None:
                self.tokens[start] = self.bos  # the place of the last token cut, already used
        del self.tokens[:start], self.documents[:start]
        if self.spec.packing == "per_document":
            if len(self.tokens) >= 2:
                yield self._cut(0, len(self.tokens))
            self.tokens.clear()
            self.documents.clear()

    def left(self) -> list[list[int]]:
        """What is not cut yet: fewer tokens than a context has, and their documents."""
        return [self.tokens.copy(), self.documents.copy()]

    @property
    def _overlap(self) -> int:
        """With BOS, the slot of a context's last token becomes the next one's BOS."""
        return 1 if self.bos is not None else 0

    def _cut(self, start: int, length: int) -> Window:
        part = slice(start, start + length)
        tokens = np.asarray(self.tokens[part], dtype=np.int32)
        return Window(self.split, tokens, np.asarray(self.documents[part], dtype=np.int32))


@dataclass(frozen=True)
class Cursor:
    """Where a reader of windows is in its text, small whatever the text.

    Attributes:
        place: before the document that is being cut.
        left: by split, tokens left over from the documents before that place, and which document each is from.
        taken: windows given already that end in that document.
    """

    place: Place = field(default_factory=Place)
    left: Mapping[str, Sequence[list[int]]] = field(default_factory=dict)
    taken: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Cursor:
        return cls(Place(**document["place"]), document["left"], document["taken"])


class Windows:
    """Contexts in document order, splits interleaved as their documents come; one can stop and go on anywhere.

    Contexts have `context_length` tokens, except the last of a document under `per_document`, which has
    two or more. What does not fill a last context under `concat` is left over.

    Args:
        documents: the text, from `start.place` on.
        tokenizer: documents of other splits, and those before `start.place`, never come to it.
        spec: how text is cut.
        splits: which sides are wanted.
        start: where an earlier reader of the same text and splits was.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        tokenizer: PreTrainedTokenizerBase,
        spec: WindowSpec,
        *,
        splits: Collection[Split] = SPLITS,
        start: Cursor = Cursor(),
    ):
        bos = bos_token(tokenizer, spec)
        self._packers: dict[str, _Packer] = {
            split: _Packer(split, spec, bos, *map(list, start.left.get(split, ()))) for split in splits
        }
        self._tokenizer, self._spec = tokenizer, spec
        self._at, self._taken = start, start.taken
        self._rest = islice(self._read(iter(documents)), start.taken, None)

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        return next(self._rest)

    def cursor(self) -> Cursor:
        """Where this reader is: another that starts there gives the windows this one has not given yet."""
        return replace(self._at, taken=self._taken)

    def leave_out(self, split: Split) -> None:
        """No more contexts of a side, but for the rest of the document at hand: others do not come to the tokenizer."""
        self._packers.pop(split, None)

    def _read(self, documents: Iterator[Document]) -> Iterator[Window]:
        for batch in _batches(documents):
            sides = [split_of(document.text, self._spec.heldout_frac) for document in batch]
            wanted = [(d, side) for d, side in zip(batch, sides, strict=True) if side in self._packers]
            pieces = [_pieces(document.text) for document, _ in wanted]
            firsts = self._tokenise([first for first, *_ in pieces])
            for (document, side), ids, (_, *rest) in zip(wanted, firsts, pieces, strict=True):
                self._begin(document)
                if side not in self._packers:
                    continue
                for piece in rest:
                    if self._spec.max_document_tokens is None or len(ids) < self._spec.max_document_tokens:
                        ids += self._tokenise([piece])[0]
                for window in self._packers[side].add(document.index, ids[: self._spec.max_document_tokens]):
                    self._taken += 1
                    yield window

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def _begin(self, document: Document) -> None:
        left = {split: packer.left() for split, packer in self._packers.items()}
        self._at, self._taken = Cursor(Place(document.row, document.index), left), 0


def windows(documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, spec: WindowSpec) -> Windows:
    """The contexts of both splits, from the beginning of a text."""
    return Windows(documents, tokenizer, spec)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        characters = sum(len(d.text) for d in batch)
        if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch = []
    if batch:
        yield batch


def _pieces(text: str) -> list[str]:
    """The text, where it is long cut before spaces: most tokenizers begin a word there."""
    pieces: list[str] = []
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        end = start + _PIECE_CHARACTERS
        space = text.rfind(" ", start + _PIECE_CHARACTERS // 2, end)
        end = space if space >= 0 else end
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]
