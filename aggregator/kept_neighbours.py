"""What is known of the bank's tasks, kept so that a decision need neither read the bank nor let all tasks meet again.

    kept/neighbours-SHA256.safetensors   `casam_fed.routing.neighbours.Neighbours`, and the digests of the entries

It follows from the entries in force and their order, and counts only for these: where the file is missing, damaged, or is
not about the first of them, all is made anew from the bank. The file's name is the digest of its bytes.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from casam_fed.bank.layer_bank import LayerBank
from casam_fed.errors import StorageError
from casam_fed.host.files import as_storage_error, sha256_bytes, write_atomically
from casam_fed.routing.neighbours import SAMPLES, Neighbours
from casam_fed.routing.state import expected_router_shapes

__all__ = ["keep_neighbours", "neighbours_of"]


def neighbours_of(bank: LayerBank, folder: Path) -> Neighbours:
    """Return what is known of the tasks in force, as it is kept in `folder`, where what had to be made is kept.

    Raises:
        BankError: an entry that has to be read is missing or damaged.
    """
    entries = bank.entries()
    found = _kept(bank, folder)
    if found is not None and len(found.tasks) == len(entries):
        return found
    if found is None:
        found = Neighbours.of({entry.task: bank.load(entry.task).router for entry in entries}, bank.background)
    for entry in entries[len(found.tasks) :]:
        found = found.meet(entry.task, bank.load(entry.task).router).after()
    keep_neighbours(found, bank, folder)
    return found


def keep_neighbours(known: Neighbours, bank: LayerBank, folder: Path) -> None:
    """Keep what is known of all tasks in force in the place of what was kept before, if the disk has room for it."""
    digests = [entry.digest for entry in bank.entries()]
    assert tuple(entry.task for entry in bank.entries()) == known.tasks
    if not digests:
        return
    data = save({**known.tensors(), "about": _about(bank, digests)})
    path = folder / f"neighbours-{sha256_bytes(data)}.safetensors"
    with contextlib.suppress(StorageError):
        if len(data) <= _most_bytes(bank):
            write_atomically(path, data, private=True)
        for old in folder.glob("*neighbours-*.safetensors*"):
            if old != path:
                old.unlink(missing_ok=True)


def _kept(bank: LayerBank, folder: Path) -> Neighbours | None:
    """Return what is kept, if it is about the first entries in force."""
    entries = bank.entries()
    for path in folder.glob("neighbours-*.safetensors"):
        with contextlib.suppress(StorageError, FileNotFoundError, SafetensorError), as_storage_error("read", path):
            if path.stat().st_size > _most_bytes(bank):
                continue
            data = path.read_bytes()
            if path.name != f"neighbours-{sha256_bytes(data)}.safetensors":
                continue
            tensors = load(data)
            about = tensors.pop("about", torch.empty(0)).tolist()
            first = entries[: max(0, len(about) - 1)]
            if about == _about(bank, [entry.digest for entry in first]).tolist():
                return Neighbours.from_tensors(tensors, tuple(entry.task for entry in first), bank.background)
    return None


def _about(bank: LayerBank, digests: Sequence[str]) -> Tensor:
    """Return the digest of the background and those of entries, uint8 [1 + T, 32]."""
    rows = [list(bytes.fromhex(digest)) for digest in (bank.snapshot().background, *digests)]
    return torch.tensor(rows, dtype=torch.uint8)


def _most_bytes(bank: LayerBank) -> int:
    """Return twice what the tensors of all entries take, were each sample nearest to one task only."""
    channels = bank.background.mean.numel()
    router = sum(
        torch.Size(shape).numel() * dtype.itemsize for shape, dtype in expected_router_shapes(channels).values()
    )
    return 2 * len(bank.entries()) * (router + SAMPLES * (8 * channels + 2 * 24) + 32) + (64 << 10)
