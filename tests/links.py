"""Signed URLs as their owners hand them over: well formed, signed by nobody. Say only what the test is about."""

from __future__ import annotations

import json
from base64 import b64encode
from urllib.parse import quote

from cloudpush.push.signed.hosts import Styles

#: In every signature and token: what must appear in no error.
CANARY = "c0ffee5ecret"
AWS_HOST = "https://bkt.s3.eu-west-1.amazonaws.com"
GCS_HOST = "https://storage.googleapis.com/bkt"
AZURE_HOST = "https://acct.blob.core.windows.net/cont"

PUBLIC = Styles.of()
#: An operator who listed servers of their own, as tests and the embedded stack do.
LOCAL = Styles.of(["127.0.0.1:8333", "127.0.0.1:10000", "minio"], ["https://s3.lab.example.org"])


def query(*pairs: str, **given: str) -> str:
    """A query of ``given`` parameters (``_`` for ``-``), then of raw ``pairs``."""
    written = [f"{name.replace('_', '-')}={quote(value, safe='')}" for name, value in given.items()]
    return "&".join([*written, *pairs])


def s3(
    path: str = "/runs/7/a.csv",
    *pairs: str,
    host: str = AWS_HOST,
    date: str = "20260301T120000Z",
    expires: str = "3600",
    headers: str = "host",
) -> str:
    """SigV4. ``pairs``: further raw parameters."""
    return f"{host}{path}?" + query(
        *pairs,
        X_Amz_Algorithm="AWS4-HMAC-SHA256",
        X_Amz_Credential=f"AKIA/{date[:8]}/eu-west-1/s3/aws4_request",
        X_Amz_Date=date,
        X_Amz_Expires=expires,
        X_Amz_SignedHeaders=headers,
        X_Amz_Signature=CANARY,
    )


def s3_v2(path: str = "/runs/7/a.csv", *pairs: str, host: str = AWS_HOST, expires: str = "1772370000") -> str:
    """SigV2; 1772370000 is 2026-03-01T13:00:00Z."""
    return f"{host}{path}?" + query(*pairs, AWSAccessKeyId="AKIA", Signature=CANARY, Expires=expires)


def gcs(
    path: str = "/runs/7/a.csv", *pairs: str, host: str = GCS_HOST, expires: str = "3600", headers: str = "host"
) -> str:
    """GCS V4."""
    return f"{host}{path}?" + query(
        *pairs,
        X_Goog_Algorithm="GOOG4-RSA-SHA256",
        X_Goog_Credential="sa@p.iam.gserviceaccount.com/20260301/auto/storage/goog4_request",
        X_Goog_Date="20260301T120000Z",
        X_Goog_Expires=expires,
        X_Goog_SignedHeaders=headers,
        X_Goog_Signature=CANARY,
    )


def gcs_v2(path: str = "/runs/7/a.csv", host: str = GCS_HOST) -> str:
    """GCS V2."""
    return f"{host}{path}?" + query(GoogleAccessId="sa@p", Expires="1772370000", Signature=CANARY)


def sas(
    path: str = "/runs/7/a.csv",
    *pairs: str,
    host: str = AZURE_HOST,
    sr: str = "b",
    sp: str = "cw",
    se: str = "2026-03-01T13:00:00Z",
) -> str:
    """An Azure service SAS; an empty argument leaves its parameter out."""
    given = {"sr": sr, "sp": sp, "se": se}
    return f"{host}{path}?" + query(
        *pairs, sv="2022-11-02", **{name: value for name, value in given.items() if value}, sig=CANARY
    )


def form_fields(key: str = "runs/7/a.csv", *conditions: object, **more: str) -> dict[str, str]:
    """The fields of a SigV4 POST policy; ``more`` with ``_`` for ``-``."""
    policy = {"expiration": "2026-03-01T13:00:00Z", "conditions": [{"bucket": "bkt"}, {"key": key}, *conditions]}
    return {
        "key": key,
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": "AKIA/20260301/eu-west-1/s3/aws4_request",
        "x-amz-date": "20260301T120000Z",
        "policy": b64encode(json.dumps(policy).encode()).decode(),
        "x-amz-signature": CANARY,
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
