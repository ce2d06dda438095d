"""Checkpoints: their one form, who signed them, who cosigned them and when."""

import base64
import random
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from casam_fed.audit.keys import public_pem
from casam_fed.audit.note import (
    COSIGNATURE,
    ED25519,
    MAX_NOTE_BYTES,
    Checkpoint,
    Note,
    Signature,
    check_cosigned,
    check_signed,
    cosigned,
    key_hash,
    read_note,
    sign_checkpoint,
)
from casam_fed.errors import CasamError, LogError, UnsignedError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BANK = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34)))
ORIGIN = "casam-fed/site/clinic/0123456789ab"
WITNESS = "casam-fed/bank/polyps/ba9876543210"
ROOT = bytes(range(32))
CHECKPOINT = Checkpoint(ORIGIN, 4711, ROOT)
TIME = 1_753_000_000
SIGNED = sign_checkpoint(CHECKPOINT, KEY)
GOOD = cosigned(SIGNED, WITNESS, BANK, TIME)
TEXT = f"{ORIGIN}\n4711\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"

# The example of https://pkg.go.dev/golang.org/x/mod/sumdb/note.
NEUMANN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NEUMANN_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
)


def read(data: bytes) -> Note:
    return read_note(data, "clinic")


def line(signature: Signature) -> str:
    return f"— {signature.name} {base64.b64encode(signature.key_hash + signature.value).decode()}\n"


def test_a_checkpoint_is_three_lines():
    assert CHECKPOINT.text == TEXT
    assert Checkpoint(ORIGIN, 0, ROOT).text.split("\n")[1] == "0"


def test_a_note_is_text_an_empty_line_and_a_line_for_each_signature():
    assert SIGNED.data.decode() == TEXT + "\n" + line(SIGNED.signatures[0])
    assert GOOD.data.decode() == TEXT + "\n" + line(GOOD.signatures[0]) + line(GOOD.signatures[1])
    assert SIGNED.data.decode().split("\n")[4].startswith(f"\u2014 {ORIGIN} ")


def test_key_hashes_and_signatures_are_those_of_the_go_implementation():
    raw = base64.b64decode(NEUMANN_KEY.split("+", 2)[2])
    public = Ed25519PublicKey.from_public_bytes(raw[1:])
    assert key_hash("PeterNeumann", ED25519, public).hex() == "c74f20a3"
    data = base64.b64decode(NEUMANN_LINE.split(" ")[2])
    assert data[:4] == key_hash("PeterNeumann", ED25519, public)
    public.verify(data[4:], NEUMANN_TEXT.encode())


def test_a_key_has_another_hash_for_each_name_and_use():
    hashes = {key_hash(name, use, KEY.public_key()) for name in (ORIGIN, WITNESS) for use in (ED25519, COSIGNATURE)}
    assert len(hashes) == 4
    assert key_hash(WITNESS, COSIGNATURE, BANK.public_key()) == GOOD.signatures[1].key_hash


def test_what_was_written_comes_back():
    for note in (SIGNED, GOOD):
        assert read(note.data) == note
        assert read(note.data).data == note.data
    assert sign_checkpoint(CHECKPOINT, KEY) == SIGNED


def test_signatures_are_checked():
    check_signed(GOOD, KEY.public_key())
    assert check_cosigned(GOOD, WITNESS, BANK.public_key()) == TIME


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_both_signatures(tmp_path):
    """What is signed, written out: the text, and for a cosignature two lines before it."""
    head = f"cosignature/v1\ntime {TIME}\n"
    signatures = [(KEY, TEXT, GOOD.signatures[0].value), (BANK, head + TEXT, GOOD.signatures[1].value[8:])]
    assert GOOD.signatures[1].value[:8] == TIME.to_bytes(8, "big")
    for key, message, value in signatures:
        (tmp_path / "key.pem").write_text(public_pem(key.public_key()))
        (tmp_path / "signature").write_bytes(value)
        for text, fits in ((message, True), (message + "\n", False)):
            (tmp_path / "message").write_text(text)
            command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key.pem", "-in", "message"]
            done = subprocess.run([*command, "-sigfile", "signature"], cwd=tmp_path, capture_output=True, check=False)
            assert (done.returncode == 0) is fits


def test_a_missing_signature_is_told_from_a_wrong_one():
    with pytest.raises(UnsignedError, match="no signature of casam-fed/site/clinic/0123456789ab with the key"):
        check_signed(GOOD, OTHER.public_key())
    with pytest.raises(UnsignedError):
        check_cosigned(SIGNED, WITNESS, BANK.public_key())
    with pytest.raises(UnsignedError):
        check_cosigned(GOOD, "casam-fed/bank/polyps/000000000000", BANK.public_key())
    with pytest.raises(UnsignedError):
        check_cosigned(GOOD, WITNESS, OTHER.public_key())
    changed = Note(Checkpoint(ORIGIN, 4712, ROOT), GOOD.signatures)
    for check in (
        lambda: check_signed(changed, KEY.public_key()),
        lambda: check_cosigned(changed, WITNESS, BANK.public_key()),
    ):
        with pytest.raises(LogError, match="does not fit") as caught:
            check()
        assert not isinstance(caught.value, UnsignedError)
    assert issubclass(UnsignedError, LogError)
    assert issubclass(LogError, CasamError)


def test_one_kind_of_signature_does_not_pass_for_the_other():
    """A cosignature under the log's name is none by the log, and the log's own signature no cosignature."""
    value = KEY.sign(CHECKPOINT.text.encode())
    relabelled = Signature(WITNESS, key_hash(WITNESS, COSIGNATURE, KEY.public_key()), bytes(8) + value)
    with pytest.raises(LogError, match="does not fit"):
        check_cosigned(Note(CHECKPOINT, (relabelled,)), WITNESS, KEY.public_key())
    stamped = cosigned(SIGNED, WITNESS, KEY, 0).signatures[1].value[8:]
    relabelled = Signature(ORIGIN, key_hash(ORIGIN, ED25519, KEY.public_key()), stamped)
    with pytest.raises(LogError, match="does not fit"):
        check_signed(Note(CHECKPOINT, (relabelled,)), KEY.public_key())
    with pytest.raises(UnsignedError):
        check_cosigned(SIGNED, ORIGIN, KEY.public_key())


def test_the_time_of_a_cosignature_is_signed():
    name, hashed, value = GOOD.signatures[1].name, GOOD.signatures[1].key_hash, GOOD.signatures[1].value
    later = Signature(name, hashed, (TIME + 1).to_bytes(8, "big") + value[8:])
    with pytest.raises(LogError, match="does not fit"):
        check_cosigned(Note(CHECKPOINT, (SIGNED.signatures[0], later)), WITNESS, BANK.public_key())


@pytest.mark.parametrize("length", [1, 8, 63, 65, 71, 73, 200])
def test_a_signature_of_another_length_does_not_fit(length):
    own = Signature(ORIGIN, key_hash(ORIGIN, ED25519, KEY.public_key()), (SIGNED.signatures[0].value * 4)[:length])
    other = Signature(WITNESS, key_hash(WITNESS, COSIGNATURE, BANK.public_key()), (b"\x00" * 300)[:length])
    note = read(Note(CHECKPOINT, (own, other)).data)
    with pytest.raises(LogError, match="does not fit"):
        check_signed(note, KEY.public_key())
    with pytest.raises(LogError, match="does not fit"):
        check_cosigned(note, WITNESS, BANK.public_key())


def test_a_new_cosignature_takes_the_place_of_the_old_one():
    again = cosigned(GOOD, WITNESS, BANK, TIME + 60)
    assert len(again.signatures) == 2
    assert check_cosigned(again, WITNESS, BANK.public_key()) == TIME + 60
    rotated = cosigned(again, WITNESS, OTHER, TIME + 90)
    assert len(rotated.signatures) == 2
    with pytest.raises(UnsignedError):
        check_cosigned(rotated, WITNESS, BANK.public_key())
    several = cosigned(GOOD, "another.example/witness", OTHER, 0)
    assert check_cosigned(several, WITNESS, BANK.public_key()) == TIME
    assert check_cosigned(several, "another.example/witness", OTHER.public_key()) == 0
    check_signed(several, KEY.public_key())


@pytest.mark.parametrize("name", ["", ORIGIN, "two words", "a+b", "line\nbreak", "\u00a0", "a\u2028b", "a\u200eb"])
def test_a_witness_has_a_name_of_its_own(name):
    with pytest.raises(AssertionError):
        cosigned(SIGNED, name, BANK, TIME)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("", 1, ROOT),
        Checkpoint("a b", 1, ROOT),
        Checkpoint("a\nb", 1, ROOT),
        Checkpoint(ORIGIN, -1, ROOT),
        Checkpoint(ORIGIN, 1 << 63, ROOT),
        Checkpoint(ORIGIN, 1, ROOT[:-1]),
        Checkpoint(ORIGIN, 1, b""),
    ],
)
def test_what_is_no_checkpoint_is_not_signed(checkpoint):
    with pytest.raises(AssertionError):
        sign_checkpoint(checkpoint, KEY)


def test_the_largest_checkpoint_and_a_name_in_another_script_come_back():
    note = cosigned(
        sign_checkpoint(Checkpoint("клиника/журнал", (1 << 63) - 1, ROOT), KEY), "証人", BANK, (1 << 64) - 1
    )
    assert read(note.data) == note
    assert check_cosigned(note, "証人", BANK.public_key()) == (1 << 64) - 1


DATA = SIGNED.data.decode()
LINE = line(SIGNED.signatures[0])
ALTERED = {
    "empty": "",
    "no signature": TEXT + "\n",
    "no empty line": TEXT + LINE,
    "no end": DATA[:-1],
    "two ends": DATA + "\n",
    "empty lines between": TEXT + "\n\n" + LINE,
    "an empty line first": "\n" + DATA,
    "carriage returns": DATA.replace("\n", "\r\n"),
    "an extension line": TEXT + "extension\n\n" + LINE,
    "a line less": f"{ORIGIN}\n4711\n\n{LINE}",
    "size with a zero": DATA.replace("4711", "04711"),
    "size with a sign": DATA.replace("4711", "+4711"),
    "size negative": DATA.replace("4711", "-4711"),
    "size in other digits": DATA.replace("4711", "\uff14\uff17\uff11\uff11"),
    "size with spaces": DATA.replace("4711", " 4711"),
    "size empty": DATA.replace("4711", ""),
    "size in words": DATA.replace("4711", "many"),
    "size in hexadecimal": DATA.replace("4711", "0x12"),
    "size with underscores": DATA.replace("4711", "47_11"),
    "size too large": DATA.replace("4711", str(1 << 63)),
    "size of many digits": DATA.replace("4711", "9" * 5000),
    "root too short": DATA.replace("HR4f", "").replace("Hh8=", "Hg=="),
    "root too long": DATA.replace("Hh8=", "Hh8AAAA="),
    "root with other last bits": DATA.replace("Hh8=", "Hh9="),
    "root without padding": DATA.replace("Hh8=", "Hh8"),
    "root no base64": DATA.replace("Hh8=", "%%%%"),
    "root url-safe": DATA.replace("AAEC", "-_EC"),
    "root with a space": DATA.replace("AAEC", "AAE "),
    "another dash": DATA.replace("\u2014", "\u2013"),
    "a hyphen": DATA.replace("\u2014", "-"),
    "no dash": DATA.replace("\u2014 ", ""),
    "two spaces": DATA.replace("\u2014 ", "\u2014  "),
    "a space after": DATA[:-1] + " \n",
    "a name with plus": DATA.replace("clinic", "cli+nic"),
    "a name with a control character": DATA.replace("clinic", "cli\x07nic"),
    "a name with a space of another kind": DATA.replace("clinic", "cli\u3000nic"),
    "a name that turns text around": DATA.replace("clinic", "cli\u202enic"),
    "no name": DATA.replace(f"\u2014 {ORIGIN} ", "\u2014  "),
    "signature empty": f"{TEXT}\n\u2014 {ORIGIN} \n",
    "signature of the key alone": f"{TEXT}\n\u2014 {ORIGIN} AAAAAA==\n",
    "signature no base64": DATA[:-2] + "%\n",
    "the same signature twice": DATA + LINE,
    "two signatures of a key": DATA + LINE[:-6] + "AAAA=\n",
    "a byte order mark": "\ufeff" + DATA,
    "a zero byte": DATA.replace("clinic", "cli\x00nic"),
    "an older text before": TEXT + DATA,
}


@pytest.mark.parametrize("defect", ALTERED)
def test_only_the_one_form_passes(defect):
    assert ALTERED[defect] != DATA
    with pytest.raises(LogError, match="the checkpoint of clinic is not in its one form"):
        read(ALTERED[defect].encode())


def test_what_is_no_text_is_refused():
    for data in (
        SIGNED.data + b"\xff",
        DATA.encode("utf-16"),
        b"\x80" * 100,
        SIGNED.data.replace(b"clinic", b"cl\xc0"),
    ):
        with pytest.raises(LogError, match="one form"):
            read(data)


def test_too_much_is_not_read():
    with pytest.raises(LogError, match="of at most 16,384 bytes and 100 signatures"):
        read(b"\n" * (MAX_NOTE_BYTES + 1))
    short = [Signature(f"w{number}", bytes(4), b"x") for number in range(101)]
    assert len(read(Note(CHECKPOINT, tuple(short[:100])).data).signatures) == 100
    with pytest.raises(LogError, match="of at most 16,384 bytes and 100 signatures"):
        read(Note(CHECKPOINT, tuple(short)).data)
    with pytest.raises(LogError, match="at most 100 signatures"):
        cosigned(Note(CHECKPOINT, tuple(short[:100])), WITNESS, BANK, TIME)


def test_no_byte_of_a_note_can_be_changed():
    randomness = random.Random(1)
    for place in range(len(GOOD.data)):
        for _ in range(2):
            data = bytearray(GOOD.data)
            data[place] ^= randomness.randrange(1, 256)
            with pytest.raises(LogError):
                checked(bytes(data))


def test_no_part_of_a_note_is_one():
    """Except the one whose last line is left out, which lacks the cosignature."""
    whole_lines = len(SIGNED.data)
    for end in range(len(GOOD.data)):
        if end != whole_lines:
            with pytest.raises(LogError):
                read(GOOD.data[:end])


def test_random_bytes_are_refused():
    randomness = random.Random(2)
    for _ in range(500):
        with pytest.raises(LogError):
            read(randomness.randbytes(randomness.randrange(400)))
        with pytest.raises(LogError):
            read("".join(randomness.choices(f"\n {TEXT}\u2014", k=60)).encode())


def checked(data: bytes) -> None:
    note = read(data)
    check_signed(note, KEY.public_key())
    check_cosigned(note, WITNESS, BANK.public_key())
