"""The composition root: the only place where concrete classes are chosen.

``build_*`` takes settings and returns services; nothing connects before its first use, so a command that
needs only Postgres works while Vault is down. What only a worker needs is imported when one is built: the command
line, started anew for every push, does not pay for it.
"""

from cloudpush.wiring.command import Services, audit_keys, build
from cloudpush.wiring.common import SystemClock, destinations
from cloudpush.wiring.sweeper import SweeperServices, build_sweeper
from cloudpush.wiring.web import WebServices, build_web, sign_in_link
from cloudpush.wiring.worker import RefresherServices, WorkerServices, build_refresher, build_worker

__all__ = [
    "RefresherServices",
    "Services",
    "SweeperServices",
    "SystemClock",
    "WebServices",
    "WorkerServices",
    "audit_keys",
    "build",
    "build_refresher",
    "build_sweeper",
    "build_web",
    "build_worker",
    "destinations",
    "sign_in_link",
]
