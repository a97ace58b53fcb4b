"""The Inspector for every destination: each secret goes to the one that understands it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cloudpush.push.endpoints import ACCESS_KEY, BEARER, SAS, check_secret
from cloudpush.push.job import Destination, Fingerprint, Secret, Seen
from cloudpush.push.ports import Control, Inspector
from cloudpush.push.states import Strength
from cloudpush.verify.azure import AzureInspector
from cloudpush.verify.gcs import GcsInspector
from cloudpush.verify.heads import S3Inspector
from cloudpush.verify.proof import strength_of
from cloudpush.verify.questions import CONCURRENCY, HeadInspector


class CloudInspector(Inspector):
    """Asks S3, Google Cloud Storage and Azure Blob Storage. Safe to use from several threads."""

    def __init__(self, *, allowed_endpoints: Collection[str] = (), concurrency: int = CONCURRENCY) -> None:
        """``allowed_endpoints``: the operator's listed hosts, which may be private; see push.guard."""
        self._inspectors: Mapping[str, HeadInspector] = {
            ACCESS_KEY: S3Inspector(allowed_endpoints=allowed_endpoints, concurrency=concurrency),
            BEARER: GcsInspector(allowed_endpoints=allowed_endpoints, concurrency=concurrency),
            SAS: AzureInspector(allowed_endpoints=allowed_endpoints, concurrency=concurrency),
        }

    def close(self) -> None:
        """Close the kept connections."""
        for inspector in self._inspectors.values():
            inspector.close()

    def look(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        """See Inspector. Raises InputError too: a secret that does not open this destination."""
        return self._for(destination, secret).look(destination, secret, keys, control)

    def survey(self, destination: Destination, secret: Secret, keys: Sequence[str], control: Control) -> Sequence[Seen]:
        """See Inspector. Raises InputError too: a secret that does not open this destination."""
        return self._for(destination, secret).survey(destination, secret, keys, control)

    def begin_upload(self, destination: Destination, secret: Secret, key: str, control: Control) -> str:
        """See ``push.preflight.Uploads``."""
        inspector = self._for(destination, secret)
        return inspector.begin_upload(destination, secret, key, control) if isinstance(inspector, S3Inspector) else ""

    def erase(self, destination: Destination, secret: Secret, key: str, control: Control) -> bool:
        """See ``push.preflight.Uploads``."""
        inspector = self._for(destination, secret)
        if not isinstance(inspector, S3Inspector):
            return False
        inspector.erase(destination, secret, key, control)
        return True

    def end_upload(self, destination: Destination, secret: Secret, key: str, upload: str, control: Control) -> None:
        """See ``push.preflight.Uploads``."""
        inspector = self._for(destination, secret)
        if isinstance(inspector, S3Inspector):
            inspector.end_upload(destination, secret, key, upload, control)

    def strength(self, expected: Fingerprint, seen: Seen) -> Strength:
        """See Inspector and :func:`cloudpush.verify.proof.strength_of`."""
        return strength_of(expected, seen)

    def _for(self, destination: Destination, secret: Secret) -> HeadInspector:
        check_secret(destination, secret)
        return self._inspectors[secret.kind]
