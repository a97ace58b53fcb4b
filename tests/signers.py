"""Witnesses: they sign URLs as users do, with the providers' own libraries, and know nothing of CloudPush.

Each method returns a row of a manifest: column → value. ``endpoint`` is where the URLs lead, which may be a proxy
before the server.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from urllib.parse import quote
from xml.etree import ElementTree as ET

import boto3
import requests
from azure.storage.blob import generate_account_sas, generate_blob_sas, generate_container_sas
from botocore.config import Config
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from google.cloud import storage
from google.oauth2 import service_account

from cloudpush.stack.azurite import AzureAccount
from cloudpush.stack.seaweedfs import S3Identity
from doubles.aws_proxy import AwsSession

Row = dict[str, Any]

MIB = 1024 * 1024
#: What a URL of a test lives, unless its life is the matter.
SECONDS = 600
#: When a URL was signed that has expired by now.
LONG_AGO = timedelta(hours=2)


class S3Signer:
    """boto3. ``version``: v4 or v2. ``ago``: sign as if it were so long ago."""

    def __init__(
        self,
        endpoint: str,
        identity: S3Identity | AwsSession,
        bucket: str,
        *,
        version: str = "v4",
        seconds: int = SECONDS,
        ago: timedelta = timedelta(),
    ) -> None:
        self._bucket = bucket
        self._seconds = seconds
        self._ago = ago
        self._client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=identity.access_key,
            aws_secret_access_key=identity.secret_key,
            aws_session_token=identity.token if isinstance(identity, AwsSession) else None,
            region_name="us-east-1",
            config=Config(
                signature_version={"v4": "s3v4", "v2": "s3"}[version], s3={"addressing_style": "path"}, proxies={}
            ),
        )

    def put(self, path: str, key: str, *, companion: str = "", **params: Any) -> Row:
        """One request. ``params`` as boto3 names them, such as ContentMD5; the row's headers say their values."""
        row: Row = {"path": path, "url": self._sign("put_object", key, **params)}
        if companion:
            row[f"{companion}_url"] = self.look(key, companion)
        return row

    def look(self, key: str, method: str = "head") -> str:
        """A URL to ask for the object with."""
        return self._sign({"head": "head_object", "get": "get_object"}[method], key)

    def multipart(
        self, path: str, key: str, upload: str, parts: int, *, part_size: int = 0, companion: str = ""
    ) -> Row:
        """Part URLs of the upload ``upload``, a URL to complete and one to abort."""
        row: Row = {
            "path": path,
            "part_urls": [self._sign("upload_part", key, UploadId=upload, PartNumber=n + 1) for n in range(parts)],
            "complete_url": self._sign("complete_multipart_upload", key, UploadId=upload),
            "abort_url": self._sign("abort_multipart_upload", key, UploadId=upload),
        }
        if part_size:
            row["part_size"] = part_size
        if companion:
            row[f"{companion}_url"] = self.look(key, companion)
        return row

    def form(self, path: str, key: str, *, most: int = 10 * MIB) -> Row:
        """A POST policy form for at most ``most`` bytes."""
        with _botocore_at(self._ago):
            made = self._client.generate_presigned_post(
                self._bucket, key, Conditions=[["content-length-range", 0, most]], ExpiresIn=self._seconds
            )
        return {"path": path, "form_url": made["url"], "fields": made["fields"]}

    def _sign(self, operation: str, key: str, **params: Any) -> str:
        with _botocore_at(self._ago):
            signed: str = self._client.generate_presigned_url(
                operation, Params={"Bucket": self._bucket, "Key": key, **params}, ExpiresIn=self._seconds
            )
        return signed


class _ClockAt:
    """The module ``time`` at another moment, for one module that asks it."""

    def __init__(self, then: datetime) -> None:
        self.time = then.timestamp

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


#: What is patched is the whole process's: two at once would leave it patched for good.
_patching = threading.Lock()


@contextmanager
def _botocore_at(ago: timedelta) -> Iterator[None]:
    """Sign as if it were ``ago``, by the clocks of both versions and of forms; nobody else's clock is touched."""
    then = datetime.now(UTC) - ago

    def now(remove_tzinfo: bool = True) -> datetime:
        return then.replace(tzinfo=None) if remove_tzinfo else then

    with (
        _patching,
        patch("botocore.auth.get_current_datetime", now),
        patch("botocore.crt.auth.get_current_datetime", now),  # which signs instead where awscrt is installed
        patch("botocore.signers.get_current_datetime", now),
        patch("botocore.auth.time", _ClockAt(then)),
    ):
        yield


class GcsSigner:
    """google-cloud-storage, for a service account of its own. ``version``: v4 or v2."""

    ACCOUNT = "witness@project.iam.gserviceaccount.com"

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        *,
        key: RSAPrivateKey | None = None,
        version: str = "v4",
        seconds: int = SECONDS,
        ago: timedelta = timedelta(),
    ) -> None:
        self._endpoint = endpoint
        self._version = version
        self._seconds = seconds
        self._ago = ago
        pem = (key or gcs_key()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        info = {
            "type": "service_account",
            "client_email": self.ACCOUNT,
            "private_key": pem.decode(),
            "private_key_id": "witness",
            "token_uri": "https://oauth2.googleapis.com/token",
            "project_id": "project",
        }
        make: Any = service_account.Credentials.from_service_account_info  # untyped
        self._bucket = storage.Client(project="project", credentials=make(info)).bucket(bucket)

    def put(self, path: str, key: str, *, headers: Mapping[str, str] | None = None, companion: str = "") -> Row:
        """One request, with ``headers`` signed."""
        row: Row = {"path": path, "url": self._sign("PUT", key, headers=headers)}
        if headers:
            row["headers"] = dict(headers)
        if companion:
            row[f"{companion}_url"] = self.look(key, companion)
        return row

    def start(self, path: str, key: str) -> Row:
        """A signed start of a resumable upload."""
        return {"path": path, "start_url": self._sign("RESUMABLE", key)}

    def session(self, path: str, key: str) -> Row:
        """The URI of a resumable upload that the user has started."""
        url = self._sign("RESUMABLE", key)
        answer = requests.post(url, headers={"x-goog-resumable": "start"}, timeout=10)
        assert answer.status_code == 201, answer.text
        return {"path": path, "session_url": answer.headers["Location"]}

    def look(self, key: str, method: str = "get") -> str:
        """A URL to ask for the object with."""
        return self._sign(method.upper(), key)

    def begin(self, key: str) -> str:
        """The id of a multipart upload that the user has begun."""
        answer = requests.post(self._sign("POST", key, query={"uploads": ""}), timeout=10)
        found = ET.fromstring(answer.content).find("UploadId")
        assert found is not None, answer.text
        return found.text or ""

    def multipart(self, path: str, key: str, upload: str, parts: int, *, part_size: int = 0) -> Row:
        """Part URLs of the upload ``upload``, a URL to complete and one to abort."""
        query = {"uploadId": upload}
        row: Row = {
            "path": path,
            "part_urls": [self._sign("PUT", key, query={**query, "partNumber": str(n + 1)}) for n in range(parts)],
            "complete_url": self._sign("POST", key, query=query),
            "abort_url": self._sign("DELETE", key, query=query),
        }
        if part_size:
            row["part_size"] = part_size
        return row

    def _sign(
        self, method: str, key: str, *, headers: Mapping[str, str] | None = None, query: Mapping[str, str] | None = None
    ) -> str:
        then = datetime.now(UTC) - self._ago
        with patch("google.cloud.storage._signing._NOW", lambda zone=None: then if zone else then.replace(tzinfo=None)):
            signed: str = self._bucket.blob(key).generate_signed_url(
                expiration=timedelta(seconds=self._seconds),
                api_access_endpoint=self._endpoint,
                method=method,
                version=self._version,
                headers=dict(headers) if headers else None,
                query_parameters=dict(query) if query else None,
            )
        return signed


@functools.cache
def gcs_key(number: int = 0) -> RSAPrivateKey:
    """The key of a service account; another ``number`` is another key."""
    return generate_private_key(65537, 2048)


class AzureSigner:
    """azure-storage-blob. ``endpoint`` without the account: it is the first segment of the path."""

    def __init__(
        self,
        endpoint: str,
        account: AzureAccount,
        container: str,
        *,
        seconds: int = SECONDS,
        ago: timedelta = timedelta(),
    ) -> None:
        self._endpoint = f"{endpoint}/{account.name}"
        self._account = account
        self._container = container
        self._begin = datetime.now(UTC) - ago
        self._end = self._begin + timedelta(seconds=seconds)

    def put(self, path: str, key: str, permissions: str = "cw") -> Row:
        """A SAS for one blob."""
        return {"path": path, "url": self._url(key, self.blob(key, permissions))}

    def put_by_account(self, path: str, key: str, permissions: str = "cw") -> Row:
        """The blob's URL with a SAS that opens the whole account."""
        sas = generate_account_sas(self._account.name, self._account.key, "o", permissions, self._end)
        return {"path": path, "url": self._url(key, sas)}

    def tree(self, permissions: str = "cw") -> Row:
        """A SAS for every blob of the container."""
        sas = generate_container_sas(
            self._account.name, self._container, account_key=self._account.key, permission=permissions, expiry=self._end
        )
        return {"tree_sas_url": self._url("", sas)}

    def blob(self, key: str, permissions: str) -> str:
        """The query of a SAS for one blob."""
        return generate_blob_sas(
            self._account.name,
            self._container,
            key,
            account_key=self._account.key,
            permission=permissions,
            expiry=self._end,
        )

    def _url(self, key: str, sas: str) -> str:
        return f"{self._endpoint}/{self._container}{'/' if key else ''}{quote(key)}?{sas}"
