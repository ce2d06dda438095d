"""Proofs about a log: their one form, and that they hold what is checked."""

import base64
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed.audit.merkle import check_inclusion, in_memory, inclusion_path, leaf_hash, tree_root
from casam_fed.audit.note import Checkpoint, check_signed, sign_checkpoint
from casam_fed.audit.proof import MAX_PROOF_BYTES, Proof, read_proof
from casam_fed.errors import LogError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "casam-fed/bank/polyps/0123456789ab"
ENTRIES = [f"entry {number}".encode() for number in range(11)]
TREE = in_memory([leaf_hash(entry) for entry in ENTRIES])


def proof_of(index: int, size: int) -> Proof:
    note = sign_checkpoint(Checkpoint(ORIGIN, size, tree_root(size, TREE)), KEY)
    return Proof(index, tuple(inclusion_path(index, size, TREE)), note)


def read(data: bytes | str) -> Proof:
    return read_proof(data if isinstance(data, bytes) else data.encode(), "the aggregator")


def checked(data: bytes) -> None:
    """Check that a proof shows entry 6 of 11."""
    proof = read(data)
    check_signed(proof.note, KEY.public_key())
    checkpoint = proof.note.checkpoint
    assert (proof.index, checkpoint.origin) == (6, ORIGIN) or refuse()
    check_inclusion(leaf_hash(ENTRIES[6]), proof.index, checkpoint.size, proof.path, checkpoint.root)


def refuse() -> bool:
    raise LogError("a proof of something else")


GOOD = proof_of(6, 11)
DATA = GOOD.data.decode()
NOTE = GOOD.note.data.decode()
FIRST = base64.b64encode(GOOD.path[0]).decode()


def test_a_proof_is_a_head_an_index_hashes_and_a_checkpoint():
    hashes = "".join(base64.b64encode(node).decode() + "\n" for node in GOOD.path)
    assert len(GOOD.path) == 4
    assert GOOD.data.decode() == f"c2sp.org/tlog-proof@v1\nindex 6\n{hashes}\n{NOTE}"


def test_what_was_written_comes_back_and_shows_what_it_should():
    for size in range(1, len(ENTRIES) + 1):
        for index in range(size):
            proof = proof_of(index, size)
            again = read(proof.data)
            assert again == proof
            assert again.data == proof.data
    checked(GOOD.data)


def test_an_only_entry_needs_no_hash():
    proof = proof_of(0, 1)
    assert proof.data.decode() == f"c2sp.org/tlog-proof@v1\nindex 0\n\n{proof.note.data.decode()}"
    assert read(proof.data) == proof


ALTERED = {
    "empty": "",
    "no checkpoint": DATA.removesuffix(NOTE),
    "no empty line": DATA.replace(f"\n\n{NOTE}", f"\n{NOTE}"),
    "two empty lines": DATA.replace(f"\n\n{NOTE}", f"\n\n\n{NOTE}"),
    "another version": DATA.replace("@v1", "@v2"),
    "another head": DATA.replace("c2sp.org", "example.com"),
    "a space after the head": DATA.replace("@v1", "@v1 "),
    "no index": DATA.replace("index 6\n", ""),
    "extra data": DATA.replace("index 6", "extra YQ==\nindex 6"),
    "two indices": DATA.replace("index 6\n", "index 6\nindex 6\n"),
    "index with a zero": DATA.replace("index 6", "index 06"),
    "index negative": DATA.replace("index 6", "index -6"),
    "index with a sign": DATA.replace("index 6", "index +6"),
    "index empty": DATA.replace("index 6", "index "),
    "index in other digits": DATA.replace("index 6", "index \uff16"),
    "index too large": DATA.replace("index 6", f"index {1 << 64}"),
    "index of many digits": DATA.replace("index 6", "index " + "6" * 5000),
    "index of no entry": DATA.replace("index 6", "index 11"),
    "carriage returns": DATA.replace("\n", "\r\n"),
    "a hash that is too short": DATA.replace(FIRST, base64.b64encode(bytes(31)).decode()),
    "a hash that is too long": DATA.replace(FIRST, base64.b64encode(bytes(33)).decode()),
    "a hash that is empty": DATA.replace(FIRST, ""),
    "a hash with other last bits": DATA.replace(FIRST, FIRST[:-2] + chr(ord(FIRST[-2]) + 1) + "="),
    "a hash without padding": DATA.replace(FIRST, FIRST[:-1]),
    "a hash that is no base64": DATA.replace(FIRST, "%" + FIRST[1:]),
    "a hash with a space": DATA.replace(FIRST, FIRST + " "),
    "too many hashes": DATA.replace(FIRST, "\n".join([FIRST] * 64)),
    "more after it": DATA + "\n",
    "a byte order mark": "\ufeff" + DATA,
    "a checkpoint that is none": DATA.replace("\n11\n", "\n011\n"),
}


@pytest.mark.parametrize("defect", ALTERED)
def test_only_the_one_form_passes(defect):
    assert ALTERED[defect] != DATA
    with pytest.raises(LogError, match="the aggregator is not in its one form"):
        read(ALTERED[defect])


def test_as_many_hashes_as_the_largest_log_needs_are_read():
    proof = Proof(0, GOOD.path * 15, sign_checkpoint(Checkpoint(ORIGIN, (1 << 63) - 1, GOOD.path[0]), KEY))
    assert read(proof.data) == proof


def test_too_much_is_not_read():
    for data in (
        b"\n" * (MAX_PROOF_BYTES + 1),
        GOOD.data.ljust(MAX_PROOF_BYTES + 1),
        GOOD.data + bytes(MAX_PROOF_BYTES),
    ):
        with pytest.raises(LogError, match="is not in its one form, of at most"):
            read(data)


def test_no_byte_of_a_proof_can_be_changed():
    randomness = random.Random(1)
    for place in range(len(GOOD.data)):
        for _ in range(2):
            data = bytearray(GOOD.data)
            data[place] ^= randomness.randrange(1, 256)
            with pytest.raises(LogError):
                checked(bytes(data))


def test_no_part_of_a_proof_is_one():
    for end in range(len(GOOD.data)):
        with pytest.raises(LogError):
            read(GOOD.data[:end])


def test_a_proof_of_another_entry_shows_nothing_about_this_one():
    for index in range(11):
        if index != 6:
            with pytest.raises(LogError):
                checked(Proof(6, proof_of(index, 11).path, GOOD.note).data)
            with pytest.raises(LogError):
                checked(Proof(index, GOOD.path, GOOD.note).data)


def test_random_bytes_are_refused():
    randomness = random.Random(2)
    for _ in range(300):
        with pytest.raises(LogError):
            read(randomness.randbytes(randomness.randrange(600)))
