"""What every page of a report has to keep to in a real web browser, and measures of its colours.

Screenshots go to `$SAELAB_SCREENSHOTS`, where it is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Dialog, Page


@dataclass(frozen=True)
class Screen:
    """What a page is looked at on."""

    width: int
    scheme: Literal["light", "dark"]


screens = pytest.mark.parametrize("screen", [Screen(1400, "light"), Screen(390, "dark")], ids=["desk", "phone"])
"""A desk by day and a phone by night."""


def visited(browser: Browser, pages: Mapping[str, Path], screen: Screen, shots: Path) -> Iterator[tuple[str, Page]]:
    """Each page in turn, unfolded, once it is found to ask for nothing, complain of nothing, run nothing, and fit."""
    folder = Path(os.environ.get("SAELAB_SCREENSHOTS") or shots)
    page = browser.new_page(viewport={"width": screen.width, "height": 900}, color_scheme=screen.scheme)
    said: list[str] = []

    def refuse(dialog: Dialog) -> None:
        said.append(dialog.message)
        dialog.dismiss()

    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", refuse)
    page.on("request", lambda asked: said.append(asked.url))
    for name, path in pages.items():
        said.clear()
        page.goto(path.as_uri())
        _fits(page, screen)
        page.screenshot(path=folder / f"{name}-{screen.width}-{screen.scheme}.png", full_page=True)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        _fits(page, screen)
        assert page.locator("script, iframe, img, form, link").count() == 0
        assert page.title() != "broken"
        assert said == [path.as_uri()]
        yield name, page
    page.close()


def _fits(page: Page, screen: Screen) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= screen.width


def contrast(page: Page, one: str, other: str) -> float:
    """The ratio of luminances of two of the page's colours (WCAG 2)."""
    return page.evaluate(
        """([one, other]) => {
          const probe = document.createElement("i");
          document.body.append(probe);
          const luminance = name => {
            probe.style.color = `var(${name})`;
            const parts = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map(x => x / 255);
            const [r, g, b] = parts.map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
          probe.remove();
          return (high + 0.05) / (low + 0.05);
        }""",
        [one, other],
    )
