"""The page in a real web browser: it asks for nothing, complains of nothing, runs nothing, and fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from saelab.circuits.findings import findings
from saelab.circuits.report import of_findings
from tests.circuits.documents import SCRIPT, document
from tests.dashboards.driver import chromium
from tests.report_pages import Screen, contrast, screens, visited

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def pages(tmp_path: Path) -> dict[str, Path]:
    texts = {"circuit-whole": "", "circuit-hostile": SCRIPT}
    for name, text in texts.items():
        page = of_findings(findings(document(text=text), "x"))
        (tmp_path / f"{name}.html").write_text(page, encoding="utf-8")
    return {name: tmp_path / f"{name}.html" for name in texts}


@screens
def test_the_page_is_quiet_asks_for_nothing_and_fits(
    screen: Screen, browser: Browser, pages: dict[str, Path], tmp_path: Path
):
    assert len(list(visited(browser, pages, screen, tmp_path))) == 2


def test_what_is_written_on_parts_and_the_strongest_cells_are_readable_by_day_and_night(
    browser: Browser, pages: dict[str, Path]
):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(pages["circuit-whole"].as_uri())
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
