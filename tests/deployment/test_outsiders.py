"""What somebody without rights, or with bad intent, gets from a running federation: a refusal, while the others go on."""

import contextlib
import io
import json
import os
import socket
import ssl
import subprocess
import threading
from dataclasses import replace

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from safetensors.torch import load, save

from aggregator.superlink import SuperLink
from casam_fed.audit.statement import open_statement, sign_statement
from casam_fed.errors import ExchangeError
from casam_fed.host.files import sha256_bytes
from casam_fed.host.processes import free_port
from casam_fed.host.supervision import Child, Supervisor
from casam_fed.wire.exchange import Hello, Request, Submission, Synced, decode_json, wrap_bytes
from site_client.client_app import payload_of
from site_client.home import SiteHome
from site_client.node import TaskLoop
from site_client.online import supernode_command
from site_client.outbox import Outbox
from site_client.witness import BankWitness

from .federation import BIN, supervised, wait


@pytest.fixture
def stranger(federation):
    """Somebody who holds the certificate authority's file and nothing else."""
    context = ssl.create_default_context(cafile=str(federation.home / "keys" / "ca.pem"))
    with httpx.Client(base_url=f"https://{federation.address}", verify=context, timeout=20) as client:
        yield client


def protobuf(client: httpx.Client, path: str, content: bytes = b"") -> int:
    headers = {"content-type": "application/protobuf", "accept": "application/protobuf"}
    return client.post(path, content=content, headers=headers).status_code


@pytest.mark.parametrize("path", ["/v1/control/list-nodes", "/v1/control/start-run", "/v1/control/stream-logs"])
def test_the_control_api_is_closed(stranger, path):
    assert protobuf(stranger, path) == 403


@pytest.mark.parametrize("path", ["/v1/runtime/acquire-task", "/v1/runtime/pull-task-input"])
def test_the_runtime_api_is_closed(stranger, path):
    assert protobuf(stranger, path) in (401, 403)


def test_nobody_can_enrol_himself_or_act_without_a_key(stranger, federation):
    nodes = len(json.loads(federation.aggregator("status", federation.home, "--json"))["sites"])
    for call in ("register-node", "activate-node", "pull-messages", "push-messages", "push-object", "get-fab"):
        assert protobuf(stranger, f"/v1/fleet/{call}") >= 400, call
    with contextlib.closing(SuperLink(federation.superlink, federation.home / "keys" / "ca.pem")) as superlink:
        assert len(superlink.nodes()) <= nodes


def test_somebody_without_the_authority_does_not_even_speak_tls(federation):
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(f"https://{federation.address}/health")


def test_a_body_that_announces_ten_gigabytes_is_refused_before_it_is_sent(federation):
    context = ssl.create_default_context(cafile=str(federation.home / "keys" / "ca.pem"))
    host, _, port = federation.address.rpartition(":")
    request = f"POST /v1/fleet/push-object HTTP/1.1\r\nhost: {host}\r\ncontent-length: {10 * 2**30}\r\n"
    request += "content-type: application/protobuf\r\n\r\n"
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        tls.sendall(request.encode())
        assert tls.recv(64).startswith(b"HTTP/1.1 413 ")


def test_a_site_that_was_revoked_is_not_let_in_and_told_so(federation):
    site = federation.site("revoked", "cardiac_mr")
    federation.aggregator("revoke", federation.home, "revoked", "--yes")
    printed = site.join(code=1, seconds=12)
    assert "the aggregator does not let this site in" in printed
    assert "no receipt for" in printed
    assert not any(entry["site"] == "revoked" for entry in federation.bank()["entries"])


APP = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "stranger"
version = "0.1.0"
dependencies = []
[tool.flwr.app]
publisher = "stranger"
[tool.flwr.app.components]
serverapp = "stranger.app:server"
clientapp = "stranger.app:client"
[tool.flwr.app.config]
out = ""
""",
    "stranger/__init__.py": "",
    "stranger/app.py": """
import pathlib
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server, client = ServerApp(), ClientApp()

@server.main()
def main(grid, context):
    content = RecordDict({"payload": ConfigRecord({"json": "{}"})})
    nodes = list(grid.get_node_ids())
    replies = grid.send_and_receive(
        [Message(content, dst_node_id=node, message_type="query.hello") for node in nodes], timeout=60
    )
    codes = [reply.error.code if reply.has_error() else "answered" for reply in replies]
    pathlib.Path(context.run_config["out"]).write_text(repr(codes))

@client.query("hello")
def hello(message, context):
    pathlib.Path(context.run_config["out"] + ".stolen").write_text("code of a stranger ran at the site")
    return Message(RecordDict(), reply_to=message)
""",
}


def write_stranger(folder) -> None:
    for name, text in APP.items():
        path = folder / "stranger" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@contextlib.contextmanager
def lenient_superexec(federation):
    """What a malicious aggregator would do: Flower's own SuperExec, which runs every app, in place of ours."""
    (ours,) = supervised(federation.home, "aggregator.superexec")
    command = [
        *(BIN / "flower-superexec", "--runtime-api-address", federation.superlink),
        *("--root-certificates", federation.home / "keys" / "ca.pem"),
        *("--superexec-auth-secret-file", federation.home / "keys" / "superexec.secret"),
    ]
    environment = {**os.environ, "FLWR_HOME": str(federation.folder / "lenient"), "PATH": f"{BIN}:{os.environ['PATH']}"}
    ours.suspend()
    theirs = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        theirs.terminate()
        theirs.wait()
        ours.resume()


def test_an_app_that_somebody_on_the_aggregators_machine_submits_is_not_run(federation, tmp_path):
    write_stranger(tmp_path)
    out = tmp_path / "ran.txt"
    with contextlib.closing(SuperLink(federation.superlink, federation.home / "keys" / "ca.pem")) as superlink:
        run = superlink.start(build_fab_from_disk(tmp_path / "stranger"), {"out": str(out)})
        log = federation.home / "logs" / "superexec.log"
        wait(lambda: "refused to run app" in log.read_text(), 20, "the refusal")
        superlink.stop(run)
    assert not out.exists()


def test_an_app_that_is_not_allowed_is_refused_and_the_next_allowed_one_still_served(federation, tmp_path):
    site = federation.site("careful", "cardiac_mr", seed=3)
    write_stranger(tmp_path)
    with site.joining("--keep-serving") as joining:
        joining.wait_for("serving later stages")
        with contextlib.closing(SuperLink(federation.superlink, federation.home / "keys" / "ca.pem")) as superlink:
            out = tmp_path / "codes.txt"
            with lenient_superexec(federation):
                run = superlink.start(build_fab_from_disk(tmp_path / "stranger"), {"out": str(out)})
                wait(lambda: superlink.status(run).startswith("finished"), 90, "the stranger's run")
        assert out.read_text() == "[7]"
        joining.wait_for("refused an app that is not allowed here")
        assert not (tmp_path / "codes.txt.stolen").exists()
        assert not any("stranger" in str(path) for path in site.home.rglob("*"))
        assert [event.facts["code"] for event in site.events() if event.event == "withheld"] == ["AppNotAllowed"]
        before = site.answered().count("query.sync")
        federation.aggregator("bank", "retire", federation.home, "careful", "--reason", "other", "--yes")
        wait(lambda: site.answered().count("query.sync") > before, 60, "another sync")


class Malicious:
    """A site with enrolled keys whose answers to train.submit are chosen by the test."""

    def __init__(self, hospital, answers) -> None:
        self.home = SiteHome(hospital.home)
        self.welcome = self.home.welcome()
        self.answers = list(answers)
        self.witness = BankWitness(self.home, self.welcome)

    def answer(self, message: Message, _context) -> Message:
        kind = message.metadata.message_type
        asked = decode_json(Request, message.content["payload"]["json"], "the aggregator").logs
        if kind == "query.hello":
            settings = self.home.settings
            hello = Hello(
                settings.name,
                settings.name,
                self.welcome.backbone_digest,
                "a" * 64,
                {},
                (),
                (f"{len(self.answers):064x}",),
                self.witness.shown(asked),
            )
            return Message(RecordDict(payload_of(hello)), reply_to=message)
        if kind == "train.submit":
            return Message(self.answers.pop(0), reply_to=message)
        return Message(RecordDict(payload_of(Synced("", (), self.witness.shown(asked)))), reply_to=message)

    @contextlib.contextmanager
    def online(self):
        port = free_port()
        loop = TaskLoop(
            f"127.0.0.1:{port}",
            self.home.keys / "supernode.secret",
            {self.welcome.app},
            self.answer,
            refuse=lambda message, digest: pytest.fail("refused"),
            left=lambda message: None,
        )
        child = Child("supernode", supernode_command(self.home, self.welcome, port), {})
        with Supervisor([child], self.home.path, print):
            threading.Thread(target=loop.run, daemon=True).start()
            yield


def submission(release: bytes, statement: bytes, data: bytes | None = None) -> RecordDict:
    held = wrap_bytes(release) if data is None else data
    array = Array("uint8", (len(release),), "numpy.ndarray", held)
    payload = payload_of(Submission(sha256_bytes(release), {}, statement.decode()))
    return RecordDict({**payload, "arrays": ArrayRecord({"release": array})})


def npy(header: str) -> bytes:
    """A .npy file with a header of our choice and eight bytes of content."""
    text = header.encode() + b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8)


def with_nan(release: bytes) -> bytes:
    """The same release with one NaN in its alignment layer; header and card stay as they are."""
    length = int.from_bytes(release[:8], "little")
    header = json.loads(release[8 : 8 + length])
    start, _ = next(value["data_offsets"] for name, value in header.items() if name.startswith("alignment."))
    place = 8 + length + start
    return release[:place] + np.float32(np.nan).tobytes() + release[place + 4 :]


def test_bad_bytes_from_an_enrolled_site_are_refused_and_everything_stays_up(federation):
    hospital = federation.site("malicious", "kidney_56nx")
    hospital.run("train")
    home = SiteHome(hospital.home)
    outbox = Outbox(home)
    digest = outbox.newest().digest
    good = outbox.path(digest).read_bytes()
    outbox.approve(digest, len(good), "malicious", home.welcome(), "option")
    envelope = outbox.approved(digest)[1].statement.encode()
    key = home.signing_key()
    statement = open_statement(envelope, {home_fingerprint(key): key.public_key()}, "a test")
    bad = with_nan(good)
    assert load(bad) and save(load(good))  # noqa: PT018 - still safetensors, so that admission has to find the NaN
    signed = sign_statement(replace(statement, release=sha256_bytes(bad)), key)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    answers = [
        submission(good, envelope, npy("{'descr': '|u1', 'fortran_order': False, 'shape': (400000000000,), }")),
        submission(good, envelope, pickled.getvalue()),
        submission(bad, signed),
    ]
    before = {process.pid for process in supervised(federation.home)}
    site = Malicious(hospital, answers)
    with site.online():
        record = federation.home / "admissions" / "malicious" / f"{sha256_bytes(bad)}.json"
        wait(record.exists, 120, "the decision about the last one", federation.said)
    assert json.loads(record.read_text())["code"] == "R116"
    refusals = [line for line in federation.said().splitlines() if "malicious sent an array" in line]
    assert len(refusals) == 2
    assert all("nothing was read" in line for line in refusals)
    assert not any(entry["site"] == "malicious" for entry in federation.bank()["entries"])
    assert before <= {process.pid for process in supervised(federation.home)}


def home_fingerprint(key) -> str:
    from casam_fed.audit.keys import fingerprint

    return fingerprint(key.public_key())


def test_a_superlink_that_is_not_ours_is_not_believed(federation, tmp_path):
    """The watcher's client checks the certificate too."""
    other = tmp_path / "ca.pem"
    other.write_bytes((federation.home / "keys" / "ca.pem").read_bytes())
    from aggregator.authority import create_authority

    create_authority(tmp_path / "keys", "other", "127.0.0.1")
    superlink = SuperLink(federation.superlink, tmp_path / "keys" / "ca.pem")
    with contextlib.closing(superlink), pytest.raises(ExchangeError, match="did not list its nodes"):
        superlink.nodes()
