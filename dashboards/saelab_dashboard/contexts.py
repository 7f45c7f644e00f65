"""The contexts in which a latent fires."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import streamlit as st

from saelab.features import Bundle, Example, Feature, render
from saelab_dashboard import links, states
from saelab_dashboard.session import OpenRun

_AROUND = 14
"""Tokens on either side of the peak, unless more is asked for."""
_OPEN = "open"
"""The example that is shown with its surroundings, in addresses."""


def show(run: OpenRun, bundle: Bundle, feature: Feature) -> None:
    """By interval of activation, the strongest first; then those below 0."""
    if feature.dead:
        states.box(
            "info",
            "This latent is dead here",
            f"It fired on none of the {bundle.n_tokens:,} tokens of this index, so there is no context to show. "
            "What its decoder writes, and where it points, is known all the same.",
        )
        return
    chosen = st.segmented_control("Show", ["around the peak", "whole contexts"], default="around the peak", key="width")
    around = None if chosen == "whole contexts" else _AROUND
    blocks = "".join(_blocks(run, bundle, feature, around))
    st.html(f'<div data-shows="{feature.latent}">{blocks}</div>')


def _blocks(run: OpenRun, bundle: Bundle, feature: Feature, around: int | None) -> Iterator[str]:
    said = st.query_params.get(_OPEN)
    examples = list(enumerate(bundle.examples(feature.latent)))
    scale = max(feature.max, -feature.min)
    for number, group in groupby(examples, key=lambda item: item[1].bin):
        members = list(group)
        heading, span = _heading(number, [example for _, example in members])
        yield f'<h2>{heading} <small>{span}</small></h2><ul class="sl-examples" data-stay>'
        for index, example in members:
            yield _example(run, bundle, feature, example, index, scale, around, opened=said == str(index))
        yield "</ul>"


def _heading(number: int, members: list[Example]) -> tuple[str, str]:
    values = [example.value for example in members]
    span = f"{render.number(min(values))} to {render.number(max(values))}"
    if number in (0, -1):
        return ("Strongest" if number == 0 else "Most negative"), f"{len(members)} contexts, {span}"
    depth = number if number > 0 else -1 - number
    return f"Interval {depth}{' below 0' if number < 0 else ''}", f"drawn at random, {span}"


def _example(
    run: OpenRun,
    bundle: Bundle,
    feature: Feature,
    example: Example,
    index: int,
    scale: float,
    around: int | None,
    *,
    opened: bool,
) -> str:
    context = bundle.context(example.context)
    tokens = [bundle.token(token) for token in context.tokens]
    shown = render.highlighted(
        tokens, example.values, scale=scale, at=example.position, around=None if opened else around
    )
    if opened:
        before, after = _surroundings(bundle, example)
        shown = before + shown + after
    toggle = links.anchor(
        "less" if opened else "more",
        "feature",
        run.name,
        latent=feature.latent,
        open=None if opened else index,
        attributes=f'aria-label="{"less" if opened else "more"} of context {example.context}"',
    )
    return (
        f'<li><span class="sl-peak" title="activation at the outlined token">{render.number(example.value)}</span>'
        f'<div class="sl-text">{shown}</div><span class="sl-more">{toggle}</span></li>'
    )


def _surroundings(bundle: Bundle, example: Example) -> tuple[str, str]:
    """The contexts on either side, as far as they are of the same document. Activations there are not stored."""
    here = bundle.context(example.context)
    document = here.documents[example.position]
    number = f'<p class="sl-dim">context {here.number:,}, document {document:,}, token {example.position}</p>'
    return number + _part(bundle, here.number - 1, document, "before"), _part(
        bundle, here.number + 1, document, "after"
    )


def _part(bundle: Bundle, number: int, document: int, side: str) -> str:
    if not 0 <= number < bundle.n_contexts:
        return ""
    context = bundle.context(number)
    tokens = [
        bundle.token(token) for token, of in zip(context.tokens, context.documents, strict=True) if of == document
    ]
    if not tokens:
        return ""
    text = render.highlighted(tokens, {}, scale=1.0)
    return f'<div class="sl-around" role="group" aria-label="the context {side}, without activations">{text}</div>'
