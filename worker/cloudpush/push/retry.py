"""Whether to try again, and when: a pure function of the error and of what went before.

Four kinds of failure. *Final* ones need somebody to change something in the request. *Passing* ones
count as strikes, and too many end the push. An *outage* of our own parts (Vault sealed, database
down, our client secret wrong), or of where a consent's access is renewed, is no fault of the push, which has tried
nothing: it waits as long as the operator's patience lasts. What *waits* for
somebody (fresh URLs, a consent given anew) pauses the push for as long: nothing is tried until they act.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cloudpush.errors import CloudPushError, Code
from cloudpush.push.job import Verdict
from cloudpush.push.states import State

#: Our own parts, and what lends us access: while they are down nothing counts against a push.
OUTAGES = frozenset(
    {
        Code.VAULT_SEALED,
        Code.VAULT_UNREACHABLE,
        Code.VAULT_DENIED,
        Code.DATABASE_UNREACHABLE,
        Code.DATABASE_SCHEMA,
        Code.BROKER_UNREACHABLE,
        Code.DISK_FULL,
        Code.ENGINE_MISSING,
        Code.CLIENT_REJECTED,  # our registration at a provider
        Code.GRANT_UNAVAILABLE,
    }
)

#: Where fewer strikes than usual tell all there is to know.
STRIKES: dict[Code, int] = {
    Code.CORRUPTED: 2,  # once is chance, twice is a fault
    Code.INTERNAL: 3,
    Code.ENDPOINT_REFUSED: 5,
    Code.ENDPOINT_UNRESOLVABLE: 5,
}


#: What pauses a push, and does not end it, when it was tried often enough: somebody can still help.
HELPED = frozenset({Code.RESIGN_FAILED})


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient to be. ``base`` and ``cap`` are seconds."""

    strikes: int = 12
    base: float = 2.0
    cap: float = 300.0
    patience: timedelta = timedelta(days=7)

    def decide(self, error: CloudPushError, *, strikes: int, age: timedelta, jitter: float) -> Verdict:
        """The verdict on an attempt that ended with ``error``.

        ``strikes``: counted failures before this one; ``jitter``: chance in [0, 1).
        """
        if error.code is Code.CANCELLED:
            return Verdict(State.CANCELLED, error)
        if error.code.waits:
            return Verdict(State.FAILED if age > self.patience else State.AWAITING_CONSENT, error)
        if not error.code.retryable:
            return Verdict(State.FAILED, error)
        if error.code in OUTAGES:
            if age > self.patience:
                return Verdict(State.FAILED, error)
            return Verdict(State.QUEUED, error, retry_in=self.delay(2, jitter))
        if strikes + 1 >= min(self.strikes, STRIKES.get(error.code, self.strikes)):
            helped = error.code in HELPED and age <= self.patience
            return Verdict(State.AWAITING_CONSENT if helped else State.FAILED, error)
        return Verdict(State.QUEUED, error, retry_in=self.delay(strikes, jitter), strike=True)

    def delay(self, strikes: int, jitter: float) -> float:
        """Seconds until the next attempt: doubling from ``base`` to ``cap``, then 50 to 100 % of that by chance."""
        full = min(self.cap, self.base * 2.0 ** min(strikes, 32))
        return full * (0.5 + 0.5 * jitter)


def age_of(created_at: datetime, now: datetime) -> timedelta:
    """How long a push has existed; never negative although two clocks are involved."""
    return max(now - created_at, timedelta(0))
