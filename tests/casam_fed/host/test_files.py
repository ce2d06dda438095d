"""Files are either whole or absent."""

import hashlib
import os
import subprocess
import sys

import pytest

from casam_fed.errors import StorageError
from casam_fed.host.files import cache_dir, sha256_bytes, sha256_file, write_atomically

# FIPS 180-4's example: the digest of "abc".
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digests_are_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_bytes(b"abc") == sha256_bytes(memoryview(b"abc")) == sha256_file(tmp_path / "abc") == ABC
    big = os.urandom(1 << 20) * 3
    (tmp_path / "big").write_bytes(big)
    assert sha256_file(tmp_path / "big") == hashlib.sha256(big).hexdigest()


def test_a_file_is_written_and_replaced_with_the_folders_it_needs(tmp_path):
    path = tmp_path / "some" / "folder" / "file"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_the_umask_decides_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
        assert os.umask(0o027) == 0o027, "the umask itself is not changed"
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_what_is_private_is_readable_by_its_owner_alone_from_the_first_moment(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o644)
    modes = []
    replace = os.replace

    def look_before_replacing(source, target):
        modes.append(os.stat(source).st_mode & 0o777)
        replace(source, target)

    monkeypatch.setattr(os, "chmod", lambda *_: pytest.fail("the mode was changed"))
    monkeypatch.setattr(os, "replace", look_before_replacing)
    before = os.umask(0)
    try:
        write_atomically(tmp_path / "file", b"new", private=True)
    finally:
        os.umask(before)
    assert [*modes, (tmp_path / "file").stat().st_mode & 0o777] == [0o600, 0o600]
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "target").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_bytes() == b"kept"
    assert (tmp_path / "link").read_bytes() == b"new"


@pytest.mark.parametrize("place", ["a file/below", "a folder", "x" * 300])
def test_a_path_that_cannot_be_written_is_one_sentence_with_the_mend(tmp_path, place):
    (tmp_path / "a file").write_bytes(b"old")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "inside").write_bytes(b"old")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match=r"cannot write .*: .*; free space or choose a folder that can be written"):
        write_atomically(tmp_path / place, b"new")
    assert sorted(tmp_path.rglob("*")) == before


FILL = """
import resource, sys
from pathlib import Path
from casam_fed.errors import StorageError
from casam_fed.host.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), bytes(5000))
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("old", [b"old", None])
def test_a_full_disk_keeps_the_old_file_and_leaves_no_other(tmp_path, old):
    """The limit on the size of a file stands in for the disk: the kernel refuses the write just the same."""
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    done = subprocess.run([sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"cannot write {path}: file too large; free space or choose"), done.stderr
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == ([("file", old)] if old else [])


def test_a_kill_between_write_and_rename_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from casam_fed.host.files import write_atomically\n"
        "os.replace = lambda *_: os._exit(9)\n"
        "write_atomically(Path(sys.argv[1]), b'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == 9
    assert path.read_bytes() == b"old"


def test_the_cache_folder_is_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("CASAM_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("CASAM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "casam-fed"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / ".cache" / "casam-fed"
