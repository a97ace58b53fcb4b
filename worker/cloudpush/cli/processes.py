"""``cloudpush worker`` and ``cloudpush sweeper``: the long-lived processes."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Annotated

import typer

from cloudpush.logs import get_logger, setup_logs
from cloudpush.poison import refuse_poison
from cloudpush.resources import calm_collector, share_memory
from cloudpush.settings import read_settings
from cloudpush.tasks import register, register_submit
from cloudpush.watchdog import watch_over
from cloudpush.wiring import build_sweeper, build_worker

log = get_logger(__name__)

#: The notary's last request to Vault or Postgres is waited for; what it was about is owed still.
STOP_SECONDS = 30.0


def add_to(app: typer.Typer) -> None:
    """Add both commands."""
    app.command()(worker)
    app.command()(sweeper)


def worker(
    concurrency: Annotated[int | None, typer.Option(min=1, max=64, help="Pushes executed at once.")] = None,
) -> None:
    """Execute pushes until told to stop. SIGTERM lets what runs finish; a second one does not."""
    share_memory()
    settings = read_settings() if concurrency is None else read_settings(concurrency=concurrency)
    setup_logs(settings.log_level, settings.log_format)
    services = build_worker(settings)
    refuse_poison(services.celery)
    register(services.celery, services.cloudpush)
    register_submit(services.celery, services.submissions)
    watch_over(services.celery, services.announcer.length)
    services.start()
    calm_collector()
    # Each task is told once, by its own door, with what came of it.
    for name in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).setLevel(logging.WARNING)
    log.info("worker ready", worker=services.name, concurrency=settings.concurrency)
    try:
        # Threads, not processes: work is waiting (rclone, HEADs, Postgres), one rclone serves them all.
        services.celery.Worker(
            pool_cls="threads",
            concurrency=settings.concurrency,
            hostname=f"cloudpush@{services.name}",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel=settings.log_level.upper(),
            quiet=True,
        ).start()
    finally:
        services.close()


def sweeper() -> None:
    """Set going again what a lost message or a dead worker left behind; destroy expired credentials; seal the record."""
    settings = read_settings()
    setup_logs(settings.log_level, settings.log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    services = build_sweeper(settings)
    # The inspector may be in the middle of a long look when it is time to go: nothing is lost by leaving it there.
    notary = threading.Thread(target=services.notary.run, args=(stop,), name="notary", daemon=True)
    threading.Thread(target=services.inspector.run, args=(stop,), name="inspector", daemon=True).start()
    notary.start()
    log.info("sweeper ready")
    try:
        services.sweep.run(stop, settings.sweep_seconds)
    finally:
        stop.set()
        notary.join(STOP_SECONDS)
        services.close()
