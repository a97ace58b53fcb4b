"""Users' clouds for pushes with grants: a place to push to, what opens it, and what is there afterwards."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import requests

from cloudpush.push.grants.model import Bearer, Sas
from cloudpush.push.job import Destination, Profile, Secret
from cloudpush.stack.azurite import Azurite
from doubles.gcs import GcsDouble


@dataclass
class Place:
    """A bucket or container.

    ``secret_for``: a fresh one for a bucket, that lives so many seconds; ``stored``: key → bytes; ``put``: stores an object.
    """

    destination: Destination
    secret_for: Callable[[str, float], Secret]
    stored: Callable[[], dict[str, bytes]]
    put: Callable[[str, bytes], None]

    def secret(self, seconds: float) -> Secret:
        """A fresh one for this place."""
        return self.secret_for(self.destination.bucket, seconds)


def on_gcs(double: GcsDouble, prefix: str = "runs/7") -> Place:
    """The double's bucket, emptied."""
    double.objects.clear()
    double.log.clear()

    def token(_bucket: str, seconds: float) -> Bearer:
        return bearer(double, f"token-{os.urandom(6).hex()}", seconds)

    return Place(
        Destination("gs", "bucket", prefix, Profile("gcs", "gcs")),
        token,
        lambda: {key: found.data for (_, key), found in double.objects.items()},
        lambda key, data: double.put("bucket", key, data),
    )


def bearer(double: GcsDouble, token: str, seconds: float) -> Bearer:
    """``token``, which the double takes for so long."""
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    double.tokens.accept(token, seconds)
    return Bearer(token, ends, ends - timedelta(seconds=seconds / 5), double.endpoint)


def on_azure(azurite: Azurite, prefix: str = "runs/7", *, through: str = "") -> Place:
    """A container of its own. ``through``: the address of something in front of Azurite."""
    container = f"place-{os.urandom(4).hex()}"
    azurite.make_container(container)
    return Place(
        Destination("az", container, prefix, Profile("azure", "azure")),
        lambda bucket, seconds: signature(azurite, bucket, seconds, through=through),
        lambda: blobs(azurite, container),
        lambda key, data: put_blob(azurite, container, key, data),
    )


def signature(azurite: Azurite, container: str, seconds: float, *, permissions: str = "rcw", through: str = "") -> Sas:
    """A signature for ``container``, made with the account's key."""
    url, _, query = azurite.signed_url(container, permissions=permissions, seconds=seconds).partition("?")
    return Sas(
        url.replace(azurite.address, through) if through else url,
        query,
        datetime.now(UTC) + timedelta(seconds=seconds),
        ca_file=str(azurite.ca_file) if azurite.oauth else "",
    )


def _trusted(azurite: Azurite) -> str | bool:
    return str(azurite.ca_file) if azurite.oauth else True


def put_blob(azurite: Azurite, container: str, key: str, data: bytes) -> None:
    """Store ``data`` in one request."""
    url = azurite.signed_url(container, permissions="rcw").replace("?", f"/{quote(key)}?", 1)
    headers = {"x-ms-blob-type": "BlockBlob"}
    answer = requests.put(url, data=data, headers=headers, timeout=30, verify=_trusted(azurite))
    assert answer.status_code == 201, answer.text


def blobs(azurite: Azurite, container: str) -> dict[str, bytes]:
    """What is in ``container``."""
    url = azurite.signed_url(container, permissions="rl")
    trusted = _trusted(azurite)
    answer = requests.get(f"{url}&restype=container&comp=list", timeout=10, verify=trusted)
    listing = ET.fromstring(answer.content)
    base, _, query = url.partition("?")
    names = [name.text or "" for name in listing.iter("Name")]
    answers = {name: requests.get(f"{base}/{quote(name)}?{query}", timeout=30, verify=trusted) for name in names}
    return {name: answer.content for name, answer in answers.items() if answer.status_code == 200}
