"""The auditor's whole path in a real browser: sign in, filter, open a push, page its files, export, see a broken chain reported."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from browser import chrome
from browser.audited import AUDITOR, Audited, audited
from browser.chrome import Visit
from browser.stage import Stage
from browser.steps import sign_in_as

pytestmark = pytest.mark.xdist_group("browser")

PICTURES = os.environ.get("PICTURES", "")


@pytest.fixture(scope="module")
def record(world: Stage) -> Audited:
    """Two years of somebody's pushes, put into the database as a superuser; one of them real, and sound."""
    return audited(world)


@pytest.fixture
def auditor(world: Stage, record: Audited, chromium: Browser) -> Iterator[Visit]:
    """Somebody with the role, signed in."""
    with chrome.visiting(chromium, world.url) as visiting:
        sign_in_as(visiting.page, world, AUDITOR)
        yield visiting
        assert (visiting.problems, visiting.leaks()) == ([], [])


def test_an_auditor_finds_a_push_reads_all_of_it_and_takes_a_copy(
    world: Stage, record: Audited, auditor: Visit, tmp_path: Path
) -> None:
    """From the navigation to the last file, with the mouse."""
    page = auditor.page
    page.get_by_role("link", name="Audit", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("History")
    expect(page.get_by_role("img", name="Pushes by month")).to_be_visible()

    page.get_by_label("State").select_option(label="Failed")
    page.get_by_text("More filters").click()
    page.get_by_label("Owner").fill("grace")
    page.get_by_role("button", name="Show", exact=True).click()
    rows = page.get_by_role("region", name="Pushes", exact=True).locator("tbody tr")
    expect(rows.first).to_contain_text("grace")
    assert set(rows.locator(".badge").all_inner_texts()) == {"Failed"}
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    copy = tmp_path / download.value.suggested_filename
    download.value.save_as(copy)
    with copy.open(encoding="utf-8", newline="") as f:
        taken = list(csv.DictReader(f))
    assert {(row["owner"], row["state"]) for row in taken} == {("grace", "failed")}
    assert world.sql("SELECT count(*) FROM event WHERE kind = 'audit.exported' AND actor = %s", AUDITOR) == [(1,)]
    page.get_by_role("link", name="Take away: State").click()
    expect(page.get_by_role("link", name="Take away: State")).to_have_count(0)

    page.goto(f"{world.url}/audit/pushes/{record.large}")
    files = page.locator("#files tbody tr")
    expect(files).to_have_count(100)
    page.get_by_role("link", name="More files").click()
    expect(files.first).to_contain_text("sample-000101")
    page.get_by_label("In the path").fill("sample-0009")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(files).to_have_count(100)
    page.get_by_label("Verdict").select_option(label="failed")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(files).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("group", name="Export these files").get_by_role("link", name="CSV").click()
    download.value.save_as(copy)
    with copy.open(encoding="utf-8", newline="") as f:
        assert [(row["seq"], row["state"]) for row in csv.DictReader(f)] == [("911", "failed"), ("972", "failed")]

    page.goto(f"{world.url}/audit/pushes/{record.real}")
    page.get_by_role("button", name="Verify this push now").click()
    expect(page.get_by_role("status")).to_contain_text("Sound: this push is as it was written")


def test_a_broken_chain_is_reported_where_it_broke(world: Stage, record: Audited, auditor: Visit) -> None:
    """A superuser edits one event, and the notary inspects: pages name it, mark it, and lead to it. Before, all is sound."""
    page = auditor.page
    page.goto(f"{world.url}/audit/integrity")
    expect(page.get_by_role("status")).to_contain_text("found nothing that is not as it was written")
    with record.broken(world):
        page.goto(f"{world.url}/audit/pushes/{record.real}")
        page.get_by_role("button", name="Verify this push now").click()

        told = page.get_by_role("alert")
        expect(told).to_contain_text("Not sound")
        expect(told).to_contain_text("was edited")
        told.get_by_role("link", name="event 2").first.click()
        expect(page.locator("#event-2")).to_be_in_viewport()
        page.goto(f"{world.url}/audit/integrity")
        expect(page.get_by_role("alert")).to_contain_text("Not sound: 1 fault")
        expect(page.get_by_role("alert")).to_contain_text("event 2 (push.claimed) was edited")
        page.get_by_role("alert").get_by_role("link", name=record.real).click()
        page.wait_for_url(f"**/audit/pushes/{record.real}")


def test_a_record_that_was_restored_is_not_what_vault_remembers(world: Stage, record: Audited, auditor: Visit) -> None:
    """The database alone is as it once was; it is told at once, before any inspection, and of each push."""
    page = auditor.page
    with record.restored(world):
        page.goto(f"{world.url}/audit/integrity")
        expect(page.get_by_role("alert")).to_contain_text("restored to an older state, or cut short")
        page.goto(f"{world.url}/audit/pushes/{record.real}")
        page.get_by_role("button", name="Verify this push now").click()
        expect(page.get_by_role("alert")).to_contain_text("restored to an older state, or cut short")
    page.goto(f"{world.url}/audit/integrity")
    expect(page.get_by_text("and it is there")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_all_of_it_works_without_javascript(world: Stage, record: Audited, chromium: Browser) -> None:
    """Filter, summary, paging, verifying: forms and links only."""
    with chrome.visiting(chromium, world.url, java_script_enabled=False) as visiting:
        page = visiting.page
        sign_in_as(page, world, AUDITOR)
        page.goto(f"{world.url}/audit")
        page.get_by_label("From").fill("2025-01-01")
        page.get_by_role("button", name="Show", exact=True).click()
        page.get_by_role("link", name="Totals, and counts").click()
        expect(page.get_by_role("img", name="Pushes by")).to_be_visible()
        page.get_by_role("link", name="To the pushes themselves").click()
        page.get_by_role("link", name="Older").click()
        expect(page.get_by_role("link", name="Newest")).to_be_visible()
        page.goto(f"{world.url}/audit/pushes/{record.real}")
        page.get_by_role("button", name="Verify this push now").click()
        expect(page.get_by_role("status")).to_contain_text("Sound")


def every_page(record: Audited) -> dict[str, str]:
    return {
        "history": "/audit?state=failed&owner=grace&bucket=archive",
        "history, empty": "/audit?owner=nobody-at-all",
        "history, wrong": "/audit?since=yesterday&label=x&code=NO",
        "summary": "/audit/summary",
        "push": f"/audit/pushes/{record.real}",
        "ledger": "/audit/ledger",
        "events of credentials": "/audit/ledger/events",
        "credential": f"/audit/ledger/{record.credential}",
        "integrity": "/audit/integrity",
    }


def test_every_page_can_be_used_by_everybody_and_breaks_no_rule(world: Stage, record: Audited, auditor: Visit) -> None:
    """axe-core finds nothing serious, light or dark; no violation of the content policy; no page wider than a telephone."""
    found: list[str] = []
    page = auditor.page
    for name, path in every_page(record).items():
        page.goto(f"{world.url}{path}")
        if page.locator("[data-part]").count():
            expect(page.locator("[data-part] .waiting")).to_have_count(0)
        found += [f"{name}: {problem}" for problem in auditor.judge("light")]
        # What is dark has the same elements in other colours.
        found += [f"{name}: {problem}" for problem in auditor.judge("dark", "color-contrast")]
        found += [f"{name}: {problem}" for problem in auditor.violations()]
        page.set_viewport_size({"width": 320, "height": 640})
        wide = page.evaluate("document.documentElement.scrollWidth")
        found += [f"{name}: {wide} pixels wide on a screen of 320"] if wide > 320 else []
        page.set_viewport_size({"width": 1100, "height": 800})
        found += [f"{name}: {n} headings of level 1"] if (n := page.locator("h1").count()) != 1 else []

    assert found == []


@pytest.mark.skipif(not PICTURES, reason="only where PICTURES names a directory: `make browser PICTURES=docs/pictures`")
def test_pictures_are_taken(world: Stage, record: Audited, auditor: Visit) -> None:
    """Of what docs/auditors.md shows; made anew by hand when pages change."""
    target = Path(PICTURES)
    target.mkdir(parents=True, exist_ok=True)
    page = auditor.page
    page.set_viewport_size({"width": 1280, "height": 800})

    def shoot(name: str, height: int = 0) -> None:
        page.evaluate("document.activeElement && document.activeElement.blur()")
        clip = {"clip": {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height}} if height else {}  # type: ignore[index]
        page.screenshot(path=target / f"{name}.png", full_page=True, animations="disabled", **clip)  # type: ignore[arg-type]

    def come() -> None:
        expect(page.locator("[data-part] .waiting")).to_have_count(0)

    page.goto(f"{world.url}/audit")
    come()
    shoot("audit-history", 1250)
    page.emulate_media(color_scheme="dark")
    shoot("audit-history-dark", 1250)
    page.emulate_media(color_scheme="light")
    page.goto(f"{world.url}/audit?since=yesterday&owner=grace&label=genomes")
    shoot("audit-filter-wrong")
    page.goto(f"{world.url}/audit/pushes/{record.large}")
    shoot("audit-push", 1500)
    page.goto(f"{world.url}/audit/ledger")
    shoot("audit-ledger")
    page.goto(f"{world.url}/audit/ledger/{record.credential}")
    shoot("audit-credential", 1100)
    page.goto(f"{world.url}/audit/ledger/events")
    shoot("audit-ledger-events", 1100)
    page.goto(f"{world.url}/audit/integrity")
    shoot("audit-integrity")
    with record.broken(world):
        page.goto(f"{world.url}/audit/pushes/{record.real}")
        page.get_by_role("button", name="Verify this push now").click()
        shoot("audit-push-broken", 1500)
        page.goto(f"{world.url}/audit/integrity")
        shoot("audit-integrity-broken")
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{world.url}/audit")
    come()
    shoot("audit-history-phone", 1700)
    page.goto(f"{world.url}/audit/pushes/{record.large}")
    shoot("audit-push-phone", 3000)
