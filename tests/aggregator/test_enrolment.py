"""Who takes part: a site's file, the bank log and the answer say the same, also after a crash in between."""

import json

import pytest

from aggregator.authority import authority_pem
from aggregator.enrolment import enrol_site, revoke_site, rotate_site, welcome_of
from aggregator.ledger import Ledger
from aggregator.sites import enrol, read_sites
from casam_fed.backbone.backbones import backbone_card
from casam_fed.config import MethodConfig
from casam_fed.errors import EnrolmentError, StorageError
from casam_fed.host.files import sha256_file
from casam_fed.wire.enrolment import open_welcome, welcome_json

from .small_sites import small_request


def keys_logged(home) -> list[tuple[str, str]]:
    events = [event for event in Ledger(home).events() if "key" in event.subjects and "site" in event.facts]
    return [(event.event, event.subjects["key"]) for event in events]


class TestEnrol:
    def test_file_log_and_answer_say_the_same(self, new_home, tmp_path):
        request, answer = small_request("clinic"), tmp_path / "clinic" / "WELCOME.json"
        enrol_site(new_home, request, answer)
        assert read_sites(new_home.sites)["clinic"].keys[-1].fingerprint == request.fingerprint
        assert keys_logged(new_home) == [("enrolled", request.fingerprint)]
        assert open_welcome(answer.read_bytes()) == welcome_of(new_home, request)

    def test_again_it_only_writes_the_answer_again(self, new_home, tmp_path):
        request, answer = small_request("clinic"), tmp_path / "WELCOME.json"
        enrol_site(new_home, request, answer)
        first = answer.read_bytes()
        answer.unlink()
        enrol_site(new_home, request, answer)
        assert (answer.read_bytes(), len(keys_logged(new_home))) == (first, 1)

    def test_what_a_crash_left_between_file_and_log_is_made_good(self, new_home, tmp_path):
        request = small_request("clinic")
        enrol(new_home.sites, request)
        assert keys_logged(new_home) == []
        enrol_site(new_home, request, tmp_path / "WELCOME.json")
        assert keys_logged(new_home) == [("enrolled", request.fingerprint)]

    def test_an_answer_that_cannot_be_written_can_be_written_later(self, new_home, tmp_path):
        request = small_request("clinic")
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="not a directory"):
            enrol_site(new_home, request, tmp_path / "file" / "WELCOME.json")
        enrol_site(new_home, request, tmp_path / "WELCOME.json")
        assert len(keys_logged(new_home)) == 1


class TestRotateAndRevoke:
    def test_the_log_tells_which_keys_have_ended(self, new_home, tmp_path):
        first, second = small_request("clinic"), small_request("clinic")
        enrol_site(new_home, first, tmp_path / "WELCOME.json")
        rotate_site(new_home, second, tmp_path / "WELCOME.json")
        assert open_welcome((tmp_path / "WELCOME.json").read_bytes()).site_key == second.fingerprint
        revoke_site(new_home, "clinic")
        assert sorted(keys_logged(new_home)) == sorted(
            (event, request.fingerprint) for event in ("enrolled", "revoked") for request in (first, second)
        )

    def test_a_site_that_is_not_there_changes_nothing(self, new_home, tmp_path):
        with pytest.raises(EnrolmentError, match="there is no site clinic"):
            rotate_site(new_home, small_request("clinic"), tmp_path / "WELCOME.json")
        with pytest.raises(EnrolmentError, match="there is no site clinic"):
            revoke_site(new_home, "clinic")
        assert (keys_logged(new_home), (tmp_path / "WELCOME.json").exists()) == ([], False)


class TestWelcome:
    def test_it_says_what_a_site_needs_and_can_be_opened(self, made_home):
        request = small_request("clinic")
        welcome = open_welcome(welcome_json(welcome_of(made_home, request)))
        assert (welcome.federation, welcome.site, welcome.site_key) == ("north", "clinic", request.fingerprint)
        assert welcome.fingerprint == made_home.fingerprint()
        assert welcome.app == sha256_file(made_home.app)
        assert (welcome.backbone, welcome.backbone_digest) == ("mini", backbone_card("mini").sha256)
        assert welcome.ca == authority_pem(made_home.keys)

    def test_the_aggregators_own_machine_does_not_travel(self, made_home):
        welcome = welcome_of(made_home, small_request("clinic"))
        assert welcome.method == MethodConfig(epochs=3)

    def test_no_secret_travels(self, made_home):
        text = welcome_json(welcome_of(made_home, small_request("clinic"))).decode()
        assert "PRIVATE" not in text
        assert made_home.superexec_secret.read_text() not in text
        assert str(made_home.path) not in json.dumps(json.loads(text))
