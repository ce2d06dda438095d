"""Weights are used only when their bytes are the pinned ones, and are never unpickled before that is known."""

import dataclasses
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from casam_fed.backbone.backbones import BACKBONES, BackboneCard
from casam_fed.backbone.checkpoints import (
    background_path,
    card_for_file,
    import_checkpoint,
    is_present,
    pull,
    verified_weights,
    weights_path,
)
from casam_fed.backbone.model import Backbone, load_backbone
from casam_fed.errors import BackboneError, CasamError, StorageError
from casam_fed.host.files import sha256_file


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CASAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pth(tmp_path: Path, tiny_backbone: Backbone) -> Path:
    """A checkpoint as the official ones are: a state dict written by torch.save."""
    torch.save(tiny_backbone.sam.state_dict(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


@pytest.fixture
def card(cache: Path, pth: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> BackboneCard:
    """A catalogue entry that pins `pth`."""
    pinned = BackboneCard("tiny", tiny_backbone.geometry, sha256_file(pth), "http://127.0.0.1:9/tiny.pth", 1)
    monkeypatch.setitem(BACKBONES, "tiny", pinned)
    return pinned


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def ignore(received: int, total: int) -> None:
    """Progress that nobody looks at."""


class TestImport:
    def test_a_pinned_file_is_kept_as_safetensors_and_loads_with_the_same_weights(self, card, pth, tiny_backbone):
        assert not is_present(card)
        path = import_checkpoint(pth, card)
        assert is_present(card)
        assert verified_weights(card) == path == weights_path(card)
        assert files_in(path.parent) == ["tiny.json", "tiny.safetensors"]
        assert json.loads(path.with_suffix(".json").read_text())["safetensors_sha256"] == sha256_file(path)
        loaded = load_backbone("tiny", "cpu")
        assert loaded.digest == card.sha256
        expected = tiny_backbone.sam.state_dict()
        assert loaded.sam.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.sam.state_dict().items())

    def test_importing_twice_gives_the_same_bytes(self, card, pth):
        first = import_checkpoint(pth, card).read_bytes()
        assert import_checkpoint(pth, card).read_bytes() == first

    def test_a_wrong_digest_is_refused_before_anything_is_unpickled(self, card, tmp_path, cache):
        trap = tmp_path / "trap.pth"
        trap.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
        with pytest.raises(
            BackboneError, match=f"has SHA-256 {sha256_file(trap)}, but tiny is pinned to {card.sha256}"
        ):
            import_checkpoint(trap, card)
        assert not (tmp_path / "sprung").exists()
        assert not cache.exists()
        pickle.loads(trap.read_bytes())
        assert (tmp_path / "sprung").exists(), "the trap does work"

    def test_even_a_pinned_file_cannot_run_code(self, card, tmp_path, cache):
        trap = tmp_path / "trap.pth"
        torch.save({"weight": Trap(tmp_path / "sprung")}, trap)
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            import_checkpoint(trap, dataclasses.replace(card, sha256=sha256_file(trap)))
        assert not (tmp_path / "sprung").exists()
        assert not cache.exists()

    def test_a_truncated_file_is_refused(self, card, pth, tmp_path):
        short = tmp_path / "short.pth"
        short.write_bytes(pth.read_bytes()[:-100])
        with pytest.raises(BackboneError, match="it was not read: download it again"):
            import_checkpoint(short, card)

    @pytest.mark.parametrize("name", ["nowhere.pth", "."])
    def test_a_missing_file_is_named(self, card, tmp_path, name):
        with pytest.raises(BackboneError, match="no checkpoint at"):
            import_checkpoint(tmp_path / name, card)
        with pytest.raises(BackboneError, match="no checkpoint at"):
            card_for_file(tmp_path / name, [card])

    def test_a_file_tells_by_its_digest_which_backbone_it_is(self, card, pth):
        cards = [BACKBONES["vit_b"], card]
        assert card_for_file(pth, cards) is card
        with pytest.raises(BackboneError, match=rf"no pinned checkpoint \(vit_b {BACKBONES['vit_b'].sha256}\)"):
            card_for_file(pth, cards[:1])


class TestVerify:
    @pytest.fixture
    def kept(self, card: BackboneCard, pth: Path) -> Path:
        return import_checkpoint(pth, card)

    @pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-9] + b"tampered!", lambda _: b""])
    def test_weights_changed_after_the_import_are_refused(self, card, kept, damage):
        kept.write_bytes(damage(kept.read_bytes()))
        with pytest.raises(BackboneError, match=r"changed or damaged; run `casam backbone pull tiny` again"):
            load_backbone("tiny", "cpu")

    @pytest.mark.parametrize("record", [None, "", "{", "[]", "{}", '{"pth_sha256": 3'])
    def test_weights_without_their_record_are_refused(self, card, kept, record):
        path = kept.with_suffix(".json")
        if record is None:
            path.unlink()
        else:
            path.write_text(record)
        with pytest.raises(BackboneError, match=r"tiny\.json is missing or damaged; run `casam backbone pull tiny`"):
            load_backbone("tiny", "cpu")

    def test_weights_of_another_checkpoint_are_refused(self, card, kept, monkeypatch):
        monkeypatch.setitem(BACKBONES, "tiny", dataclasses.replace(card, sha256="0" * 64))
        with pytest.raises(BackboneError, match="made from another checkpoint than the pinned one"):
            load_backbone("tiny", "cpu")

    def test_weights_that_do_not_fit_the_geometry_are_refused(self, card, kept, monkeypatch):
        wider = dataclasses.replace(card.geometry, channels=64)
        monkeypatch.setitem(BACKBONES, "tiny", dataclasses.replace(card, geometry=wider))
        with pytest.raises(BackboneError, match="does not hold a tiny SAM"):
            load_backbone("tiny", "cpu")

    def test_absent_weights_say_how_to_get_them(self, card):
        with pytest.raises(BackboneError, match=r"not on this machine; run `casam backbone pull tiny` or `casam"):
            load_backbone("tiny", "cpu")

    def test_an_unknown_backbone_lists_those_there_are(self):
        with pytest.raises(BackboneError, match="unknown backbone 'vit_x'; choose one of mini, vit_b, vit_l, vit_h"):
            load_backbone("vit_x", "cpu")

    def test_the_shipped_weights_are_pinned_by_the_catalogue(self):
        mini = BACKBONES["mini"]
        path = verified_weights(mini)
        assert path.stat().st_size < 9e6
        assert background_path(mini).parent == path.parent
        with pytest.raises(BackboneError, match="changed or damaged; reinstall casam-fed"):
            verified_weights(dataclasses.replace(mini, sha256="0" * 64))


class Replies(BaseHTTPRequestHandler):
    """Serves `/right`, `/wrong`, `/endless`, `/short`, `/garbage` and `/broken-chunks`; anything else is 404."""

    body = b""

    def do_GET(self) -> None:
        if self.path == "/right":
            self._send(self.body)
        elif self.path == "/wrong":
            self._send(self.body[:-1] + b"?")
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(64):
                self.wfile.write(bytes(1 << 20))
        elif self.path == "/short":
            self._send(self.body[: len(self.body) // 2], len(self.body))
        elif self.path == "/garbage":
            self.wfile.write(b"what did you say?\r\n\r\n")
        elif self.path == "/broken-chunks":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"ffff\r\nonly this")
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _send(self, body: bytes, claimed: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        self.end_headers()
        self.wfile.write(body)


class QuietServer(ThreadingHTTPServer):
    """Does not mind clients that hang up."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(pth: Path) -> Iterator[str]:
    Replies.body = pth.read_bytes()
    with QuietServer(("127.0.0.1", 0), Replies) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


class TestPull:
    def test_the_right_bytes_are_kept_as_safetensors_only(self, card, server, cache, pth):
        seen = []
        path = pull(dataclasses.replace(card, url=f"{server}/right"), lambda *numbers: seen.append(numbers))
        assert files_in(cache) == ["backbones/tiny.json", "backbones/tiny.safetensors"]
        assert verified_weights(card) == path
        assert seen[-1] == (pth.stat().st_size,) * 2

    @pytest.mark.parametrize(
        ("page", "words"),
        [
            ("wrong", "but tiny is pinned to"),
            ("endless", "sends more than tiny can be"),
            ("short", "cannot download|but tiny is pinned to"),
            ("missing", "cannot download .*404"),
            ("garbage", "cannot download"),
            ("broken-chunks", "cannot download"),
        ],
    )
    def test_anything_else_is_refused_and_leaves_nothing_behind(self, card, server, cache, page, words):
        with pytest.raises(BackboneError, match=words):
            pull(dataclasses.replace(card, url=f"{server}/{page}"), ignore)
        assert files_in(cache) == []
        assert not is_present(card)

    def test_a_server_that_is_not_there_says_how_to_go_on_without_it(self, card, cache):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with pytest.raises(BackboneError, match=r"check the network, or fetch the file elsewhere and run `casam backb"):
            pull(dataclasses.replace(card, url=f"http://127.0.0.1:{port}/"), ignore)
        assert files_in(cache) == []

    def test_a_failed_pull_leaves_earlier_weights_as_they_were(self, card, server, pth):
        before = import_checkpoint(pth, card).read_bytes()
        with pytest.raises(BackboneError):
            pull(dataclasses.replace(card, url=f"{server}/wrong"), ignore)
        assert verified_weights(card).read_bytes() == before

    def test_the_shipped_backbone_needs_no_download(self):
        with pytest.raises(BackboneError, match="ships with casam-fed; there is nothing to download"):
            pull(BACKBONES["mini"], ignore)

    def test_too_little_room_is_said_before_the_download(self, card, server, cache):
        with pytest.raises(StorageError, match="needs 3000000000 MB free for tiny"):
            pull(dataclasses.replace(card, url=f"{server}/right", download_mb=10**9), ignore)
        assert files_in(cache) == []

    def test_a_cache_that_cannot_be_a_folder_is_a_storage_error(self, card, server, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("CASAM_CACHE", str(tmp_path / "file"))
        with pytest.raises(CasamError, match="cannot write under"):
            pull(dataclasses.replace(card, url=f"{server}/right"), ignore)

    def test_a_disk_that_fills_up_during_the_download_leaves_nothing_behind(self, card, server, cache, pth):
        """The limit on the size of a file stands in for the disk: the kernel refuses the write just the same."""
        code = f"""
import resource
from casam_fed.backbone.backbones import BACKBONES, BackboneCard
from casam_fed.backbone.checkpoints import pull
from casam_fed.errors import StorageError
card = BackboneCard("tiny", BACKBONES["mini"].geometry, "{card.sha256}", "{server}/right", 1)
resource.setrlimit(resource.RLIMIT_FSIZE, ({pth.stat().st_size // 2},) * 2)
try:
    pull(card, lambda received, total: None)
except StorageError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        assert "cannot write under" in done.stdout, done.stderr
        assert "free space or set CASAM_CACHE" in done.stdout
        assert files_in(cache) == []
