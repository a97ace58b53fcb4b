"""Packages: what a push writes beside its data, so that others know what they have got.

::

    bagit      PREFIX/data/…, and at PREFIX/ bagit.txt, bag-info.txt, manifest-sha256.txt, tagmanifest-sha256.txt (RFC 8493)
    ro-crate   PREFIX/…, and PREFIX/ro-crate-metadata.json (RO-Crate 1.2)

They are planned with the data as the last, the *closing* part and made when every other file has arrived, from what was
recorded of it, in constant memory. The same record makes the same bytes, so that another attempt writes no other package.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from cloudpush.errors import CloudPushError, Code, SourceError
from cloudpush.push.job import Destination, Page, Part, PlannedFile, Push, Refusal
from cloudpush.push.states import FileState, Package
from cloudpush.push.uris import key_below

BAGIT, INFO, MANIFEST, TAGS = "bagit.txt", "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt"
CRATE = "ro-crate-metadata.json"
#: What each package consists of, in the order in which it is planned.
NAMES: Mapping[Package, tuple[str, ...]] = {
    Package.BAGIT: (BAGIT, INFO, MANIFEST, TAGS),
    Package.RO_CRATE: (CRATE,),
}
#: The directory of a bag's data.
PAYLOAD = "data"


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file of the data, as it was recorded."""

    seq: int
    path: str
    size: int
    mtime_ns: int
    state: FileState
    sha256: bytes | None = None
    code: str = ""


#: The files of the data in the order of their numbers, read anew at each call.
Reading = Callable[[], Iterable[Arrived]]


def payload_of(destination: Destination, package: Package | None) -> Destination:
    """Where the data goes."""
    if package is not Package.BAGIT:
        return destination
    return replace(destination, prefix=key_below(destination, PAYLOAD))


def without_tags(
    found: Iterable[PlannedFile | Refusal], destination: Destination, package: Package
) -> Iterator[PlannedFile | Refusal]:
    """``found``, with a Refusal for each file that would lie where the package writes."""
    taken = {key_below(destination, name) for name in NAMES[package]}
    for item in found:
        if isinstance(item, PlannedFile) and item.key in taken:
            words = f"{item.path!r} would lie where the {package} package writes; rename it or push without a package."
            yield Refusal(item.seq, item.path, SourceError(Code.NAME_NOT_A_KEY, words))
        else:
            yield item


def closing_page(push: Push, number: int, first: int) -> Page:
    """The closing part; its files have no rows before they are made."""
    assert push.package is not None  # noqa: S101 -- the caller's question
    count = len(NAMES[push.package])
    return Page(Part(push.id, number, first, first + count - 1, files=count, bytes=0, closing=True), ())


def unwritten(package: Package, prefix: str, first: int) -> list[PlannedFile]:
    """The files of a package that was not made, numbered from ``first``."""
    below = f"{prefix}/" if prefix else ""
    return [PlannedFile(first + n, name, below + name, 0, 0) for n, name in enumerate(NAMES[package])]


def write_package(push: Push, first: int, directory: Path, reading: Reading) -> list[PlannedFile]:
    """Write the files of the package into ``directory``; as files of a plan, numbered from ``first``.

    Raises CloudPushError PACKAGE_INCOMPLETE unless every file of the data is where it belongs, proved.
    """
    complete = _complete(reading)
    if push.package is Package.BAGIT:
        _write_bag(push, directory, complete)
    else:
        _write_crate(push, directory, complete)
    assert push.package is not None  # noqa: S101 -- as above
    made: list[PlannedFile] = []
    at = int(push.created_at.timestamp()) * 10**9  # not the time of this attempt
    for planned in unwritten(push.package, push.destination.prefix, first):
        path = directory / planned.path
        os.utime(path, ns=(at, at))
        found = path.stat()
        made.append(replace(planned, size=found.st_size, mtime_ns=found.st_mtime_ns))
    return made


def _complete(reading: Reading) -> Reading:
    def read() -> Iterator[Arrived]:
        for f in reading():
            if not f.state.done or f.sha256 is None:
                why = f" ({f.code})" if f.code else ""
                raise CloudPushError(
                    Code.PACKAGE_INCOMPLETE,
                    f"No package was written: of the data at least {f.path!r} is {f.state}{why}.",
                )
            yield f

    return read


# -- BagIt ---------------------------------------------------------------------------------------------


def _write_bag(push: Push, directory: Path, reading: Reading) -> None:
    files = size = 0
    with _text(directory / MANIFEST) as out:
        for f in reading():
            assert f.sha256 is not None  # noqa: S101 -- seen to
            out.write(f"{f.sha256.hex()}  {PAYLOAD}/{_bag_path(f.path)}\n")
            files += 1
            size += f.size
    with _text(directory / BAGIT) as out:
        out.write("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n")
    with _text(directory / INFO) as out:
        for name, value in _info(push, files, size):
            # A value has one line: what would begin another is a blank.
            out.write(f"{name}: {' '.join(value.split())}\n")
    with _text(directory / TAGS) as out:
        for name in (BAGIT, INFO, MANIFEST):
            out.write(f"{_sha256(directory / name)}  {name}\n")


def _info(push: Push, files: int, size: int) -> Iterator[tuple[str, str]]:
    yield "Bagging-Date", f"{push.created_at.astimezone(UTC):%Y-%m-%d}"
    yield "Payload-Oxum", f"{size}.{files}"
    yield "Bag-Software-Agent", "CloudPush"
    yield "External-Identifier", str(push.id)
    if "description" in push.labels:
        yield "External-Description", push.labels["description"]
    for key, value in sorted(push.labels.items()):
        yield f"CloudPush-Label-{key}", value


def _bag_path(path: str) -> str:
    """As RFC 8493 writes a path: line ends and per cents encoded, nothing else."""
    return path.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


# -- RO-Crate ------------------------------------------------------------------------------------------


def _write_crate(push: Push, directory: Path, reading: Reading) -> None:
    """In two passes over the record: which files there are, and what each of them is."""
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": push.labels.get("name") or push.destination.uri,
        "description": push.labels.get("description") or f"Data pushed to {push.destination.uri} by CloudPush.",
        "datePublished": push.created_at.astimezone(UTC).isoformat(),
        "identifier": str(push.id),
        **({"license": push.labels["license"]} if push.labels.get("license") else {}),
    }
    descriptor = {
        "@id": CRATE,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.2"},
    }
    with _text(directory / CRATE) as out:
        out.write('{"@context": "https://w3id.org/ro/crate/1.2/context", "@graph": [\n')
        out.write(f"{_json(descriptor)},\n{_json(root)[:-1]}, ")
        out.write('"hasPart": [')
        for n, f in enumerate(reading()):
            out.write(f"{',' if n else ''}\n{_json({'@id': _crate_id(f.path)})}")
        out.write("]}")
        for f in reading():
            out.write(f",\n{_json(_entity(f))}")
        out.write("\n]}\n")


def _entity(f: Arrived) -> dict[str, object]:
    assert f.sha256 is not None  # noqa: S101 -- seen to
    return {
        "@id": _crate_id(f.path),
        "@type": "File",
        "name": f.path.rpartition("/")[2],
        "contentSize": str(f.size),
        "sha256": f.sha256.hex(),
        "dateModified": datetime.fromtimestamp(f.mtime_ns // 10**9, UTC).isoformat(),
    }


def _crate_id(path: str) -> str:
    """A relative URI; no colon, which would make the first name a scheme."""
    return quote(path, safe="/~!$&'()*+,;=@")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="\n")
