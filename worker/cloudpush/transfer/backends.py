"""Which of rclone's backends carries what: by the kind of secret, which endpoints.py has matched with the dialect."""

from __future__ import annotations

from collections.abc import Mapping

from cloudpush.push.endpoints import ACCESS_KEY, BEARER, SAS
from cloudpush.transfer.azure import AZURE
from cloudpush.transfer.gcs import GCS
from cloudpush.transfer.remotes import S3, Backend

BACKENDS: Mapping[str, Backend] = {ACCESS_KEY: S3, BEARER: GCS, SAS: AZURE}
