"""How the engine cuts large files. What an answer of Azure's proves hangs on the same numbers as what is sent there.

The arithmetic is rclone's (``fs/chunksize``).
"""

from __future__ import annotations

MIB = 1024 * 1024

#: Of Azure: up to so many bytes a file is one request, which carries no digest; a larger one goes in blocks of so many,
#: each with its MD5.
BLOCK = 4 * MIB
#: Azure accepts no more blocks of one blob.
MAX_BLOCKS = 50_000


def cut(size: int, piece: int, most: int) -> int:
    """Bytes per piece: ``piece`` while that gives at most ``most``, else the smallest whole number of MiB that does."""
    if size <= piece * most:
        return piece
    larger = -(-(size // most) // MIB) * MIB
    if size // larger == most and size % most:
        larger += MIB
    return larger


def block_size(size: int) -> int | None:
    """Bytes per block that a file of ``size`` bytes is sent to Azure in; None for a single request."""
    return None if size <= BLOCK else cut(size, BLOCK, MAX_BLOCKS)
