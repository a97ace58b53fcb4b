"""The Python client of CloudPush's API: what a pipeline imports. It loads neither Celery nor a database's driver.

::

    from cloudpush import Client

    with Client() as cloudpush:
        push = cloudpush.push("/data/run-42", "s3://lab/run-42", "lab-key").wait().check()
"""

from cloudpush.client.answers import (
    Credential,
    Event,
    File,
    Me,
    Preflight,
    Progress,
    Push,
    PushFailed,
    Resigned,
)
from cloudpush.client.client import Client, Outcome, Submission
from cloudpush.client.handle import Handle

__all__ = [
    "Client",
    "Credential",
    "Event",
    "File",
    "Handle",
    "Me",
    "Outcome",
    "Preflight",
    "Progress",
    "Push",
    "PushFailed",
    "Resigned",
    "Submission",
]
