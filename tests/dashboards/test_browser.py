"""The browser driven as a person would: by clicks, keys and addresses, in a real web browser.

Screenshots go to `$SAELAB_SCREENSHOTS`, where it is set.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from saelab.features import Bundle
from tests.circuits.documents import SCRIPT, document

from .conftest import MakeRun
from .driver import Server, serving

pytestmark = pytest.mark.slow
_WAIT_MS = 20_000
expect.set_options(timeout=_WAIT_MS)
_PROBE = re.compile(r"/(features?|circuits)/_stcore/(health|host-config)$")
"""Opened at a page's own address, Streamlit asks there for its server first, and is told 404."""
_PIECES = "[data-testid=stBidiComponentIsolated]"
"""Where pieces of reports are."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun) -> Path:
    root = tmp_path_factory.mktemp("browser") / "runs"
    make_run(root / "tiny", n_latents=130)
    make_run(root / "signed", signed=True, hostile=True)
    make_run(root / "unindexed", index=False)
    for name, text in (("hostile", SCRIPT), ("ioi", "")):
        whole = document(text=text)
        whole["features"]["sae_sha256"] = Bundle(root / "tiny" / "index").sae_sha256
        (root / name).mkdir()
        (root / name / "circuit.json").write_text(json.dumps(whole))
    return root


class Watched:
    """A window; `wrong` are errors on its console, and whatever it asked of any other machine."""

    def __init__(self, browser: Browser, width: int = 1400, scheme: Literal["light", "dark"] = "light"):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.set_default_timeout(_WAIT_MS)
        self.wrong: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda asked: self._asked(asked.url))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not _PROBE.search(message.location["url"]):
            self.wrong.append(message.text)

    def _asked(self, url: str) -> None:
        if not re.match(r"(http|ws)://127\.0\.0\.1:\d+/|data:|blob:http://127\.0\.0\.1:", url):
            self.wrong.append(url)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """In the end nothing was wrong in its console, and no other machine was asked for anything."""
    watched = Watched(browser)
    yield watched.page
    watched.page.close()
    assert watched.wrong == []


def heading(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def params(page: Page) -> str:
    return page.url.partition("?")[2]


def test_find_a_feature_by_token_label_it_and_find_it_by_the_label_after_a_restart(
    page: Page, runs: Path, tmp_path: Path
):
    bundle = Bundle(runs / "tiny" / "index")
    tree = bundle.vocabulary.index(" tree")
    with serving(runs, log=tmp_path / "first.txt") as server:
        page.goto(f"{server.url}?run=tiny")
        page.get_by_test_id("stSidebarNav").get_by_role("link", name="Features").click()
        heading(page, "Features")
        page.get_by_label("Search", exact=True).fill("Tree")
        page.get_by_label("Search", exact=True).press("Enter")
        expect(page.get_by_text("1 token matched")).to_be_visible()
        row = page.locator("tbody tr").first
        latent = int(row.locator("a").inner_text())
        assert tree in bundle.columns["fire_tokens"][latent]
        row.locator("a").click()
        heading(page, re.compile(f"Latent {latent}$"))
        page.get_by_label("Label").fill("about <b>trees</b>")
        page.get_by_role("button", name="Save").click()
        heading(page, f"Latent {latent}: about <b>trees</b>")
        page.goto("about:blank")
    with serving(runs, log=tmp_path / "second.txt") as server:
        page.goto(f"{server.url}features?run=tiny&by=label&q=tre")
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.locator("tbody tr")).to_contain_text("about <b>trees</b>")
        page.locator("tbody a").click()
        heading(page, f"Latent {latent}: about <b>trees</b>")
        page.goto("about:blank")  # a page whose server is gone complains


def test_a_deep_link_opens_cold_and_the_address_follows(page: Page, server: Server):
    page.goto(f"{server.url}feature?run=tiny&latent=7")
    heading(page, "Latent 7")
    expect(page).to_have_title("Latent 7 · saelab")
    page.get_by_role("link", name="next").click()
    heading(page, "Latent 8")
    expect(page).to_have_url(f"{server.url}feature?run=tiny&latent=8")
    page.locator("body").press("ArrowLeft")
    heading(page, "Latent 7")
    page.get_by_label("Go to latent").fill("100")
    page.get_by_label("Go to latent").press("Enter")
    heading(page, "Latent 100")
    expect(page.locator("[data-shows='100']")).to_have_count(2)  # its contexts, and what else is known
    near = page.locator("td a").first
    number = near.inner_text()
    near.click()
    heading(page, f"Latent {number}")
    assert params(page) == f"run=tiny&latent={number}"
    page.reload()
    heading(page, f"Latent {number}")
    page.go_back()
    heading(page, "Latent 100")


def test_more_of_a_context_is_shown_where_it_is(page: Page, server: Server):
    page.goto(f"{server.url}feature?run=tiny&latent=7")
    page.get_by_role("link", name="more of context").nth(2).click()
    expect(page.get_by_role("group", name=re.compile("without activations"))).to_be_visible()
    page.get_by_role("link", name="less of context").click()
    expect(page.get_by_role("group", name=re.compile("without activations"))).to_have_count(0)


def test_the_table_is_sorted_and_turned_by_clicks(page: Page, runs: Path, server: Server):
    largest = Bundle(runs / "tiny" / "index").columns["max"]
    page.goto(f"{server.url}features?run=tiny")
    page.get_by_role("link", name="Max").click()
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Max")
    expect(page.locator("tbody a").first).to_have_text(str(largest.argmax()))
    page.get_by_role("link", name="next →").first.click()
    expect(page.get_by_text("page 2 of 3").first).to_be_visible()
    page.get_by_label("Latents").click()
    page.get_by_role("option", name="dead").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    assert params(page) == "run=tiny&sort=max&show=dead"


def test_a_point_of_the_map_leads_to_its_feature(page: Page, server: Server):
    page.goto(f"{server.url}?run=tiny")
    canvas = page.locator("canvas").first
    canvas.wait_for()
    box = canvas.bounding_box()
    assert box is not None
    drawn = page.evaluate(
        """() => {
          const canvas = document.querySelector("canvas"), scale = canvas.width / canvas.clientWidth;
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height * 0.8).data;
          for (let i = 3; i < pixels.length; i += 4)
            if (pixels[i] > 150 && pixels[i - 1] !== pixels[i - 2])
              return [((i >> 2) % canvas.width) / scale, Math.floor((i >> 2) / canvas.width) / scale];
        }"""
    )
    page.mouse.click(box["x"] + drawn[0], box["y"] + drawn[1] + 3)
    heading(page, re.compile(r"Latent \d+"))


@pytest.mark.parametrize("name", ["../../etc", "%2e%2e%2fsigned", "/etc/passwd"])
def test_a_traversal_is_refused_and_there_is_a_way_on(name: str, page: Page, server: Server):
    page.goto(f"{server.url}?run={name}")
    expect(page.get_by_text("There is no run")).to_be_visible()
    page.locator(".sl-state").get_by_role("link", name="signed").click()
    heading(page, "signed")


def test_hostile_text_does_nothing(page: Page, server: Server):
    page.goto(f"{server.url}feature?run=signed&latent=5")
    heading(page, "Latent 5")
    expect(page.get_by_text("<script>document.title='broken'</script>").first).to_be_attached()
    assert "broken" not in page.title()
    assert page.locator("img[src=x]").count() == 0


def test_a_circuit_is_looked_at_by_method_and_a_head_leads_to_a_latent(page: Page, server: Server, tmp_path: Path):
    page.goto(f"{server.url}circuits?circuit=hostile")
    first = page.get_by_role("img", name="Scores of edges<script>")
    expect(first).to_be_visible(timeout=3 * _WAIT_MS)  # the page's libraries are loaded first
    assert page.locator(f"{_PIECES} script").count() == 0
    assert "broken" not in page.title()
    page.get_by_role("region", name="experiments").get_by_role("link", name="ioi").click()
    expect(page.get_by_role("img", name="Scores of edges, by layer and head")).to_be_visible()
    page.get_by_role("combobox", name="Method").click()
    page.get_by_role("option", name="first").click()
    expect(page.get_by_role("img", name="Scores of first, by layer and head")).to_be_visible()
    assert params(page) == "circuit=ioi&method=first"
    sheet = page.locator(f"{_PIECES} figure").first
    expect(sheet).to_have_css("background-color", "rgb(255, 255, 255)")
    page.emulate_media(color_scheme="dark")  # which the page follows, and pieces follow the page
    expect(sheet).to_have_css("background-color", "rgb(25, 28, 32)")
    page.set_viewport_size({"width": 400, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.screenshot(path=Path(os.environ.get("SAELAB_SCREENSHOTS") or tmp_path) / "circuit-400-dark.png")
    page.get_by_role("region", name="latents in the task").get_by_role("link", name="3").click()
    heading(page, "Latent 3")
    assert params(page) == "run=tiny&latent=3"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_pages_fit_wide_and_narrow_windows_by_day_and_night(
    width: int, scheme: Literal["light", "dark"], browser: Browser, server: Server, tmp_path: Path
):
    folder = Path(os.environ.get("SAELAB_SCREENSHOTS") or tmp_path)
    watched = Watched(browser, width, scheme)
    page = watched.page
    for name, address, ready in (
        ("overview", "?run=tiny", "canvas"),
        ("features", "features?run=tiny&q=tree", "tbody tr"),
        ("feature", "feature?run=signed&latent=5", "mark"),
        ("unindexed", "?run=unindexed", ".sl-state"),
        ("unknown", "?run=nothing", ".sl-state"),
    ):
        page.goto(server.url + address)
        page.locator(ready).first.wait_for()
        expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
        page.screenshot(path=folder / f"{name}-{width}-{scheme}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
    assert watched.wrong == []
