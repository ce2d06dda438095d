"""Backbone weights on disk: shipped, downloaded, imported, always checked against the pinned digest.

The official .pth files are pickles. Their SHA-256 is compared first, and only a file that matches is read, once, with
torch's weights-only loader; what is kept is safetensors, with its own digest recorded beside it.
"""

import http.client
import json
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ValidationError

from casam_fed.backbone.backbones import BackboneCard
from casam_fed.errors import BackboneError, StorageError
from casam_fed.host.files import as_storage_error, cache_dir, sha256_file, write_atomically

__all__ = ["background_path", "import_checkpoint", "is_present", "pull", "verified_weights"]


def weights_path(card: BackboneCard) -> Path:
    """Return where the safetensors file of a backbone lies (or would lie)."""
    if card.url is None:
        return Path(str(resources.files("casam_fed.backbone"))) / "weights" / f"{card.name}.safetensors"
    return cache_dir() / "backbones" / f"{card.name}.safetensors"


def background_path(card: BackboneCard) -> Path:
    """Return where the background statistics of a backbone lie, beside its weights."""
    return weights_path(card).with_name(f"{card.name}.background.safetensors")


def is_present(card: BackboneCard) -> bool:
    """Return whether the weights are on this machine."""
    return weights_path(card).exists()


def verified_weights(card: BackboneCard) -> Path:
    """Return the path of a backbone's safetensors file after checking its digest.

    Raises:
        BackboneError: the file is absent, or is not the one that was pinned or imported.
    """
    path = weights_path(card)
    if not path.exists():
        raise BackboneError(
            f"backbone {card.name} is not on this machine; run `casam backbone pull {card.name}` "
            f"or `casam backbone import FILE`"
        )
    expected = card.sha256 if card.url is None else _recorded_digest(card, path)
    found = sha256_file(path)
    if found != expected:
        mend = "reinstall casam-fed" if card.url is None else f"run `casam backbone pull {card.name}` again"
        raise BackboneError(f"{path} has SHA-256 {found}, not the pinned {expected}: it was changed or damaged; {mend}")
    return path


def import_checkpoint(file: Path, card: BackboneCard) -> Path:
    """Turn an official .pth file into the safetensors file we keep, and return its path.

    Raises:
        BackboneError: no such file, or its SHA-256 is not the pinned one; then nothing is unpickled.
        StorageError: the safetensors file could not be written.
    """
    found = _digest(file)
    if found != card.sha256:
        raise BackboneError(
            f"{file} has SHA-256 {found}, but {card.name} is pinned to {card.sha256}; "
            f"it was not read: download it again from {card.url}"
        )
    import torch
    from safetensors.torch import save

    state = torch.load(file, map_location="cpu", weights_only=True)
    path = weights_path(card)
    write_atomically(path, save({name: tensor.contiguous() for name, tensor in state.items()}))
    record = {"name": card.name, "pth_sha256": card.sha256, "safetensors_sha256": sha256_file(path)}
    write_atomically(_record_path(path), json.dumps(record, indent=2, sort_keys=True).encode())
    return path


def card_for_file(file: Path, cards: list[BackboneCard]) -> BackboneCard:
    """Return the card whose pinned digest is that of `file`.

    Raises:
        BackboneError: no such file, or none of the cards pins it.
    """
    found = _digest(file)
    for card in cards:
        if card.sha256 == found:
            return card
    known = ", ".join(f"{card.name} {card.sha256}" for card in cards)
    raise BackboneError(
        f"{file} has SHA-256 {found}, which is no pinned checkpoint ({known}); it was not read: download it again"
    )


def pull(card: BackboneCard, progress: Callable[[int, int], None]) -> Path:
    """Download an official checkpoint, check it, keep it as safetensors, and return the path.

    Args:
        card: an official backbone.
        progress: called with the bytes received so far and the total (0 where the server does not say).

    Raises:
        BackboneError: the backbone has no URL, the download failed, or the digest is wrong.
        StorageError: the disk is full or cannot be written.
    """
    if card.url is None:
        raise BackboneError(f"backbone {card.name} ships with casam-fed; there is nothing to download")
    folder = weights_path(card).parent
    with as_storage_error("write under", folder, "free space or set CASAM_CACHE"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            file = Path(temporary) / "checkpoint.pth"
            _download(card, card.url, file, progress)
            return import_checkpoint(file, card)


def _download(card: BackboneCard, url: str, file: Path, progress: Callable[[int, int], None]) -> None:
    if shutil.disk_usage(file.parent).free < 3 * card.download_mb * 2**20:
        raise StorageError(f"{file.parent} needs {3 * card.download_mb} MB free for {card.name}; free space there")
    try:
        with urllib.request.urlopen(url, timeout=60) as response, file.open("wb") as sink:  # noqa: S310
            total, received = int(response.headers.get("Content-Length") or 0), 0
            while chunk := response.read(1 << 20):
                received += len(chunk)
                if received > 2 * card.download_mb * 2**20:
                    raise BackboneError(f"{url} sends more than {card.name} can be; nothing was kept, try later")
                sink.write(chunk)
                progress(received, total)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise BackboneError(
            f"cannot download {url}: {error}; check the network, or fetch the file elsewhere and run "
            f"`casam backbone import FILE`"
        ) from error


def _digest(file: Path) -> str:
    if not file.is_file():
        raise BackboneError(f"no checkpoint at {file}; give the path of an official SAM .pth file")
    return sha256_file(file)


def _record_path(weights: Path) -> Path:
    return weights.with_suffix(".json")


class _Record(BaseModel):
    """What is kept beside weights: from which checkpoint they were made, and their own digest."""

    pth_sha256: str
    safetensors_sha256: str


def _recorded_digest(card: BackboneCard, path: Path) -> str:
    try:
        record = _Record.model_validate_json(_record_path(path).read_bytes())
    except (OSError, ValidationError):
        record = None
    if record is None or record.pth_sha256 != card.sha256:
        problem = f"{path} was made from another checkpoint than the pinned one"
        if record is None:
            problem = f"{_record_path(path)} is missing or damaged"
        raise BackboneError(f"{problem}; run `casam backbone pull {card.name}` again")
    return record.safetensors_sha256
