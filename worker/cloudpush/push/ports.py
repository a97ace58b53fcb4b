"""What the story of a push needs from the outside world.

Small interfaces, kept where they are consumed. Each docstring is a contract: what is returned,
what is raised, what may be repeated. ``tests/contract`` holds every implementation to it, the
fakes included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from cloudpush.errors import CloudPushError
from cloudpush.push.job import (
    Destination,
    FileResult,
    Fingerprint,
    Lease,
    Page,
    Part,
    PlannedFile,
    Progress,
    Push,
    Secret,
    Seen,
    Verdict,
)
from cloudpush.push.states import State, Strength, Wish

if TYPE_CHECKING:
    from cloudpush.push.packages import Arrived
    from cloudpush.push.preflight import Report


class Control(Protocol):
    """Tells an execution whether to go on. Cheap; ask often."""

    def check(self) -> None:
        """Return while all is well; raise a CloudPushError as soon as it is not, whichever it is: stop then.

        Cancelled, LeaseLost, ConsentRevoked; CredentialError CONSENT_NEEDED and others where a secret could not be renewed.
        """


class Vault(Protocol):
    """Unseals credentials."""

    def unseal(self, credential_id: UUID, owner: str, kind: str) -> Secret:
        """Return the plaintext credential. Repeatable.

        Raises VaultError (sealed, away, denied: all retryable) or CredentialError (purged: nothing
        in Vault under this id; corrupt: does not decrypt for this owner, id and kind).
        """


class Session(Protocol):
    """One destination, opened with one secret, in the transfer engine."""

    def piece_size(self, size: int) -> int | None:
        """Bytes per piece that a file of ``size`` bytes is sent in; None for a single request."""

    def send(self, root: Path, files: Sequence[PlannedFile], control: Control) -> Mapping[int, CloudPushError]:
        """Upload ``root / file.path`` to ``file.key`` for each file; overwrites. Repeatable.

        Returns the failures by ``seq``; a file that is absent was accepted by the engine, which proves
        nothing yet. Raises CloudPushError where nothing of the batch can succeed (credential refused, bucket
        missing, engine crashed); Cancelled and LeaseLost within two seconds of ``control`` saying so,
        with everything in flight stopped.
        """

    def abandon(self, keys: Sequence[str], control: Control) -> int:
        """Forget the pieces of unfinished uploads to exactly these ``keys``; how many uploads. Repeatable.

        For what an engine that was killed left behind; one that is stopped tidies up itself. Raises
        CloudPushError where the credential may not list or abort uploads, Cancelled, LeaseLost.
        """

    def remove(self, keys: Sequence[str], control: Control) -> Mapping[str, CloudPushError]:
        """Delete the objects ``keys``: the failures by key. Repeatable: one that is not there is deleted.

        For probes of our own only. Raises as ``send`` does where nothing can be deleted by any credential of this sort.
        """

    def renew(self, secret: Secret) -> None:
        """Use ``secret`` from now on. Thread-safe, repeatable, also while ``send`` runs in other threads.

        It is of the kind that the session was opened with and for the same destination. Uploads under way turn to it

        - with an access key at their next request;
        - with a bearer token at their next request once the old one is about to end, so renew ahead of that;
        - with a SAS not at all: it is made for as long as its part may last, and only new uploads take the new one.

        A token that was refused before its end is not used by a ``send`` that begins after this. Raises InputError for a
        secret of another kind or for elsewhere, EngineError where the engine does not take it (it crashed): what runs
        goes on with the old one, or fails by itself.
        """

    def progress(self) -> Progress:
        """Bytes and files sent so far through this session, and the present speed."""


class Engine(Protocol):
    """Moves bytes."""

    def open(self, destination: Destination, secret: Secret, group: str) -> AbstractContextManager[Session]:
        """A session under the unique name ``group``; leaving the context forgets the secret.

        Raises EngineError when the engine cannot be started.
        """


class Inspector(Protocol):
    """Asks the destination what it has, and says what that proves."""

    def look(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        """One HEAD (or its equivalent) per key, many at once; answers in the order of ``keys``. Repeatable.

        To be asked right after ``keys`` were sent by the engine: what an answer proves may rest on how that sends. Small
        objects may be read back where a provider gives no digest of its own.

        A key that is absent, or that we may not see, is a Seen, not an error; so is a failure that
        concerns one key. Raises DestinationError where no key can be asked (refused connection,
        unresolvable host, bucket missing, expired session).
        """

    def survey(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        """As ``look``, for deciding what need not be sent; may list instead of asking key by key.

        May answer for a missing bucket that it holds none of the keys: sending will tell.
        """

    def strength(self, expected: Fingerprint, seen: Seen) -> Strength:
        """What ``seen`` proves about ``expected``; NONE where they differ. Pure."""


class Store(Protocol):
    """Postgres: the truth. Every call is one transaction that appends its events."""

    def claim_push(self, push_id: UUID, lease: Lease) -> Push | None:
        """Take a queued push, or one whose lease ran out; None where someone else has it or it is over.

        It is ``unproved`` unless a preflight of its credential passed lately for where it goes, or above.
        """

    def begin_preflight(self, push: Push, lease: Lease) -> None:
        """Append that this worker unseals the push's credential for a preflight.

        Raises as ``record_credential_use`` does.
        """

    def record_preflight(self, push: Push, lease: Lease, report: Report) -> None:
        """Store what a preflight of the push found; one that passed makes the pair known. Raises LeaseLost."""

    def record_page(self, push: Push, lease: Lease, page: Page) -> None:
        """Store one part, queued, and its files while planning goes on. Raises LeaseLost.

        A closing part is due only once every other part is over.
        """

    def finish_plan(self, push: Push, lease: Lease, *, parts: int, files: int, bytes_: int) -> None:
        """The walk is complete and the push's own lease is given back. Raises LeaseLost."""

    def finish_plan_with(self, push: Push, lease: Lease, page: Page) -> None:
        """The walk is complete and this is its only part: it is ours already, under the same lease.

        Records the use of the credential too, so that the part can be executed without another transaction.
        Raises as ``record_credential_use`` does; then nothing is stored.
        """

    def claim_part(self, push_id: UUID, number: int, lease: Lease) -> tuple[Push, Part] | None:
        """Take a queued part, or one whose lease ran out; None where someone else has it or it is over."""

    def arrived(self, part: Part) -> Iterable[Arrived]:
        """What became of the files before a closing part, in order, in constant memory."""

    def add_files(self, part: Part, lease: Lease, files: Sequence[PlannedFile]) -> None:
        """The closing part's files were made. Repeatable: what has a row keeps it. Raises LeaseLost."""

    def closing_due(self, push_id: UUID) -> int | None:
        """The number of the push's closing part, where that is queued and due."""

    def open_files(self, part: Part) -> Sequence[PlannedFile]:
        """The part's files that have no verdict yet, in order. Bounded by the part's size."""

    def record_credential_use(self, push: Push, part: Part, lease: Lease, *, ending: bool = False) -> None:
        """Append that this worker unseals the push's credential now.

        ``ending``: to tidy up after a part that is over, which neither a cancellation nor an expiry forbids.

        Raises LeaseLost, Cancelled (asked for in the meantime), CredentialError (purged or expired; URL_EXPIRED for a
        set of signed URLs that nobody renews; CONSENT_NEEDED for a grant whose user must consent anew), ConsentRevoked
        (a grant that was revoked, or is not shared with the push's owner any more).
        """

    def record_files(self, part: Part, lease: Lease, results: Sequence[FileResult]) -> None:
        """Store verdicts of files. Repeatable. Raises LeaseLost."""

    def end_part(
        self, push: Push, part: Part, lease: Lease, verdict: Verdict, results: Sequence[FileResult] = ()
    ) -> State:
        """Store ``results``, end this attempt of a part and return the state that the *push* has now.

        A verdict QUEUED schedules the next attempt. AWAITING_CONSENT pauses the part until somebody hands over what it
        waits for, and the push with it once no part is queued or running; where that came since the claim, or the push
        is to be cancelled, the part is queued again instead. Any other ends the part: files without a verdict take the
        verdict's error, and the part's state is what its files amount to. The last part ends the push.
        Raises LeaseLost.
        """

    def end_push(self, push: Push, lease: Lease, verdict: Verdict) -> None:
        """End an attempt that did not get as far as parts: retry later, a pause, or a final state. Raises LeaseLost."""

    def extend(self, tokens: Iterable[UUID], seconds: float) -> Mapping[UUID, Wish]:
        """Extend leases: token → how its push is to go on. A missing token has lost its lease.

        REVOKED: its credential is a grant that was revoked or is being purged, or the share by which its owner used
        somebody else's has ended. One that needs its user's consent anew goes on for as long as what it made of it lasts.
        """

    def note_progress(self, moments: Mapping[UUID, Progress]) -> None:
        """Write progress into rows, by lease token. Best effort, at a low rate."""


class Announcer(Protocol):
    """The broker: a hint that there is work. Messages carry ids only."""

    def push(self, push_id: UUID) -> None:
        """Announce a push. Raises BrokerError; the sweep announces again."""

    def push_many(self, push_ids: Sequence[UUID]) -> None:
        """Announce many pushes in one go. Raises BrokerError; the sweep announces again."""

    def parts(self, push_id: UUID, numbers: Sequence[int]) -> None:
        """Announce parts. Raises BrokerError; the sweep announces again."""

    def progress(self, push_id: UUID, progress: Progress) -> None:
        """Publish to whoever watches. Never raises."""

    def ended(self, push_id: UUID, state: State) -> None:
        """Publish that the push reached ``state``. Never raises."""


class Clock(Protocol):
    """Time and chance, so that tests own both."""

    def now(self) -> datetime:
        """The present, aware, UTC."""

    def jitter(self) -> float:
        """A number in [0, 1)."""
