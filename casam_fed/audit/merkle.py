"""Merkle trees over the entries of a log: RFC 6962, section 2.1; verification as RFC 9162, sections 2.1.3.2 and 2.1.4.2.

A leaf, here, is the 32-byte hash of an entry (`leaf_hash`). Trees are read through a `HashAt`, which gives the hash of any
complete subtree, so that nothing here asks where the hashes lie.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

from casam_fed.errors import LogError

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "HashAt",
    "check_consistency",
    "check_inclusion",
    "complete_root",
    "consistency_path",
    "fold",
    "grown",
    "in_memory",
    "inclusion_path",
    "leaf_hash",
    "node_hash",
    "peaks",
    "tree_root",
]

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()
"""Root of the tree without entries."""

HashAt = Callable[[int, int], bytes]
"""(level, index) -> hash of the complete subtree over the entries index << level up to, without, (index + 1) << level."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry: SHA-256 of 0x00 and its bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256 of 0x01 and its two children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_root(size: int, hash_at: HashAt) -> bytes:
    """Return the root of the tree over the first `size` entries; that of none is SHA-256 of nothing."""
    return fold(peaks(size, hash_at))


def peaks(size: int, hash_at: HashAt) -> list[bytes]:
    """Return the roots of the largest complete subtrees that make up a tree, left to right: one for each bit of `size`."""
    return _peaks(0, size, hash_at)


def fold(heights: Sequence[bytes]) -> bytes:
    """Return the root of the tree that `peaks` describe."""
    if not heights:
        return EMPTY_ROOT
    root = heights[-1]
    for left in reversed(heights[:-1]):
        root = node_hash(left, root)
    return root


def grown(heights: Sequence[bytes], size: int, leaves: Iterable[bytes]) -> list[bytes]:
    """Return the `peaks` of a tree of `size` entries after these leaves were added to it."""
    after = list(heights)
    for leaf in leaves:
        after.append(leaf)
        size += 1
        # Every trailing zero of the size stands for two subtrees that are now one.
        for _ in range((size & -size).bit_length() - 1):
            right = after.pop()
            after.append(node_hash(after.pop(), right))
    return after


def inclusion_path(index: int, size: int, hash_at: HashAt) -> list[bytes]:
    """Return the hashes that lead from entry `index` to the root of the tree over the first `size`, leaf first."""
    assert 0 <= index < size, (index, size)
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_root(middle, end, hash_at))
            end = middle
        else:
            path.append(_range_root(start, middle, hash_at))
            start = middle
    return path[::-1]


def consistency_path(old: int, new: int, hash_at: HashAt) -> list[bytes]:
    """Return the hashes that show that the tree over the first `new` entries continues the one over the first `old`.

    It is empty where both are the same, or the old one is empty; the old one is not the larger one.
    """
    assert 0 <= old <= new, (old, new)
    if old in (0, new):
        return []
    path: list[bytes] = []
    start, end = 0, new
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_range_root(middle, end, hash_at))
            end = middle
        else:
            path.append(_range_root(start, middle, hash_at))
            start = middle
    # A whole old tree that is the left end of the new one needs no hash of its own: the verifier has its root.
    if start:
        path.append(_range_root(start, end, hash_at))
    return path[::-1]


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check that the tree of `size` entries with this root has this leaf at `index`.

    Raises:
        LogError: no such index; the path is too long, too short, or does not lead to the root.
    """
    if not (0 <= index < size and _includes(leaf, index, size, path, root)):
        raise LogError(
            f"a proof does not lead from entry {index} to the root of a log of {size}; "
            "the log, or what is looked for in it, was changed"
        )


def check_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """Check that the tree of `new_size` entries with `new_root` continues the one of `old_size` with `old_root`.

    Raises:
        LogError: the new tree is smaller; the path is too long, too short, or does not lead to both roots.
    """
    if not (0 <= old_size <= new_size and _continues(old_size, old_root, new_size, new_root, path)):
        raise LogError(
            f"a proof does not lead from a log of {old_size} entries to one of {new_size}, and to both their roots; "
            "the log was changed, or became shorter"
        )


def _includes(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """RFC 9162, section 2.1.3.2."""
    if not _are_hashes(path):
        return False
    here, last, node = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if here & 1 or here == last:
            node = node_hash(sibling, node)
            zeros = _trailing_zeros(here)
            here, last = here >> zeros, last >> zeros
        else:
            node = node_hash(node, sibling)
        here, last = here >> 1, last >> 1
    return last == 0 and node == root


def _continues(old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]) -> bool:
    """RFC 9162, section 2.1.4.2."""
    if old_size in (0, new_size):
        return not path and old_root == (new_root if old_size == new_size else EMPTY_ROOT)
    # The root of a whole old tree starts the path, without being written in it.
    hashes = [old_root, *path] if old_size & (old_size - 1) == 0 else list(path)
    if not hashes or not _are_hashes(path):
        return False
    here, last = old_size - 1, new_size - 1
    ones = _trailing_zeros(here + 1)
    here, last = here >> ones, last >> ones
    old_node = new_node = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            old_node, new_node = node_hash(sibling, old_node), node_hash(sibling, new_node)
            zeros = _trailing_zeros(here)
            here, last = here >> zeros, last >> zeros
        else:
            new_node = node_hash(new_node, sibling)
        here, last = here >> 1, last >> 1
    return last == 0 and (old_node, new_node) == (old_root, new_root)


def in_memory(leaves: Sequence[bytes]) -> HashAt:
    """Return the `HashAt` of a tree of these leaves, all its complete subtrees held in memory."""
    rows = [list(leaves)]
    while len(rows[-1]) > 1:
        row = rows[-1]
        rows.append([node_hash(row[place], row[place + 1]) for place in range(0, len(row) - 1, 2)])
    return lambda level, index: rows[level][index]


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over 1, 2, 4, 8, ... hashes of one level."""
    row = hashes
    while len(row) > 1:
        row = [node_hash(row[place], row[place + 1]) for place in range(0, len(row), 2)]
    return row[0]


def _split(size: int) -> int:
    """Return the largest power of two below `size`, where a tree of two entries or more divides."""
    return 1 << ((size - 1).bit_length() - 1)


def _range_root(start: int, end: int, hash_at: HashAt) -> bytes:
    return fold(_peaks(start, end - start, hash_at))


def _peaks(start: int, size: int, hash_at: HashAt) -> list[bytes]:
    found = []
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            found.append(hash_at(level, start >> level))
            start += 1 << level
    return found


def _trailing_zeros(number: int) -> int:
    """Return how often `number` can be halved; 0 for 0, which no shift changes."""
    return (number & -number).bit_length() - 1 if number else 0


def _are_hashes(path: Sequence[bytes]) -> bool:
    return all(len(node) == HASH_BYTES for node in path)
