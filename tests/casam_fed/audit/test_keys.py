"""Signing keys: openssl agrees about them, and a key that is not exactly one is refused."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from casam_fed.audit.keys import fingerprint, load_private_key, private_pem, public_key, public_pem, shown
from casam_fed.errors import CasamError, KeyFileError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PRIME = 2**255 - 19

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def write_key(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def openssl(*arguments: str | Path) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout


def pem_of(raw: bytes) -> str:
    return public_pem(Ed25519PublicKey.from_public_bytes(raw))


@pytest.mark.parametrize(
    ("secret", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
            "655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
            "b00d291612bb0c00",
        ),
    ],
    ids=["empty message", "one byte"],
)
def test_keys_are_those_of_rfc_8032(secret, public, message, signature):
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    assert key.public_key().public_bytes_raw().hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert public_key(public_pem(key.public_key()), "a").public_bytes_raw().hex() == public


def test_a_private_key_comes_back_from_its_file(tmp_path):
    path = write_key(tmp_path / "site.key", private_pem(KEY))
    assert load_private_key(path).private_bytes_raw() == KEY.private_bytes_raw()


def test_a_fingerprint_is_the_digest_of_the_der_form():
    prefix = bytes.fromhex("302a300506032b6570032100")
    assert fingerprint(KEY.public_key()) == hashlib.sha256(prefix + KEY.public_key().public_bytes_raw()).hexdigest()


@needs_openssl
def test_openssl_prints_the_same_fingerprint(tmp_path):
    private = write_key(tmp_path / "site.key", private_pem(KEY))
    public = tmp_path / "site.pem"
    public.write_text(public_pem(KEY.public_key()))
    der = openssl("pkey", "-pubin", "-in", public, "-outform", "DER")
    assert hashlib.sha256(der).hexdigest() == fingerprint(KEY.public_key())
    assert openssl("pkey", "-in", private, "-pubout").decode() == public_pem(KEY.public_key())


def test_a_fingerprint_is_shown_in_groups_and_loses_nothing():
    text = shown(fingerprint(KEY.public_key()))
    assert [len(group) for group in text.split(" ")] == [4] * 16
    assert text.replace(" ", "") == fingerprint(KEY.public_key())


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o620, 0o601, 0o644, 0o777])
def test_a_key_that_others_may_touch_is_not_used(tmp_path, mode):
    path = write_key(tmp_path / "site.key", private_pem(KEY), mode)
    with pytest.raises(KeyFileError, match=f"mode {mode:04o}.*chmod 600"):
        load_private_key(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_that_only_its_owner_may_touch_is_used(tmp_path, mode):
    load_private_key(write_key(tmp_path / "site.key", private_pem(KEY), mode))


def other_kinds() -> dict[str, bytes]:
    keys = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "p256": ec.generate_private_key(ec.SECP256R1()),
        "ed448": ed448.Ed448PrivateKey.generate(),
        "x25519": x25519.X25519PrivateKey.generate(),
    }
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {name: key.private_bytes(*form) for name, key in keys.items()}


def encrypted() -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return KEY.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize("kind", ["rsa", "p256", "ed448", "x25519"])
def test_a_private_key_of_another_kind_is_refused(tmp_path, kind):
    with pytest.raises(KeyFileError, match="no Ed25519 key"):
        load_private_key(write_key(tmp_path / "site.key", other_kinds()[kind]))


DAMAGED = {
    "empty": b"",
    "text": b"hello",
    "truncated": private_pem(KEY)[:60],
    "public half": public_pem(KEY.public_key()).encode(),
    "encrypted": encrypted(),
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_private_key_is_refused(tmp_path, damage):
    with pytest.raises(KeyFileError, match="is damaged"):
        load_private_key(write_key(tmp_path / "site.key", DAMAGED[damage]))


def test_a_missing_key_and_a_folder_are_told_in_one_sentence(tmp_path):
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("nowhere.key", "folder"):
        with pytest.raises(KeyFileError, match=r"cannot be read: .*; restore it"):
            load_private_key(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_key_that_cannot_be_read_is_told_in_one_sentence(tmp_path):
    with pytest.raises(KeyFileError, match="permission denied"):
        load_private_key(write_key(tmp_path / "site.key", private_pem(KEY), 0o000))


GOOD = public_pem(KEY.public_key())
NOT_PUBLIC_KEYS = {
    "empty": "",
    "no last newline": GOOD[:-1],
    "more after it": GOOD + "x",
    "a blank line": GOOD + "\n",
    "twice": GOOD * 2,
    "carriage returns": GOOD.replace("\n", "\r\n"),
    "text before": "# hospital\n" + GOOD,
    "private": private_pem(KEY).decode(),
    "truncated": GOOD.replace(GOOD.split("\n")[1], GOOD.split("\n")[1][:-4]),
    "not base64 padding": GOOD.replace("=", "A"),
    "other last bits": GOOD.replace(GOOD.split("=")[0][-1] + "=", chr(ord(GOOD.split("=")[0][-1]) + 1) + "="),
    "long": GOOD.replace("MCow", "MCow" * 4000),
    "other alphabet": GOOD.replace("M", "\u041c", 1),
    "x25519": x25519.X25519PrivateKey.generate()
    .public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode(),
}


@pytest.mark.parametrize("defect", NOT_PUBLIC_KEYS)
def test_a_public_key_has_one_form(defect):
    assert public_pem(public_key(GOOD, "clinic")) == GOOD
    with pytest.raises(KeyFileError, match="the public key of clinic is no Ed25519 key"):
        public_key(NOT_PUBLIC_KEYS[defect], "clinic")


@pytest.mark.parametrize("sign", [0, 1 << 255])
@pytest.mark.parametrize("y", [0, 1, PRIME - 1, PRIME, PRIME + 1])
def test_a_key_that_signs_anything_is_refused(y, sign):
    """For points of small order one signature fits many messages, or all: R the neutral element, S zero."""
    raw = (y | sign).to_bytes(32, "little")
    key, forged = Ed25519PublicKey.from_public_bytes(raw), bytes([1]) + bytes(63)
    assert any(verifies(key, forged, b"message %d" % number) for number in range(200))
    with pytest.raises(KeyFileError):
        public_key(pem_of(raw), "clinic")


@pytest.mark.parametrize("raw", ["26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"])
def test_a_key_of_order_eight_is_refused(raw):
    y = int.from_bytes(bytes.fromhex(raw), "little")
    forged = bytes([1]) + bytes(63)
    for value in (y, PRIME - y, y | 1 << 255):
        key = Ed25519PublicKey.from_public_bytes(value.to_bytes(32, "little"))
        assert any(verifies(key, forged, b"message %d" % number) for number in range(200))
        with pytest.raises(KeyFileError):
            public_key(public_pem(key), "clinic")


def verifies(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except Exception:
        return False
    return True


def test_errors_are_ours():
    assert issubclass(KeyFileError, CasamError)
