"""How fast the feature browser answers, in a real browser, and what it takes.

    python -m tests.benchmarks.browse INDEX_RUN [--clicks 60]

From a click to the content on the page, as the browser's own clock says; the first of each kind is left out. A large
index is what it is for.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from playwright.sync_api import Page

from saelab.features import Bundle
from tests.dashboards.driver import chromium, serving

_ARM = """
() => {
  const shown = () => [...document.querySelectorAll("[data-shows]")].map((element) => element.dataset.shows);
  const before = shown();
  window.answered = new Promise((resolve, reject) => {
    const begin = (event) => {
      const start = performance.now();
      const look = () => {
        const now = shown();
        const done = now.length && now.every((mark) => mark === now[0]) && now[0] !== before[0];
        if (done) requestAnimationFrame(() => resolve(performance.now() - start));
        else if (performance.now() - start > 10000) reject(new Error(`still ${now}`));
        else setTimeout(look, 1);
      };
      look();
    };
    for (const kind of ["click", "keydown"]) document.addEventListener(kind, begin, { capture: true, once: true });
  });
}
"""
"""Waits for the next click or key, then until every marked part of the page shows something else than before."""


def timed(page: Page, act: Callable[[], None]) -> float:
    """Milliseconds from the click or key in `act` to the content."""
    page.evaluate(_ARM)
    act()
    return float(page.evaluate("window.answered"))


def features(page: Page, clicks: int) -> list[float]:
    """Through latents by their links: next, random, and those near."""
    links = ("a[rel=next]", "nav a:text('random')", "td a.sl-link")
    return [timed(page, page.locator(links[i % len(links)]).first.click) for i in range(clicks)]


def sorts(page: Page, clicks: int) -> list[float]:
    """By every column, both ways."""
    columns = page.locator("th a.sl-link")
    return [timed(page, columns.nth(i % columns.count()).click) for i in range(clicks)]


def searches(page: Page, words: list[str]) -> list[float]:
    """For tokens, as a person types them."""
    found = []
    for word in words:
        page.get_by_label("Search", exact=True).fill(word)
        found.append(timed(page, lambda: page.get_by_label("Search", exact=True).press("Enter")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the feature browser on a run's index.")
    parser.add_argument("run", type=Path, help="a run with an index")
    parser.add_argument("--clicks", type=int, default=60)
    arguments = parser.parse_args()
    run, clicks = arguments.run.resolve(), arguments.clicks
    words = [text for text in map(str.strip, Bundle(run / "index").vocabulary) if len(text) > 2 and text.isalnum()]
    words = random.Random(0).sample(words, min(clicks // 2, len(words)))
    with (
        tempfile.TemporaryDirectory() as scratch,
        serving(run, log=Path(scratch) / "log") as server,
        chromium() as browser,
    ):
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        for name, path, act in (
            ("feature page", "feature", lambda: features(page, clicks)),
            ("sort", "features", lambda: sorts(page, clicks // 2)),
            ("search", "features", lambda: searches(page, words)),
        ):
            page.goto(f"{server.url}{path}?run={run.name}")
            page.wait_for_selector("[data-shows]")
            _say(name, act()[1:])  # the first opens files
        memory = psutil.Process(server.pid).memory_info().rss
        print(f"{'resident memory':<16} {memory / 1e6:8.0f} MB")  # noqa: T201


def _say(name: str, milliseconds: list[float]) -> None:
    if not milliseconds:
        print(f"{name:<16} nothing to measure")  # noqa: T201
        return
    middle, high = np.percentile(milliseconds, [50, 95])
    print(f"{name:<16} p50 {middle:6.0f} ms   p95 {high:6.0f} ms   of {len(milliseconds)}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
