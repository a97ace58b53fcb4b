"""Merkle trees as RFC 9162 (section 2.1) defines them, with SHA-256, grown leaf by leaf in memory of their height.

::

    MTH({})   = SHA-256()                       an empty tree
    MTH({d})  = SHA-256(0x00 || d)              a leaf
    MTH(D[n]) = SHA-256(0x01 || MTH(D[0:k]) || MTH(D[k:n]))     k: the largest power of two below n

The two prefixes keep a leaf from passing for a node. A subtree over an aligned power of two of leaves is a node of every
tree that has them, so a long tree may be grown from the roots of such subtrees.
"""

from __future__ import annotations

import hashlib


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf: 32 bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node above ``left`` and ``right``."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A growing tree. ``size``: leaves so far."""

    def __init__(self) -> None:
        self._peaks: list[tuple[int, bytes]] = []  # (height, root) of full subtrees, the highest first
        self.size = 0

    def add(self, data: bytes) -> None:
        """Add a leaf."""
        self.graft(leaf_hash(data), 0)

    def graft(self, root: bytes, height: int) -> None:
        """Add a full subtree of ``2**height`` leaves. Raises ValueError where a smaller one came before."""
        if self.size % (1 << height):
            raise ValueError(f"a subtree of height {height} does not fit after {self.size} leaves")
        self.size += 1 << height
        while self._peaks and self._peaks[-1][0] == height:
            root = node_hash(self._peaks.pop()[1], root)
            height += 1
        self._peaks.append((height, root))

    def root(self) -> bytes:
        """The root over all leaves so far: 32 bytes."""
        if not self._peaks:
            return hashlib.sha256().digest()
        found = self._peaks[-1][1]
        for _, left in reversed(self._peaks[:-1]):
            found = node_hash(left, found)
        return found
