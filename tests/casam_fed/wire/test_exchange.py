"""What site and aggregator say to each other: exact payloads, capped arrays, nothing trusted."""

import io

import numpy as np
import pytest

from casam_fed.errors import ExchangeError
from casam_fed.wire.evaluation_report import RouteReport
from casam_fed.wire.exchange import (
    MAX_JSON_BYTES,
    Hello,
    Logs,
    Receipt,
    Request,
    StageReport,
    Submission,
    Synced,
    decode_json,
    encode_json,
    unwrap_bytes,
    wrap_bytes,
)

REPORT = RouteReport(3, {"iou": 0.5}, {"a": 2, "unknown": 1}, (0, 3), 3)


@pytest.mark.parametrize(
    "value",
    [
        Request(Receipt("a" * 64, "admitted", 0), "{}", Logs("checkpoint", ("b" * 64,), "witnessed", 3)),
        Request(),
        StageReport(REPORT, REPORT, REPORT, REPORT, 1.5),
    ],
)
def test_a_payload_survives_the_way(value):
    assert decode_json(type(value), encode_json(value), "site a") == value


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (None, "cannot be read"),
        (b"{}", "cannot be read"),
        (f'{{"digest": "{"a" * 64}", "seconds": {{}}}}'.ljust(MAX_JSON_BYTES + 1), "at most 1,048,576 bytes are read"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (f'{{"digest": "{"a" * 64}", "seconds": {{}}, "extra": 2}}', "at 'extra'"),
        ('{"digest": 1, "seconds": {}}', "at 'digest'"),
        ('{"seconds": {}}', "at 'digest'"),
    ],
)
def test_anything_else_is_refused_with_its_sender(text, where):
    with pytest.raises(ExchangeError, match=f"(?s)site a.*{where}"):
        decode_json(Submission, text, "site a")


def test_a_key_that_is_not_expected_cannot_move_the_cursor():
    """It is the sender's own text, and the sentence that quotes it is shown at a terminal."""
    with pytest.raises(ExchangeError, match="x1b") as caught:
        decode_json(Request, '{"\\u001b[2J\\u202e' + "x" * 1000 + '": 2}', "site a")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


HELLO = {
    "site": "a",
    "task": "b",
    "backbone_digest": "1" * 64,
    "config_digest": "2" * 64,
    "versions": {"torch": "2.4.1+cpu"},
    "have": ["3" * 64],
    "outbox": ["4" * 64],
}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Hello, {**HELLO, "site": "../b"}),
        (Hello, {**HELLO, "task": "a b"}),
        (Hello, {**HELLO, "backbone_digest": ""}),
        (Hello, {**HELLO, "config_digest": "x"}),
        (Hello, {**HELLO, "versions": {"torch": "x" * 65}}),
        (Hello, {**HELLO, "have": ["../" * 10]}),
        (Hello, {**HELLO, "outbox": ["../../other-site/" + "4" * 64]}),
        (Submission, {"digest": "../x", "seconds": {}}),
        (Submission, {"digest": "1" * 64, "seconds": {"a b": 1}}),
        (Synced, {"bank_digest": "..", "have": []}),
        (Synced, {"bank_digest": "", "have": ["/etc/passwd"]}),
        (Receipt, {"digest": "../x", "outcome": "admitted"}),
    ],
)
def test_names_and_digests_are_nothing_but_that(kind, fields):
    """They become names of files at the other end."""
    assert decode_json(Hello, encode_json(HELLO), "site a").outbox == ("4" * 64,)
    with pytest.raises(ExchangeError, match=f"site a sent a {kind.__name__} that cannot be read"):
        decode_json(kind, encode_json(fields), "site a")


@pytest.mark.parametrize("scores", [{"iou": 1.2}, {"iou": -0.1}, {"iou": float("nan")}])
def test_scores_outside_their_range_are_refused(scores):
    text = encode_json(REPORT).replace('"iou":0.5', f'"iou":{scores["iou"]}')
    with pytest.raises(ExchangeError):
        decode_json(RouteReport, text, "site a")


def test_bytes_survive_the_way():
    content = bytes(range(256)) * 5
    assert unwrap_bytes(wrap_bytes(content), len(content), "site a") == content
    assert unwrap_bytes(wrap_bytes(b""), 0, "site a") == b""


@pytest.mark.parametrize("count", [0, 1, 255, 65_536, 10_000_001])
def test_bytes_travel_as_numpy_writes_them(count):
    assert wrap_bytes(bytes(count)) == _npy(np.zeros(count, dtype=np.uint8))


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _headed(text: str, content: bytes = b"abc") -> bytes:
    header = text.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


_PLAIN = "{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }"


def _forged() -> bytes:
    """An array of one byte whose header claims 10^15."""
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,), }"
    header = header.ljust(118 - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"x"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an array",
        b"\x80\x04\x95\x00",
        wrap_bytes(b"abc")[:-1],
        wrap_bytes(b"abc") + b"x",
        _npy(np.zeros(3, dtype=np.float32)),
        _npy(np.zeros((3, 1), dtype=np.uint8)),
        _npy(np.array([{"a": 1}], dtype=object)),
        _forged(),
        _headed(_PLAIN + " # patient 7"),
        _headed(_PLAIN.replace("(3,)", "(3, 1)")),
        _headed(_PLAIN.replace("False", "True")),
        _headed("{1: 2, 'descr': 3}"),
        _headed("{'descr': '|u1', 'shape': (3,"),
        _headed("(" * 5000),
        _headed("'''"),
    ],
    ids=[
        *("empty", "text", "pickle", "short", "long", "float", "two-dimensional", "object", "forged"),
        *("remark", "claims two dimensions", "claims Fortran", "mixed keys", "cut", "deep", "open string"),
    ],
)
def test_an_array_that_is_not_plain_bytes_is_refused(data):
    with pytest.raises(ExchangeError, match=r"^site a sent .*; nothing was read$"):
        unwrap_bytes(data, 1000, "site a")


def test_too_many_bytes_are_refused_before_they_are_read():
    with pytest.raises(ExchangeError, match="at most 100 are allowed"):
        unwrap_bytes(wrap_bytes(bytes(1000)), 100, "site a")
