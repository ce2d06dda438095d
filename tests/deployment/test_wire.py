"""Wire equals log: all that a site has put on the wire stands in its release log by digest, and nothing else left."""

import json
from dataclasses import replace

import pytest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from casam_fed.audit.event import Event
from casam_fed.host.files import sha256_bytes
from casam_fed.wire.enrolment import welcome_json
from site_client.home import SiteHome
from site_client.outbox import Outbox

from .federation import Hospital, wait
from .recorder import Recorder, recording

QUIET = {"register-node", "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages"}
QUIET |= {"get-run", "get-fab", "pull-object", "confirm-message-received"}
"""Calls that carry numbers and names of Flower's own, and nothing that a site has learned."""


@pytest.fixture(scope="module")
def recorded(federation):
    """A join whose SuperNode talks to the recorder, and what it has sent."""
    site = federation.site("recorded", "prostate_msd", seed=5)
    home = SiteHome(site.home)
    gateway = home.welcome().address
    with recording(gateway, federation.home / "keys") as recorder:
        (site.home / "WELCOME.json").write_bytes(welcome_json(replace(home.welcome(), address=recorder.address)))
        with site.joining("--keep-serving") as joining:
            joining.wait_for("serving later stages")
            wait(lambda: _logged(site).keys() == pushed(recorder).keys(), 30, "the last object", joining.said)
    return site, recorder


def pushed(recorder: Recorder) -> dict[str, bytes]:
    """The objects on the wire by their ids."""
    objects = map(PushObjectRequest.FromString, recorder.bodies("push-object"))
    return {each.object_id: each.object_content for each in objects}


def intents(events: list[Event]) -> list[Event]:
    return [event for event in events if event.event == "intent"]


def test_every_object_on_the_wire_stands_in_the_log_and_every_object_in_the_log_was_on_the_wire(recorded):
    site, recorder = recorded
    objects = pushed(recorder)
    assert all(sha256_bytes(content) == name for name, content in objects.items())
    assert {name: len(content) for name, content in objects.items()} == _logged(site)


def test_every_message_was_logged_before_and_after_it_left(recorded):
    site, recorder = recorded
    events = site.events()
    sent = {event.facts["intent"]: event.subjects["message"] for event in events if event.event == "sent"}
    assert list(sent) == [event.sequence for event in intents(events)]
    for index, message in sent.items():
        assert message in {each["id"] for each in events[index].facts["objects"]}
    kind = PROTOBUF_REQUEST_TYPES["POST", "/v1/fleet/push-messages"]
    told = [m for body in recorder.bodies("push-messages") for m in kind.FromString(body).messages_list]
    asked = [event.facts["request"] for event in intents(events)]
    assert [message.metadata.reply_to_message_id for message in told] == asked


def test_the_release_is_the_one_that_was_approved_and_it_went_once(recorded):
    site, recorder = recorded
    outbox = Outbox(SiteHome(site.home))
    digest = outbox.newest().digest
    data = outbox.path(digest).read_bytes()
    holding = [content for content in pushed(recorder).values() if data[-4096:] in content]
    assert len(holding) == 1
    (submitted,) = [event for event in intents(site.events()) if "release" in event.subjects]
    assert (submitted.facts["kind"], submitted.subjects["release"]) == ("train.submit", digest)
    events = [event.event for event in site.events()]
    assert events.index("approved") < submitted.sequence < events.index("receipt")


def test_each_text_that_left_is_kept_and_is_in_the_object_that_carried_it(recorded):
    site, recorder = recorded
    contents = pushed(recorder)
    for event in intents(site.events()):
        text = (site.home / "audit" / "payloads" / f"{event.subjects['payload']}.json").read_bytes()
        carriers = [contents[each["id"]] for each in event.facts["objects"]]
        assert any(text in carrier for carrier in carriers)


def test_no_other_call_carries_anything_of_the_site(recorded):
    """Parsed and written again every request is the same: nothing hides beside the fields that Flower knows."""
    site, recorder = recorded
    texts = [path.read_bytes() for path in (site.home / "audit" / "payloads").glob("*.json")]
    numbers = {number for text in texts if text.startswith(b"{") for number in _scores(json.loads(text))}
    for path, headers, body in recorder.requests:
        call = path.removeprefix("/v1/fleet/")
        assert call in QUIET | {"push-object"}, path
        message = PROTOBUF_REQUEST_TYPES["POST", path].FromString(body)
        message.DiscardUnknownFields()
        assert len(message.SerializeToString()) == len(body), path
        assert sum(map(len, headers.values())) < 2048
        if call != "push-object":
            assert len(body) < 8192, path
            assert not any(str(number).encode() in body for number in numbers if number > 1e-3)


def _logged(site: Hospital) -> dict[str, int]:
    """The objects of all intents, with their bytes."""
    return {each["id"]: each["bytes"] for event in intents(site.events()) for each in event.facts["objects"]}


def _scores(value: object) -> list[float]:
    if isinstance(value, dict):
        return [each for nested in value.values() for each in _scores(nested)]
    if isinstance(value, list):
        return [each for nested in value for each in _scores(nested)]
    return [value] if isinstance(value, float) else []
