"""The auditors' pages over a real database: who sees them, what a filter lets through, and what is never believed."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

import servers
import web_site
from builders import a_request, an_error, unverified, verified
from cloudpush.audit import listings
from cloudpush.audit.database import append_event
from cloudpush.errors import Code
from cloudpush.push.job import Verdict
from cloudpush.push.states import Event, State
from cloudpush.stack.services import Valkey
from cloudpush.web.api import turns
from cloudpush.wiring import WebServices
from notaries import FakeNotary
from web_site import Browser, Site, text_of

UNKNOWN = "00000000-0000-4000-8000-000000000000"
PAGES = (
    "/audit",
    "/audit/summary",
    "/audit/pushes/{push_id}",
    "/audit/pushes/{push_id}/receipt",
    "/audit/ledger",
    "/audit/ledger/events",
    "/audit/ledger/{credential_id}",
    "/audit/integrity",
    "/audit/integrity/keys.pem",
    "/audit/export/pushes?format=csv",
)


@pytest.fixture(scope="module")
def site(database: servers.Database, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with web_site.site(database, valkey.url(), tmp_path_factory.mktemp("web")) as made:
        for role in ("pipeline", "user", "auditor", "admin"):
            _grant(made, f"the-{role}", role)
        yield made


@pytest.fixture(scope="module")
def auditor(site: Site) -> Browser:
    return site.browser("the-auditor")


@pytest.fixture
def ada(site: Site) -> str:
    """Somebody new each time, so that no test sees another's things."""
    return f"ada-{uuid4().hex[:8]}"


def _grant(site: Site, principal: str, role: str) -> None:
    with site.record.owner.begin() as c:
        c.execute(
            sa.text("INSERT INTO principal_role (principal, role, granted_by) VALUES (:p, :r, 'test')"),
            {"p": principal, "r": role},
        )


def finished(site: Site, owner: str, verdict: Verdict | None = None, **request: Any) -> UUID:
    results = [*verified([1]), unverified(2)] if verdict else None
    return site.record.finished(results, verdict, **({"owner": owner, "actor": owner} | request))


def ids(page: str) -> list[str]:
    """The pushes that a page of the history lists, in its order."""
    return re.findall(r'href="/audit/pushes/([0-9a-f-]{36})"', page)


# -- who sees them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_only_auditors_and_admins_learn_that_the_pages_exist(site: Site, path: str) -> None:
    """Anybody else is told, word for word, what is told about a page that is not there."""
    push = site.record.finished()
    credential = site.record.history.push(push)["credential_id"]
    address = path.format(push_id=push, credential_id=credential)
    for who in ("the-user", "the-pipeline", "nobody-in-particular"):
        browser = site.browser(who)
        refused, nothing = browser.get(address), browser.get("/nothing-here")
        assert (who, refused.status_code, _plain(refused.text)) == (who, 404, _plain(nothing.text))
    for who in ("the-auditor", "the-admin"):
        assert site.browser(who).get(address).status_code != 404 or path.endswith("receipt")


def test_a_push_is_verified_for_auditors_only(site: Site) -> None:
    push = site.record.finished()
    told = {
        who: site.browser(who).send_form(f"/audit/pushes/{push}/verify").status_code
        for who in ("the-user", "the-pipeline", "somebody", "the-auditor", "the-admin")
    }
    assert told == {"the-user": 404, "the-pipeline": 404, "somebody": 404, "the-auditor": 200, "the-admin": 200}


def test_a_form_without_its_token_verifies_nothing(site: Site, auditor: Browser) -> None:
    push = site.record.finished()
    assert auditor.post(f"/audit/pushes/{push}/verify", data={"csrf": "x"}).status_code == 403


def test_the_way_there_is_shown_to_whoever_may_go(site: Site, auditor: Browser) -> None:
    assert 'href="/audit"' in auditor.get("/pushes").text
    assert "/audit" not in site.browser("the-user").get("/pushes").text


def test_a_role_that_is_taken_away_is_gone_with_the_next_page(site: Site, ada: str) -> None:
    _grant(site, ada, "auditor")
    browser = site.browser(ada)
    before = browser.get("/audit").status_code
    with site.record.owner.begin() as c:
        c.execute(sa.text("DELETE FROM principal_role WHERE principal = :p"), {"p": ada})
    assert (before, browser.get("/audit").status_code) == (200, 404)


def test_whoever_is_not_signed_in_comes_back_to_the_page_afterwards(site: Site) -> None:
    push = site.record.finished()
    answer = site.browser().get(f"/audit/pushes/{push}")
    assert answer.headers["location"] == f"/sign-in?next=/audit/pushes/{push}"


def _plain(text: str) -> str:
    return re.sub(r'value="[^"]*"', "", text)


# -- filters -------------------------------------------------------------------------------------------


def test_each_filter_lets_through_what_it_says(site: Site, auditor: Browser, ada: str) -> None:
    """And several at once only what all of them do."""
    good = finished(site, ada, labels={"project": "genomes"})
    weak = finished(
        site, ada, Verdict(State.UNVERIFIED, an_error(Code.NOT_VERIFIED)), destination="s3://archive/2026/x"
    )
    today = datetime.now(UTC).date()
    names = {str(good): "good", str(weak): "weak"}

    def shown(**params: str) -> list[str]:
        page = auditor.get("/audit", params={"owner": ada, **params})
        assert page.status_code == 200, text_of(page.text)
        return sorted(names[i] for i in ids(page.text))

    assert shown() == ["good", "weak"]
    assert shown(state="succeeded") == ["good"]
    assert shown(bucket="archive") == ["weak"]
    assert shown(prefix="2026/") == ["weak"]
    assert shown(code="not verified") == ["weak"]
    assert shown(label="project=genomes") == ["good"]
    assert shown(kind="access_key") == ["good", "weak"]
    assert shown(kind="signed_urls") == []
    assert shown(strength="checksum") == ["good"]
    assert shown(q="2026") == ["weak"]
    assert shown(since=str(today), until=str(today)) == ["good", "weak"]
    assert shown(until=str(today - timedelta(days=1))) == []
    assert shown(state="succeeded", bucket="archive") == []
    assert shown(credential=str(site.record.history.push(weak)["credential_id"])) == ["weak"]


WRONG = {
    "state": ("done", "choose one of the list"),
    "strength": ("strong", "choose one of the list"),
    "kind": ("password", "choose one of the list"),
    "code": ("NO_SUCH_THING", "such as ACCESS_DENIED"),
    "since": ("yesterday", "write it as 2027-01-31"),
    "until": ("31.12.2026", "write it as 2027-01-31"),
    "label": ("genomes", "KEY=VALUE"),
    "q": ("-/-", "no letter or digit"),
    "owner": ("a\0b", "NUL"),
    "credential": ("1", "take the filter away"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_told_beside_its_field_and_nothing_is_lost(auditor: Browser, name: str) -> None:
    value, fix = WRONG[name]
    params = {"bucket": "kept & <safe>", name: value}
    page = auditor.get("/audit", params=params)
    assert page.status_code == 400
    assert fix in html.unescape(page.text)
    assert 'value="kept &amp; &lt;safe&gt;"' in page.text
    assert "data-part" not in page.text
    if name != "credential":
        assert f'aria-describedby="f-{name}-wrong' in page.text
        assert re.search(rf'<(input|select) id="f-{name}"[^>]*aria-invalid="true"', page.text)
    assert html.escape(value.replace("\0", "")[:5], quote=False) in page.text
    assert auditor.get("/audit/summary", params=params).status_code == 400


def test_a_span_that_ends_before_it_begins_is_told(auditor: Browser) -> None:
    page = auditor.get("/audit", params={"since": "2026-02-01", "until": "2026-01-01"})
    assert (page.status_code, "before the first day" in page.text) == (400, True)


def test_a_chip_takes_its_filter_away_and_leaves_the_others(auditor: Browser) -> None:
    page = auditor.get("/audit", params={"owner": "a b", "state": "failed", "label": "x=1&y"})
    links = {html.unescape(link) for link in re.findall(r'<li><a href="([^"]*)">', page.text)}
    assert {"/audit?state=failed&label=x%3D1%26y", "/audit?owner=a+b&label=x%3D1%26y"} <= {
        link.replace("owner=a+b&state=failed&", "") if "label" not in link else _sorted(link) for link in links
    }


def _sorted(link: str) -> str:
    path, _, query = link.partition("?")
    order = ("owner", "state", "label")
    parts = sorted(query.split("&"), key=lambda p: order.index(p.partition("=")[0]))
    return f"{path}?{'&'.join(parts)}"


def test_pages_follow_each_other_without_a_gap_or_a_double(site: Site, auditor: Browser, ada: str) -> None:
    """Pushes of the same moment included; what comes in between disturbs nothing."""
    credential = site.record.credential(ada)
    made = [site.record.submitted(a_request(owner=ada, actor=ada), credential) for _ in range(103)]
    site.record.tamper("UPDATE push SET created_at = '2026-03-01' WHERE owner = :o", o=ada)
    seen: list[str] = []
    address = f"/audit?owner={ada}"
    while address:
        page = auditor.get(address)
        seen += ids(page.text)
        site.record.submitted(a_request(owner=ada, actor=ada), credential)
        found = re.search(r'rel="next" href="([^"]*)"', page.text)
        address = html.unescape(found.group(1)) if found else ""
    assert sorted(seen) == sorted(map(str, made))


def test_a_cursor_that_is_none_leads_to_the_newest(auditor: Browser) -> None:
    answer = auditor.get("/audit", params={"owner": "x", "cursor": "nonsense"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/audit?owner=x")


def test_the_summary_counts_what_the_filter_lets_through(site: Site, auditor: Browser, ada: str) -> None:
    """In numbers, in a drawing, and in words for whoever cannot see it."""
    finished(site, ada)
    finished(site, ada, Verdict(State.UNVERIFIED, an_error(Code.NOT_VERIFIED)))
    page = auditor.get("/audit/summary", params={"owner": ada}).text
    said = text_of(page)
    assert "Pushes 2 Succeeded 1 Without success 1" in said
    assert "2 pushes, 1 of them without success." in said
    assert page.count('<rect class="bar"') == 3
    assert "style=" not in page


# -- one push ------------------------------------------------------------------------------------------


def test_a_push_tells_everything_of_it(site: Site, auditor: Browser, ada: str) -> None:
    """Request, verdict, every event with its hash, every file with its digests."""
    push = finished(site, ada, labels={"run": "7"})
    page = auditor.get(f"/audit/pushes/{push}").text
    said = text_of(page)
    for words in (ada, "/data/run", "s3://results/runs/7", "run=7", "Succeeded", "checksum", "file-1", "00" * 5 + "…"):
        assert words in said
    events = site.record.history.events(push)
    assert [e["hash"] in page for e in events] == [True] * len(events)
    assert f"/audit/ledger/{site.record.history.push(push)['credential_id']}" in page


def test_files_are_paged_in_their_order_and_filtered(site: Site, auditor: Browser, ada: str) -> None:
    push = site.record.running(owner=ada, actor=ada)
    with site.record.owner.begin() as c:
        c.execute(
            sa.text(
                "INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state) SELECT :p, n, 'd/n' || n, 'k' || n,"
                " 1, 0, CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'planned' END FROM generate_series(3, 1000) n"
            ),
            {"p": push.id},
        )
    address, seen = f"/audit/pushes/{push.id}", []
    pages = 0
    while address:
        page = auditor.get(address).text
        seen += [int(n) for n in re.findall(r'<span class="path"><bdi>(?:d/n|file-)(\d+)', page)]
        pages += 1
        found = re.search(r'rel="next" href="([^"]*after=[^"]*)"', page)
        address = html.unescape(found.group(1)).partition("#")[0] if found else ""
    failed = auditor.get(f"/audit/pushes/{push.id}?state=failed").text
    named = auditor.get(f"/audit/pushes/{push.id}?q=D/N99").text
    assert (seen, pages) == (list(range(1, 1001)), 10)
    assert len(re.findall(r'<span class="path">', failed)) == 10
    assert len(re.findall(r'<span class="path">', named)) == 11
    assert auditor.get(f"/audit/pushes/{push.id}?q=x").status_code == 400


def test_a_page_without_a_file_may_have_one_after_it(
    site: Site, auditor: Browser, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many rows are looked at for one page: whoever goes on comes to what is there, and then to an end."""
    push = site.record.running(owner=ada, actor=ada)
    with site.record.owner.begin() as c:
        c.execute(
            sa.text(
                "INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state) SELECT :p, n, 'd/n' || n, 'k' || n,"
                " 1, 0, 'planned' FROM generate_series(3, 50) n"
            ),
            {"p": push.id},
        )
    monkeypatch.setattr(listings, "LOOKED_AT", 20)
    address, pages = f"/audit/pushes/{push.id}?q=n47", []
    while address:
        page = auditor.get(address).text
        pages.append((re.findall(r"<bdi>(d/n\d+)", page), "there are more" in page, "No file is like that" in page))
        found = re.search(r'rel="next" href="([^"]*after=[^"]*)"', page)
        address = html.unescape(found.group(1)).partition("#")[0] if found else ""
    none = auditor.get(f"/audit/pushes/{push.id}?q=nowhere&after=40").text
    assert pages == [([], True, False), ([], True, False), (["d/n47"], False, False)]
    assert "No file is like that" in none


def test_a_push_that_was_tampered_with_is_named_on_the_spot(site: Site, auditor: Browser, ada: str) -> None:
    """Edited event and edited file; before, it is told to be sound."""
    push = finished(site, ada)
    before = auditor.send_form(f"/audit/pushes/{push}/verify")
    site.record.tamper(
        "UPDATE event SET actor = '<b>mallory</b>' WHERE stream = :id AND seq = 2",
        "UPDATE file SET size = 999 WHERE push_id = :id AND seq = 1",
        id=push,
    )
    after = auditor.send_form(f"/audit/pushes/{push}/verify")
    assert "Sound: this push is as it was written" in text_of(before.text)
    assert re.search(r"Not sound: \d faults", text_of(after.text))
    assert "event 2 (push.claimed) was edited" in text_of(after.text)
    assert 'id="event-2" data-tone="bad"' in after.text
    assert "<b>mallory" not in after.text


def test_no_push_of_that_id_is_no_page(auditor: Browser) -> None:
    assert auditor.get(f"/audit/pushes/{UNKNOWN}").status_code == 404
    assert auditor.send_form(f"/audit/pushes/{UNKNOWN}/verify").status_code == 404
    assert auditor.get(f"/audit/ledger/{UNKNOWN}").status_code == 404
    assert auditor.get("/audit/pushes/1").status_code == 404


# -- ledger and integrity --------------------------------------------------------------------------------


def test_the_ledger_shows_everybodys_and_one_whole_life(site: Site, auditor: Browser, ada: str) -> None:
    grant = site.grant(ada, "lab data")
    key = site.record.credential(ada, name="the key")
    push = site.push(grant)
    listed = auditor.get("/audit/ledger", params={"owner": ada}).text
    consents = auditor.get("/audit/ledger", params={"owner": ada, "kind": "oauth_grant"}).text
    later = auditor.get("/audit/ledger", params={"owner": ada, "since": "2999-01-01"}).text
    life = auditor.get(f"/audit/ledger/{grant.id}").text
    assert [str(i) in listed for i in (grant.id, key.id)] == [True, True]
    assert [str(i) in consents for i in (grant.id, key.id)] == [True, False]
    assert [str(i) in later for i in (grant.id, key.id)] == [False, False]
    assert "ada@lab.example" in life
    assert f"/audit/pushes/{push}" in life or "Consent was given" in text_of(life)
    assert auditor.get("/audit/ledger", params={"kind": "nonsense"}).status_code == 400


def test_the_ledger_of_events_has_what_its_filter_shows(site: Site, auditor: Browser, ada: str) -> None:
    """Of all credentials and consents, and no push's own events; what is wrong is told."""
    grant, key = site.grant(ada, "lab data"), site.record.credential(ada, name="the key")
    site.push(grant)
    address = "/audit/ledger/events"

    def shown(**params: str) -> list[tuple[str, str]]:
        page = auditor.get(address, params={"owner": ada, **params}).text
        named = re.findall(
            r'href="/audit/ledger/([0-9a-f-]{36})".*?<code class="small soft">([a-z._]+)', page, re.DOTALL
        )
        return [({str(grant.id): "grant", str(key.id): "key"}[which], kind) for which, kind in named]

    everything = shown()
    assert {which for which, _ in everything} == {"grant", "key"}
    assert all(kind.startswith(("credential.", "grant.")) for _, kind in everything)
    assert shown(event="grant.granted") == [("grant", "grant.granted")]
    assert shown(actor="nobody") == []
    assert shown(since="2999-01-01") == []
    assert auditor.get(address, params={"event": "push.queued"}).status_code == 400
    assert auditor.get(address, params={"cursor": "nonsense"}).headers["location"] == address


def test_what_vault_remembers_is_compared_with_the_record(
    site: Site, auditor: Browser, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the page of the whole, and with each push. While Vault is away, that is said."""
    push = finished(site, ada)
    away = [auditor.get("/audit/integrity"), auditor.send_form(f"/audit/pushes/{push}/verify")]
    notary = FakeNotary(site.record.app)
    notary.seal()
    assert notary.anchor.at is not None
    monkeypatch.setattr(WebServices, "witness", lambda _: notary.witness())
    there = [auditor.get("/audit/integrity"), auditor.send_form(f"/audit/pushes/{push}/verify")]
    site.record.tamper("DELETE FROM checkpoint_chunk", "DELETE FROM checkpoint")
    gone = [auditor.get("/audit/integrity"), auditor.send_form(f"/audit/pushes/{push}/verify")]
    away_said, there_said, gone_said = ([text_of(page.text) for page in pages] for pages in (away, there, gone))
    assert "Vault was not asked" in away_said[1]
    assert "and it is there" in there_said[0]
    assert "Sound: this push" in there_said[1]
    assert "Not looked at" not in there_said[1]
    assert ["cut short" in said for said in (*there_said, *gone_said)] == [False, False, True, True]


def test_integrity_names_what_the_last_inspection_found(site: Site, auditor: Browser, ada: str) -> None:
    """And leads to the pushes that are concerned; a sound one after it is told as such."""
    push = finished(site, ada)
    _inspected(site, sound=False, faults=[{"stream": str(push), "seq": 2, "what": "event 2 <was> edited"}])
    bad = auditor.get("/audit/integrity")
    _inspected(site, sound=True, faults=[])
    good = auditor.get("/audit/integrity")
    assert (bad.status_code, good.status_code) == (200, 200)
    assert "Not sound: 1 fault" in text_of(bad.text)
    assert f'<a href="/audit/pushes/{push}">' in bad.text
    assert "event 2 &lt;was&gt; edited" in bad.text
    assert "found nothing that is not as it was written" in text_of(good.text)
    assert re.search(r"[\d,]+ events are not sealed yet", text_of(good.text))


def test_integrity_tells_what_was_archived_and_dropped(site: Site, auditor: Browser) -> None:
    """Month by month: by whom, when, how much, by which archive; and how many names were replaced."""
    before = text_of(auditor.get("/audit/integrity").text)
    sha256, stream = "ab" * 32, UUID("00000000-0000-0000-0000-0000000000a0")
    told = {"month": "2020-01", "events": 1234, "files": 5678, "archive_sha256": sha256}
    with site.record.owner.begin() as c:
        c.execute(
            sa.text(
                "INSERT INTO retired (month, dropped_at, events, files, archive_sha256, cuts_sha256) "
                "VALUES ('2020-01-01', '2020-03-04 05:06:07Z', 1234, 5678, decode(:sha256, 'hex'), '')"
            ),
            {"sha256": sha256},
        )
        append_event(c, stream, Event.AUDIT_ARCHIVED, "grace <1>", told)
        append_event(c, stream, Event.AUDIT_DROPPED, "linus", {"month": "2020-01", "months": [told]})
        append_event(c, stream, Event.AUDIT_ARCHIVED, "grace <1>", told | {"month": "2020-02"})
        for events in (1, 2):  # somebody was interrupted, and went on
            append_event(c, stream, Event.AUDIT_PSEUDONYMISED, "operator", {"pseudonym": "p-1", "replaced": events})
    page = auditor.get("/audit/integrity")
    asked = "DELETE FROM {} WHERE stream = '00000000-0000-0000-0000-0000000000a0'"
    site.record.tamper("DELETE FROM retired", asked.format("event"), asked.format("chain"))

    said = text_of(page.text)
    assert "Archived and dropped" not in before
    assert re.search(r"2020-01 1,234 5,678 \S+ \S+ by grace &lt;1&gt; 2020-03-04 05:06:07 by linus abababab", said), (
        said
    )
    assert re.search(r"2020-02 1,234 5,678 \S+ \S+ by grace &lt;1&gt; no abababab", said)
    assert "1 name was replaced by a pseudonym" in said


def _inspected(site: Site, *, sound: bool, faults: list[dict[str, object]]) -> None:
    with site.record.owner.begin() as c:
        c.execute(
            sa.text(
                "INSERT INTO inspection (started_at, by, sound, report) VALUES (now(), 'notary', :s, :r)"
            ).bindparams(sa.bindparam("r", type_=sa.JSON)),
            {"s": sound, "r": {"events": 12, "faults": faults, "faults_total": len(faults)}},
        )


# -- exports ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site_of", ["cross-site", "same-site", "none", ""])
def test_an_export_that_no_page_of_ours_asked_for_is_not_made(site: Site, site_of: str) -> None:
    """It would be an event in the auditor's name: a link elsewhere, or in a message, leads to the page with the buttons."""
    browser = site.browser("the-auditor")
    browser.headers["sec-fetch-site"] = site_of
    before = site.count("event", "kind = 'audit.exported'")
    answer = browser.get("/audit/export/pushes", params={"format": "csv", "owner": "ada"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/audit?owner=ada")
    assert site.count("event", "kind = 'audit.exported'") == before


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_export_has_what_the_filter_shows_and_is_an_event(
    site: Site, auditor: Browser, ada: str, tmp_path: Path, form: str
) -> None:
    """In each format; the record says who took it, and which."""
    wanted = finished(site, ada, destination="s3://archive/x")
    finished(site, ada)
    answer = auditor.get("/audit/export/pushes", params={"format": form, "owner": ada, "bucket": "archive"})
    assert answer.status_code == 200, text_of(answer.text)
    assert answer.headers["content-disposition"] == f'attachment; filename="cloudpush-pushes.{form}"'
    rows: list[dict[str, Any]]
    match form:
        case "csv":
            rows = list(csv.DictReader(io.StringIO(answer.text)))
        case "jsonl":
            rows = [json.loads(line) for line in answer.text.splitlines()]
        case _:
            rows = pq.read_table(io.BytesIO(answer.content)).to_pylist()
    assert [(row["id"], row["owner"]) for row in rows] == [(str(wanted), ada)]
    told = site.count(
        "event",
        "kind = 'audit.exported' AND actor = 'the-auditor' AND data->>'rows' = '1'"
        " AND data->'filter'->>'owner' = :o AND data->>'format' = :f",
        o=ada,
        f=form,
    )
    assert told == 1


@pytest.mark.parametrize("table", ["files", "events"])
def test_one_pushs_files_and_events_are_exported_alone(site: Site, auditor: Browser, ada: str, table: str) -> None:
    push = finished(site, ada)
    finished(site, ada)
    answer = auditor.get(f"/audit/export/{table}", params={"format": "jsonl", "push": str(push)})
    found = {json.loads(line).get("push_id") or json.loads(line)["stream"] for line in answer.text.splitlines()}
    assert found == {str(push)}


def test_the_ledgers_export_has_what_its_filter_shows(site: Site, auditor: Browser, ada: str) -> None:
    grant = site.grant(ada)
    site.record.credential(ada)
    address = "/audit/export/credentials"
    answer = auditor.get(address, params={"format": "jsonl", "owner": ada, "kind": "oauth_grant"})
    assert [json.loads(line)["id"] for line in answer.text.splitlines()] == [str(grant.id)]


def test_files_are_exported_as_they_are_filtered(site: Site, auditor: Browser, ada: str) -> None:
    """The button leads to what is shown; so does its event."""
    push = finished(site, ada, Verdict(State.UNVERIFIED, an_error(Code.NOT_VERIFIED)))
    address = f"/audit/pushes/{push}"
    buttons = [_buttons(auditor.get(address + asked).text)["files"] for asked in ("", "?state=unverified", "?q=FILE-1")]
    taken = [_rows(auditor, button) for button in buttons]
    assert [[row["path"] for row in rows] for rows in taken] == [["file-1", "file-2"], ["file-2"], ["file-1"]]
    told = "kind = 'audit.exported' AND data->'filter'->>'path' = 'FILE-1' AND data->'filter'->>'push' = :p"
    assert site.count("event", told, p=str(push)) == 1


def test_every_table_of_a_page_is_exported(site: Site, auditor: Browser, ada: str) -> None:
    """Parts, a credential's life, the ledger of events, checkpoints, and the numbers of the charts."""
    push = site.record.planned(2)
    site.record.tamper("UPDATE push SET finished_at = created_at, state = 'failed' WHERE id = :id", id=push.id)
    done = finished(site, ada)
    credential = site.record.history.push(done)["credential_id"]
    FakeNotary(site.record.app).seal()
    buttons = {
        **_buttons(auditor.get(f"/audit/pushes/{push.id}").text),
        **_buttons(auditor.get(f"/audit/ledger/{credential}").text),
        **_buttons(auditor.get(f"/audit/ledger/events?owner={ada}").text),
        **_buttons(auditor.get("/audit/integrity").text),
        **_buttons(auditor.get(f"/audit/summary?owner={ada}").text),
    }
    rows = {name: _rows(auditor, button) for name, button in buttons.items()}
    assert [row["number"] for row in rows["parts"]] == ["1", "2"]
    life = [(row["kind"], row["stream"]) for row in rows["life"]]
    own, used = str(credential), str(done)
    assert life == [("credential.sealing", own), ("credential.created", own), ("credential.used", used)]
    assert [row["kind"] for row in rows["ledger"]][:2] == ["credential.sealing", "credential.created"]
    assert {row["stream"] for row in rows["ledger"]} <= {str(credential), str(done)}
    assert len(rows["checkpoints"]) >= 1
    assert [(row["pushes"], row["succeeded"], row["failed"]) for row in rows["series"]] == [("1", "1", "0")]


@pytest.mark.parametrize("table", ["files", "events", "parts", "life"])
def test_there_is_no_export_of_nobodys_files(auditor: Browser, table: str) -> None:
    address = f"/audit/export/{table}"
    params = {"format": "csv", "push": UNKNOWN}
    assert auditor.get(address, params={"format": "csv"}).status_code == 404
    assert auditor.get(address, params=params | {"credential": UNKNOWN}).status_code == 404 or table == "life"


def _buttons(page: str) -> dict[str, str]:
    """The addresses of a page's buttons that export CSV, by table."""
    found = re.findall(r'href="(/audit/export/(\w+)\?[^"]*format=csv[^"]*)"', page)
    return {table: html.unescape(address) for address, table in found}


def _rows(browser: Browser, address: str) -> list[dict[str, str]]:
    answer = browser.get(address)
    assert answer.status_code == 200, text_of(answer.text)
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_only_a_few_exports_run_at_once(auditor: Browser) -> None:
    """Whoever comes on top is told, and whoever is done makes room."""
    for _ in range(turns.EXPORTS):
        assert turns.exports.acquire(blocking=False)
    try:
        assert auditor.get("/audit/export/pushes", params={"format": "csv"}).status_code == 503
    finally:
        for _ in range(turns.EXPORTS):
            turns.exports.release()
    for _ in range(turns.EXPORTS + 1):
        assert auditor.get("/audit/export/pushes", params={"format": "csv"}).status_code == 200


class Elements(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts = self.images = 0
        self.text = ""
        self.attributes: set[str] = set()
        self.urls: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.images += tag == "img"
        self.attributes |= {name for name, _ in attrs}
        self.urls |= {value or "" for name, value in attrs if name in ("href", "src", "action", "formaction")}

    def handle_data(self, data: str) -> None:
        self.text += data


# -- what is never believed ----------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}{% raw %}",
    "</title></style><svg onload=alert(1)>",
    "invoice\u202efdp.exe",
    "x" * 900,
]


@pytest.mark.parametrize("text", HOSTILE, ids=["script", "attribute", "template", "svg", "turned", "long"])
def test_hostile_words_are_shown_and_do_nothing(site: Site, auditor: Browser, text: str) -> None:
    """Owners, paths, labels, workers, and what providers said; what turns text round is shown by its number."""
    push = site.record.running(labels={text: text})
    site.record.tamper(
        "UPDATE push SET source = :t, uri = :t, actor = :t, owner = :t, error_code = :c, error_message = :t,"
        " created_at = '2026-03-01' WHERE id = :id",
        "UPDATE file SET path = :t, etag = :t, version_id = :t, error_code = :c, error_message = :t WHERE push_id = :id",
        "UPDATE event SET actor = :t WHERE stream = :id",
        "UPDATE credential SET name = :t, owner = :t, profile = :t, endpoint = :t, created_by = :t"
        " WHERE id = (SELECT credential_id FROM push WHERE id = :id)",
        t=text,
        c=text,
        id=push.id,
    )
    credential = site.record.history.push(push.id)["credential_id"]
    owner = {"owner": text}
    pages = [auditor.get("/audit", params=owner), auditor.get(f"/audit/pushes/{push.id}")]
    pages += [auditor.get("/audit/ledger", params=owner), auditor.get(f"/audit/ledger/{credential}")]
    pages += [auditor.get("/audit/summary", params=owner)]
    for page in pages:
        assert page.status_code == 200
        seen = Elements(page.text)
        assert (seen.scripts, seen.images) == (1, 1)
        assert [name for name in seen.attributes if name.startswith("on") or name == "style"] == []
        assert [url for url in seen.urls if not url.startswith(("/", "#"))] == []
        assert "\u202e" not in seen.text
        assert re.search('title="[^"]*\u202e', page.text) is None
        assert "49" not in re.findall(r"<bdi>([^<]*)</bdi>", page.text)
    shown = text.replace("\u202e", "U+202E")
    assert shown in html.unescape(re.sub(r"</?(?:span|bdi)[^>]*>", "", pages[1].text))
