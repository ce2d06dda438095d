"""Logs on disk: the files of tlog-tiles, chains without gaps, and what kills, full disks, damage and forks do to them."""

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed.audit.dsse import read_envelope, seal
from casam_fed.audit.event_log import append_event, begin_log
from casam_fed.audit.merkle import (
    HashAt,
    check_consistency,
    check_inclusion,
    complete_root,
    consistency_path,
    in_memory,
    inclusion_path,
    leaf_hash,
    tree_root,
)
from casam_fed.audit.note import (
    Checkpoint,
    Note,
    check_cosigned,
    check_signed,
    cosigned,
    read_note,
    sign_checkpoint,
)
from casam_fed.audit.proof import read_proof
from casam_fed.audit.tile_layout import bundle_of, files_of, parse_bundle, split_bundle, tile_path
from casam_fed.audit.tiles import Log
from casam_fed.errors import ForkedError, LogError, StorageError, UnsignedError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ORIGIN = "casam-fed/site/clinic/0123456789ab"
CHANGING = ("open", "pwrite", "ftruncate", "fsync", "rename", "replace", "mkdir", "truncate", "unlink", "rmdir")
"""The calls with which a log changes what is on the disk; "close" is no change."""


def make(index: int, previous: str) -> bytes:
    """An entry as logs have it, an envelope signed by the log's key."""
    return seal("test", json.dumps({"index": index, "previous": previous}).encode(), KEY)


def chain(count: int, start: Sequence[bytes] = ()) -> list[bytes]:
    """Entries, each naming the one before."""
    entries = list(start)
    while len(entries) < count:
        entries.append(make(len(entries), digest(entries[-1]) if entries else ""))
    return entries


def digest(entry: bytes) -> str:
    return hashlib.sha256(entry).hexdigest()


def tree_of(entries: Sequence[bytes]) -> HashAt:
    return in_memory([leaf_hash(entry) for entry in entries])


def noted(entries: Sequence[bytes], origin: str = ORIGIN, key: Ed25519PrivateKey = KEY) -> Note:
    """The signed checkpoint of entries."""
    return sign_checkpoint(Checkpoint(origin, len(entries), tree_root(len(entries), tree_of(entries))), key)


ENTRIES = chain(800)


def built(folder: Path, count: int) -> Log:
    """The log of the first entries, at once: a log and a whole copy of it are the same files."""
    return Log.mirror(folder, ENTRIES[:count], noted(ENTRIES[:count]))


def check_chain(entries: Sequence[bytes]) -> None:
    """Every entry names its index and the one before."""
    for index, entry in enumerate(entries):
        content = json.loads(read_envelope(entry, "test").payload)
        assert content == {"index": index, "previous": digest(entries[index - 1]) if index else ""}


def check_whole(folder: Path, entries: Sequence[bytes]) -> None:
    """The folder is the log of these entries: their files and no others, each as tlog-tiles asks for it."""
    log = Log(folder)
    assert list(log.entries()) == list(entries)
    assert log.checkpoint.root == tree_root(len(entries), tree_of(entries))
    check_signed(log.note, KEY.public_key())
    assert names(folder) == {*files_of(len(entries)), "checkpoint"}
    for name, data in tiles_of(entries):
        assert (folder / name).read_bytes() == data


def tiles_of(entries: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of hash tiles and bundles, computed from the definition, for fewer than 1000 of each."""
    for number in range(-(-len(entries) // 256)):
        some = entries[number * 256 : number * 256 + 256]
        yield placed("entries", number, len(some)), b"".join(len(one).to_bytes(2, "big") + one for one in some)
    level, hashes = 0, [leaf_hash(entry) for entry in entries]
    while hashes:
        rows = [hashes[start : start + 256] for start in range(0, len(hashes), 256)]
        for number, row in enumerate(rows):
            yield placed(str(level), number, len(row)), b"".join(row)
        level, hashes = level + 1, [tree_root(256, in_memory(row)) for row in rows if len(row) == 256]


def placed(kind: str, number: int, width: int) -> str:
    return f"tile/{kind}/{number:03d}" + ("" if width == 256 else f".p/{width}")


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def names(folder: Path) -> set[str]:
    """The files below a folder, without the lock."""
    return {str(path.relative_to(folder)) for path in files_below(folder)} - {".lock"}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


# Files and reading.


def test_a_log_is_created_with_its_first_entry_and_grows(folder):
    log = Log.create(folder, ORIGIN, KEY, make)
    assert (log.size, log.checkpoint.origin) == (1, ORIGIN)
    for index in range(1, 10):
        assert log.append(make, KEY) == index
        assert log.size == index + 1
    check_whole(folder, ENTRIES[:10])


def test_every_size_up_to_600_has_its_files(folder):
    log = Log.create(folder, ORIGIN, KEY, make)
    for size in range(2, 601):
        log.append(make, KEY)
        if size % 37 == 0 or size % 256 in (0, 1, 2, 255):
            check_whole(folder, ENTRIES[:size])
    check_whole(folder, ENTRIES[:600])


def test_what_is_appended_and_what_is_copied_are_the_same_files(folder, tmp_path):
    log = built(folder, 254)
    for _ in range(5):
        log.append(make, KEY)
    built(tmp_path / "copy", 259)
    assert contents(folder) == contents(tmp_path / "copy")


def test_files_and_folders_are_its_owners_alone(folder):
    before = os.umask(0)
    try:
        log = Log.create(folder, ORIGIN, KEY, make)
        log.append(make, KEY)
        built(folder.parent / "copy", 300)
        log.keep_witnessed("bank", log.note)
    finally:
        os.umask(before)
    for path in folder.parent.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_paths_are_those_of_the_specification():
    """The example of https://c2sp.org/tlog-tiles: a tree of 70,000 entries."""
    found = files_of(70_000)
    assert [name for name in found if ".p/" in name] == [
        "tile/entries/273.p/112",
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]
    assert len(found) == 274 + 274 + 2 + 1
    assert {"tile/entries/000", "tile/0/272", "tile/1/000"} <= set(found)


def test_paths_of_many_tiles_go_down_in_thousands():
    assert tile_path("0", 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path("entries", 1_234_067, 5) == "tile/entries/x001/x234/067.p/5"
    found = files_of(256 * 1001 + 7)
    assert found[998:1002] == [f"tile/entries/{name}" for name in ("998", "999", "x001/000", "x001/001.p/7")]
    assert "tile/0/x001/001.p/7" in found


def test_a_log_of_nothing_consists_of_nothing():
    assert files_of(0) == []
    assert files_of(1) == ["tile/entries/000.p/1", "tile/0/000.p/1"]
    assert files_of(256) == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]
    assert files_of(257)[:2] == ["tile/entries/000", "tile/entries/001.p/1"]


def test_a_log_is_read_by_entries(folder):
    log = built(folder, 600)
    for start, end in ((0, None), (0, 0), (600, None), (255, 257), (256, 512), (100, 101), (511, 600), (3, 599)):
        assert list(log.entries(start, end)) == ENTRIES[start : 600 if end is None else end]
    for index in (0, 255, 256, 511, 512, 599):
        assert log.entry(index) == ENTRIES[index]
    for ask in (
        lambda: log.entry(600),
        lambda: log.entry(-1),
        lambda: list(log.entries(0, 601)),
        lambda: log.root(601),
    ):
        with pytest.raises(AssertionError):
            ask()


def test_hashes_roots_and_proofs_are_those_of_the_tree(folder):
    log = built(folder, 600)
    tree = tree_of(ENTRIES[:600])
    for level in range(10):
        for index in range(600 >> level):
            assert log.hash_at(level, index) == tree(level, index)
        with pytest.raises(AssertionError):
            log.hash_at(level, 600 >> level)
    for size in range(0, 601, 23):
        assert log.root(size) == tree_root(size, tree)
        assert log.consistency(size) == consistency_path(size, 600, tree)
        check_consistency(size, log.root(size), 600, log.checkpoint.root, log.consistency(size))
    assert log.consistency(100, 300) == consistency_path(100, 300, tree)
    assert log.inclusion(17, 400) == inclusion_path(17, 400, tree)
    for index in range(0, 600, 31):
        proof = read_proof(log.proof(index).data, "test")
        assert (proof.index, proof.note) == (index, log.note)
        check_inclusion(leaf_hash(log.entry(index)), index, 600, proof.path, log.checkpoint.root)


def test_a_log_that_grows_is_read_as_it_was_when_opened(folder):
    built(folder, 250)
    reader = Log(folder)
    log = Log(folder)
    for size in range(251, 270):
        log.append(make, KEY)
        assert list(reader.entries()) == ENTRIES[:250]
        assert dict(reader.files()) == dict(tiles_of(ENTRIES[:250]))
        assert dict(Log(folder).files()) == dict(tiles_of(ENTRIES[:size]))


def test_a_log_is_read_flat_in_memory(folder):
    entries = [bytes([number % 251 + 1]) * 1500 for number in range(5000)]
    log = Log.mirror(folder, entries, noted(entries))
    del entries
    log = Log(folder)
    tracemalloc.start()
    try:
        assert sum(map(len, log.entries())) == 5000 * 1500
        log.proof(4000)
        assert tracemalloc.get_traced_memory()[1] < 2_500_000
    finally:
        tracemalloc.stop()


def test_where_hash_tiles_are_missing_they_are_made_again_while_reading(folder):
    """A crash of the machine can lose what was not flushed; only entries are."""
    log = built(folder, 600)
    expected = dict(log.files()), log.proof(17), log.root(600)
    before = contents(folder)
    shutil.rmtree(folder / "tile" / "0")
    shutil.rmtree(folder / "tile" / "1")
    log = Log(folder)
    assert (dict(log.files()), log.proof(17), log.root(600)) == expected
    assert names(folder) == {name for name in before if not name.startswith(("tile/0", "tile/1"))}


def test_there_must_be_a_log_to_open(tmp_path):
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(LogError, match="holds no log"):
            Log(place)
    (tmp_path / "checkpoint").write_text("nonsense")
    with pytest.raises(LogError, match="one form"):
        Log(tmp_path)


# Appending.


def test_an_entry_is_made_with_its_index_and_the_digest_of_the_one_before(folder):
    asked = []

    def making(index: int, previous: str) -> bytes:
        asked.append((index, previous))
        return make(index, previous)

    log = Log.create(folder, ORIGIN, KEY, making)
    Log(folder).append(making, KEY)
    log.append(making, KEY)
    assert asked == [(0, ""), (1, digest(ENTRIES[0])), (2, digest(ENTRIES[1]))]


def test_the_log_can_be_read_while_an_entry_is_made(folder):
    log = built(folder, 256)
    Log(folder).append(make, KEY)
    seen = []

    def making(index: int, previous: str) -> bytes:
        seen.append((log.size, digest(log.entry(index - 1)) == previous, log.root(index) == log.checkpoint.root))
        return make(index, previous)

    log.append(making, KEY)
    assert seen == [(257, True, True)]


def test_what_making_an_entry_raises_leaves_the_log_as_it_was(folder):
    log = built(folder, 3)
    before = contents(folder)

    def failing(index: int, previous: str) -> bytes:
        raise ValueError("no entry")

    with pytest.raises(ValueError, match="no entry"):
        log.append(failing, KEY)
    for entry in (b"", b"x" * 65_536):
        with pytest.raises(LogError, match="does not fit into a log"):
            log.append(lambda *_, entry=entry: entry, KEY)
    assert contents(folder) == before
    assert log.append(make, KEY) == 3


def test_the_largest_entry_fits(folder):
    log = Log.create(folder, ORIGIN, KEY, lambda *_: b"x" * 65_535)
    log.append(lambda *_: b"y", KEY)
    assert list(Log(folder).entries()) == [b"x" * 65_535, b"y"]


def test_nobody_elses_key_continues_a_log(folder):
    log = built(folder, 3)
    before = contents(folder)
    with pytest.raises(UnsignedError):
        log.append(make, OTHER)
    (folder / "checkpoint").write_bytes(noted(ENTRIES[:3], key=OTHER).data)
    with pytest.raises(UnsignedError):
        log.append(make, KEY)
    (folder / "checkpoint").write_bytes(before["checkpoint"].replace(b"\n3\n", b"\n2\n"))
    with pytest.raises(LogError, match="does not fit"):
        log.append(make, KEY)
    (folder / "checkpoint").write_bytes(before["checkpoint"])
    assert contents(folder) == before
    assert log.append(make, KEY) == 3


def test_a_folder_with_a_log_gets_no_other(folder):
    built(folder, 3)
    before = contents(folder)
    for create in (lambda: Log.create(folder, ORIGIN, KEY, make), lambda: built(folder, 4)):
        with pytest.raises(LogError, match="holds a log already"):
            create()
    assert contents(folder) == before
    (folder / "checkpoint").unlink()
    with pytest.raises(LogError, match="holds entries but no checkpoint"):
        Log.create(folder, ORIGIN, KEY, make)
    (folder / "checkpoint").write_bytes(before["checkpoint"])
    assert contents(folder) == before


def test_logs_of_events_are_written_and_read_back(folder):
    """Through casam_fed.audit.event_log, as sites and aggregators do."""
    log = begin_log(folder, ORIGIN, KEY, {}, {"site": "clinic", "code": "1.0"})
    facts = {"federation": "polyps", "task": "polyp"}
    assert append_event(log, KEY, "declined", {"release": "0" * 64}, facts) == 1
    assert Log(folder).size == 2


def test_the_level_above_65536_entries(folder):
    entries = [b"%d" % number for number in range(65_535)]
    log = Log.mirror(folder, entries, noted(entries))
    for number in range(65_535, 65_538):
        log.append(lambda index, _: b"%d" % index, KEY)
        entries.append(b"%d" % number)
        assert Log(folder).checkpoint.root == tree_root(len(entries), tree_of(entries))
        assert names(folder) == {*files_of(len(entries)), "checkpoint"}
    log = Log(folder)
    assert (folder / "tile/2/000.p/1").read_bytes() == tree_root(65_536, tree_of(entries[:65_536]))
    check_inclusion(leaf_hash(b"77"), 77, 65_538, log.inclusion(77), log.checkpoint.root)
    assert log.entry(65_537) == b"65537"


# Several at once.


def test_processes_and_threads_that_append_at_once_lose_nothing(folder):
    Log.create(folder, ORIGIN, KEY, make)
    script = "log = Log(folder)\nfor _ in range(60):\n    log.append(make, KEY)"
    processes = [started(script, folder) for _ in range(3)]
    log = Log(folder)
    threads = [threading.Thread(target=lambda: [Log(folder).append(make, KEY) for _ in range(30)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        assert process.wait(60) == 0
    check_whole(folder, ENTRIES[: 1 + 3 * 60 + 3 * 30])
    assert log.append(make, KEY) == 271


def test_a_reader_never_sees_a_log_that_is_being_appended_to_as_damaged(folder):
    built(folder, 100)
    process = started("log = Log(folder)\nfor _ in range(400):\n    log.append(make, KEY)", folder)
    opened = 0
    while process.poll() is None:
        log = Log(folder)
        assert list(log.entries(max(0, log.size - 60))) == ENTRIES[max(0, log.size - 60) : log.size]
        assert log.root(log.size) == log.checkpoint.root
        opened += 1
    assert process.returncode == 0
    assert opened > 20
    check_whole(folder, ENTRIES[:500])


def started(script: str, folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", _PREAMBLE.format(folder=str(folder)) + textwrap.dedent(script)])


_PREAMBLE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tiles import *
from test_tiles import killed_at_every_call
folder = Path({{folder!r}})
"""


# Kills.


def killed_at_every_call(template: Path, act: Callable[[Path], object], check: Callable[[Path, bool], object]) -> int:
    """Let children act on copies of a log, each killed before another call that changes the disk; return how many were.

    Args:
        template: folder that is copied for each.
        act: what the child does.
        check: gets the copy, and whether the child had come to the end.
    """
    step = 0
    while True:
        step += 1
        work = template.with_name("work")
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work)
        child = os.fork()
        if child == 0:
            _die_at(step)
            try:
                act(work)
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), f"step {step}: {code}"
        check(work, code == 0)
        if code == 0:
            return step - 1


def _die_at(step: int) -> None:
    """Let this process end before a call that changes the disk; a write counts twice, for it can also end half-way."""
    left = step

    def count_down() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def dying(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            if count_down():
                os._exit(9)
            if name == "pwrite" and count_down():
                descriptor, data, offset = arguments
                call(descriptor, data[: len(data) // 2], offset)
                os._exit(9)
            return call(*arguments, **options)

        return instead

    for name in CHANGING:
        setattr(os, name, dying(name, getattr(os, name)))


def run_killing(script: str, folder: Path) -> None:
    """In a process of its own: forking one with threads is asking for trouble. A kill loses nothing that is not flushed."""
    assert started(f"os.fsync = lambda descriptor: None\n{textwrap.dedent(script)}", folder).wait(120) == 0


def test_whenever_an_append_is_killed_the_next_continues(folder):
    run_killing(
        """
        def check(work, returned):
            log = Log(work)
            assert log.size in (size, size + 1)
            assert log.size == size + 1 or not returned
            seen = list(log.entries())
            assert seen == ENTRIES[: log.size] and log.root(log.size) == log.checkpoint.root
            assert dict(log.files()) == dict(tiles_of(seen))
            index = log.append(make, KEY)
            assert index in (size, size + 1) and index >= len(seen)
            check_whole(work, ENTRIES[: index + 1])

        for size in (1, 2, 254, 255, 256, 257, 511, 512):
            shutil.rmtree(folder, ignore_errors=True)
            built(folder, size)
            assert killed_at_every_call(folder, lambda work: Log(work).append(make, KEY), check) >= 10
        """,
        folder,
    )


def test_whenever_the_repair_is_killed_the_next_append_continues(folder):
    """Two entries, in two bundles, are beyond the checkpoint; no kill of the append that takes them up loses one."""
    run_killing(
        """
        built(folder, 257)
        (folder / "checkpoint").write_bytes(noted(ENTRIES[:255]).data)

        def check(work, returned):
            log = Log(work)
            assert log.size in (255, 257, 258)
            assert list(log.entries()) == ENTRIES[: log.size]
            index = log.append(make, KEY)
            assert index in (257, 258)
            check_whole(work, ENTRIES[: index + 1])

        assert killed_at_every_call(folder, lambda work: Log(work).append(make, KEY), check) >= 20
        """,
        folder,
    )


def test_whenever_the_creation_is_killed_the_next_one_creates(folder):
    run_killing(
        """
        def check(work, returned):
            if (work / "home/log/checkpoint").exists():
                log = Log(work / "home/log")
            else:
                assert not returned
                log = Log.create(work / "home/log", ORIGIN, KEY, make)
            check_whole(work / "home/log", ENTRIES[:1])
            log.append(make, KEY)
            check_whole(work / "home/log", ENTRIES[:2])

        folder.mkdir()
        create = lambda work: Log.create(work / "home/log", ORIGIN, KEY, make)
        assert killed_at_every_call(folder, create, check) >= 15
        """,
        folder,
    )


def test_whenever_the_copying_of_a_log_is_killed_the_next_copies_it(folder):
    """The next may be brought fewer entries than the killed one, or more."""
    run_killing(
        """
        def extend(work, size):
            if (work / "checkpoint").exists():
                log = Log(work)
                log.extend(ENTRIES[log.size : size], noted(ENTRIES[:size]))
            else:
                Log.mirror(work, ENTRIES[:size], noted(ENTRIES[:size]))

        def check(work, returned):
            size = Log(work).size if (work / "checkpoint").exists() else 0
            assert size in ((new,) if returned else (old, new))
            if size:
                assert list(Log(work).entries()) == ENTRIES[:size]
            if size == old:
                extend(work, old + 1)
                assert list(Log(work).entries()) == ENTRIES[: old + 1]
            extend(work, new + 2)
            check_whole(work, ENTRIES[: new + 2])

        for old, new in ((0, 3), (0, 257), (254, 513)):
            shutil.rmtree(folder, ignore_errors=True)
            built(folder, old) if old else folder.mkdir()
            assert killed_at_every_call(folder, lambda work: extend(work, new), check) >= 8
        """,
        folder,
    )


def test_a_process_killed_at_any_moment_leaves_a_log_that_goes_on(folder):
    """Real kills at thirty moments, of processes that append as fast as they can."""
    run_killing(
        """
        import random, signal, time
        Log.create(folder, ORIGIN, KEY, make)
        for number in range(30):
            before = Log(folder).size
            child = os.fork()
            if child == 0:
                log = Log(folder)
                while True:
                    log.append(make, KEY)
            time.sleep(0.005 + 0.0013 * number)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            log = Log(folder)
            assert log.size >= before
            log.append(make, KEY)
            assert log.size > before
        check_chain(list(log.entries()))
        assert names(folder) == {*files_of(log.size), "checkpoint"}
        """,
        folder,
    )


# Crashes of the whole machine: what was not flushed is lost, or never written under its new name.


def test_entries_beyond_an_older_checkpoint_are_taken_up(folder):
    for old, new in ((1, 3), (250, 256), (250, 257), (256, 257), (200, 780)):
        shutil.rmtree(folder, ignore_errors=True)
        log = built(folder, new)
        (folder / "checkpoint").write_bytes(noted(ENTRIES[:old]).data)
        assert list(Log(folder).entries()) == ENTRIES[:old]
        assert log.append(make, KEY) == new
        check_whole(folder, ENTRIES[: new + 1])


@pytest.mark.parametrize("size", [3, 255, 256, 300, 512])
@pytest.mark.parametrize("damage", ["gone", "empty", "zeros", "half", "older"])
def test_the_last_hash_tiles_are_made_again_where_they_were_lost(folder, size, damage):
    log = built(folder, size)
    assert log.root(size) == log.checkpoint.root
    last = {name.split("/")[1]: folder / name for name in files_of(size)}
    for kind, path in last.items():
        data = path.read_bytes()
        if damage == "older":
            older = path.with_name("1") if ".p" in str(path) else path.with_name(f"{path.name}.p") / "255"
            older.parent.mkdir(exist_ok=True)
            path.rename(older)
        elif kind != "entries":
            path.write_bytes({"empty": b"", "zeros": bytes(len(data)), "half": data[: len(data) // 2]}.get(damage, b""))
            if damage == "gone":
                path.unlink()
    assert log.append(make, KEY) == size
    check_whole(folder, ENTRIES[: size + 1])


@pytest.mark.parametrize("name", ["000.p/1", "000.p/99", "000.p/250", "000"])
def test_a_bundle_under_the_name_of_another_width_is_found(folder, name):
    built(folder, 100)
    bundles = folder / "tile/entries"
    (bundles / "000.p/100").rename(bundles / name)
    log = Log(folder)
    assert list(log.entries()) == ENTRIES[:100]
    assert log.append(make, KEY) == 100
    check_whole(folder, ENTRIES[:101])


@pytest.mark.parametrize("size", [1, 100, 255, 256])
@pytest.mark.parametrize(
    "tail",
    [b"\x01", bundle_of([ENTRIES[1]])[:-1], bytes(5000), b"\x01\x00" + bytes(256), b"\x00\x03abc", bytes(2)],
    ids=["a byte", "a cut entry", "zeros", "an entry of zeros", "an entry that is none", "a length"],
)
def test_what_was_not_written_whole_is_cut_off(folder, size, tail):
    log = built(folder, size)
    number, width = divmod(size, 256)
    path = folder / f"tile/entries/{number:03d}.p/{width}"
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(tail)
    assert list(Log(folder).entries()) == ENTRIES[:size]
    assert log.append(make, KEY) == size
    assert log.entry(size) == ENTRIES[size]
    check_whole(folder, ENTRIES[: size + 1])


def test_a_bundle_takes_up_no_more_than_256(folder):
    log = built(folder, 255)
    (folder / "tile/entries/000.p/255").write_bytes(bundle_of(ENTRIES[:258]))
    assert log.append(make, KEY) == 256
    check_whole(folder, ENTRIES[:257])


def test_what_the_key_has_not_signed_is_not_taken_up(folder):
    """A checkpoint over it would vouch for it."""
    log = built(folder, 3)
    path = folder / "tile/entries/000.p/3"
    foreign = seal("test", b"{}", OTHER)
    path.write_bytes(bundle_of([*ENTRIES[:3], foreign]))
    assert log.append(make, KEY) == 3
    check_whole(folder, ENTRIES[:4])
    (folder / "tile/entries/000.p/4").write_bytes(bundle_of([*ENTRIES[:4], foreign, ENTRIES[5]]))
    before = contents(folder)
    with pytest.raises(LogError, match="that its key has not signed"):
        log.append(make, KEY)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        (17, "!entries/000.p/17 entries/000.p/18 0/000.p/18 !.checkpoint.part checkpoint"),
        (255, "!entries/000.p/255 entries/000 !0/000.p/255 0/000 ! !1 1/000.p/1 !.checkpoint.part checkpoint"),
        (256, "!entries !entries/001.p/0 entries/001.p/1 !entries/001.p !0 0/001.p/1 !.checkpoint.part checkpoint"),
    ],
)
def test_entries_are_flushed_before_their_bundle_is_renamed_and_the_checkpoint_counts_them(
    folder, size, steps, monkeypatch
):
    """A name without mark is one that was given, with it one that was flushed; hashes can be made again."""
    log = built(folder, size)
    seen: list[str] = []

    def shown(path: Any) -> str:
        return str(Path(path).relative_to(folder)).removeprefix("tile").removeprefix("/")

    def recorded(name: str, says: Callable[..., str]) -> None:
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *arguments: (seen.append(says(*arguments)), call(*arguments))[1])

    recorded("fsync", lambda descriptor: "!" + shown(os.readlink(f"/proc/self/fd/{descriptor}")))
    recorded("rename", lambda _, target: shown(target))
    recorded("replace", lambda _, target: shown(target))
    log.append(make, KEY)
    assert " ".join(seen) == steps


# Full disks.


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 511])
def test_a_call_that_fails_leaves_the_log_as_it_was(folder, size, monkeypatch):
    """Every call that changes the disk, in turn, says that there is no space."""

    def append() -> None:
        if size:
            Log(folder).append(make, KEY)
        else:
            Log.create(folder, ORIGIN, KEY, make)

    if size:
        built(folder, size)
    before = contents(folder) if size else {}
    failed, said = 0, set()
    while True:
        try:
            with monkeypatch.context() as patch:
                fail_at(failed + 1, patch)
                append()
            break
        except StorageError as error:
            said.add(str(error).split(": ")[1][:35])
            failed += 1
            assert not folder.exists() or contents(folder) == before
    assert failed >= 8
    assert said == {"no space left on device; free space"}
    check_whole(folder, ENTRIES[: size + 1])


def test_a_call_that_fails_leaves_a_copy_as_it_was(folder, monkeypatch):
    built(folder, 200)
    before = contents(folder)
    for step in (1, 2, 3, 5, 8, 13, 20):
        with monkeypatch.context() as patch:
            fail_at(step, patch)
            with pytest.raises(StorageError):
                Log(folder).extend(ENTRIES[200:600], noted(ENTRIES[:600]))
        assert contents(folder) == before
    Log(folder).extend(ENTRIES[200:600], noted(ENTRIES[:600]))
    check_whole(folder, ENTRIES[:600])


def test_entries_that_were_taken_up_are_not_lost_to_a_full_disk(folder, monkeypatch):
    built(folder, 257)
    (folder / "checkpoint").write_bytes(noted(ENTRIES[:250]).data)
    step = 0
    while Log(folder).size < 258:
        step += 1
        with monkeypatch.context() as patch:
            fail_at(step, patch)
            try:
                Log(folder).append(make, KEY)
            except StorageError:
                for index in (254, 256):
                    assert any(ENTRIES[index] in path.read_bytes() for path in files_below(folder / "tile/entries"))
    assert step > 8
    check_whole(folder, ENTRIES[:258])


def fail_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Let the next call but so many that takes space fail; those that undo it do not."""
    left = step

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **options)

        return instead

    for name in ("open", "pwrite", "ftruncate", "fsync", "rename", "replace", "mkdir"):
        patch.setattr(os, name, failing(getattr(os, name)))


def test_a_disk_without_space_is_told_and_leaves_the_log_as_it_was(tmp_path):
    """A file system of 64 KiB, mounted in a namespace of its own, so that it is gone with its process."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    probe = ["unshare", "--mount", *mount]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this system lets no test mount a tiny file system")
    script = _PREAMBLE.format(folder=str(tmp_path / "log")) + textwrap.dedent(
        f"""
        subprocess.run({mount!r}, check=True)
        Log.create(folder, ORIGIN, KEY, make)
        while True:
            before = contents(folder)
            try:
                Log(folder).append(make, KEY)
            except StorageError as error:
                assert Log(folder).size > 50 and contents(folder) == before
                print(error)
                break
        """
    )
    command = ["unshare", "--mount", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no space left on device; free space" in done.stdout


def test_a_log_that_cannot_be_read_is_told(folder, monkeypatch):
    built(folder, 3)
    monkeypatch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(StorageError, match=r"cannot read .*permission denied"):
        Log(folder)


# Damage.


@pytest.mark.parametrize("size", [1, 5, 256])
def test_nothing_is_appended_to_a_log_with_a_damaged_entry(folder, size):
    log = built(folder, size)
    path = folder / files_of(size)[0]
    data = path.read_bytes()
    for place in range(0, len(data), 1 if size < 5 else 17 if size == 5 else 5003):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        before = contents(folder)
        with pytest.raises(LogError):
            log.append(make, KEY)
        assert contents(folder) == before
    path.write_bytes(data)
    assert log.append(make, KEY) == size


@pytest.mark.parametrize("size", [1, 5, 256, 300])
def test_a_log_that_lacks_entries_says_so(folder, size):
    log = built(folder, size)
    path = folder / next(name for name in reversed(files_of(size)) if "entries" in name)
    data = path.read_bytes()
    for end in (0, 1, len(data) // 2, len(data) - 1, None):
        path.unlink() if end is None else path.write_bytes(data[:end])
        before = contents(folder)
        with pytest.raises(LogError, match="is damaged: entry"):
            Log(folder).entry(size - 1)
        with pytest.raises(LogError):
            log.append(make, KEY)
        assert contents(folder) == before


def test_a_checkpoint_of_other_entries_is_damage(folder):
    log = built(folder, 5)
    (folder / "checkpoint").write_bytes(noted([*ENTRIES[:4], b"another"]).data)
    before = contents(folder)
    with pytest.raises(LogError, match="is damaged: its checkpoint is not that of its entries"):
        log.append(make, KEY)
    assert contents(folder) == before


def test_a_whole_bundle_that_was_exchanged_with_its_hashes_is_damage(folder, tmp_path):
    """Its hash one level above tells, which the root is made of."""
    log = built(folder, 256)
    another = [*ENTRIES[:255], make(255, "0" * 64)]
    Log.mirror(tmp_path / "another", another, noted(another))
    for name in ("tile/entries/000", "tile/0/000"):
        shutil.copy(tmp_path / "another" / name, folder / name)
    before = contents(folder)
    with pytest.raises(LogError, match="is damaged: its checkpoint is not that of its entries"):
        log.append(make, KEY)
    assert contents(folder) == before


# Copies of the logs of others.


def test_a_copy_follows_its_log(folder):
    copy = Log.mirror(folder, ENTRIES[:3], noted(ENTRIES[:3]))
    for size in (3, 4, 255, 256, 257, 700):
        note = cosigned(noted(ENTRIES[:size]), "bank", OTHER, size)
        copy.extend(ENTRIES[copy.size : size], note)
        assert (copy.size, copy.note) == (size, note)
        assert (folder / "checkpoint").read_bytes() == note.data
        check_whole(folder, ENTRIES[:size])
    assert check_cosigned(Log(folder).note, "bank", OTHER.public_key()) == 700


def test_a_copy_of_nothing(folder):
    copy = Log.mirror(folder, [], noted([]))
    assert list(copy.entries()) == []
    copy.extend(ENTRIES[:2], noted(ENTRIES[:2]))
    check_whole(folder, ENTRIES[:2])


REWRITTEN = chain(20, [*ENTRIES[:4], make(4, "0" * 64)])
FORKS = {
    "another origin": (ENTRIES[10:12], noted(ENTRIES[:12], "casam-fed/site/other/0123456789ab")),
    "shorter": ([], noted(ENTRIES[:9])),
    "shorter, with entries": (ENTRIES[10:12], noted(ENTRIES[:9])),
    "fewer entries than promised": (ENTRIES[10:11], noted(ENTRIES[:12])),
    "more entries than promised": (ENTRIES[10:13], noted(ENTRIES[:12])),
    "history rewritten": (REWRITTEN[10:12], noted(REWRITTEN[:12])),
    "same size, rewritten": ([], noted(REWRITTEN[:10])),
    "an entry changed on its way": ([ENTRIES[10], ENTRIES[10]], noted(ENTRIES[:12])),
    "entries in another order": ([ENTRIES[11], ENTRIES[10]], noted(ENTRIES[:12])),
}


@pytest.mark.parametrize("fork", FORKS)
def test_a_log_that_does_not_continue_its_copy_is_a_fork(folder, fork):
    copy = built(folder, 10)
    before = contents(folder)
    entries, note = FORKS[fork]
    sizes = f"with {note.checkpoint.size} entries, .* {ORIGIN} before, 10 entries, by the {len(entries)} that came"
    with pytest.raises(ForkedError, match=sizes):
        copy.extend(entries, note)
    assert contents(folder) == before
    assert copy.size == 10
    copy.extend(ENTRIES[10:12], noted(ENTRIES[:12]))
    check_whole(folder, ENTRIES[:12])


def test_a_first_copy_must_be_what_its_checkpoint_says(folder):
    for entries, note in ((ENTRIES[:3], noted(ENTRIES[:4])), (ENTRIES[:3], noted(REWRITTEN[2:5]))):
        with pytest.raises(ForkedError):
            Log.mirror(folder, entries, note)
        assert names(folder) == set()
    Log.mirror(folder, ENTRIES[:3], noted(ENTRIES[:3]))


def test_an_entry_that_no_log_can_hold_is_not_copied(folder):
    copy = built(folder, 2)
    for entry in (b"", b"x" * 65_536):
        with pytest.raises(LogError, match="does not fit into a log"):
            copy.extend([entry], noted([*ENTRIES[:2], entry]))
    check_whole(folder, ENTRIES[:2])


def test_a_damaged_copy_is_not_continued(folder):
    copy = built(folder, 2)
    path = folder / "tile/entries/000.p/2"
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(LogError, match="is damaged") as caught:
        copy.extend(ENTRIES[2:4], noted(ENTRIES[:4]))
    assert not isinstance(caught.value, ForkedError)


# Witnesses, and bundles.


def test_the_last_cosigned_checkpoint_is_kept(folder):
    log = built(folder, 3)
    assert log.witnessed("bank") is None
    first = cosigned(log.note, "bank", OTHER, 1)
    log.keep_witnessed("bank", first)
    assert log.witnessed("bank") == first
    assert (folder / "witnessed/bank").read_bytes() == first.data
    log.append(make, KEY)
    second = cosigned(log.note, "bank", OTHER, 2)
    log.keep_witnessed("bank", second)
    log.keep_witnessed("clinic-2.eu", first)
    assert (Log(folder).witnessed("bank"), Log(folder).witnessed("clinic-2.eu")) == (second, first)
    assert Log(folder).append(make, KEY) == 4
    (folder / "witnessed/bank").write_bytes(b"nonsense")
    with pytest.raises(LogError, match="as bank cosigned it"):
        log.witnessed("bank")


@pytest.mark.parametrize("name", ["", ".", "..", "../checkpoint", "a/b", "a\\b", ".hidden", "a\n", "a" * 64, "ü"])
def test_a_witness_has_the_name_of_a_file(folder, name):
    log = built(folder, 1)
    for ask in (lambda: log.witnessed(name), lambda: log.keep_witnessed(name, log.note)):
        with pytest.raises(AssertionError):
            ask()
    assert names(folder) == {*files_of(1), "checkpoint"}


def test_bundles_are_read_whole_or_not_at_all():
    entries = [b"a", b"b" * 300, b"c" * 65_535]
    data = bundle_of(entries)
    assert data[:3] == b"\x00\x01a"
    assert parse_bundle(data, 3, "clinic") == entries
    assert parse_bundle(b"", 0, "clinic") == []
    for cut in (data[:-1], data[:1], b"", bundle_of(entries[:2])):
        with pytest.raises(
            LogError, match=r"a bundle of the log of clinic holds [02] whole entries.* where 3 should be"
        ):
            parse_bundle(cut, 3, "clinic")
    for more in (data + b"\x00", data + bundle_of([b"d"]), data + bytes(100)):
        with pytest.raises(LogError, match=r"holds [34] whole entries.* where 3 should be"):
            parse_bundle(more, 3, "clinic")
    with pytest.raises(LogError, match="holds 1 whole entries and 5 bytes more where 3 should be"):
        parse_bundle(bundle_of([b"a", b"", b"c"]), 3, "clinic")


def test_every_cut_of_a_bundle_leaves_the_entries_before_it():
    entries = [b"a", b"bc", b"def"]
    data = bundle_of(entries)
    ends = [3, 7, 12]
    for end in range(len(data) + 1):
        whole = sum(each <= end for each in ends)
        assert split_bundle(data[:end]) == (entries[:whole], data[ends[whole - 1] if whole else 0 : end])


def test_the_hash_of_a_whole_tile_is_one_of_the_level_above(folder):
    built(folder, 512)
    data = (folder / "tile/0/001").read_bytes()
    root = complete_root([data[place : place + 32] for place in range(0, len(data), 32)])
    assert (folder / "tile/1/000.p/2").read_bytes()[32:] == root
    assert read_note((folder / "checkpoint").read_bytes(), "test").checkpoint.size == 512
