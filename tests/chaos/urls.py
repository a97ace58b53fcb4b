"""Pushes with signed URLs: what users hand over, by way of a proxy that counts what is sent."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID, uuid4

import psycopg

from acceptance.portal import Portal
from chaos.judge import Judge
from chaos.road import SlowRoad
from chaos.stand import BUCKET, KIB, MIB, OWNER, USER, Digests, Expected, write
from cloudpush.credentials.kinds import parse
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.credential import Caller, CredentialState
from cloudpush.push.job import Request
from cloudpush.push.signed.model import RESIGN_HOOK
from cloudpush.push.states import Event, State
from cloudpush.wiring import Services
from doubles.faults import FaultProxy
from signers import Row

HOOK = "portal"
#: Pushes in a round, each of another kind.
AT_ONCE = 3
#: Bytes per second of all uploads together: those of a round take about as long as the longest wait for the kill.
SPEED = 40 * MIB
#: 64 MiB in the smallest parts that are allowed, so that some have arrived and some have not.
PARTS, PART_BYTES = 13, 5 * MIB
#: What URLs live: most of them; those that a callback has to renew; the renewed ones, which some recoveries outlast.
LONG_SECONDS, BRIEF_SECONDS, RENEWED_SECONDS = 600, 3, 12
#: The sweep looks once a second, and Vault may be what was killed.
PURGE_SECONDS = 60.0


class Kind(StrEnum):
    """What is pushed."""

    MANY = "many"  # small files by manifest
    PARTS = "parts"  # one file by the URLs of its parts
    WHOLE = "whole"  # one file by one URL
    BRIEF = "brief"  # small files whose URLs expire at once; a callback signs again
    BROKEN_OFF = "broken off"  # as PARTS, cancelled at the moment of the kill


class UrlPushes:
    """A user who signs URLs, and the pushes of one round with them."""

    def __init__(
        self, base: Path, cloud: str, services: Services, s3: Any, chance: random.Random, closing: ExitStack
    ) -> None:
        """``base``: below a source root; ``cloud``: the server's HOST:PORT. ``closing`` ends what is started here."""
        self._base = base
        self._services = services
        self._s3 = s3
        self._chance = chance
        self._judge = Judge(services, s3)
        road = closing.enter_context(SlowRoad(cloud, SPEED))
        self._proxy = closing.enter_context(FaultProxy(road.endpoint))
        self._portal = Portal(self._proxy.endpoint, USER, BUCKET)
        closing.callback(self._portal.close)
        self._portal.seconds = RENEWED_SECONDS
        hook = parse(RESIGN_HOOK, {"url": self._portal.callback, "secret": self._portal.secret})
        services.custody.add(Caller(OWNER), hook, name=HOOK)
        self._small = write(base / "small", {f"d{i % 3}/f{i:02} é.bin": 2 * KIB + i for i in range(40)})
        self._whole = write(base / "whole", {"whole.bin": 48 * MIB})
        self._parts = write(base / "parts", {"parts.bin": 64 * MIB})
        self._kinds: dict[UUID, Kind] = {}
        #: How often each part was sent that had arrived when something was killed, by push and part.
        self._arrived: dict[UUID, dict[int, int]] = {}
        self._handed_over = 0

    # -- what happens ------------------------------------------------------------------------

    def submit(self) -> list[Expected]:
        """Pushes of some kinds, by chance."""
        self._kinds.clear()
        self._arrived.clear()
        self._portal.asked.clear()
        self._handed_over = 0
        self._proxy.spoil()  # nothing; but a clean record
        return [self._submit(kind) for kind in self._chance.sample(list(Kind), AT_ONCE)]

    def about_to_kill(self, pushes: Iterable[Expected]) -> None:
        """Cancel what is to be broken off, and remember which parts have arrived."""
        for one in pushes:
            kind = self._kinds.get(one.push_id)
            if kind is Kind.BROKEN_OFF:
                with suppress(CloudPushError):
                    self._services.intake.cancel(one.push_id, OWNER, OWNER)
            elif kind is Kind.PARTS:
                stored = self._stored(one)
                sent = self._sent(one)
                self._arrived[one.push_id] = {number: sent[number] for number in stored}

    def attend_to(self, one: Expected) -> None:
        """What a user does where a callback cannot: URLs that ran out before the push was planned took its list along.

        Raises CloudPushError; then the push waits on.
        """
        row = self._services.history.push(one.push_id)
        paused = State(row["state"]) is State.AWAITING_CONSENT and row["error_code"] == Code.URL_EXPIRED
        if paused and row["planned_at"] is None and self._kinds.get(one.push_id) is Kind.BRIEF:
            rows = self._portal.rows(list(one.files), one.prefix)
            self._services.signed.resign(one.push_id, OWNER, OWNER, enumerate(rows, 1))
            self._handed_over += 1

    @property
    def told(self) -> str:
        """What was pushed in this round, what had arrived when something was killed, how often URLs had run out."""
        arrived = sum(map(len, self._arrived.values()))
        renewed = sum(map(len, self._portal.asked))
        return (
            f"{', '.join(self._kinds.values())}; {arrived} parts had arrived, {renewed} URLs renewed by callback, "
            f"{self._handed_over} manifests by hand"
        )

    # -- what has to be ------------------------------------------------------------------------

    def check(self, one: Expected) -> list[str]:
        """What is wrong with ``one``, a push of this round that has its verdict, in sentences."""
        problems = self._judge.push(one, ("verified",))
        if not problems:  # one that ended otherwise, or not at all, need not have tidied up
            problems = self._check_left(one)
        return [f"push {one.push_id} ({self._kinds[one.push_id]}): {problem}" for problem in problems]

    def _check_left(self, one: Expected) -> list[str]:
        problems = self._check_purged(one)
        problems += [f"part {number} is still recorded" for number in self._stored(one)]
        sent = self._sent(one)
        if sent:  # else it was cancelled before it began, and whoever made the upload keeps it
            problems += self._check_uploads(one)
        problems += [
            f"part {number} had arrived and was sent again"
            for number, before in self._arrived.get(one.push_id, {}).items()
            if sent[number] != before
        ]
        return problems

    def _check_uploads(self, one: Expected) -> list[str]:
        """No upload is left unfinished, or it was cancelled while Vault was away and its file's record says so."""
        uploads = self._s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        told = {
            f"{one.prefix}/{f['path']}"
            for f in self._services.history.files(one.push_id)
            if f["state"] == "cancelled" and "was not aborted (VAULT_" in (f["error_message"] or "")
        }
        left = {u["Key"] for u in uploads if u["Key"].startswith(f"{one.prefix}/")}
        return [f"{key} is not finished, and nothing says so" for key in left - told]

    def _check_purged(self, one: Expected) -> list[str]:
        history, show = self._services.history, self._services.custody.show
        later = [e["data"]["credential"] for e in history.events(one.push_id) if e["kind"] == Event.PUSH_RESIGNED]
        sets = [history.push(one.push_id)["credential_id"], *map(UUID, later)]
        deadline = time.monotonic() + PURGE_SECONDS
        while (states := {show(Caller(OWNER), s).state for s in sets}) != {CredentialState.PURGED}:
            if time.monotonic() > deadline:
                return [f"its URLs are {', '.join(states)} {PURGE_SECONDS:.0f} s after its end"]
            time.sleep(0.1)
        return []

    # -- submitting ------------------------------------------------------------------------------

    def _submit(self, kind: Kind) -> Expected:
        prefix = uuid4().hex[:12]
        source, files, rows = self._given(kind, prefix)
        request = Request(OWNER, OWNER, str(self._base / source), "", "")
        hook = HOOK if kind is Kind.BRIEF else ""
        push_id = self._services.signed.submit(request, enumerate(rows, 1), hook).push_id
        self._kinds[push_id] = kind
        ends = (State.SUCCEEDED, State.CANCELLED) if kind is Kind.BROKEN_OFF else (State.SUCCEEDED,)
        return Expected(push_id, prefix, ends, files)

    def _given(self, kind: Kind, prefix: str) -> tuple[str, Digests, list[Row]]:
        """The source, what is in it, and URLs for all of it."""
        match kind:
            case Kind.MANY | Kind.BRIEF:
                seconds = BRIEF_SECONDS if kind is Kind.BRIEF else LONG_SECONDS
                return "small", self._small, self._portal.rows(list(self._small), prefix, seconds=seconds)
            case Kind.WHOLE:
                return "whole", self._whole, self._portal.rows(list(self._whole), prefix, seconds=LONG_SECONDS)
        (path,) = self._parts
        key = f"{prefix}/{path}"
        upload = self._s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        signer = self._portal.signer(LONG_SECONDS)
        return "parts", self._parts, [signer.multipart(path, key, upload, PARTS, part_size=PART_BYTES)]

    # -- looking ---------------------------------------------------------------------------------

    def _stored(self, one: Expected) -> set[int]:
        """Numbers of the parts that are recorded as arrived. The application's own role may see no more than its due."""
        url = self._services.settings.database_url.replace("cloudpush_app@", "postgres@")
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT number FROM piece WHERE push_id = %s", [one.push_id]).fetchall()
        return {row[0] for row in rows}

    def _sent(self, one: Expected) -> Counter[int]:
        """How often each part was asked to be taken, by its number."""
        numbers: Counter[int] = Counter()
        for seen in self._proxy.seen:
            parts = urlsplit(seen.target)
            if seen.method == "PUT" and unquote(parts.path).startswith(f"/{BUCKET}/{one.prefix}/"):
                numbers[int(parse_qs(parts.query).get("partNumber", ["1"])[0])] += 1
        return numbers
