"""Batches straight from the language model, for text that does not fit a disk.

Text is computed a *block* at a time: a fixed number of consecutive training contexts, whose kept rows fill a buffer
and leave it in a seeded order. What is served is a function of text, model, settings and seed alone; that a thread
fills one buffer while another is served changes nothing but the waiting.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from saelab.activations.forward import Forward, pad
from saelab.activations.loader import Batch, Columns
from saelab.activations.store import Store
from saelab.errors import SaelabError
from saelab.lm.corpus import Document, Place
from saelab.lm.windows import Cursor, Window, Windows, WindowSpec

_BLOCK_ROWS = 3
"""Purpose of the permutation within a block, beside the loader's: they draw from different streams of one seed."""
_PATIENCE_SECONDS = 30.0
"""How long a process that ends, or forgets its stream, waits for the thread."""

Buffer = dict[str, Tensor]
"""By column `[rows, d_hook]`, as many rows as a block can have."""


@dataclass(frozen=True)
class Position:
    """Where a block begins: its epoch, its number there, and the reader's place in the text."""

    epoch: int = 0
    number: int = 0
    text: Cursor = field(default_factory=Cursor)


@dataclass(frozen=True, eq=False)
class Block:
    """A filled buffer, the order in which its rows are served, and where it begins and ends."""

    buffer: Buffer
    order: Tensor
    begin: Position
    end: Position


class _ClosedError(SaelabError):
    """A block is no longer wanted."""

    def __init__(self) -> None:
        super().__init__("the stream was closed while its next block was computed")


class _Worker(Protocol):
    """Whoever has blocks computed. `buffer` and `check` are for the computation, the others for the stream."""

    def buffer(self) -> Buffer:
        """One that may be filled; may wait for it."""
        ...

    def check(self) -> None:
        """Raise where the work is no longer wanted."""
        ...

    def take(self) -> Block: ...
    def give_back(self, buffer: Buffer) -> None: ...
    def stop(self, patience: float | None = None) -> None: ...


@dataclass(frozen=True)
class Blocks:
    """The blocks of an endless stream, as a function of text, model and seed.

    Attributes:
        documents: the text, from a place on.
        window: how it is cut.
        forward: the pass that gives rows.
        store: what is known of them: which the mask keeps, their widths and dtype.
        columns: what is served of them.
        contexts: per block; batch_contexts: per forward pass.
        seed: of the order within a block.
    """

    documents: Callable[[Place], Iterable[Document]]
    window: WindowSpec
    forward: Forward
    store: Store
    columns: Columns
    contexts: int
    batch_contexts: int
    seed: int

    def allocate(self) -> Buffer:
        """Room for one block."""
        rows = self.contexts * self.window.context_length
        try:
            return self.columns.empty(self.store, rows)
        except RuntimeError as error:  # what torch raises where memory is short
            raise SaelabError(
                f"there is no memory for a buffer of {rows:,} activations", where="source", fix="lower buffer_tokens"
            ) from error

    def run(self, begin: Position, worker: _Worker) -> Generator[Block]:
        """Block after block, epoch after epoch; reading goes on when the next one is asked for.

        Raises:
            SaelabError: an epoch without a row, or what reading and computing raise.
        """
        while True:
            rows = 0
            for block in self._epoch(begin, worker):
                rows += block.order.numel()
                yield block
            if rows == 0 and begin.number == 0:
                raise SaelabError(
                    "no train tokens: the text is too short, all its documents are held out, or the mask keeps nothing",
                    where="source",
                    fix="more documents, shorter contexts, or another windows.heldout_frac",
                )
            begin = Position(begin.epoch + 1)

    def _epoch(self, begin: Position, worker: _Worker) -> Iterator[Block]:
        reader = Windows(
            self._text(begin, worker), self.forward.lm.tokenizer, self.window, splits=("train",), start=begin.text
        )
        while (first := next(reader, None)) is not None:
            buffer = worker.buffer()
            rows = self._fill(buffer, chain([first], islice(reader, self.contexts - 1)), worker)
            end = Position(begin.epoch, begin.number + 1, reader.cursor())
            yield Block(buffer, self._order(begin, rows), begin, end)
            begin = end

    def _text(self, begin: Position, worker: _Worker) -> Iterator[Document]:
        for document in self.documents(begin.text.place):
            worker.check()
            yield document

    def _fill(self, buffer: Buffer, windows: Iterator[Window], worker: _Worker) -> int:
        """Rows written."""
        rows = 0
        while batch := list(islice(windows, self.batch_contexts)):
            worker.check()
            contexts = pad(batch, self.window.context_length)
            values = self.forward.run(contexts)
            kept = self.forward.rows(values, self.forward.keep(contexts, values, self.store.mask))
            more = len(kept[self.columns.input])
            for name, column in buffer.items():
                column[rows : rows + more] = kept[name]
            rows += more
        return rows

    def _order(self, begin: Position, rows: int) -> Tensor:
        generator = np.random.default_rng([self.seed, _BLOCK_ROWS, begin.epoch, begin.number])
        return torch.from_numpy(generator.permutation(rows))


class _Inline:
    """Computes a block when it is asked for, in one buffer."""

    def __init__(self, blocks: Blocks, begin: Position, buffers: Sequence[Buffer]):
        self._buffer = buffers[0]
        self._blocks = blocks.run(begin, self)

    def buffer(self) -> Buffer:
        return self._buffer

    def check(self) -> None:
        pass

    def take(self) -> Block:
        return next(self._blocks)

    def give_back(self, buffer: Buffer) -> None:
        pass

    def stop(self, patience: float | None = None) -> None:
        self._blocks.close()


class _Ahead:
    """Computes blocks in a thread, which waits when every buffer is full."""

    def __init__(self, blocks: Blocks, begin: Position, buffers: Sequence[Buffer]):
        self._empty: SimpleQueue[Buffer | None] = SimpleQueue()
        self._filled: SimpleQueue[Block | BaseException] = SimpleQueue()
        self._stopping = threading.Event()
        for buffer in buffers:
            self._empty.put(buffer)
        # A daemon: the end of a process does not wait for it, but stops it (see Stream).
        self._thread = threading.Thread(target=self._run, args=(blocks, begin), name="saelab-stream", daemon=True)
        self._thread.start()

    def _run(self, blocks: Blocks, begin: Position) -> None:
        try:
            for block in blocks.run(begin, self):
                self._filled.put(block)
        except _ClosedError:
            self._filled.put(_ClosedError())  # another, which holds no open files
        except BaseException as error:  # whatever it is, it is the consumer's to raise
            self._filled.put(error)

    def buffer(self) -> Buffer:
        buffer = self._empty.get()
        if buffer is None:
            raise _ClosedError
        return buffer

    def check(self) -> None:
        if self._stopping.is_set():
            raise _ClosedError

    def take(self) -> Block:
        found = self._filled.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def give_back(self, buffer: Buffer) -> None:
        self._empty.put(buffer)

    def stop(self, patience: float | None = None) -> None:
        self._stopping.set()
        self._empty.put(None)
        if self._thread is not threading.current_thread():  # where garbage is collected is not ours to choose
            self._thread.join(patience)


@dataclass(frozen=True)
class _Served:
    """The consumer's place: the block it is in, rows it had of it, and rows it had in all."""

    block: Position = field(default_factory=Position)
    rows: int = 0
    total: int = 0


class Stream:
    """Endless training batches from the language model; a batch may cross blocks and epochs.

    The model is in use until `close`. After an error, or `close`, the next batch is computed anew from where the
    stream was.

    Args:
        blocks: what is served.
        batch_tokens: rows per batch.
        ahead: compute the next block in a thread while one is served.
        pin: make batches in pinned memory.

    Raises:
        SaelabError: no room for the buffers.
    """

    def __init__(self, blocks: Blocks, *, batch_tokens: int, ahead: bool, pin: bool = False):
        self.blocks, self.batch_tokens, self.pin = blocks, batch_tokens, pin
        self._start = _Ahead if ahead else _Inline
        self._buffers = [blocks.allocate() for _ in range(2 if ahead else 1)]
        self._served = _Served()
        self._block: Block | None = None
        self._running: tuple[_Worker, weakref.finalize] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        before = self._served
        try:
            return self.blocks.columns.batch(self._gather())
        except BaseException:
            self._go_to(before)  # no row is lost
            raise

    def _gather(self) -> dict[str, Tensor]:
        out = self.blocks.columns.empty(self.blocks.store, self.batch_tokens, pin=self.pin)
        worker, done = self._working(), 0
        while done < self.batch_tokens:
            block, at = self._current(worker), self._served
            rows = block.order[at.rows :][: self.batch_tokens - done]
            more = rows.numel()
            for name, column in out.items():
                torch.index_select(block.buffer[name], 0, rows, out=column[done : done + more])
            done += more
            self._served = _Served(block.begin, at.rows + more, at.total + more)
            if self._served.rows == block.order.numel():
                self._served = _Served(block.end, 0, self._served.total)
                self._block = None
                worker.give_back(block.buffer)
        return out

    def _current(self, worker: _Worker) -> Block:
        """The block that holds the next row."""
        if self._block is None:
            self._block = worker.take()
            if self._served.rows > self._block.order.numel():
                raise SaelabError("a block is shorter than it was: text, model or mask have changed", where="source")
        return self._block

    def _working(self) -> _Worker:
        if self._running is None:
            worker = self._start(self.blocks, self._served.block, self._buffers)
            # Also at the end of the process, where a thread that computes would fall over what is taken down.
            self._running = worker, weakref.finalize(self, worker.stop, _PATIENCE_SECONDS)
        return self._running[0]

    # -- the place ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        at = self._served
        return {
            "seed": self.blocks.seed,
            "block_contexts": self.blocks.contexts,
            "epoch": at.block.epoch,
            "block": at.block.number,
            "text": at.block.text.as_json(),
            "block_tokens": at.rows,
            "served_tokens": at.total,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, mine in (("seed", self.blocks.seed), ("block_contexts", self.blocks.contexts)):
            if state[key] != mine:
                raise SaelabError(f"this state is of {key} {state[key]}, the stream's is {mine}", where="source")
        block = Position(state["epoch"], state["block"], Cursor.from_json(state["text"]))
        self._go_to(_Served(block, state["block_tokens"], state["served_tokens"]))

    def close(self) -> None:
        """Stop the thread: at its next look, between two forward passes."""
        self._go_to(self._served)

    def _go_to(self, place: _Served) -> None:
        running, self._running, self._block, self._served = self._running, None, None, place
        if running is not None:
            worker, finalizer = running
            finalizer.detach()
            worker.stop()
