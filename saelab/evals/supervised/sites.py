"""Places in the model where a task's information is read and replaced: hooks or single heads, at one position each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from saelab.errors import SaelabError, SettingError
from saelab.lm.model import Hook, LanguageModel
from saelab.tasks import Prompts
from saelab.tasks.measure import BATCH_PROMPTS, Edited

_SITE = re.compile(r"(?P<hook>[\w.]+?)(?:\[(?P<head>\d+)\])?@(?P<mark>\w+)")


@dataclass(frozen=True)
class Site:
    """`blocks.18.hook_resid_post@S2`, `blocks.17.attn.hook_z[4]@end`: what a hook, or one head of it, carries at a
    marked position of each prompt."""

    hook: str
    head: int | None
    mark: str

    def __str__(self) -> str:
        return f"{self.hook}{'' if self.head is None else f'[{self.head}]'}@{self.mark}"


Section = tuple[Site, ...]
"""Sites that are replaced together ("cross-section")."""


def parse(text: str) -> Section:
    """`site` or `site + site + ...`.

    Raises:
        SettingError: one does not read as a site.
    """
    found = [(part.strip(), _SITE.fullmatch(part.strip())) for part in text.split("+")]
    for part, match in found:
        if match is None:
            raise SettingError(
                "sites",
                f"'{part}' is not a site",
                fix="write blocks.18.hook_resid_post@S2 or blocks.17.attn.hook_z[4]@end",
            )
    return tuple(
        Site(match["hook"], None if match["head"] is None else int(match["head"]), match["mark"])
        for _, match in found
        if match is not None
    )


def marks(prompts: Prompts) -> dict[str, Tensor]:
    """`[prompt]` positions by name; the question's own is `end`."""
    return {"end": prompts.end, **prompts.marks}


def position(prompts: Prompts, mark: str) -> Tensor:
    """`[prompt]` int64.

    Raises:
        SaelabError: the task has no such mark.
    """
    known = marks(prompts)
    if mark not in known:
        raise SaelabError(
            f"this task has no position '{mark}'", where="eval.supervised", fix=f"one of {', '.join(known)}"
        )
    return known[mark]


def capture(
    lm: LanguageModel, prompts: Prompts, sites: Sequence[Site], report: Callable[[int], None] = lambda prompts: None
) -> list[Tensor]:
    """`[prompt, d]` of every site, float32 on the CPU, in one pass; reports how many prompts each batch had."""
    hooks = {site.hook: lm.hook(site.hook) for site in sites}
    at = [position(prompts, site.mark) for site in sites]
    found: list[list[Tensor]] = [[] for _ in sites]
    for start in range(0, len(prompts), BATCH_PROMPTS):
        rows = slice(start, start + BATCH_PROMPTS)
        values = lm.capture(prompts.tokens[rows, : int(prompts.end[rows].max()) + 1], list(hooks.values()))
        for site, where, column in zip(sites, at, found, strict=True):
            value = values[site.hook]
            example = torch.arange(value.shape[0], device=value.device)
            column.append(value[example, where[rows].to(value.device)][:, _part(hooks[site.hook], site)].float().cpu())
        report(len(prompts.end[rows]))
    return [torch.cat(column) for column in found]


def replacing(lm: LanguageModel, prompts: Prompts, section: Section, values: Sequence[Tensor]) -> Edited:
    """Prompts run with `[prompt, d]` values in place of what each site carries."""

    @contextmanager
    def edited(rows: slice) -> Iterator[None]:
        with ExitStack() as stack:
            for site, value in zip(section, values, strict=True):
                hook = lm.hook(site.hook)
                edit = _setter(position(prompts, site.mark)[rows], _part(hook, site), value[rows])
                stack.enter_context(lm.edited(hook, edit))
            yield

    return edited


def _part(hook: Hook, site: Site) -> slice:
    """The columns of a hook's flattened activations that a site is.

    Raises:
        SaelabError: the hook has no such head.
    """
    if site.head is None:
        return slice(None)
    if len(hook.shape) != 2 or site.head >= hook.shape[0]:
        heads = hook.shape[0] if len(hook.shape) == 2 else 0
        raise SaelabError(f"'{site}': {hook.name} has {heads} heads", where="eval.supervised.sites")
    return slice(site.head * hook.shape[1], (site.head + 1) * hook.shape[1])


def _setter(at: Tensor, part: slice, value: Tensor) -> Callable[[Tensor], Tensor]:
    def edit(activations: Tensor) -> Tensor:
        changed = activations.clone()
        example = torch.arange(len(at), device=changed.device)
        picked = changed[example, at.to(changed.device)]
        picked[:, part] = value.to(picked)
        changed[example, at.to(changed.device)] = picked
        return changed

    return edit
