"""Capture: run the language model over text and write its activations to a store.

Killed at any moment, the same call continues: windows that are complete are skipped, the one that was
being written is made again from the same contexts with the same shuffle, so the files come out the same.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from saelab import __version__, files
from saelab.activations import index
from saelab.activations.checked import Checked
from saelab.activations.forward import Forward, pad
from saelab.activations.room import Room, estimate, row_bytes
from saelab.activations.scaling import measure
from saelab.activations.store import DTYPES, INDEX, MANIFEST, NORM_LIMITS, SCHEMA, Contexts, Shard, Store
from saelab.errors import SaelabError, SettingError, check_least, check_seed
from saelab.lm import corpus
from saelab.lm.corpus import DataSpec
from saelab.lm.mask import Mask, MaskSpec
from saelab.lm.model import Hook, LanguageModel
from saelab.lm.windows import SPLITS, Split, Window, Windows, WindowSpec, windows


@dataclass(frozen=True)
class CaptureSpec:
    """Which activations are kept, how many, and how they are laid out."""

    hooks: Annotated[tuple[str, ...], "where to read; several are captured in one pass"]
    tokens: Annotated[int, "training tokens to keep"] = 1_000_000
    heldout_tokens: Annotated[int, "held-out tokens to keep"] = 50_000
    dtype: Annotated[Literal["bfloat16", "float32"], "how activations are stored"] = "bfloat16"
    loss_grad: Annotated[
        bool, "store the next-token loss's gradient beside each activation (for variants that use it; twice the size)"
    ] = False
    batch_contexts: Annotated[int, "contexts per forward pass"] = 16
    shuffle_contexts: Annotated[int, "rows are shuffled across this many consecutive contexts"] = 512
    shard_bytes: Annotated[int, "upper bound of a shard's size"] = 268_435_456
    seed: Annotated[int, "seed of the shuffle"] = 0
    dir: Annotated[str | None, "where the store goes (none: under the cache directory, by content)"] = None

    def __post_init__(self) -> None:
        if not self.hooks:
            raise SettingError("hooks", "name one hook or more", fix="hooks: [blocks.5.hook_resid_post]")
        if len(set(self.hooks)) < len(self.hooks):
            raise SettingError("hooks", "a hook is named twice")
        check_least(self, 1, "tokens", "heldout_tokens", "batch_contexts", "shuffle_contexts", "shard_bytes")
        check_seed(self.seed)


@dataclass(frozen=True)
class Progress:
    """How far a capture is, for a progress bar."""

    done_tokens: int
    total_tokens: int


def content(lm: LanguageModel, data: DataSpec, window: WindowSpec, mask: MaskSpec, spec: CaptureSpec) -> dict[str, Any]:
    """Everything that determines a store's bytes, JSON-able."""
    capture = {key: value for key, value in asdict(spec).items() if key != "dir"} | {"hooks": list(spec.hooks)}
    if not spec.loss_grad:
        del capture["loss_grad"]  # stores made before there was such a setting stay valid
    return {
        "model": lm.identity,
        "data": corpus.identity(data),
        "windows": asdict(window),
        "mask": asdict(mask),
        "capture": capture,
    }


def store_directory(spec: CaptureSpec, content: dict[str, Any]) -> Path:
    if spec.dir is not None:
        return Path(spec.dir).expanduser()
    return files.home() / "activations" / files.sha256_json(content)[:16]


def capture(
    lm: LanguageModel,
    data: DataSpec,
    window: WindowSpec,
    mask: MaskSpec,
    spec: CaptureSpec,
    *,
    check: Callable[[dict[str, Any]], None] = lambda _: None,
    report: Callable[[Progress], None] = lambda _: None,
    announce: Callable[[Room], None] = lambda _: None,
) -> Store:
    """Make the store, or go on making it, or just open it where it is complete.

    Args:
        check: called first, with everything that determines the store; may raise.
        report: called as tokens are captured.
        announce: called once before anything is written, with what it will take.

    Raises:
        SaelabError: an unknown hook, contexts longer than the model allows, text that runs out before
            there is one window per split, a store made by another configuration, no room.
    """
    made_of = content(lm, data, window, mask, spec)
    check(made_of)
    directory = store_directory(spec, made_of)
    if (directory / MANIFEST).exists():
        store = Store(directory)
        store.expect(made_of)
        return store
    hooks = [lm.hook(name) for name in spec.hooks]
    if lm.max_context is not None and window.context_length > lm.max_context:
        raise SettingError(
            "context_length", f"{window.context_length} is more than this model's {lm.max_context} tokens"
        )
    kept = index.in_place(directory)
    room = estimate(directory, [hook.width for hook in hooks], spec, context_length=window.context_length, kept=kept)
    room.check()
    announce(room)
    with files.writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with files.only_process(
        directory / ".lock", SaelabError("another process is writing this store", where=str(directory))
    ):
        writer = _Writer(directory, lm, hooks, mask, spec, made_of, window.context_length, report)
        writer.run(windows(corpus.documents(data), lm.tokenizer, window))
    return Store(directory)


@dataclass
class _Side:
    """What is known of one split while it is being written."""

    wanted_tokens: int
    tokens: int = 0
    contexts: int = 0
    windows: int = 0
    pending: list[Window] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return self.tokens >= self.wanted_tokens


class _Writer:
    def __init__(
        self,
        directory: Path,
        lm: LanguageModel,
        hooks: list[Hook],
        mask: MaskSpec,
        spec: CaptureSpec,
        made_of: dict[str, Any],
        context_length: int,
        report: Callable[[Progress], None],
    ):
        self.directory, self.hooks, self.spec = directory, hooks, spec
        self.made_of, self.context_length, self.report = made_of, context_length, report
        self.mask_spec, self.mask = mask, Mask.of(mask, lm.tokenizer)
        self.forward = Forward(lm, hooks, DTYPES[spec.dtype], spec.loss_grad)
        self.sides = {"train": _Side(spec.tokens), "heldout": _Side(spec.heldout_tokens)}
        self.checked = Checked(directory)
        self.finished = self._finished_windows()
        self.shards: list[Shard] = []
        self.writing: Future[list[Shard]] | None = None
        files.sweep_temporaries(directory)

    # -- what a killed process left -------------------------------------------------------------

    def _finished_windows(self) -> dict[tuple[Split, int], list[Shard]]:
        """The shards of windows that are finished and undamaged; the index is cut back to them."""
        path = self.directory / INDEX
        begun = {".lock", *(p.name for p in self.directory.glob(f"{INDEX}.tmp-*"))}  # killed at its first line
        if not path.exists() and any(p.name not in begun for p in self.directory.iterdir()):
            raise SaelabError(
                "this directory holds files that are not an activation store's",
                where=str(self.directory),
                fix="give activations.dir the name of a new directory",
            )
        found = index.read(self.directory)
        if found and found.content_sha256 != files.sha256_json(self.made_of):
            raise SaelabError(
                "this directory holds the beginning of a store made by another configuration",
                where=str(self.directory),
                fix="give activations.dir another name, or delete this one",
            )
        shards = found.finished(lambda file, _, sha256: self.checked.whole(file, sha256)) if found else []
        index.write(self.directory, self.made_of, shards)
        finished: dict[tuple[Split, int], list[Shard]] = {}
        for shard in shards:
            finished.setdefault((shard.split, shard.window), []).append(shard)
        return finished

    # -- the pass over the text -------------------------------------------------------------------

    def run(self, source: Windows) -> None:
        self._set_norm_limits_if_known()
        with ThreadPoolExecutor(1, "saelab-store") as background:
            for window in source:
                side = self.sides[window.split]
                if side.full:
                    source.leave_out(window.split)
                    continue
                side.pending.append(window)
                if len(side.pending) == self._window_contexts(side):
                    self._flush(window.split, background)
                if all(side.full for side in self.sides.values()):
                    break
            for split in SPLITS:
                if self.sides[split].pending and not self.sides[split].full:
                    self._flush(split, background)
            self._settle()
        self._finish()

    def _window_contexts(self, side: _Side) -> int:
        """Contexts in this shuffle window: the last one is cut where the budget ends."""
        left = -(-(side.wanted_tokens - side.tokens) // self._kept_per_context())
        return max(1, min(self.spec.shuffle_contexts, left))

    def _kept_per_context(self) -> int:
        return max(1, self.context_length - int(self.mask.first_position))

    def _flush(self, split: Split, background: Executor) -> None:
        """Take one shuffle window; it is written while the model runs over the next one."""
        side = self.sides[split]
        finished = self.finished.get((split, side.windows))
        if finished is None:
            padded = pad(side.pending, self.context_length)
            rows = self._rows(padded, side.contexts)
            self._settle()
            self.writing = background.submit(self._write_window, split, side.windows, side.contexts, padded, rows)
            side.tokens += rows["position"].shape[0]
        else:
            self._settle()
            self.shards += finished
            side.tokens += sum(shard.n_tokens for shard in finished)
        side.contexts += len(side.pending)
        side.windows += 1
        side.pending = []
        self._report()

    def _settle(self) -> None:
        """Wait for the window that is being written; raises what went wrong with it."""
        if self.writing is not None:
            self.shards += self.writing.result()
            self.writing = None

    def _report(self, extra: int = 0) -> None:
        done = sum(min(side.tokens, side.wanted_tokens) for side in self.sides.values()) + extra
        self.report(Progress(done, sum(side.wanted_tokens for side in self.sides.values())))

    # -- one shuffle window -------------------------------------------------------------------------

    def _write_window(
        self, split: Split, window: int, first_context: int, padded: Contexts, rows: dict[str, Tensor]
    ) -> list[Shard]:
        n_rows = rows["position"].shape[0]
        order = torch.from_numpy(self._shuffle(split, window).permutation(n_rows))
        tag = f"{split}-{window:05d}"
        contexts = self.directory / f"contexts-{tag}.safetensors"
        files.write_tensors(contexts, vars(padded))
        contexts_sha, contexts_bytes = files.sha256_file(contexts), contexts.stat().st_size
        self.checked.add(contexts.name, contexts_sha)
        shards: list[Shard] = []
        parts = order.split(self._shard_rows())
        for number, part in enumerate(parts):
            path = self.directory / f"shard-{tag}-{number:03d}.safetensors"
            files.write_tensors(path, {name: value[part] for name, value in rows.items()})
            shard = Shard(
                split=split,
                file=path.name,
                bytes=path.stat().st_size,
                sha256=files.sha256_file(path),
                n_tokens=part.numel(),
                window=window,
                contexts=contexts.name,
                contexts_bytes=contexts_bytes,
                contexts_sha256=contexts_sha,
                first_context=first_context,
                n_contexts=len(padded.length),
                last=number == len(parts) - 1,
            )
            index.append(self.directory, shard)
            self.checked.add(shard.file, shard.sha256)
            shards.append(shard)
        return shards

    def _shuffle(self, split: Split, window: int) -> np.random.Generator:
        return np.random.default_rng([self.spec.seed, SPLITS.index(split), window])

    def _shard_rows(self) -> int:
        return max(1, self.spec.shard_bytes // row_bytes([hook.width for hook in self.hooks], self.spec))

    def _rows(self, contexts: Contexts, first_context: int) -> dict[str, Tensor]:
        """The kept rows of all contexts, in order."""
        parts: list[dict[str, Tensor]] = []
        done = 0
        for start in range(0, len(contexts.length), self.spec.batch_contexts):
            batch = contexts.part(start, self.spec.batch_contexts)
            values = self.forward.run(batch)
            keep = self._keep(batch, values)
            part = self.forward.rows(values, keep)
            context, position = keep.nonzero(as_tuple=True)
            part["context"] = (context + first_context + start).to(torch.int32).cpu()
            part["position"] = position.to(torch.int32).cpu()
            part["document"] = batch.documents[keep.cpu()]
            parts.append(part)
            done += part["position"].shape[0]
            self._report(done)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _keep(self, batch: Contexts, values: dict[str, Tensor]) -> Tensor:
        if self.mask_spec.max_norm_ratio is not None and not self.mask.norm_limits:
            self._set_norm_limits(batch, values)
        return self.forward.keep(batch, values, self.mask)

    # -- the norm filter ------------------------------------------------------------------------------

    def _set_norm_limits(self, batch: Contexts, values: dict[str, Tensor]) -> None:
        """The limit is a multiple of the median norm of the first batch with tokens to keep, and then stays."""
        assert self.mask_spec.max_norm_ratio is not None
        keep = self.mask.keep_tokens(batch.tokens) & (batch.documents >= 0)
        if not keep.any():
            return
        limits = {
            hook.name: float(values[hook.name].cpu()[keep].float().norm(dim=-1).median())
            * self.mask_spec.max_norm_ratio
            for hook in self.hooks
        }
        self.mask = Mask(self.mask.first_position, self.mask.special, limits)
        files.write_json(self.directory / NORM_LIMITS, limits)

    def _set_norm_limits_if_known(self) -> None:
        path = self.directory / NORM_LIMITS
        if path.exists():
            self.mask = Mask(self.mask.first_position, self.mask.special, files.read_json(path))

    # -- bookkeeping -----------------------------------------------------------------------------------

    def _finish(self) -> None:
        for split in SPLITS:
            if self.sides[split].tokens == 0:
                raise SaelabError(
                    f"no {split} tokens: the text is too short, or all its documents fall on the other side",
                    where="windows.heldout_frac",
                    fix="more documents, shorter contexts, or another heldout_frac",
                )
        index.write(self.directory, self.made_of, self.shards)  # in order, where a hole was filled
        files.write_json(
            self.directory / MANIFEST,
            {
                "schema": SCHEMA,
                "saelab": __version__,
                "content_sha256": files.sha256_json(self.made_of),
                "content": self.made_of,
                "hooks": {hook.name: {"shape": list(hook.shape), "layer": hook.layer} for hook in self.hooks},
                "dtype": self.spec.dtype,
                "loss_grad": self.spec.loss_grad,
                "mask": self.mask.as_json(),
                "splits": {
                    split: {"tokens": side.tokens, "contexts": side.contexts} for split, side in self.sides.items()
                },
                "masked_tokens": self._masked_tokens(),
                "scaling": measure(self.directory, self.shards, [hook.name for hook in self.hooks]),
                "shards": [asdict(shard) for shard in self.shards],
                "complete": True,
            },
        )

    def _masked_tokens(self) -> dict[str, dict[str, int]]:
        """How many real tokens the mask left out, by split: for what they are, and for their norm."""
        out: dict[str, dict[str, int]] = {}
        for split in SPLITS:
            shards = [shard for shard in self.shards if shard.split == split]
            real = allowed = 0
            for shard in shards:
                if shard.last:
                    contexts = files.read_tensors(self.directory / shard.contexts)
                    here = torch.arange(self.context_length) < contexts["length"][:, None]
                    real += int(here.sum())
                    allowed += int((here & self.mask.keep_tokens(contexts["tokens"])).sum())
            kept = sum(shard.n_tokens for shard in shards)
            out[split] = {"position_or_special": real - allowed, "norm": allowed - kept}
        return out
