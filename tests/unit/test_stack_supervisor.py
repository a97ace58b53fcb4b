"""Start, crash, start again, give up, stop: with services that are no processes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence

import pytest

from cloudpush.errors import Code, StackError
from cloudpush.stack import supervisor as module
from cloudpush.stack.process import Child, Pause
from cloudpush.stack.service import Service
from cloudpush.stack.supervisor import Phase, Supervisor, Watched


class Fake(Service):
    """Lives until told otherwise."""

    def __init__(self, name: str, story: Story, *, dies: int = 0, serves_after: int = 1) -> None:
        super().__init__()
        self.name = name
        self.story = story
        self.dies = dies  # how many of its lives are short
        self.serves_after = serves_after
        self.living = False
        self.looks = 0

    @property
    def where(self) -> str:
        return "nowhere"

    def launch(self) -> Child:
        raise NotImplementedError

    def start(self) -> None:
        self.story.append(f"start {self.name}")
        self.living = True
        self.looks = 0

    @property
    def alive(self) -> bool:
        return self.living

    def ending(self) -> str:
        return "ended with signal 9 (SIGKILL)"

    def probe(self) -> bool:
        self.looks += 1
        if self.dies:
            self.dies -= 1
            self.living = False
        return self.looks >= self.serves_after

    def late(self) -> StackError:
        return StackError(Code.STACK, f"{self.name} does not serve")

    def ask_to_stop(self) -> None:
        self.story.append(f"ask {self.name}")

    def stop(self, pause: Pause = time.sleep) -> bool:
        self.story.append(f"stop {self.name}")
        self.living = False
        return True


class Story(list[str]):
    """A view that only listens."""

    def show(self, watched: Sequence[Watched]) -> None:
        pass

    def say(self, text: str) -> None:
        self.append(text)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off without the waiting, and no ambition about this process' children."""
    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.001)
    monkeypatch.setattr(module, "become_subreaper", lambda: None)
    monkeypatch.setattr(Supervisor, "_end_orphans", lambda self: None)


def test_services_stop_in_the_reverse_order_of_their_start_when_asked() -> None:
    """A worker needs its database until its end. SIGTERM is an ordinary end, not an error."""
    story = Story()
    services = [Fake(name, story) for name in ("postgres", "valkey", "worker")]
    with Supervisor(services, story) as run:
        run.start(services)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        run.watch()
    assert story == [
        *("start postgres", "start valkey", "start worker"),
        *("ask worker", "stop worker", "ask valkey", "stop valkey", "ask postgres", "stop postgres"),
    ]


def test_workers_are_asked_to_stop_together() -> None:
    """Sixteen of them may each take half a minute."""
    story = Story()
    services = [Fake(name, story) for name in ("postgres", "worker-1", "worker-2")]
    for worker in services[1:]:
        worker.group = "worker"
    with Supervisor(services, story) as run:
        run.start(services)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        run.watch()
    assert story[3:] == [
        "ask worker-2",
        "ask worker-1",
        "stop worker-2",
        "stop worker-1",
        "ask postgres",
        "stop postgres",
    ]


def test_a_crash_is_named_and_the_service_started_again() -> None:
    """The one line that an operator needs."""
    story = Story()
    service = Fake("valkey", story)
    with Supervisor([service], story) as run:
        run.start([service])
        service.living = False
        run.check()
        while run.watched[0].phase is not Phase.RUNNING:
            run.check()
        assert run.watched[0].restarts == 1
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        run.watch()
    assert story == [
        "start valkey",
        "valkey ended with signal 9 (SIGKILL)\nvalkey: starting it again in 0.001 s",
        "start valkey",
        "ask valkey",
        "stop valkey",
    ]


def test_a_service_that_keeps_crashing_is_given_up_by_name_and_the_others_are_stopped() -> None:
    """Five deaths within a minute are no passing fault."""
    story = Story()
    postgres, worker = Fake("postgres", story), Fake("worker", story, dies=99, serves_after=2)
    with (
        pytest.raises(StackError, match=r"^STACK: worker crashed 5 times within a minute, giving up: it ended with"),
        Supervisor([postgres, worker], story) as run,
    ):
        run.start([postgres, worker])
    assert (story.count("start worker"), story[-1]) == (5, "stop postgres")


def test_the_pause_before_the_next_start_doubles() -> None:
    """A service that cannot live is not started a hundred times a second."""
    story = Story()
    service = Fake("worker", story, dies=3, serves_after=2)
    with Supervisor([service], story) as run:
        run.start([service])
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        run.watch()
    said = [text.rpartition(" in ")[2] for text in story if "again" in text]
    assert said == ["0.001 s", "0.002 s", "0.004 s"]


def test_a_service_that_does_not_serve_in_time_counts_as_crashed() -> None:
    """Alive is not enough."""
    story = Story()
    service = Fake("openbao", story, serves_after=10**9)
    service.ready_seconds = 0.0
    with (
        pytest.raises(StackError, match=r"openbao crashed 5 times .* it does not serve"),
        Supervisor([service], story) as run,
    ):
        run.start([service])


def test_a_stop_is_obeyed_while_services_are_still_starting() -> None:
    """Ctrl-C during a slow start."""
    story = Story()
    services = [Fake("postgres", story), Fake("openbao", story, serves_after=10**9)]
    with Supervisor(services, story) as run:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        run.start(services)
    assert story[-4:] == ["ask openbao", "stop openbao", "ask postgres", "stop postgres"]


def test_signals_are_as_before_afterwards() -> None:
    """What supervised a stack can go on as an ordinary process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with Supervisor([], Story()):
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    after = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert (after, signal.SIGTERM in after) == (before, False)
