"""What is refused at the door, with field, value and fix, and what is let in."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from builders import CREDENTIAL, NOON, OWNER, URI, a_request
from cloudpush.errors import CloudPushError, Code, InputError, StoreError
from cloudpush.push.admission import CredentialCard
from cloudpush.push.intake import Accepted, Intake, Known, ToStore
from cloudpush.push.job import Destination, Profile, Request
from cloudpush.push.states import Overwrite, Package, State, Strength
from cloudpush.push.uris import parse_destination
from fakes import FakeAnnouncer, FakeClock
from grant_builders import a_share

CARD = CredentialCard(CREDENTIAL, OWNER, "access_key", "active", None, "seaweedfs", "")
PUSH = uuid4()


class FakeDesk:
    """One credential; remembers what it was given."""

    def __init__(self) -> None:
        self.card: CredentialCard | None = CARD
        self.stored: list[tuple[Request, Destination, bytes]] = []
        self.conflicts = False
        self.state = State.RUNNING
        self.again: Request | State = State.QUEUED
        self.cancelled: list[tuple[UUID, str | None, str]] = []

    def credential(self, reference: str, owner: str) -> CredentialCard | None:
        return self.card

    def known(self, owner: str, idempotency_key: str) -> Known | None:
        for request, destination, digest in self.stored:
            if (request.owner, request.idempotency_key) == (owner, idempotency_key):
                return Known(PUSH, digest, CARD.id, "mine", "grace", destination.profile.name)
        return None

    def store(
        self, request: Request, card: CredentialCard, destination: Destination, digest: bytes
    ) -> tuple[UUID, bool]:
        self.stored.append((request, destination, digest))
        return PUSH, not self.conflicts

    def known_many(self, keys: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], Known]:
        return {key: found for key in keys if (found := self.known(*key)) is not None}

    def store_many(self, wanted: Sequence[ToStore]) -> Sequence[tuple[UUID, bool] | InputError]:
        return [self.store(w.request, w.card, w.destination, w.digest) for w in wanted]

    def retry(self, push_id: UUID, owner: str | None, actor: str) -> Request | State:
        return self.again

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


@pytest.mark.parametrize("kind", ["signed_urls", "resign_hook", "notify_hook"])
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


# -- many at once -----------------------------------------------------------------------------------


def many(door: Door, *changes: dict[str, Any]) -> list[Accepted | CloudPushError]:
    return door.intake.submit_many([a_request(**({"source": str(door.source)} | change)) for change in changes])


def codes(outcomes: Sequence[Accepted | CloudPushError]) -> list[Code | bool]:
    """The error's code, or whether it was created."""
    return [o.code if isinstance(o, CloudPushError) else o.created for o in outcomes]


def test_each_of_many_stands_alone_and_in_its_place(door: Door) -> None:
    """What one is refused with keeps none of the others back."""
    outcomes = many(
        door, {}, {"source": "run"}, {"destination": "nowhere"}, {"labels": {"A B": "x"}}, {"source": "/etc"}, {}
    )

    assert codes(outcomes) == [
        *(True, Code.SOURCE_MISSING, Code.BAD_URI, Code.BAD_INPUT, Code.SOURCE_OUTSIDE_ROOTS, True),
    ]
    assert (len(door.desk.stored), door.announcer.pushes) == (2, [PUSH, PUSH])


def test_many_are_stored_as_each_by_itself_would_be(door: Door) -> None:
    """One request is one digest, however it came."""
    door.submit(labels={"a": "b"}, idempotency_key="one")
    many(door, {"labels": {"a": "b"}, "idempotency_key": "other"})

    (_, *one), (_, *other) = door.desk.stored
    assert one == other


def test_what_is_known_of_many_is_answered_whatever_became_of_its_source(door: Door) -> None:
    """As a single repetition is; it is announced again, too."""
    door.submit(idempotency_key="k")
    shutil.rmtree(door.source)

    assert codes(many(door, {"idempotency_key": "k"}, {})) == [False, Code.SOURCE_MISSING]
    assert door.announcer.pushes == [PUSH, PUSH]


def test_many_are_kept_while_the_broker_is_away(door: Door) -> None:
    """The sweep announces them."""
    door.announcer.away = True

    assert many(door, {}, {}) == [Accepted(PUSH, created=True, announced=False)] * 2
    assert len(door.desk.stored) == 2


def test_none_of_many_is_announced_where_none_was_stored(door: Door) -> None:
    """Nothing is said to the broker then."""
    door.announcer.away = True

    assert codes(many(door, {"destination": "nowhere"})) == [Code.BAD_URI]
    assert many(door) == []


def test_a_credential_that_many_name_is_looked_up_once(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is unknown, too."""
    asked: list[str] = []
    cards = {"mine": CARD}

    def credential(name: str, _: str) -> CredentialCard | None:
        asked.append(name)
        return cards.get(name)

    monkeypatch.setattr(door.desk, "credential", credential)

    outcomes = many(door, *({"credential": name} for name in ("mine", "none", "mine", "none")))

    assert codes(outcomes) == [True, Code.UNKNOWN_CREDENTIAL, True, Code.UNKNOWN_CREDENTIAL]
    assert asked == ["mine", "none"]


def test_what_the_store_refuses_one_of_many_with_is_in_its_place(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that another request took in that moment."""
    taken = InputError(Code.IDEMPOTENCY_CONFLICT, "taken", field="idempotency_key")
    monkeypatch.setattr(door.desk, "store_many", lambda wanted: [taken, *((PUSH, True) for _ in wanted[1:])])

    assert many(door, {"idempotency_key": "k"}, {}) == [taken, Accepted(PUSH, created=True, announced=True)]


def test_a_store_that_is_away_is_no_fault_of_one(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told once, of all."""

    def away(*_: object) -> None:
        raise StoreError(Code.DATABASE_UNREACHABLE, "away")

    monkeypatch.setattr(door.desk, "credential", away)

    with pytest.raises(StoreError):
        many(door, {}, {})


# -- grants -----------------------------------------------------------------------------------------

GRANT = replace(CARD, kind="oauth_grant", name="lab drive", grant_state="active")


def shared(*, by: str = "grace", **changes: Any) -> CredentialCard:
    """A grant of somebody else that is shared for one prefix until tomorrow."""
    return replace(GRANT, owner=by, shares=(a_share(GRANT.id, principal=OWNER, uri="s3://results/runs", **changes),))


def test_a_push_may_use_a_grant_of_ones_own(door: Door) -> None:
    """As any other credential."""
    door.desk.card = GRANT

    assert door.submit(profile="") == Accepted(PUSH, created=True, announced=True)


def test_a_push_with_a_grant_that_needs_its_user_is_let_in_with_a_warning(door: Door) -> None:
    """It waits: whoever reconnects it lets it go on. A preview says so, too."""
    door.desk.card = replace(GRANT, grant_state="reconnect")

    (warning,) = door.submit().warnings

    assert ("lab drive" in warning, "Reconnect" in warning) == (True, True)
    assert door.intake.preview(a_request(source=str(door.source))).warnings == (warning,)


@pytest.mark.parametrize(
    ("state", "grant_state", "code"),
    [
        ("active", "revoking", Code.CONSENT_REVOKED),
        ("active", "revoked", Code.CONSENT_REVOKED),
        ("purging", "active", Code.CONSENT_REVOKED),
        ("purged", "revoked", Code.CONSENT_REVOKED),
        ("sealing", "active", Code.CREDENTIAL_PURGED),
    ],
)
def test_a_grant_that_is_over_is_refused(door: Door, state: str, grant_state: str, code: Code) -> None:
    """Or one that is not there yet."""
    door.desk.card = replace(GRANT, state=state, grant_state=grant_state)

    error = door.refusal()

    assert (error.code, error.field) == (code, "credential")


def test_a_grant_leads_to_where_its_provider_says(door: Door) -> None:
    """Its tokens must not go to a server that somebody names."""
    door.desk.card = GRANT

    error = door.refusal(profile="lab")

    assert (error.code, error.field, "'seaweedfs'" in error.message) == (Code.BAD_INPUT, "profile", True)


@pytest.mark.parametrize("uri", ["s3://results/runs", "s3://results/runs/7"])
def test_a_shared_grant_is_used_below_its_prefix(door: Door, uri: str) -> None:
    """By whom it is shared with."""
    door.desk.card = shared()

    assert door.submit(destination=uri).created


@pytest.mark.parametrize("uri", ["s3://results", "s3://results/runs2", "s3://elsewhere/runs"])
def test_a_shared_grant_is_refused_elsewhere(door: Door, uri: str) -> None:
    """With where and until when it is shared."""
    door.desk.card = shared()

    error = door.refusal(destination=uri)

    assert (error.code, error.field) == (Code.NOT_OWNER, "destination")
    assert "s3://results/runs until 2026-03-02 12:00 UTC" in error.message


@pytest.mark.parametrize("change", [{"until": NOON}, {"ended_at": NOON}], ids=["its time has come", "unshared"])
def test_a_share_that_is_over_is_none(door: Door, change: dict[str, Any]) -> None:
    """Until when it was one is told."""
    door.desk.card = shared(**change)

    error = door.refusal()

    assert (error.code, error.field, "until 2026-03-01 12:00 UTC" in error.message) == (
        Code.CONSENT_REVOKED,
        "credential",
        True,
    )


def test_a_grant_of_somebody_else_that_was_never_shared_is_refused(door: Door) -> None:
    """As any other credential."""
    door.desk.card = replace(GRANT, owner="grace")

    error = door.refusal()

    assert (error.code, error.field) == (Code.NOT_OWNER, "credential")


# -- what opens which destination ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "profile", "kind", "fix"),
    [
        ("gs://results/runs", "gcs", "access_key", "Google Cloud Storage: connect your account"),
        ("gs://results/runs", "gcs", "web_identity", "Google Cloud Storage: connect your account"),
        ("az://results/runs", "azure", "access_key", "Azure Blob Storage: connect your account"),
        ("az://results/runs", "azure", "web_identity", "Azure Blob Storage: connect your account"),
    ],
)
def test_a_credential_that_cannot_open_the_destination_is_refused(
    door: Door, uri: str, profile: str, kind: str, fix: str
) -> None:
    """At the door, with what to do instead, and not by the worker that unseals it."""
    door.desk.card = replace(GRANT if kind == "web_identity" else CARD, kind=kind, profile=profile)

    error = door.refusal(destination=uri, profile="")

    assert (error.code, error.field) == (Code.BAD_INPUT, "credential")
    assert f"kind '{kind}' cannot open '{uri}'" in error.message
    assert fix in error.message


@pytest.mark.parametrize("kind", ["access_key", "oauth_grant", "web_identity"])
def test_s3_is_opened_by_keys_and_by_every_consent(door: Door, kind: str) -> None:
    door.desk.card = replace(CARD if kind == "access_key" else GRANT, kind=kind)

    assert door.submit().created


# -- the strength that is demanded -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "profile", "demanded"),
    [
        ("s3://results/runs", "seaweedfs", Strength.CHECKSUM),
        ("gs://results/runs", "gcs", Strength.CHECKSUM),
        ("az://results/runs", "azure", Strength.INGEST),
    ],
)
def test_each_destination_has_its_own_default(door: Door, uri: str, profile: str, demanded: Strength) -> None:
    """The most that it proves of every file."""
    door.desk.card = replace(GRANT, profile=profile)

    door.submit(destination=uri, profile="")
    door.submit(destination=uri, profile="", min_strength=Strength.SIZE)

    assert [request.min_strength for request, _, _ in door.desk.stored] == [demanded, Strength.SIZE]


@pytest.mark.parametrize("strength", [None, Strength.INGEST])
def test_a_default_is_the_same_as_saying_it(door: Door, strength: Strength | None) -> None:
    """For the idempotency key."""
    door.desk.card = replace(GRANT, profile="azure")
    first = {"destination": "az://results/runs", "profile": "", "idempotency_key": "k", "credential": "mine"}
    door.submit(**first)

    again = door.submit(**first, min_strength=strength)

    assert (again.created, len(door.desk.stored)) == (False, 1)


@pytest.mark.parametrize("name", ["mine", "grace/mine", str(CARD.id)])
def test_a_repetition_may_name_the_credential_in_each_way(door: Door, name: str) -> None:
    """Although it may have gone since."""
    door.submit(idempotency_key="k")
    door.desk.card = None

    assert not door.submit(idempotency_key="k", credential=name).created


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
    ({"destination": "ftp://results/x"}, Code.BAD_URI, "destination", "unknown scheme 'ftp'"),
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


# -- packages and retries ---------------------------------------------------------------------------


def test_package_is_part_of_what_was_asked_for(door: Door) -> None:
    """Only where there is one: what was stored before there were any keeps its digest."""
    for package in (None, Package.BAGIT, Package.RO_CRATE):
        door.submit(package=package)

    plain, *others = (digest for _, _, digest in door.desk.stored)
    assert len({plain, *others}) == 3
    assert plain == hashlib.sha256(json.dumps(_told(door), sort_keys=True).encode()).digest()


def test_preview_of_a_bag_shows_where_its_data_goes(door: Door) -> None:
    """Below data/."""
    request = a_request(source=str(door.source), package=Package.BAGIT)

    assert [f.key for f in door.intake.preview(request).first] == ["runs/7/data/a", "runs/7/data/b"]


def test_retry_submits_what_the_desk_says_and_tells_what_waits(door: Door) -> None:
    """A request anew, or a push that is due now and announced."""
    waiting = door.intake.retry(PUSH, OWNER, OWNER)
    door.desk.again = a_request(source=str(door.source), retry_of=PUSH, idempotency_key=f"retry:{PUSH}")

    again = door.intake.retry(PUSH, OWNER, OWNER)

    assert (waiting, door.announcer.pushes) == (State.QUEUED, [PUSH, PUSH])
    assert isinstance(again, Accepted)
    assert (again.created, door.desk.stored[0][0].retry_of) == (True, PUSH)


def _told(door: Door) -> dict[str, Any]:
    """What a digest was of before there were packages."""
    return {
        "source": str(door.source),
        "destination": URI,
        "credential": str(CARD.id),
        "profile": "seaweedfs",
        "min_strength": "checksum",
        "overwrite": "if-different",
        "include": [],
        "exclude": [],
        "labels": {},
    }
