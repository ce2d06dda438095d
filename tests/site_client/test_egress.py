"""The gate: only what was declared leaves, in its one form, and never before its intent is in the release log."""

import json
import random

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from casam_fed.audit.event import Event
from casam_fed.errors import LogError, StorageError
from casam_fed.host.files import sha256_bytes
from casam_fed.wire.evaluation_report import RouteReport
from casam_fed.wire.exchange import (
    EVALUATE_STAGE,
    HELLO,
    SUBMIT,
    SYNC,
    Hello,
    StageReport,
    Submission,
    Synced,
    encode_json,
    wrap_bytes,
)
from site_client import egress
from site_client.egress import Gate
from site_client.home import SiteHome, create_site_home
from site_client.release_log import ReleaseLog
from site_client.wire import message_id, objects_of, refusal_of

from .deployed_sites import SETTINGS, array_of

RELEASE = bytes(range(256)) * 3
DIGEST = sha256_bytes(RELEASE)
STATEMENT = "signed"
REPORT = RouteReport(12, {"iou": 0.5}, {"clinic": 12}, (), 0)
VALUES = {
    HELLO: Hello("clinic", "polyp", "b" * 64, "c" * 64, {"torch": "2.4.1+cpu"}, ("d" * 64,), (DIGEST,)),
    SUBMIT: Submission(DIGEST, {"train": 1.5}, STATEMENT),
    SYNC: Synced("e" * 64, ("d" * 64,)),
    EVALUATE_STAGE: StageReport(REPORT, REPORT, REPORT, REPORT, 2.5),
}
WITHHELD = {"error": "Undeclared"}


@pytest.fixture
def home(tmp_path):
    return create_site_home(tmp_path / "clinic", SETTINGS)


@pytest.fixture
def gate(home):
    return gate_of(home, lambda digest, statement: (digest, statement) == (DIGEST, STATEMENT))


def gate_of(home: SiteHome, approved) -> Gate:
    return Gate(ReleaseLog(home), "test", approved)


def content_of(kind: str, **more: object) -> RecordDict:
    """Return what a handler answers to a message of this kind."""
    content = RecordDict({"payload": ConfigRecord({"json": encode_json(VALUES[kind])})})
    if kind == SUBMIT:
        content["arrays"] = ArrayRecord({"release": array_of(RELEASE)})
    for name, record in more.items():
        content[name] = record
    return content


def reply_of(kind: str, content: RecordDict) -> Message:
    return Message(content, dst_node_id=1, message_type=kind)


def last(home: SiteHome) -> tuple[Event | None, Event]:
    """Return what the log says of the last reply: that it was withheld, if it was, and the intent."""
    log = ReleaseLog(home)
    before, intent = list(log.events(log.size() - 2))
    assert intent.event == "intent"
    return before if before.event == "withheld" else None, intent


def counted(content: RecordDict) -> tuple[dict[str, str], int]:
    """Return the subjects and bytes of a message, counted here without the gate."""
    (text,) = content["payload"].values()
    releases = [array.numpy().tobytes() for array in content.get("arrays", {}).values()]
    subjects = {"payload": sha256_bytes(text.encode())}
    if releases:
        subjects["release"] = sha256_bytes(b"".join(releases))
    return subjects, len(text.encode()) + sum(map(len, releases))


def is_logged(home: SiteHome, kind: str, passed: Message) -> Event | None:
    """Check that the log speaks of exactly what leaves; return what it says of why something was kept back."""
    withheld, intent = last(home)
    assert (intent.subjects, intent.facts["size"]) == counted(passed.content)
    assert intent.facts["kind"] == (kind if kind in VALUES else "unknown")
    assert [(each["id"], each["bytes"]) for each in intent.facts["objects"]] == objects_of(passed)
    kept = home.audit / "payloads" / f"{intent.subjects['payload']}.json"
    assert kept.read_text() == next(iter(passed.content["payload"].values()))
    return withheld


def is_withheld(gate: Gate, home: SiteHome, kind: str, content: RecordDict) -> None:
    """Check that of a reply only a code leaves, and that the log says so."""
    passed = gate.passed(reply_of(kind, content))
    assert list(passed.content) == ["payload"]
    assert dict(passed.content["payload"]) == WITHHELD
    withheld = is_logged(home, kind, passed)
    assert withheld.facts["code"] == "Undeclared"


@pytest.mark.parametrize("kind", VALUES)
def test_a_declared_answer_passes_untouched_and_the_log_tells_of_it(gate, home, kind):
    content = content_of(kind)
    before = {name: dict(record) for name, record in content.items()}
    passed = gate.passed(reply_of(kind, content))
    assert {name: dict(record) for name, record in passed.content.items()} == before
    assert is_logged(home, kind, passed) is None


def test_the_log_holds_digests_and_no_content(gate, home):
    gate.passed(reply_of(SUBMIT, content_of(SUBMIT)))
    _, intent = last(home)
    assert STATEMENT not in str(intent)
    assert "train" not in str(intent).replace("train.submit", "")


@pytest.mark.parametrize("code", ["ExchangeError", "BankError", "UnknownMessage", "A" * 64])
def test_an_error_code_passes(gate, home, code):
    passed = gate.passed(reply_of(SYNC, RecordDict({"payload": ConfigRecord({"error": code})})))
    assert dict(passed.content["payload"]) == {"error": code}
    assert is_logged(home, SYNC, passed) is None


@pytest.mark.parametrize(
    "code",
    [
        "",
        "no such file /home/doctor/patient-7.png",
        "KeyError('patient 7')",
        "two\nlines",
        "Error\n",
        "A" * 65,
        "Überlauf",
        "患者七号",
        "7",
        7,
        b"ExchangeError",
        ["ExchangeError"],
        True,
    ],
)
@pytest.mark.parametrize("kind", [HELLO, SUBMIT])
def test_an_error_code_is_one_short_word(gate, home, kind, code):
    is_withheld(gate, home, kind, RecordDict({"payload": ConfigRecord({"error": code})}))


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({"note": "patient 7"}),
        ConfigRecord({}),
        MetricRecord({"iou": 0.5}),
        MetricRecord({"iou": [0.5, 0.7]}),
        ArrayRecord({"image": array_of(b"pixels")}),
        ArrayRecord({}),
    ],
    ids=["config", "empty config", "metrics", "metrics of single images", "arrays", "no arrays"],
)
def test_another_record_stays(gate, home, kind, record):
    is_withheld(gate, home, kind, content_of(kind, more=record))


@pytest.mark.parametrize("kind", [HELLO, SYNC, EVALUATE_STAGE])
def test_only_a_submission_carries_an_array(gate, home, kind):
    is_withheld(gate, home, kind, content_of(kind, arrays=ArrayRecord({"release": array_of(RELEASE)})))


@pytest.mark.parametrize("kind", VALUES)
def test_another_key_in_the_payload_stays(gate, home, kind):
    for more in ({"note": "patient 7"}, {"error": "ExchangeError"}, {"scores": [0.5, 0.7]}):
        content = content_of(kind)
        content["payload"] = ConfigRecord({**content["payload"], **more})
        is_withheld(gate, home, kind, content)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize(
    "payload",
    [
        MetricRecord({"json": 1}),
        ConfigRecord({}),
        ConfigRecord({"json": b"{}"}),
        ConfigRecord({"json": 7}),
        ConfigRecord({"json": ["{}"]}),
        ConfigRecord({"json": ""}),
        ConfigRecord({"json": "{"}),
        ConfigRecord({"json": "[" * 100_000}),
        ConfigRecord({"json": "{}"}),
    ],
    ids=range(9),
)
def test_a_payload_that_is_none_stays(gate, home, kind, payload):
    content = content_of(kind)
    content["payload"] = payload
    is_withheld(gate, home, kind, content)


def test_an_answer_without_payload_stays(gate, home):
    is_withheld(gate, home, HELLO, RecordDict())
    is_withheld(gate, home, SUBMIT, RecordDict({"arrays": ArrayRecord({"release": array_of(RELEASE)})}))


def spaced(text: str) -> str:
    return json.dumps(json.loads(text))


def reordered(text: str) -> str:
    return json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":"))


def doubled(text: str) -> str:
    """JSON readers take the last of two keys: the first would leave unseen."""
    key = next(iter(json.loads(text)))
    return text.replace("{", f'{{"{key}":"patient 7",', 1)


def escaped(text: str) -> str:
    return (
        text.replace("d" * 64, "\\u0064" + "d" * 63)
        .replace("5}", "50}")
        .replace(DIGEST[0], f"\\u{ord(DIGEST[0]):04x}", 1)
    )


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize(
    "change", [spaced, reordered, doubled, escaped, lambda text: text + "\n", lambda text: text + " " * 500]
)
def test_json_that_says_the_same_in_another_form_stays(gate, home, kind, change):
    """Blanks, order and escapes are room to say something in."""
    content = content_of(kind)
    text = content["payload"]["json"]
    assert change(text) != text
    content["payload"] = ConfigRecord({"json": change(text)})
    is_withheld(gate, home, kind, content)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        (HELLO, ("site",), "Clinic of Doctor Who"),
        (HELLO, ("backbone_digest",), "patient 7"),
        (HELLO, ("versions", "torch"), "2.4 on the machine of Doctor Who"),
        (HELLO, ("versions", "name of a patient"), "1"),
        (HELLO, ("have",), ["/home/doctor/patient-7.png"]),
        (HELLO, ("outbox",), ["../../admissions/other"]),
        (HELLO, ("extra",), 1),
        (SUBMIT, ("seconds", "patient 7"), 1.0),
        (SUBMIT, ("seconds", "train"), -1.0),
        (SUBMIT, ("statement",), "names of patients"),
        (SUBMIT, ("statement",), "x" * 65_537),
        (SYNC, ("bank_digest",), "patient 7"),
        (SYNC, ("have",), ["patient 7"]),
        (EVALUATE_STAGE, ("gaussian", "chosen", "patient 7"), 1),
        (EVALUATE_STAGE, ("gaussian", "scores", "image 7.png"), 0.5),
        (EVALUATE_STAGE, ("gaussian", "scores", "iou"), 2.0),
        (EVALUATE_STAGE, ("gaussian", "strengths"), [1] * 1000),
        (EVALUATE_STAGE, ("without",), {"patient 7": {}}),
        (EVALUATE_STAGE, ("per_image",), [0.5, 0.7]),
    ],
)
def test_a_field_has_no_room_for_anything_else(gate, home, kind, path, value):
    fields = json.loads(encode_json(VALUES[kind]))
    place = fields
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    content = content_of(kind)
    content["payload"] = ConfigRecord({"json": json.dumps(fields, sort_keys=True, separators=(",", ":"))})
    is_withheld(gate, home, kind, content)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1", '"1"', "1e999"])
def test_numbers_are_finite_and_in_range(gate, home, number):
    content = content_of(EVALUATE_STAGE)
    text = content["payload"]["json"].replace('"seconds":2.5', f'"seconds":{number}')
    content["payload"] = ConfigRecord({"json": text})
    is_withheld(gate, home, EVALUATE_STAGE, content)


@pytest.mark.parametrize("kind", ["query.other", "train.other", "evaluate.other"])
def test_a_kind_of_message_without_declared_answer_gets_a_code(gate, home, kind):
    is_withheld(gate, home, kind, content_of(HELLO))
    is_withheld(gate, home, kind, RecordDict({"payload": ConfigRecord({"error": "UnknownMessage"})}))


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("other", VALUES)
def test_an_answer_to_another_kind_of_message_stays(gate, home, kind, other):
    if kind != other:
        is_withheld(gate, home, kind, content_of(other))


class TestRelease:
    def is_withheld(self, gate, home, *, value=None, arrays=None, **array) -> None:
        content = content_of(SUBMIT)
        if value is not None:
            content["payload"] = ConfigRecord({"json": encode_json(value)})
        if arrays is not None:
            content["arrays"] = arrays
        if array:
            fields = {"dtype": "uint8", "shape": (len(RELEASE),), "stype": "numpy.ndarray", "data": wrap_bytes(RELEASE)}
            content["arrays"] = ArrayRecord({"release": Array(**{**fields, **array})})
        is_withheld(gate, home, SUBMIT, content)

    def test_one_that_nobody_approved_stays(self, home):
        self.is_withheld(gate_of(home, lambda digest, statement: False), home)

    def test_other_bytes_than_announced_stay(self, gate, home):
        self.is_withheld(gate, home, arrays=ArrayRecord({"release": array_of(RELEASE[:-1])}))
        self.is_withheld(gate, home, value=Submission("a" * 64, {}, STATEMENT))

    def test_other_bytes_that_announce_themselves_stay(self, gate, home):
        other = b"pixels of patient 7"
        value = Submission(sha256_bytes(other), {}, STATEMENT)
        self.is_withheld(gate, home, value=value, arrays=ArrayRecord({"release": array_of(other)}))

    def test_a_second_array_stays(self, gate, home):
        arrays = ArrayRecord({"release": array_of(RELEASE), "image": array_of(b"pixels")})
        self.is_withheld(gate, home, arrays=arrays)
        self.is_withheld(gate, home, arrays=ArrayRecord({"image": array_of(RELEASE)}))
        self.is_withheld(gate, home, arrays=ArrayRecord({}))

    @pytest.mark.parametrize(
        "array",
        [
            {"dtype": "float32"},
            {"dtype": "patient 7"},
            {"shape": (1,)},
            {"shape": ()},
            {"shape": (len(RELEASE), 1)},
            {"stype": "patient 7"},
            {"stype": "torch.Tensor"},
            {"data": RELEASE},
            {"data": wrap_bytes(RELEASE)[:-1]},
            {"data": wrap_bytes(RELEASE) + b"more"},
        ],
        ids=repr,
    )
    def test_an_array_that_claims_to_be_something_else_stays(self, gate, home, array):
        self.is_withheld(gate, home, **array)

    def test_a_header_has_no_room_for_a_remark(self, gate, home):
        """NumPy reads Python text there, with comments."""
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(RELEASE)},), }} # patient 7".encode()
        header = header.ljust(117) + b"\n"
        data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + RELEASE
        assert len(data) == len(wrap_bytes(RELEASE))
        self.is_withheld(gate, home, data=data)
        longer = header[:-1].ljust(1000) + b"\n"
        self.is_withheld(gate, home, data=b"\x93NUMPY\x01\x00" + len(longer).to_bytes(2, "little") + longer + RELEASE)

    def test_one_too_large_stays_unread(self, gate, home, monkeypatch):
        monkeypatch.setattr(egress, "MAX_RELEASE_BYTES", len(RELEASE) - 1)
        self.is_withheld(gate, home, arrays=ArrayRecord({"release": array_of(RELEASE)}))

    def test_a_submission_without_its_release_stays(self, gate, home):
        content = content_of(SUBMIT)
        del content["arrays"]
        is_withheld(gate, home, SUBMIT, content)
        self.is_withheld(gate, home, arrays=ConfigRecord({"release": RELEASE}))

    def test_where_approval_cannot_be_looked_up_it_stays(self, home):
        def failing(digest: str, statement: str) -> bool:
            raise RuntimeError("ours")

        self.is_withheld(gate_of(home, failing), home)


class TestLog:
    def test_the_intent_is_on_the_disk_before_the_reply_is_returned(self, gate, home):
        kept = ReleaseLog(home)
        passed = gate.passed(reply_of(HELLO, content_of(HELLO)))
        assert [event.event for event in kept.events()] == ["began", "intent"]
        gate.left(passed)
        sent = list(kept.events())[-1]
        assert (sent.event, sent.subjects, sent.facts) == ("sent", {"message": message_id(passed)}, {"intent": 1})

    def test_what_never_passed_has_not_left(self, gate, home):
        gate.left(reply_of(HELLO, content_of(HELLO)))
        assert list(ReleaseLog(home).events()) == []

    def test_a_refused_app_is_told_with_one_word(self, gate, home):
        message = reply_of(HELLO, RecordDict())
        message.metadata.__dict__["_message_id"] = "a" * 64
        refusal = gate.refusal(refusal_of(message, "AppNotAllowed"))
        withheld, intent = last(home)
        assert (withheld.facts["code"], withheld.subjects) == ("AppNotAllowed", {"request": "a" * 64})
        assert (intent.facts["request"], intent.facts["size"]) == ("a" * 64, len("AppNotAllowed"))
        assert [each["id"] for each in intent.facts["objects"]] == [message_id(refusal)]

    @pytest.mark.parametrize("declared", [True, False])
    def test_where_it_cannot_be_written_nothing_leaves(self, gate, home, declared):
        home.audit.mkdir()
        ReleaseLog(home).folder.write_text("in the way")
        with pytest.raises((StorageError, LogError)):
            gate.passed(reply_of(HELLO, content_of(HELLO) if declared else RecordDict()))

    def test_a_log_that_was_tampered_with_lets_nothing_leave(self, gate, home):
        gate.passed(reply_of(HELLO, content_of(HELLO)))
        (bundle,) = (ReleaseLog(home).folder / "tile" / "entries").rglob("*.p/*")
        bundle.write_bytes(bundle.read_bytes().replace(b"payloadType", b"payloadTypo", 1))
        with pytest.raises(LogError):
            gate.passed(reply_of(HELLO, content_of(HELLO)))

    def test_there_is_one_intent_for_every_reply(self, gate, home):
        for kind in [*VALUES, *VALUES]:
            gate.passed(reply_of(kind, content_of(kind)))
        assert [event.facts.get("kind") for event in ReleaseLog(home).events()] == [None, *VALUES, *VALUES]


def some_content(draw: random.Random) -> tuple[str, RecordDict]:
    """Return a message that may, or may not, be as declared."""
    kind = draw.choice(list(VALUES))
    content = content_of(draw.choice([kind, kind, *VALUES]))
    for _ in range(draw.randrange(4)):
        name = draw.choice(["payload", "arrays", "note", "metrics", ""])
        payload = content.get("payload")
        text = payload.get("json") if isinstance(payload, ConfigRecord) else None
        text = text if isinstance(text, str) else "{}"
        place = draw.randrange(len(text) + 1)
        content[name] = draw.choice(
            [
                ConfigRecord({"json": text[:place] + draw.choice([" ", '"', "7", "\\", "é", ",", ""]) + text[place:]}),
                ConfigRecord({"json": text[:place] + text[place + 1 :]}),
                ConfigRecord({draw.choice(["error", "json", "x"]): draw.choice(["A", "b c", 1, 2.5, b"x", True, [1]])}),
                ConfigRecord({}),
                MetricRecord({"iou": draw.random()}),
                ArrayRecord({draw.choice(["release", "image"]): array_of(draw.choice([RELEASE, b"", b"pixels"]))}),
                ArrayRecord({"release": Array("uint8", (draw.randrange(1000),), "numpy.ndarray", draw.randbytes(200))}),
            ]
        )
        if content and draw.random() < 0.2:
            del content[draw.choice(list(content))]
    return kind, content


def test_whatever_is_thrown_at_it_only_declared_answers_and_codes_leave(gate, home):
    """A thousand replies from one seed, each judged by comparing it with the only answers that may leave."""
    draw = random.Random(20260101)
    passed_whole = 0
    for _ in range(1000):
        kind, content = some_content(draw)
        before = {name: dict(record) for name, record in content.items()}
        passed = gate.passed(reply_of(kind, content))
        left = passed.content
        payload = dict(left["payload"])
        if list(payload) == ["error"]:
            assert list(left) == ["payload"]
            assert payload["error"] in ("Undeclared", "A")
        else:
            value = type(VALUES[kind])(**json.loads(payload["json"]))
            assert {"json": encode_json(value)} == payload
            assert {name: dict(record) for name, record in left.items()} == before
            assert set(left) == set(content_of(kind))
            if kind == SUBMIT:
                assert (value.digest, value.statement) == (DIGEST, STATEMENT)
                assert {name: array.data for name, array in left["arrays"].items()} == {"release": wrap_bytes(RELEASE)}
            passed_whole += 1
        is_logged(home, kind, passed)
    assert 100 < passed_whole < 900
