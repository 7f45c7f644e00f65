"""Try a prompt, steer, compare and watch runs in a real browser, by clicks and typing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from .driver import Server
from .live_runs import log, make_runs

pytestmark = pytest.mark.slow
SLOW_MS = 60_000


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model_dir, tiny_text_file) -> Path:
    return make_runs(tmp_path_factory.mktemp("live"), tiny_model_dir, tiny_text_file)


@pytest.fixture
def page(browser: Browser, server: Server, tmp_path: Path) -> Iterator[Page]:
    """The app as it opens; in the end nothing was wrong in its console, and nobody else was asked for anything."""
    wrong: list[str] = []
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(SLOW_MS)
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: None if _local(asked.url, server) else wrong.append(asked.url))
    page.goto(f"{server.url}?run=one")
    yield page
    page.screenshot(path=tmp_path / "end.png", full_page=True)
    page.close()
    assert wrong == []


def _local(url: str, server: Server) -> bool:
    return url.startswith((server.url, server.url.replace("http:", "ws:"), "data:", "blob:"))


def to(page: Page, name: str) -> None:
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", level=1, name=name)).to_be_visible(timeout=SLOW_MS)


def run(page: Page) -> None:
    page.get_by_role("button", name="Run", exact=True).click()


def test_a_prompt_is_tried_and_a_latent_followed_to_its_page(page: Page):
    to(page, "Try a prompt")
    page.get_by_label("Text", exact=True).fill("the moon on the river")
    run(page)
    matrix = page.get_by_role("region", name="activation of latents (rows) on tokens (columns)")
    expect(matrix).to_be_visible(timeout=SLOW_MS)
    assert matrix.get_by_role("columnheader").count() == len("the moon on the river") + 2  # BOS, and the latents
    expect(page.get_by_text("22 tokens, 8 active latents each")).to_be_visible()
    latent = matrix.get_by_role("rowheader").first.get_by_role("link").inner_text()
    page.get_by_role("link", name="Open this feature").click()
    expect(page).to_have_url(f"{page.url.partition('prompt')[0].split('?')[0]}feature?run=one&latent={latent}")


def test_a_latent_is_steered(page: Page):
    to(page, "Steer")
    page.get_by_label("Prompt", exact=True).fill("the king")
    latents = page.get_by_role("combobox", name="Latents to change")
    latents.fill("5")
    latents.press("Enter")
    page.keyboard.press("Tab")  # closes the list of labels
    expect(page.get_by_text("its maximum of")).to_be_visible()
    run(page)
    expect(page.get_by_text("More likely when steered")).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    sides = page.locator(".sl-sides section")
    expect(sides).to_have_count(2)
    baseline = sides.first.inner_text()
    run(page)  # the same seed
    expect(sides.first).to_have_text(baseline, use_inner_text=True)
    page.get_by_label("Prompt", exact=True).fill("the moon")
    run(page)
    expect(sides.first).to_contain_text("the moon", timeout=SLOW_MS)
    expect(page).to_have_url(re.compile("text=the[+]moon"))


def test_two_runs_are_compared(page: Page):
    to(page, "Compare")
    page.get_by_role("combobox", name="Compare with").click()
    page.get_by_role("option", name="two", exact=True).click()
    expect(page).to_have_url(re.compile("other=two"))
    page.get_by_role("button", name="Match latents").click()
    expect(page.get_by_text("matched pairs")).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_role("img", name="Best cosine of each latent of two")).to_be_visible()
    page.get_by_role("region", name="Only in two").get_by_role("link").first.click()
    expect(page).to_have_url(re.compile(r"feature\?run=two&latent="))


def test_a_training_run_is_watched(page: Page, runs: Path):
    to(page, "Runs")
    page.get_by_role("combobox", name="Runs shown").click()
    page.get_by_role("option", name="going").click()
    page.keyboard.press("Escape")
    newest = page.get_by_role("region", name="newest values")
    row = newest.get_by_role("row", name="going")
    expect(row).to_be_visible()
    chart = page.locator("[role=graphics-document]").first
    expect(chart).to_have_attribute("aria-label", re.compile("over training steps: .*going ends at"))
    log(runs, "going", 500, **{"losses/total": 0.0625})
    log(runs, "going", 501, **{"losses/total": 0.0625})
    expect(row).to_contain_text("501", timeout=SLOW_MS)
    expect(row).to_contain_text("0.0625")


ADDRESSES = {
    "prompt": ("prompt?run=one", "Run", "Token by token"),
    "steer": ("steer?run=one&text=the+king&latent=5", "Run", "More likely when steered"),
    "compare": ("compare?run=one&other=two", "Match latents", "Unmatched latents"),
    "runs": ("runs?run=going", None, "Newest values"),
}
"""By page: where it is, what to press, and what is there in the end."""


@pytest.mark.parametrize(("scheme", "width"), [("light", 400), ("dark", 1400)])
def test_links_lead_here_and_nothing_is_cut_off(browser, server, tmp_path, scheme, width):
    page = browser.new_page(viewport={"width": width, "height": 2400}, color_scheme=scheme)
    page.set_default_timeout(SLOW_MS)
    for name, (address, button, last) in ADDRESSES.items():
        page.goto(server.url + address)
        if button:
            page.get_by_role("button", name=button, exact=True).click()
        expect(page.get_by_text(last).first).to_be_visible(timeout=SLOW_MS)
        page.screenshot(path=tmp_path / f"{name}.png")
        assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= width, name
    page.close()
