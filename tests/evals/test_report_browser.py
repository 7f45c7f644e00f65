"""The page in a real web browser: it asks for nothing, complains of nothing, runs nothing, and fits a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from saelab.evals.report import Comparison, Member, of_comparison, of_run, read
from tests.dashboards.driver import chromium
from tests.evals.report_runs import SCRIPT, hostile_run, matching_index, whole_run
from tests.report_pages import Screen, contrast, screens, visited

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def pages(tmp_path: Path, write_run: Callable[..., Path]) -> dict[str, Path]:
    """One run, a hostile one, and several beside each other."""
    whole = matching_index(whole_run(tmp_path / "whole", write_run))
    hostile = matching_index(hostile_run(tmp_path / "hostile", write_run))
    members = [Member(f"{SCRIPT} {n}", n, [read(path)]) for n, path in enumerate((whole, hostile))]
    written = {
        "whole": of_run(read(whole)),
        "hostile": of_run(read(hostile)),
        "several": of_comparison(Comparison("several", members)),
    }
    for name, text in written.items():
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: tmp_path / f"{name}.html" for name in written}


@screens
def test_the_page_is_quiet_asks_for_nothing_and_fits(
    screen: Screen, browser: Browser, pages: dict[str, Path], tmp_path: Path
):
    for name, page in visited(browser, pages, screen, tmp_path):
        assert page.title() == f"{name} · saelab report"


def test_hostile_text_is_shown_as_text(browser: Browser, pages: dict[str, Path]):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(pages["hostile"].as_uri())
    assert page.locator("h3").get_by_text(SCRIPT, exact=True).first.is_visible()
    assert page.locator("article").get_by_text(SCRIPT).first.is_visible()
    assert "broken" not in page.title()
    page.close()


def test_links_lead_to_sections_and_text_is_readable_by_day_and_night(browser: Browser, pages: dict[str, Path]):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(pages["whole"].as_uri())
    page.get_by_role("navigation").get_by_role("link", name="Example features").click()
    assert page.url.endswith("#features")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for colour in ("--ink", "--dim", "--link"):
            assert contrast(page, colour, "--sheet") >= 4.5
        for number in range(9):
            assert contrast(page, f"--c{number}", "--sheet") >= 3  # what is drawn
    page.close()


def test_pointing_at_a_series_dims_the_others(browser: Browser, pages: dict[str, Path]):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(pages["several"].as_uri())
    page.locator(".key li").first.hover()
    own, other = (page.locator(f".plot .k{number}").first for number in (0, 1))
    opacity = "one => Number(getComputedStyle(one).opacity)"
    for _ in range(200):  # it fades; to wait inside the page would take eval, which the page forbids
        if other.evaluate(opacity) < 0.5:
            break
        page.wait_for_timeout(25)
    assert own.evaluate(opacity) == 1
    assert other.evaluate(opacity) < 0.5
    page.close()
