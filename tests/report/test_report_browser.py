"""The report in a real browser: nothing leaves it, everything works by mouse and by keyboard."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from made_pages import HOSTILE, make_large, make_plain, make_shop
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright
from typer.testing import CliRunner

from cammsr_cli.app import app

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}

LARGEST = 5_000_000
"""Bytes of a report, whatever the catalogue."""


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        if os.environ.get("CAMMSR_REQUIRE_BROWSER"):
            pytest.fail("chromium is not installed, and CAMMSR_REQUIRE_BROWSER is set")
        pytest.skip("chromium is not installed")
    opened = playwright.chromium.launch(
        executable_path=chromium, args=["--no-sandbox"], env={**os.environ, "LANG": "C.UTF-8"}
    )
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_report(make_shop(tmp_path_factory.mktemp("shop")))


def written_report(shop: Path) -> Path:
    file = shop / "report.html"
    result = CliRunner().invoke(
        app,
        ["evaluate", str(shop / "run"), "--report", str(file), "--media-root", f"{shop}/media"],
    )
    assert result.exit_code == 0, result.output
    return file


@dataclass
class Opened:
    """A page, and what it said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)


@pytest.fixture
def opened(browser: Browser, report: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    size, scheme = getattr(request, "param", (DESK, "light"))
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("dialog", lambda dialog: found.said.append(f"dialog: {dialog.message}"))
    found.page.on("request", lambda cases: found.cases.append(cases.url))
    found.page.goto(report.as_uri())
    yield found
    context.close()
    assert found.said == []
    assert [url for url in found.cases if not url.startswith("data:")] == [report.as_uri()]


def users(page: Page) -> list[str]:
    """Ids of the users that are shown, in their order."""
    shown = page.locator(".person:visible")
    return [str(one.get_attribute("data-user")) for one in shown.all()]


def test_every_picture_and_chart_is_there(opened: Opened) -> None:
    page = opened.page
    expect(page.locator("img:not([src])")).to_have_count(0)
    page.evaluate("Promise.all([...document.images].map(one => one.decode()))")  # or it throws
    assert page.locator("img").count() > 100
    assert page.locator(".play").count() > 0
    for chart in page.locator(".chart").all():
        expect(chart.locator("svg circle").first).to_be_attached()
    assert page.evaluate("document.documentElement.scrollWidth") <= DESK["width"]


def test_titles_of_strangers_are_text(opened: Opened) -> None:
    titles = set(opened.page.locator(".card h4").all_text_contents())
    shown = {title.replace("\x1b", "\ufffd").replace("\x07", "\ufffd") for title in HOSTILE}
    assert len(titles & shown) >= 6
    assert opened.page.locator("marquee, main script, main i").count() == 0
    right_to_left = opened.page.locator(".card h4", has_text="كتاب").first
    assert right_to_left.evaluate("one => getComputedStyle(one).direction") == "rtl"


def test_searching_filtering_and_sorting_by_mouse(opened: Opened) -> None:
    page = opened.page
    everybody = users(page)
    status = page.get_by_role("status")
    expect(status).to_have_text("24 of 24 users")

    page.get_by_label("Find a user").fill(everybody[3].upper())
    found = users(page)
    assert everybody[3] in found
    assert all(everybody[3] in one for one in found)
    expect(status).to_have_text(f"{len(found)} of 24 users")
    page.get_by_label("Find a user").fill("nobody is called so")
    expect(page.get_by_text("No user is left.")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    expect(status).to_have_text("24 of 24 users")
    assert users(page) == everybody

    page.get_by_label("Category", exact=True).select_option(label="<i>Books</i>")
    for card in page.locator(".card:visible").all():
        assert "<i>Books</i>" in str(card.locator(".categories").text_content())
    page.get_by_label("Category", exact=True).select_option("")
    page.get_by_label("Put forward", exact=True).select_option("video")
    forms = {card.get_attribute("data-form") for card in page.locator(".card:visible").all()}
    assert forms == {"video"}
    page.get_by_label("Put forward", exact=True).select_option("")

    page.get_by_label("Sort by").select_option("rank")
    ranks = [int(str(p.get_attribute("data-rank"))) for p in page.locator(".person").all()]
    assert ranks == sorted(ranks)
    page.get_by_label("Sort by").select_option("-rank")
    ranks = [int(str(p.get_attribute("data-rank"))) for p in page.locator(".person").all()]
    assert ranks == sorted(ranks, reverse=True)
    page.get_by_label("Sort by").select_option("user")
    assert users(page) == sorted(everybody, key=lambda one: int(one[1:]))


def test_everything_is_reached_and_used_by_keyboard(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.reload()
    opened.cases.pop()  # the page itself again
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.id || document.activeElement.tagName")
        seen.append(focused)
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", focused
        if focused == "sort":
            break
    order = ["theme", "search", "category", "form", "sort"]
    assert [one for one in seen if one in order] == order
    everybody = users(page)
    for _ in range(5):  # to the last way of sorting
        page.keyboard.press("ArrowDown")
    ranks = [int(str(p.get_attribute("data-rank"))) for p in page.locator(".person").all()]
    assert ranks == sorted(ranks, reverse=True)
    page.get_by_label("Find a user").focus()
    page.keyboard.type(everybody[0])
    assert everybody[0] in users(page)
    page.keyboard.press("Enter")  # sends nothing
    assert page.url.split("#")[0] == opened.cases[0]
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_role("status")).to_have_text("24 of 24 users")
    assert len(users(page)) == 24


def test_the_theme_is_the_system_s_until_it_is_chosen(opened: Opened) -> None:
    page = opened.page

    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    page.emulate_media(color_scheme="dark")
    dark = ground()
    assert dark != light
    button = page.locator("#theme")
    expect(button).to_contain_text("Light theme")
    button.click()
    assert ground() == light
    expect(button).to_contain_text("Dark theme")
    button.focus()
    page.keyboard.press("Enter")
    assert ground() == dark
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible()


@pytest.mark.parametrize(
    "opened",
    [(DESK, "light"), (DESK, "dark"), (PHONE, "light"), (PHONE, "dark")],
    ids=["light", "dark", "phone", "dark phone"],
    indirect=True,
)
def test_axe_finds_nothing(opened: Opened) -> None:
    page = opened.page
    for summary in page.locator("summary").all():
        summary.click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    width = page.viewport_size["width"] if page.viewport_size else 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_shop_of_ids_alone_has_a_report_too(browser: Browser, tmp_path: Path) -> None:
    shop = make_plain(tmp_path)
    file = shop / "report.html"
    result = CliRunner().invoke(app, ["evaluate", str(shop / "run"), "--report", str(file)])
    assert result.exit_code == 0, result.output
    assert "pictures not shown" not in result.output
    page = browser.new_page(viewport=PHONE)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    page.get_by_label("Sort by").select_option("rank")
    expect(page.locator(".person")).to_have_count(24)
    assert page.locator("img, #category, #form").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert said == []
    page.close()


@pytest.mark.slow
def test_a_page_of_a_hundred_thousand_items_is_small_and_quick(
    browser: Browser, tmp_path: Path
) -> None:
    file = written_report(make_large(tmp_path, items=100_000))
    assert file.stat().st_size < LARGEST
    page = browser.new_page(viewport=DESK)
    clock = page.context.new_cdp_session(page)
    # Time of the processor, so that a busy machine makes no difference.
    clock.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        told = clock.send("Performance.getMetrics")["metrics"]
        return float(next(one["value"] for one in told if one["name"] == "TaskDuration"))

    page.goto(file.as_uri())
    page.get_by_label("Find a user").fill("u1")
    expect(page.get_by_role("status")).not_to_have_text("24 of 24 users")
    loaded = spent()
    page.get_by_label("Sort by").select_option("user")
    page.get_by_label("Find a user").fill("")
    expect(page.get_by_role("status")).to_have_text("24 of 24 users")
    worked = spent() - loaded
    page.close()
    print(f"{file.stat().st_size / 1e6:.2f} MB, usable in {loaded:.2f} s, then {worked:.2f} s")
    assert loaded < 1
    assert worked < 1
