"""The bank under full disks, kills and several processes at once: always the old bank or the new one."""

import os
import shutil
import stat
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import parse
from casam_fed.bank.snapshot import Entry
from casam_fed.errors import StorageError

from .releases import BACKBONE_DIGEST, BACKGROUND, release_bytes

RELEASES = {task: parse(release_bytes(task, seed)) for seed, task in enumerate(("polyp", "spleen"))}

# One thread: a process that forks after a parallel computation leaves its child waiting for threads that it does not have.
_PREAMBLE = f"""
import subprocess, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {str(Path(__file__).parent)!r})
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.errors import StorageError
from casam_fed.bank.release import parse
"""


def _run(script: str, *command: str) -> subprocess.CompletedProcess[str]:
    program = [*command, sys.executable, "-c", _PREAMBLE + textwrap.dedent(script)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.fixture
def bank(tmp_path: Path) -> LayerBank:
    return LayerBank.create(tmp_path / "bank", "tiny", BACKBONE_DIGEST, BACKGROUND)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _change_with_limit(folder: Path, change: str, limit: int) -> subprocess.CompletedProcess[str]:
    """Admit "spleen" or retire "polyp" in a process that may write no file of more than `limit` bytes."""
    release = folder.parent / "release"
    release.write_bytes(RELEASES["spleen"].data)
    return _run(
        f"""
        import resource, signal
        bank = LayerBank(Path({str(folder)!r}))
        release = parse(Path({str(release)!r}).read_bytes())
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            bank.admit(release) if {change == "admit"} else bank.retire("polyp")
        except StorageError as error:
            sys.exit(str(error))
        """
    )


@pytest.mark.parametrize("change", ["admit", "retire"], ids=["release does not fit", "snapshot does not fit"])
def test_a_full_disk_leaves_the_bank_as_it_was(bank, change):
    """The real error of a real write."""
    bank.admit(RELEASES["polyp"])
    before = _files(bank.folder)
    done = _change_with_limit(bank.folder, change, 100)
    assert done.returncode == 1, done.stderr
    assert "file too large; free space or choose a folder" in done.stderr
    assert _files(bank.folder) == before
    LayerBank(bank.folder).admit(RELEASES["spleen"])


def test_a_full_disk_between_object_and_snapshot_leaves_the_bank_as_it_was(bank):
    """The release fits under the limit, the snapshot does not, for it lists many retired entries."""
    release = RELEASES["spleen"]
    retired = Entry(0, "site-old", "old", "0" * 64, 1, "retired")
    entries = tuple(replace(retired, sequence=number) for number in range(len(release.data) // 100))
    snapshot = replace(bank.snapshot(), entries=entries)
    (bank.folder / "bank.json").write_bytes(snapshot.data)
    limit = (len(release.data) + len(snapshot.data)) // 2
    assert len(release.data) < limit < len(snapshot.data)
    before = _files(bank.folder)
    done = _change_with_limit(bank.folder, "admit", limit)
    assert done.returncode == 1
    assert "bank.json: file too large; free space" in done.stderr
    assert {name: data for name, data in _files(bank.folder).items() if name != ".lock"} == {
        name: data for name, data in before.items() if name != ".lock"
    }


def test_a_disk_without_space_is_told_and_leaves_the_bank_as_it_was(tmp_path):
    """A file system of 64 KiB, mounted in a namespace of its own, so that it is gone with its process."""
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this system lets no test mount a tiny file system")
    done = _run(
        f"""
        from releases import BACKBONE_DIGEST, BACKGROUND, release_bytes
        releases = [parse(release_bytes(f"task-{{number}}", number)) for number in range(12)]
        subprocess.run({probe[2:]!r}, check=True)
        bank = LayerBank.create(Path({str(tmp_path)!r}) / "bank", "tiny", BACKBONE_DIGEST, BACKGROUND)
        files = lambda: {{path: path.read_bytes() for path in bank.folder.rglob("*") if path.is_file()}}
        for number, release in enumerate(releases):
            before = files()
            try:
                bank.admit(release)
            except StorageError as error:
                assert number > 0 and files() == before
                assert len(LayerBank(bank.folder).entries()) == number
                sys.exit(str(error))
        """,
        "unshare",
        "--mount",
    )
    assert done.returncode == 1, done.stderr
    assert "no space left on device; free space" in done.stderr


def test_a_snapshot_that_is_in_place_keeps_its_object_although_its_folder_cannot_be_flushed(bank, monkeypatch):
    flush = os.fsync

    def failing(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode) and os.path.samestat(status, bank.folder.stat()):
            raise OSError(5, "Input/output error")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError):
        bank.admit(RELEASES["polyp"])
    assert bank.entries() == LayerBank(bank.folder).entries()
    assert LayerBank(bank.folder).load("polyp").data == RELEASES["polyp"].data


def test_two_processes_that_admit_at_once_lose_nothing(bank):
    done = _run(
        f"""
        import os
        from releases import release_bytes
        folder = Path({str(bank.folder)!r})
        writers = []
        for name in ("a", "b"):
            releases = [parse(release_bytes(f"{{name}}-{{number}}", number)) for number in range(8)]
            writers.append(os.fork())
            if writers[-1] == 0:
                own = LayerBank(folder)
                for release in releases:
                    own.admit(release)
                os._exit(0)
        sys.exit(max(os.waitpid(writer, 0)[1] for writer in writers))
        """
    )
    assert done.returncode == 0, done.stderr
    after = LayerBank(bank.folder)
    assert sorted(entry.task for entry in after.entries()) == [f"{name}-{n}" for name in "ab" for n in range(8)]
    assert [entry.sequence for entry in after.entries()] == list(range(16))
    assert all(after.load(entry.task).card.task == entry.task for entry in after.entries())


def test_a_process_killed_while_changing_the_bank_leaves_one_that_opens(bank):
    """Thirty processes killed at thirty moments; whatever they leave opens, is whole, and is tidied by the next change."""
    done = _run(
        f"""
        import os, signal, time
        from casam_fed.bank.snapshot import read_snapshot
        from releases import release_bytes
        folder = Path({str(bank.folder)!r})
        release, spleen = parse(release_bytes()), parse(release_bytes("spleen", 1))
        own = LayerBank(folder)
        for number in range(30):
            before = len(own.snapshot().entries)
            child = os.fork()
            if child == 0:
                while True:
                    own.admit(release)
                    own.retire("polyp")
            while len(read_snapshot(folder).entries) < before + 2:
                time.sleep(0.001)
            time.sleep(0.0017 * number)
            os.kill(child, signal.SIGKILL)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
            own = LayerBank(folder)
            assert len(own.snapshot().entries) >= before
            for entry in own.entries():
                own.load(entry.task)
            own.admit(spleen)
            named = {{f"{{digest}}.safetensors" for digest in own.snapshot().object_digests}}
            assert {{path.name for path in folder.rglob("*")}} == {{".lock", "bank.json", "objects"}} | named
            own.retire("spleen")
        assert len(own.snapshot().entries) > 60
        """
    )
    assert done.returncode == 0, done.stderr


def test_a_reader_never_sees_a_bank_that_is_being_changed_as_damaged(bank):
    """One process changes the bank while this one opens it again and again."""
    (bank.folder.parent / "release").write_bytes(RELEASES["polyp"].data)
    script = _PREAMBLE + textwrap.dedent(f"""
        bank = LayerBank(Path({str(bank.folder)!r}))
        release = parse(Path({str(bank.folder.parent / "release")!r}).read_bytes())
        for _ in range(30):
            bank.admit(release)
            bank.retire("polyp")
    """)
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        while process.poll() is None:
            LayerBank(bank.folder)
    assert process.returncode == 0
    assert len(LayerBank(bank.folder).snapshot().entries) == 30
