"""What is refused at the door, with field, value and fix, and what is let in."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from builders import CREDENTIAL, NOON, OWNER, URI, a_request
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.intake import Accepted, CredentialCard, Intake, Known
from cloudpush.push.job import Destination, Profile, Request
from cloudpush.push.states import Overwrite, State, Strength
from cloudpush.push.uris import parse_destination
from fakes import FakeAnnouncer, FakeClock

CARD = CredentialCard(CREDENTIAL, OWNER, "access_key", "active", None, "seaweedfs", "")
PUSH = uuid4()


class FakeDesk:
    """One credential; remembers what it was given."""

    def __init__(self) -> None:
        self.card: CredentialCard | None = CARD
        self.stored: list[tuple[Request, Destination, bytes]] = []
        self.conflicts = False
        self.state = State.RUNNING
        self.cancelled: list[tuple[UUID, str | None, str]] = []

    def credential(self, reference: str, owner: str) -> CredentialCard | None:
        return self.card

    def known(self, owner: str, idempotency_key: str) -> Known | None:
        for request, _, digest in self.stored:
            if (request.owner, request.idempotency_key) == (owner, idempotency_key):
                return Known(PUSH, digest, CARD.id, "mine")
        return None

    def store(
        self, request: Request, card: CredentialCard, destination: Destination, digest: bytes
    ) -> tuple[UUID, bool]:
        self.stored.append((request, destination, digest))
        return PUSH, not self.conflicts

    def cancel(self, push_id: UUID, owner: str | None, actor: str) -> State:
        self.cancelled.append((push_id, owner, actor))
        return self.state


class Door:
    """An intake with everything behind it, and a source of two files."""

    def __init__(self, root: Path) -> None:
        self.source = root / "run"
        self.source.mkdir()
        for name in ("a", "b"):
            (self.source / name).write_bytes(b"12345")
        self.desk = FakeDesk()
        self.announcer = FakeAnnouncer()
        lab = {"lab": Profile("lab", "minio", "https://minio.lab.example", trusted=True)}
        self.intake = Intake(
            desk=self.desk,
            announcer=self.announcer,
            clock=FakeClock(),
            parse=lambda uri, profile: parse_destination(uri, lab, profile),
            roots=(root,),
            allowed_endpoints=("s3.lab.example",),
        )

    def submit(self, **changes: Any) -> Accepted:
        return self.intake.submit(a_request(**({"source": str(self.source)} | changes)))

    def refusal(self, **changes: Any) -> CloudPushError:
        with pytest.raises(CloudPushError) as caught:
            self.submit(**changes)
        assert (self.desk.stored, self.announcer.pushes) == ([], []), "something was stored"
        return caught.value


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


# -- let in -----------------------------------------------------------------------------------------


def test_a_request_is_stored_and_then_announced(door: Door) -> None:
    """The message carries the id alone."""
    accepted = door.submit()

    assert (accepted, door.announcer.pushes, door.desk.stored[0][1].uri) == (
        Accepted(PUSH, created=True, announced=True),
        [PUSH],
        URI,
    )


def test_a_request_is_kept_while_the_broker_is_away(door: Door) -> None:
    """The sweep announces it."""
    door.announcer.away = True

    assert (door.submit(), len(door.desk.stored)) == (Accepted(PUSH, created=True, announced=False), 1)


def test_a_request_that_was_known_is_told_as_such(door: Door) -> None:
    """It may be announced again: that does no harm."""
    door.desk.conflicts = True

    assert door.submit(idempotency_key="k") == Accepted(PUSH, created=False, announced=True)


def test_a_repetition_is_answered_whatever_became_of_source_and_credential(door: Door) -> None:
    """A pipeline that lost the answer asks again, perhaps when its data and its key are long gone."""
    first = door.submit(idempotency_key="k")
    shutil.rmtree(door.source)
    door.desk.card = None

    assert (first.created, door.submit(idempotency_key="k"), len(door.desk.stored)) == (
        True,
        Accepted(PUSH, created=False, announced=True),
        1,
    )


@pytest.mark.parametrize("change", [{"credential": "another"}, {"destination": "s3://results/other"}])
def test_another_request_under_the_key_is_checked_like_any(door: Door, change: dict[str, str]) -> None:
    """What the key stands for already is no way round the checks."""
    door.submit(idempotency_key="k")
    door.desk.card = None

    with pytest.raises(CloudPushError) as caught:
        door.submit(idempotency_key="k", **change)

    assert caught.value.code is Code.UNKNOWN_CREDENTIAL


def test_the_credentials_profile_is_used_unless_another_is_named(door: Door) -> None:
    """What the user says is stronger."""
    door.submit(profile="")
    door.submit(profile="lab")

    assert [d.profile.name for _, d, _ in door.desk.stored] == ["seaweedfs", "lab"]


@pytest.mark.parametrize("kind", ["signed_urls", "resign_hook"])
def test_what_is_no_key_to_a_bucket_is_refused(door: Door, kind: str) -> None:
    """A set of signed URLs belongs to the push that it was handed over for, and a callback opens nothing."""
    door.desk.card = replace(CARD, kind=kind)

    error = door.refusal()

    assert (error.code, error.field) == (Code.BAD_INPUT, "credential")


@pytest.mark.parametrize("named_by", ["request", "credential"])
def test_the_profile_of_signed_urls_is_refused(door: Door, named_by: str) -> None:
    """It would have the destination read without any check of its words."""
    door.desk.card = replace(CARD, profile="signed-url")

    error = door.refusal(profile="signed-url" if named_by == "request" else "", destination="https://10.0.0.1/x")

    assert (error.code, error.field) == (Code.BAD_INPUT, "profile")


CHANGES = [
    {"destination": "s3://results/other"},
    {"profile": "lab"},
    {"min_strength": Strength.SIZE},
    {"overwrite": Overwrite.NEVER},
    {"include": ("*.csv",)},
    {"exclude": ("*.csv",)},
    {"labels": {"a": "b"}},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
def test_requests_that_differ_have_different_digests(door: Door, change: dict[str, Any]) -> None:
    """One idempotency key cannot stand for both."""
    door.submit()
    door.submit(**change)

    assert door.desk.stored[0][2] != door.desk.stored[1][2]


def test_the_same_request_has_the_same_digest(door: Door) -> None:
    """Whoever sends it, by whichever name of the credential, labels in any order."""
    door.submit(labels={"a": "1", "b": "2"})
    door.submit(labels={"b": "2", "a": "1"}, actor="pipeline", credential="by name", idempotency_key="k")

    assert door.desk.stored[0][2] == door.desk.stored[1][2]


def test_a_preview_says_what_a_push_would_do_and_stores_nothing(door: Door) -> None:
    """Files, bytes, and what would be refused."""
    (door.source / "link").symlink_to("nowhere")

    preview = door.intake.preview(a_request(source=str(door.source)), show=1)

    assert (preview.destination, preview.files, preview.bytes, preview.refusals, len(preview.refused)) == (
        URI,
        2,
        10,
        1,
        1,
    )
    assert ([f.key for f in preview.first], door.desk.stored) == (["runs/7/a"], [])


# -- refused ------------------------------------------------------------------------------------------

REFUSALS = [
    ({"owner": ""}, Code.BAD_INPUT, "owner", "owner ''"),
    ({"credential": ""}, Code.BAD_INPUT, "credential", "credential ''"),
    ({"credential": "a\0b"}, Code.BAD_INPUT, "credential", r"'a\x00b'"),
    ({"credential": "caf\udce9"}, Code.BAD_INPUT, "credential", "not UTF-8"),
    ({"source": ""}, Code.BAD_INPUT, "source", "source ''"),
    ({"source": "/data/caf\udce9"}, Code.BAD_INPUT, "source", "not UTF-8"),
    ({"source": "relative/path"}, Code.SOURCE_MISSING, "source", "'relative/path' is not an absolute path"),
    ({"source": "/etc"}, Code.SOURCE_OUTSIDE_ROOTS, "source", "'/etc'"),
    ({"idempotency_key": "k" * 201}, Code.BAD_INPUT, "idempotency_key", "longer than 200"),
    ({"idempotency_key": "k\udcff"}, Code.BAD_INPUT, "idempotency_key", "not UTF-8"),
    ({"labels": {"Bad Key": "v"}}, Code.BAD_INPUT, "label", "'Bad Key'"),
    ({"labels": {"-a": "v"}}, Code.BAD_INPUT, "label", "'-a'"),
    ({"labels": {"a": "v" * 257}}, Code.BAD_INPUT, "label", "longer than 256"),
    ({"labels": {"a": "v\udcff"}}, Code.BAD_INPUT, "label", "not UTF-8"),
    ({"labels": {f"k{i}": "v" for i in range(33)}}, Code.BAD_INPUT, "label", "33 labels"),
    ({"include": ("",)}, Code.BAD_INPUT, "include", "none of them empty"),
    ({"exclude": ("*",) * 101}, Code.BAD_INPUT, "include", "100"),
    ({"destination": "results/x"}, Code.BAD_URI, "destination", "'results/x' has no scheme"),
    ({"destination": "s3://Results/x"}, Code.BAD_URI, "destination", "'Results'"),
    ({"destination": "gs://results/x"}, Code.BAD_URI, "destination", "not supported yet"),
    ({"include": ("a/../b",)}, Code.BAD_INPUT, "include", "'a/../b'"),
    ({"exclude": ("a//b",)}, Code.BAD_INPUT, "exclude", "'a//b'"),
    ({"actor": "caf\udce9"}, Code.BAD_INPUT, "actor", "not UTF-8"),
    ({"profile": "nowhere"}, Code.BAD_INPUT, "profile", "'nowhere'"),
]


@pytest.mark.parametrize(("change", "code", "field", "words"), REFUSALS)
def test_a_request_that_is_wrong_is_refused_by_name(
    door: Door, change: dict[str, Any], code: Code, field: str, words: str
) -> None:
    """Code, field and value; nothing is stored."""
    error = door.refusal(**change)

    assert (error.code, error.field, words in error.message) == (code, field, True), error.message


def test_a_source_that_is_not_there_is_refused(door: Door) -> None:
    """Under the roots, so its absence may be told."""
    error = door.refusal(source=str(door.source / "gone"))

    assert (error.code, "gone" in error.message) == (Code.SOURCE_MISSING, True)


def test_a_source_that_leads_out_of_the_roots_is_refused(door: Door) -> None:
    """Symlinks are followed before it is judged."""
    link = door.source / "out"
    link.symlink_to("/etc")

    assert door.refusal(source=str(link)).code is Code.SOURCE_OUTSIDE_ROOTS


@pytest.mark.parametrize(
    ("card", "code", "words"),
    [
        (None, Code.UNKNOWN_CREDENTIAL, "is not known for owner 'ada'"),
        (replace(CARD, owner="grace"), Code.NOT_OWNER, "belongs to another owner"),
        (replace(CARD, owner="grace", state="purged"), Code.NOT_OWNER, "belongs to another owner"),
        (replace(CARD, state="sealing"), Code.CREDENTIAL_PURGED, "is sealing"),
        (replace(CARD, state="purged"), Code.CREDENTIAL_PURGED, "is purged"),
        (replace(CARD, expires_at=NOON), Code.CREDENTIAL_EXPIRED, "expired at 2026-03-01 12:00:00 UTC"),
    ],
)
def test_a_credential_that_cannot_serve_is_refused(
    door: Door, card: CredentialCard | None, code: Code, words: str
) -> None:
    """Whose it is is told before how it is."""
    door.desk.card = card

    error = door.refusal()

    assert (error.code, error.field, words in error.message) == (code, "credential", True), error.message


def test_a_credential_that_expires_later_serves(door: Door) -> None:
    """To the second."""
    door.desk.card = replace(CARD, expires_at=NOON + timedelta(seconds=1))

    assert door.submit().created


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254", "http://localhost:9000", "https://10.0.0.7"])
def test_a_credential_that_leads_inside_is_refused(door: Door, endpoint: str) -> None:
    """Metadata services and neighbours are nobody's bucket."""
    door.desk.card = replace(CARD, endpoint=endpoint)

    assert door.refusal().code is Code.ENDPOINT_FORBIDDEN


def test_an_endpoint_that_the_operator_listed_is_let_in(door: Door) -> None:
    """Although it is private."""
    door.desk.card = replace(CARD, endpoint="http://s3.lab.example")

    assert door.submit().created


# -- cancelling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "endings"), [(State.CANCELLED, [(PUSH, State.CANCELLED)]), (State.RUNNING, [])])
def test_watchers_hear_of_a_cancel_that_ended_the_push(
    door: Door, state: State, endings: list[tuple[UUID, State]]
) -> None:
    """One that runs is ended, and told, by its worker."""
    door.desk.state = state

    assert (door.intake.cancel(PUSH, OWNER, "ada"), door.announcer.endings, door.desk.cancelled) == (
        state,
        endings,
        [(PUSH, OWNER, "ada")],
    )
