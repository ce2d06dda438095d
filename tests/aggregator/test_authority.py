"""Sites that trust ca.pem reach the aggregator under its names, and nobody else under any other."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from aggregator import authority
from aggregator.authority import authority_pem, create_authority, days_left, renew_server_certificate
from casam_fed.errors import ConfigError, StorageError

HOST = "casam.hospital.org"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_authority(tmp_path / "tls", "nuclei", HOST)
    return tmp_path / "tls"


def handshake(folder: Path, name: str, trusted: str | None = None, address: str = "127.0.0.1") -> str:
    """Connect over a loopback socket as a site does, and return what the server said.

    Partial chains and strictness are Python 3.13's defaults, set here for 3.11 and 3.12 too.
    """
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "server.pem", folder / "server.pem")
    asking = ssl.create_default_context(cadata=trusted or authority_pem(folder))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    assert asking.check_hostname
    assert asking.verify_mode is ssl.CERT_REQUIRED
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        listener.settimeout(10)

        def serve() -> None:
            plain, _ = listener.accept()
            try:
                with serving.wrap_socket(plain, server_side=True) as secure:
                    secure.sendall(b"welcome")
            except OSError:
                plain.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection((address, listener.getsockname()[1]), timeout=10) as plain,
                asking.wrap_socket(plain, server_hostname=name) as secure,
            ):
                return secure.recv(100).decode()
        finally:
            thread.join()


def openssl_verify(folder: Path, *options: str) -> str:
    """What `openssl verify` says of server.pem; its -x509_strict holds certificates to the letter of RFC 5280."""
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-CAfile",
        "ca.pem",
        *options,
        "server.pem",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def issue_unchecked(folder: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody does who has stolen ca.key and whom our own checks do not stop."""
    with monkeypatch.context() as patch:
        patch.setattr(authority, "_covers", lambda base, name: True)
        renew_server_certificate(folder, host)


def current_umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", HOST])
def test_a_site_that_trusts_the_authority_reaches_the_server(folder, name):
    assert handshake(folder, name) == "welcome"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_site_reaches_the_server_over_ipv6(folder):
    assert handshake(folder, "::1", address="::1") == "welcome"


@pytest.mark.parametrize(
    "host", ["192.0.2.7", "2001:db8::7", "localhost", "127.0.0.1", "::1", "gpu-7", "xn--bcher-kva.de"]
)
def test_the_public_host_may_be_an_address_or_any_dns_name(tmp_path, host):
    create_authority(tmp_path, "nuclei", host)
    assert {handshake(tmp_path, name) for name in (host, "localhost", "127.0.0.1", "::1")} == {"welcome"}


@pytest.mark.parametrize("name", ["other.hospital.org", "sub.casam.hospital.org", "192.0.2.7"])
def test_a_client_refuses_another_host(folder, name):
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        handshake(folder, name)


def test_a_client_refuses_the_server_of_another_authority(folder, tmp_path):
    create_authority(tmp_path / "other", "nuclei", HOST)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|signature failure"):
        handshake(folder, HOST, trusted=authority_pem(tmp_path / "other"))


@pytest.mark.parametrize("host", ["other.org", "hospital.org", "evilcasam.hospital.org", "192.0.2.7", "2001:db8::7"])
def test_a_stolen_authority_is_worth_nothing_against_other_hosts(folder, monkeypatch, host):
    issue_unchecked(folder, host, monkeypatch)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(folder, host)


@needs_openssl
def test_openssl_accepts_the_chain_to_the_letter_and_for_its_names_only(folder, monkeypatch):
    assert openssl_verify(folder, "-verify_hostname", HOST) == "server.pem: OK\n"
    assert openssl_verify(folder, "-verify_ip", "127.0.0.1") == "server.pem: OK\n"
    assert "hostname mismatch" in openssl_verify(folder, "-verify_hostname", "other.org")
    issue_unchecked(folder, "other.org", monkeypatch)
    assert "permitted subtree violation" in openssl_verify(folder)


def test_the_certificates_say_what_was_decided(folder):
    root, server = certificate(folder / "ca.pem"), certificate(folder / "server.pem")
    found = {item.oid._name: (item.critical, item.value) for item in root.extensions}
    assert found["basicConstraints"] == (True, x509.BasicConstraints(True, 0))
    assert found["keyUsage"][0]
    assert (found["keyUsage"][1].key_cert_sign, found["keyUsage"][1].crl_sign) == (True, True)
    assert not found["keyUsage"][1].digital_signature
    assert found["nameConstraints"][0]
    assert [str(base.value) for base in found["nameConstraints"][1].permitted_subtrees] == [
        HOST,
        "localhost",
        "127.0.0.1/32",
        "::1/128",
    ]
    identifier = found["subjectKeyIdentifier"][1].digest
    found = {item.oid._name: (item.critical, item.value) for item in server.extensions}
    assert found["basicConstraints"][1] == x509.BasicConstraints(False, None)
    assert found["keyUsage"][1].digital_signature
    assert not found["keyUsage"][1].key_cert_sign
    assert [usage._name for usage in found["extendedKeyUsage"][1]] == ["serverAuth"]
    assert [str(name.value) for name in found["subjectAltName"][1]] == [HOST, "localhost", "127.0.0.1", "::1"]
    assert found["authorityKeyIdentifier"][1].key_identifier == identifier
    assert found["subjectKeyIdentifier"][1].digest != identifier
    assert root.serial_number != server.serial_number
    age = datetime.now(UTC) - server.not_valid_before_utc
    assert timedelta(minutes=5) <= age < timedelta(minutes=6)
    assert days_left(folder) == authority.DaysLeft(3651, 396)


def test_secrets_are_readable_by_their_owner_alone_and_ca_pem_holds_none(folder):
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes.pop("ca.pem") == 0o666 & ~current_umask()
    assert modes == {"ca.key": 0o600, "server.pem": 0o600}
    for name in modes:
        assert load_pem_private_key((folder / name).read_bytes(), None).curve.name == "secp256r1"
        assert (folder / name).read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert b"PRIVATE" not in (folder / "ca.pem").read_bytes()


def test_what_is_given_to_sites_is_the_certificate_and_nothing_else_of_the_file(folder):
    before = authority_pem(folder)
    assert before == (folder / "ca.pem").read_text()
    (folder / "ca.pem").write_bytes((folder / "ca.key").read_bytes() + (folder / "ca.pem").read_bytes())
    assert authority_pem(folder) == before


def test_a_server_certificate_is_renewed_when_fewer_than_30_days_are_left(folder):
    ends = certificate(folder / "server.pem").not_valid_after_utc
    before = contents(folder)
    assert not renew_server_certificate(folder, HOST)
    assert not renew_server_certificate(folder, HOST.upper(), ends - timedelta(days=30))
    assert contents(folder) == before
    now = ends - timedelta(days=29, hours=23)
    assert days_left(folder, now).server == 29
    assert renew_server_certificate(folder, HOST, now)
    after = contents(folder)
    assert {name for name in before if before[name] != after[name]} == {"server.pem"}
    assert before["server.pem"].split(b"-----BEGIN CERTIFICATE")[0] != after["server.pem"].split(b"-----BEGIN CERT")[0]
    assert (folder / "server.pem").stat().st_mode & 0o777 == 0o600
    assert days_left(folder, now).server == 397


def test_sites_refuse_an_expired_certificate_and_accept_the_renewed_one_with_the_ca_pem_they_have(folder):
    trusted = authority_pem(folder)
    (folder / "server.pem").unlink()
    assert renew_server_certificate(folder, HOST, datetime.now(UTC) - timedelta(days=398))
    assert days_left(folder).server == -2
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        handshake(folder, HOST, trusted)
    assert renew_server_certificate(folder, HOST)
    assert handshake(folder, HOST, trusted) == "welcome"


def test_no_server_certificate_outlives_its_authority(folder):
    ends = certificate(folder / "ca.pem").not_valid_after_utc
    late = ends - timedelta(days=10)
    assert renew_server_certificate(folder, HOST, late)
    assert certificate(folder / "server.pem").not_valid_after_utc == ends
    assert not renew_server_certificate(folder, HOST, late), "a new one would end no later"
    with pytest.raises(ConfigError, match=r"the authority in .* ended on \d{4}-\d\d-\d\d; create a new authority"):
        renew_server_certificate(folder, HOST, ends)


def test_a_host_within_the_name_constraints_gets_a_certificate(folder):
    trusted = authority_pem(folder)
    assert renew_server_certificate(folder, "new.casam.hospital.org")
    assert handshake(folder, "new.casam.hospital.org", trusted) == "welcome"
    assert renew_server_certificate(folder, HOST)
    assert handshake(folder, HOST, trusted) == "welcome"


@pytest.mark.parametrize(
    "host", ["other.org", "hospital.org", "evilcasam.hospital.org", "192.0.2.7", "127.0.0.2", "::2"]
)
def test_a_host_outside_the_name_constraints_needs_a_new_authority(folder, host):
    before = contents(folder)
    with pytest.raises(ConfigError) as caught:
        renew_server_certificate(folder, host)
    assert str(caught.value) == (
        f"the ca.pem that sites hold is good for 127.0.0.1, ::1, {HOST}, localhost only, not for {host}; keep one of "
        "these, or create a new authority in another folder and give its ca.pem to every site"
    )
    assert contents(folder) == before


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "a b",
        f"https://{HOST}",
        f"{HOST}:443",
        f"{HOST}/",
        f"{HOST}.",
        f"{HOST}\n",
        "*.hospital.org",
        ".hospital.org",
        "a..b",
        "-a.org",
        "a-.org",
        "a_b.org",
        "bücher.de",
        "\u212aelvin.org",
        "[::1]",
        "[::1]:443",
        "fe80::1%eth0",
        "1.2.3.256",
        "127.1",
        "0x7f.0x1",
        "192.0.2.0/24",
        "a" * 64 + ".org",
        "a." * 127 + "org",
    ],
)
def test_what_is_no_host_is_refused_with_cause_and_mend(tmp_path, host):
    with pytest.raises(ConfigError) as caught:
        create_authority(tmp_path / "tls", "nuclei", host)
    assert str(caught.value).startswith(f"{host!r} is no host name or IP address; give it as in casam.hospital.org")
    assert not (tmp_path / "tls").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "224.0.0.1"])
def test_an_address_of_no_machine_is_refused(tmp_path, host):
    with pytest.raises(
        ConfigError, match="is no address of one machine; give the name or address by which sites reach"
    ):
        create_authority(tmp_path, "nuclei", host)


def test_the_longest_names_fit(tmp_path):
    host = "a." * 125 + "org"
    create_authority(tmp_path, "x" * 63, host)
    assert handshake(tmp_path, host) == "welcome"


def test_an_authority_is_never_replaced(folder):
    before = contents(folder)
    with pytest.raises(ConfigError, match=r"holds an authority already; renew its server certificate, or give another"):
        create_authority(folder, "nuclei", HOST)
    assert contents(folder) == before


KILLED = """
import os, sys
from pathlib import Path
from aggregator.authority import create_authority, renew_server_certificate
left, replace = int(sys.argv[2]), os.replace
def dying(source, target):
    global left
    if left == 0:
        os._exit(9)
    left -= 1
    replace(source, target)
os.replace = dying
folder = Path(sys.argv[1])
if sys.argv[3] == "create":
    create_authority(folder, "nuclei", "casam.hospital.org")
else:
    renew_server_certificate(folder, "localhost")
"""


def killed(folder: Path, renames: int, action: str) -> None:
    """Run an action in a process that is killed after so many of its renames."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(renames), action], check=False)
    assert done.returncode == 9


@pytest.mark.parametrize(("renames", "kept"), [(0, set()), (1, {"ca.key"}), (2, {"ca.key", "ca.pem"})])
def test_a_killed_creation_looks_unfinished_and_a_second_call_finishes_with_what_is_there(tmp_path, renames, kept):
    killed(tmp_path, renames, "create")
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".part"}
    assert set(left) == kept
    with pytest.raises(StorageError, match="is missing; "):
        days_left(tmp_path)
    create_authority(tmp_path, "nuclei", HOST)
    assert {name: (tmp_path / name).read_bytes() for name in left} == left
    assert handshake(tmp_path, HOST) == "welcome"


@pytest.mark.parametrize(("federation", "host"), [("other", HOST), ("nuclei", "other.org"), ("nuclei", "localhost")])
def test_an_unfinished_authority_is_not_finished_under_another_name(tmp_path, federation, host):
    killed(tmp_path, 2, "create")
    with pytest.raises(
        ConfigError, match="holds an unfinished authority of another federation or host; give the names"
    ):
        create_authority(tmp_path, federation, host)
    assert not (tmp_path / "server.pem").exists()


def test_a_killed_renewal_leaves_the_old_key_with_the_old_certificate(folder):
    before = contents(folder)
    killed(folder, 0, "renew")
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert handshake(folder, HOST) == "welcome"
    assert {path.stat().st_mode & 0o777 for path in folder.glob(".*.part")} == {0o600}


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("ca.key", None, r"ca\.key is missing; restore it from a backup, or create a new authority in another folder"),
        ("ca.key", b"", r"private key in .*ca\.key is damaged or encrypted; restore it from a backup"),
        ("ca.key", "server.pem", r"private key in .*ca\.key is not the one of its certificate; restore it"),
        ("ca.pem", None, r"ca\.pem is missing; restore it from a backup or from a site"),
        ("ca.pem", b"", r"ca\.pem holds no certificate of this authority or is damaged; restore it from a backup"),
        ("ca.pem", "server.pem", r"ca\.pem holds no certificate of this authority or is damaged; restore it"),
        ("server.pem", b"", r"server\.pem holds no certificate of this authority or is damaged; delete it if"),
        ("server.pem", "ca.key", r"server\.pem holds no certificate of this authority or is damaged; delete it if"),
        ("server.pem", "certificate alone", r"private key in .*server\.pem is damaged or encrypted; delete it if"),
        ("server.pem", "another key", r"private key in .*server\.pem is not the one of its certificate; delete it"),
        (
            "server.pem",
            "another authority",
            r"server\.pem holds no certificate of this authority or is damaged; delete",
        ),
    ],
)
def test_a_missing_or_damaged_file_is_one_sentence_with_the_mend(folder, tmp_path, name, data, sentence):
    create_authority(tmp_path / "other", "nuclei", HOST)
    own = certificate(folder / "server.pem").public_bytes(Encoding.PEM)
    special = {
        "certificate alone": own,
        "another key": (folder / "ca.key").read_bytes() + own,
        "another authority": (tmp_path / "other" / "server.pem").read_bytes(),
    }
    if data is None:
        (folder / name).unlink()
    elif isinstance(data, str):
        (folder / name).write_bytes(special.get(data) or (folder / data).read_bytes())
    else:
        (folder / name).write_bytes(data)
    before = contents(folder)
    with pytest.raises(StorageError, match=sentence) as caught:
        renew_server_certificate(folder, HOST)
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_a_certificate_of_another_maker_is_not_taken_for_an_authority(folder):
    """Signed by itself, but without name constraints."""
    key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    ours = certificate(folder / "ca.pem")
    builder = x509.CertificateBuilder(ours.issuer, ours.subject, key.public_key(), 1)
    builder = builder.not_valid_before(ours.not_valid_before_utc).not_valid_after(ours.not_valid_after_utc)
    (folder / "ca.pem").write_bytes(builder.sign(key, ours.signature_hash_algorithm).public_bytes(Encoding.PEM))
    with pytest.raises(StorageError, match=r"ca\.pem holds no certificate of this authority"):
        authority_pem(folder)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("name", ["ca.pem", "server.pem"])
def test_every_changed_byte_of_what_is_signed_is_found(folder, name):
    whole = certificate(folder / name)
    key = (folder / name).read_bytes().split(b"-----BEGIN CERTIFICATE")[0]
    der, signed = whole.public_bytes(Encoding.DER), whole.tbs_certificate_bytes
    start = der.index(signed)
    for place in range(start, start + len(signed)):
        changed = der[:place] + bytes([der[place] ^ 1]) + der[place + 1 :]
        (folder / name).write_bytes(key + ssl.DER_cert_to_PEM_cert(changed).encode())
        with pytest.raises(StorageError, match=rf"{name} holds no certificate of this authority or is damaged"):
            days_left(folder)


@pytest.mark.parametrize("function", [authority_pem, days_left])
def test_reading_needs_no_secret_of_the_authority(folder, function):
    (folder / "ca.key").unlink()
    assert function(folder)


def test_a_file_that_cannot_be_read_is_one_sentence(folder):
    (folder / "ca.pem").unlink()
    (folder / "ca.pem").mkdir()
    with pytest.raises(StorageError, match=r"cannot read .*ca\.pem: is a directory; let this user read the files"):
        authority_pem(folder)
