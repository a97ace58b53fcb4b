"""Whether a push ended as it should have: its verdict, its objects, what is recorded of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

from chaos.stand import BUCKET, MIB, Expected
from cloudpush.push.states import State
from cloudpush.wiring import Services


class Judge:
    """Looks into the record and the bucket. Each method returns what is wrong, in sentences."""

    def __init__(self, services: Services, s3: Any) -> None:
        self._services = services
        self._s3 = s3

    def push(self, one: Expected, file_states: Collection[str] = ("verified", "skipped")) -> list[str]:
        """Everything about ``one``, which has its verdict; ``file_states``: what its files may be recorded as."""
        row = self._services.history.push(one.push_id)
        if State(row["state"]) not in one.states:
            return [
                f"push {one.push_id} ended {row['state']} ({row['error_code']}: {row['error_message']}), expected {one.states}"
            ]
        problems = []
        if State(row["state"]) is State.SUCCEEDED and one.files:
            problems += self._objects(one)
            recorded = {f["path"]: f for f in self._services.history.files(one.push_id)}
            if set(recorded) != set(one.files):
                problems.append(f"push {one.push_id} records {len(recorded)} files, the source has {len(one.files)}")
            problems += [
                f"{f['path']}: recorded {f['state']} by {f['strength']}"
                for f in recorded.values()
                if f["state"] not in file_states or f["strength"] != "checksum"
            ]
        return problems

    def _objects(self, one: Expected) -> list[str]:
        there = {}
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=one.prefix + "/"):
            for item in page.get("Contents", []):
                there[item["Key"][len(one.prefix) + 1 :]] = item["ETag"].strip('"')
        problems = [f"{path} is missing" for path in one.files.keys() - there.keys()]
        problems += [f"{path} should not be there" for path in there.keys() - one.files.keys()]
        for path in one.files.keys() & there.keys():
            if "-" in there[path]:
                body = self._s3.get_object(Bucket=BUCKET, Key=f"{one.prefix}/{path}")["Body"]
                digest = hashlib.md5(usedforsecurity=False)
                for block in body.iter_chunks(MIB):
                    digest.update(block)
                same = digest.digest() == one.files[path]
            else:
                same = there[path] == one.files[path].hex()
            if not same:
                problems.append(f"{path} has other bytes than its source")
        return problems
