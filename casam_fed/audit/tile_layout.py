"""Where the parts of a log lie, and what a bundle looks like: C2SP tlog-tiles (https://c2sp.org/tlog-tiles), 256 wide."""

from collections.abc import Iterator, Sequence

from casam_fed.audit.merkle import HASH_BYTES
from casam_fed.errors import LogError

__all__ = [
    "HEIGHT",
    "LENGTH_BYTES",
    "WIDTH",
    "bundle_bytes",
    "bundle_of",
    "files_of",
    "kinds",
    "parse_bundle",
    "parts",
    "split_bundle",
    "split_hashes",
    "tile_path",
]

WIDTH = 256
HEIGHT = 8
LENGTH_BYTES = 2


def files_of(size: int) -> list[str]:
    """Return the relative paths of the bundles and hash tiles that a log of `size` entries consists of."""
    return [tile_path(kind, number, width) for kind, number, width in parts(size)]


def bundle_of(entries: Sequence[bytes]) -> bytes:
    """Return entries as a bundle holds them, each after its length, two bytes, big-endian."""
    return b"".join(len(entry).to_bytes(LENGTH_BYTES, "big") + entry for entry in entries)


def split_bundle(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole entries that bytes begin with, and the rest; no entry is empty."""
    entries: list[bytes] = []
    place = 0
    while True:
        start = place + LENGTH_BYTES
        end = start + int.from_bytes(data[place:start], "big")
        # Zeros are what a crash of the machine leaves of a block that was not written.
        if not start < end <= len(data):
            return entries, data[place:]
        entries.append(data[start:end])
        place = end


def parse_bundle(data: bytes, count: int, owner: str) -> list[bytes]:
    """Return the `count` entries of a bundle; `owner` says in messages whose log it is.

    Raises:
        LogError: it ends in an entry, holds an empty one, or fewer or more than `count`.
    """
    entries, rest = split_bundle(data)
    if len(entries) != count or rest:
        more = f" and {len(rest):,} bytes more" if rest else ""
        raise LogError(
            f"a bundle of the log of {owner} holds {len(entries)} whole entries{more} where {count} should be; "
            "ask for it again"
        )
    return entries


def bundle_bytes(entries: Sequence[bytes]) -> int:
    """Return how many bytes of a bundle entries take."""
    return sum(map(len, entries)) + len(entries) * LENGTH_BYTES


def kinds(size: int) -> Iterator[tuple[str, int]]:
    """Yield the kinds of bundles and tiles, and how many entries or hashes of each there are."""
    yield "entries", size
    for level in range(-(-size.bit_length() // HEIGHT)):
        yield str(level), size >> HEIGHT * level


def parts(size: int) -> Iterator[tuple[str, int, int]]:
    """Yield kind, number and width of every bundle and tile."""
    for kind, count in kinds(size):
        for number in range(-(-count // WIDTH)):
            yield kind, number, min(WIDTH, count - number * WIDTH)


def tile_path(kind: str, number: int, width: int = WIDTH) -> str:
    """Return the relative path of a bundle, kind "entries", or of a tile of hashes, whose kind is its level.

    The number 1234067 is written x001/x234/067.
    """
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[place : place + 3] for place in range(0, len(digits), 3)]
    path = "/".join(["tile", kind, *(f"x{group}" for group in groups[:-1]), groups[-1]])
    return path if width == WIDTH else f"{path}.p/{width}"


def split_hashes(tile: bytes) -> list[bytes]:
    return [tile[place : place + HASH_BYTES] for place in range(0, len(tile), HASH_BYTES)]
