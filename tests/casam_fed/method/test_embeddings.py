"""Every image is encoded once, and a stored embedding is used only when it is what it claims to be."""

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from casam_fed.backbone.model import Backbone
from casam_fed.backbone.preparation import PreparedImage, prepare
from casam_fed.errors import StorageError
from casam_fed.host.files import sha256_bytes
from casam_fed.method.embeddings import EmbeddingStore


@pytest.fixture
def store(tmp_path: Path, tiny_backbone: Backbone) -> EmbeddingStore:
    return EmbeddingStore(tmp_path, tiny_backbone)


def pictures(count: int) -> list[PreparedImage]:
    rng = np.random.default_rng(0)
    return [prepare(rng.integers(0, 256, (40, 64, 3), dtype=np.uint8), 64, "pad") for _ in range(count)]


def fresh(store: EmbeddingStore) -> EmbeddingStore:
    """Return a store over the same folder that remembers nothing, as the next run has it."""
    return EmbeddingStore(store.root.parent, store.backbone)


def file_of(store: EmbeddingStore, key: str) -> Path:
    (path,) = store.root.rglob(f"{key}.safetensors")
    return path


def test_stored_embeddings_are_the_encoders_output_in_half_precision(store, tiny_backbone):
    images = pictures(5)
    keys = store.add(images, batch=2)
    expected = torch.cat([tiny_backbone.embed([image.pixels]) for image in images])
    assert keys == [image.digest for image in images]
    loaded = store.load(keys)
    assert loaded.dtype == torch.float32
    assert loaded.shape == (5, 32, 4, 4)
    torch.testing.assert_close(loaded, expected.half().float(), rtol=2e-3, atol=2e-3)
    assert torch.equal(store.load(keys[::-1]), loaded.flip(0))


def test_a_second_run_encodes_nothing(store):
    keys = store.add(pictures(5))
    assert store.encoded == 5
    again = fresh(store)
    assert again.add(pictures(5)) == keys
    assert again.encoded == 0
    assert torch.equal(again.load(keys), store.load(keys))


def test_only_new_images_are_encoded(store):
    store.add(pictures(3))
    again = fresh(store)
    again.add(pictures(5))
    assert again.encoded == 2


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_an_image_that_comes_twice_is_encoded_once(store, batch):
    first, second = pictures(2)
    assert store.add([first, second, first, first, second], batch=batch) == [
        image.digest for image in (first, second, first, first, second)
    ]
    assert store.encoded == 2


def test_images_are_taken_from_a_generator_no_more_than_a_batch_ahead(store):
    written_when_asked_for = []

    def lazily() -> Iterator[PreparedImage]:
        for image in pictures(7):
            written_when_asked_for.append(store.encoded)
            yield image

    store.add(lazily(), batch=3)
    assert written_when_asked_for == [0, 0, 0, 3, 3, 3, 6]
    assert store.encoded == 7


def test_two_backbones_share_a_folder_without_meeting(store, tiny_backbone):
    other = Backbone("other", tiny_backbone.geometry, "b" * 64, tiny_backbone.sam, tiny_backbone.device)
    keys = store.add(pictures(2))
    neighbour = EmbeddingStore(store.root.parent, other)
    assert neighbour.add(pictures(2)) == keys
    assert neighbour.encoded == 2


def _rewritten(path: Path, record: dict[str, str] | None = None, **tensors: torch.Tensor) -> None:
    """Write a whole safetensors file in place of another, its record corrected for the new payload."""
    with safe_open(path, framework="pt") as file:
        kept = json.loads(file.metadata()["record"])
    payload = tensors.get("embedding", torch.zeros(0)).contiguous().view(torch.uint8).numpy().data
    kept |= {"sha256": sha256_bytes(payload)} | (record or {})
    save_file(tensors, path, {"record": json.dumps(kept, sort_keys=True)})


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated in its payload": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "truncated in its header": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "bit flipped at the end": lambda path: _flip(path, -1),
    "bit flipped in the middle": lambda path: _flip(path, -300),
    "bit flipped in its header": lambda path: _flip(path, 40),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "no safetensors": lambda path: path.write_bytes(b"GIF89a, a picture that somebody put there"),
    "without a record": lambda path: save_file(load_file(path), path),
    "of another name": lambda path: _rewritten(path, feature=torch.zeros(32, 4, 4).half()),
    "of another shape": lambda path: _rewritten(path, embedding=torch.zeros(32, 2, 8).half()),
    "of another precision": lambda path: _rewritten(path, embedding=torch.zeros(32, 4, 4)),
    "in bfloat16": lambda path: _rewritten(path, embedding=torch.zeros(32, 4, 4).bfloat16()),
    "of another image": lambda path: _rewritten(path, {"key": "0" * 64}, embedding=torch.zeros(32, 4, 4).half()),
    "of another backbone": lambda path: _rewritten(
        path, {"backbone": "0" * 64}, embedding=torch.zeros(32, 4, 4).half()
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_is_not_what_it_claims_is_built_anew_and_never_used(store, damage):
    keys = store.add(pictures(3))
    expected = store.load(keys)
    damage(file_of(store, keys[1]))
    with pytest.raises(StorageError, match=f"{keys[1]}.* is gone or damaged"):
        fresh(store).load(keys)
    again = fresh(store)
    again.add(pictures(3))
    assert again.encoded == 1
    torch.testing.assert_close(again.load(keys), expected, rtol=2e-3, atol=2e-3)
    assert fresh(store).add(pictures(3)) == keys


def test_a_file_copied_to_another_key_is_foreign(store):
    first, second = store.add(pictures(2))
    file_of(store, second).write_bytes(file_of(store, first).read_bytes())
    again = fresh(store)
    again.add(pictures(2))
    assert again.encoded == 1


@pytest.mark.parametrize("damage", ["gone", "truncated in its payload", "truncated in its header", "no safetensors"])
def test_a_file_that_goes_bad_under_a_running_program_stops_it_with_the_mend(store, damage):
    keys = store.add(pictures(2))
    DAMAGE[damage](file_of(store, keys[0]))
    with pytest.raises(StorageError, match=r"is gone or damaged; run again: it is encoded anew"):
        store.load(keys)


def test_a_full_disk_stops_the_store_and_leaves_no_partial_file(store):
    """The limit on the size of a file stands in for the disk: the kernel refuses the write just the same."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .* then run again"):
            store.add(pictures(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.encoded == 0
    assert [path for path in store.root.parent.rglob("*") if path.is_file()] == []
