"""The page in a real web browser: it asks for nothing, complains of nothing, runs nothing, and fits a phone.

Screenshots go to `$SAELAB_SCREENSHOTS`, where it is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page

from saelab.circuits.findings import findings
from saelab.circuits.report import of_findings
from tests.circuits.documents import SCRIPT, document
from tests.dashboards.driver import chromium
from tests.evals.test_report_browser import contrast, unfold

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def pages(tmp_path: Path) -> dict[str, Path]:
    for name, text in (("whole", ""), ("hostile", SCRIPT)):
        page = of_findings(findings(document(text=text), "x"))
        (tmp_path / f"{name}.html").write_text(page, encoding="utf-8")
    return {name: tmp_path / f"{name}.html" for name in ("whole", "hostile")}


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_the_page_is_quiet_asks_for_nothing_and_fits(
    width: int, scheme: Literal["light", "dark"], browser: Browser, pages: dict[str, Path], tmp_path: Path
):
    folder = Path(os.environ.get("SAELAB_SCREENSHOTS") or tmp_path)
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: said.append(asked.url))
    for name, path in pages.items():
        said.clear()
        page.goto(path.as_uri())
        unfold(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.screenshot(path=folder / f"circuit-{name}-{width}-{scheme}.png", full_page=True)
        assert page.locator("script, iframe, img, form, link").count() == 0
        assert page.title() != "broken"
        assert said == [path.as_uri()]
    page.close()


def test_what_is_written_on_parts_and_the_strongest_cells_are_readable_by_day_and_night(
    browser: Browser, pages: dict[str, Path]
):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(pages["whole"].as_uri())
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for ground in ("z", "head p8", "head n8", "head p4"):
            assert painted(page, ground, "--ink") >= 4.5
        for cell in ("p8", "n8"):
            assert painted(page, cell, "--cell") >= 3
        assert contrast(page, "--ink", "--cell") >= 7  # frames, and lines through what is below 0
    page.close()


def painted(page: Page, kind: str, colour: str) -> float:
    """The ratio of luminances of what a class fills, and one of the page's colours (WCAG 2)."""
    page.evaluate(
        """kind => {
          const probe = document.createElementNS("http://www.w3.org/2000/svg", "rect");
          probe.setAttribute("class", kind);
          document.querySelector(".plot").append(probe);
          const pen = document.createElement("canvas").getContext("2d");
          pen.fillStyle = getComputedStyle(probe).fill;
          pen.fillRect(0, 0, 1, 1);
          const [r, g, b] = pen.getImageData(0, 0, 1, 1).data;
          probe.remove();
          document.documentElement.style.setProperty("--probe", `rgb(${r}, ${g}, ${b})`);
        }""",
        kind,
    )
    return contrast(page, "--probe", colour)
