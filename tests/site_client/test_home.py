"""A site's folder: made whole or not at all, for one user's eyes, and asking a person whenever the aggregator changes."""

import json
import os
import resource
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import casam_fed.host.files
from casam_fed.audit.keys import fingerprint, public_key, public_pem
from casam_fed.backbone.backbones import backbone_card
from casam_fed.errors import ConfigError, EnrolmentError, KeyFileError, StorageError
from casam_fed.wire.enrolment import open_request, welcome_json
from site_client.home import SiteHome, create_site_home, renew_keys

from ..casam_fed.wire.welcomes import METHOD, authority, welcome_for
from .deployed_sites import SETTINGS, give_welcome, welcomed_home


@pytest.fixture
def clinic(tmp_path):
    return welcomed_home(tmp_path / "clinic")


def modes(folder) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def full(path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}


@pytest.fixture
def disk_that_fills(monkeypatch):
    """Make the n-th file that is put in its place from now on fail."""

    def after(files: int) -> None:
        honest, left = os.replace, [files]

        def replace(source, target):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            honest(source, target)

        monkeypatch.setattr(casam_fed.host.files.os, "replace", replace)

    yield after
    monkeypatch.undo()


class TestMaking:
    def test_secrets_are_for_this_user_whatever_the_umask(self, tmp_path):
        old = os.umask(0)
        try:
            home = create_site_home(tmp_path / "clinic", SETTINGS)
        finally:
            os.umask(old)
        assert modes(tmp_path)["clinic"] == modes(home.path)["keys"] == 0o700
        assert modes(home.keys) == dict.fromkeys(["signing.key", "signing.pub", "node.key", "supernode.secret"], 0o600)
        public = public_key((home.keys / "signing.pub").read_text(), "it")
        assert fingerprint(public) == fingerprint(home.signing_key().public_key())

    def test_nothing_but_what_is_declared_is_in_it(self, tmp_path):
        home = create_site_home(tmp_path / "clinic", SETTINGS)
        assert set(modes(home.path)) == {"site.yaml", "keys", "REQUEST.json"}

    def test_the_request_holds_this_sites_public_keys_and_no_secret(self, clinic):
        request = open_request(clinic.request.read_bytes())
        assert (request.site, request.fingerprint) == ("clinic", fingerprint(clinic.signing_key().public_key()))
        assert "PRIVATE" not in clinic.request.read_text()

    def test_every_site_has_secrets_of_its_own(self, tmp_path):
        one, two = (full(create_site_home(tmp_path / name, SETTINGS).keys) for name in ("a", "b"))
        assert all(one[name] != two[name] for name in one)

    def test_settings_are_read_back_as_they_were_given(self, clinic):
        assert clinic.settings.name == "clinic"
        assert clinic.settings.data.train == 12
        assert (clinic.settings.threads, clinic.settings.minimum_images, clinic.settings.site.task_name) == (
            1,
            10,
            "clinic",
        )

    @pytest.mark.parametrize("what", ["a file in it", "a site", "a file instead"])
    def test_a_folder_that_is_not_empty_is_refused_and_stays_as_it_was(self, tmp_path, what):
        path = tmp_path / "clinic"
        if what == "a file instead":
            path.write_text("mine")
        elif what == "a site":
            create_site_home(path, SETTINGS)
        else:
            path.mkdir()
            (path / "thesis.txt").write_text("mine")
        before = full(tmp_path)
        with pytest.raises(ConfigError, match="is not empty; give a new folder"):
            create_site_home(path, SETTINGS)
        assert full(tmp_path) == before

    def test_an_empty_folder_will_do_and_is_closed_to_others(self, tmp_path):
        (tmp_path / "clinic").mkdir(mode=0o777)
        create_site_home(tmp_path / "clinic", SETTINGS)
        assert modes(tmp_path)["clinic"] == 0o700

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"name": "../clinic"}, "'name'"),
            ({"name": "clinic\n"}, "'name'"),
            ({"treads": 2}, "did you mean 'threads'"),
            ({"minimum_images": 0}, "'minimum_images'"),
            ({"data": {"kind": "fantom"}}, "did you mean 'phantom'"),
        ],
    )
    def test_wrong_settings_make_no_folder(self, tmp_path, change, why):
        with pytest.raises(ConfigError, match=why):
            create_site_home(tmp_path / "clinic", {**SETTINGS, **change})
        assert not (tmp_path / "clinic").exists()

    @pytest.mark.parametrize("files", range(6))
    def test_a_full_disk_leaves_nothing_half_written_and_the_same_folder_can_be_tried_again(
        self, tmp_path, disk_that_fills, monkeypatch, files
    ):
        disk_that_fills(files)
        with pytest.raises(StorageError, match="no space left on device"):
            create_site_home(tmp_path / "clinic", SETTINGS)
        assert list((tmp_path / "clinic").iterdir()) == []
        monkeypatch.undo()
        assert create_site_home(tmp_path / "clinic", SETTINGS).signing_key()

    def test_a_disk_that_takes_no_byte_leaves_nothing_either(self, tmp_path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            with pytest.raises(StorageError):
                create_site_home(tmp_path / "clinic", SETTINGS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list((tmp_path / "clinic").iterdir()) == []

    def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="give a folder that this user can write"):
            create_site_home(tmp_path / "file" / "clinic", SETTINGS)

    def test_what_is_no_sites_folder_is_not_opened(self, tmp_path):
        with pytest.raises(ConfigError, match="is not a site's folder; make one with casam-site init"):
            SiteHome(tmp_path)


class TestKeys:
    def test_a_signing_key_that_others_can_read_is_not_used(self, clinic):
        (clinic.keys / "signing.key").chmod(0o640)
        with pytest.raises(KeyFileError, match="can be read by others"):
            clinic.signing_key()

    def test_new_keys_leave_the_old_ones_beside_them_and_drop_what_these_have_signed(self, clinic):
        old, request = full(clinic.keys), clinic.request.read_bytes()
        clinic.outbox.mkdir(parents=True)
        other_seed = clinic.work / "seed-7" / "outbox"
        other_seed.mkdir(parents=True)
        (clinic.outbox / "submission.json").write_text("{}")
        for folder in (clinic.outbox, other_seed):
            (folder / f"{'a' * 64}.safetensors").write_bytes(b"release")
            (folder / f"{'a' * 64}.statement.json").write_bytes(b"statement")
        renew_keys(clinic)
        assert full(clinic.path / "keys-old-1") == old
        assert all(data != old[name] for name, data in full(clinic.keys).items())
        assert clinic.request.read_bytes() != request
        assert open_request(clinic.request.read_bytes()).fingerprint == fingerprint(clinic.signing_key().public_key())
        assert not (clinic.path / "WELCOME.json").exists()
        assert {path.name for path in clinic.work.rglob("*") if path.is_file()} == {
            "submission.json",
            f"{'a' * 64}.safetensors",
        }
        assert modes(clinic.path)["keys-old-1"] == modes(clinic.path)["keys"] == 0o700
        assert set(modes(clinic.keys).values()) == {0o600}

    def test_keys_can_be_renewed_again_and_again(self, clinic):
        for _ in range(3):
            renew_keys(clinic)
        assert {path.name for path in clinic.path.glob("keys*")} == {"keys", "keys-old-1", "keys-old-2", "keys-old-3"}

    def test_old_keys_that_were_thrown_away_are_no_hindrance(self, clinic):
        renew_keys(clinic)
        renew_keys(clinic)
        (clinic.path / "keys-old-1").rename(clinic.path.parent / "shredded")
        renew_keys(clinic)
        assert (clinic.path / "keys-old-3").is_dir()

    def test_lost_keys_can_be_renewed(self, clinic):
        for path in clinic.keys.iterdir():
            path.unlink()
        clinic.keys.rmdir()
        renew_keys(clinic)
        assert open_request(clinic.request.read_bytes()).fingerprint == fingerprint(clinic.signing_key().public_key())

    @pytest.mark.parametrize("files", range(4))
    def test_on_a_full_disk_the_old_keys_stay_in_force(self, clinic, disk_that_fills, files):
        before = full(clinic.path)
        disk_that_fills(files)
        with pytest.raises(StorageError):
            renew_keys(clinic)
        assert full(clinic.path) == before
        assert clinic.welcome().site == "clinic"


class TestWelcome:
    def test_without_one_the_next_step_is_said(self, clinic):
        (clinic.path / "WELCOME.json").unlink()
        with pytest.raises(EnrolmentError, match=r"send .*REQUEST.json to the aggregator's operator and put their"):
            clinic.welcome()

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"site": "rival"}, "welcomes rival, not clinic"),
            ({"site_key": "0" * 64}, "made for other keys than this site's"),
            ({"backbone_digest": "0" * 64}, "another backbone mini than the one this version knows"),
            (
                {"backbone": "vit_x", "method": type(METHOD)(backbone="vit_x")},
                "another backbone vit_x than the one this version knows",
            ),
            (
                {"backbone": "vit_b", "method": type(METHOD)(backbone="vit_b")},
                "another backbone vit_b than the one this version knows",
            ),
        ],
    )
    def test_one_for_somebody_or_something_else_is_refused(self, clinic, change, why):
        give_welcome(clinic, **change)
        with pytest.raises(EnrolmentError, match=why):
            clinic.welcome()

    def test_another_backbone_of_our_catalogue_is_not_this_sites_to_question(self, clinic):
        give_welcome(
            clinic,
            backbone="vit_b",
            method=type(METHOD)(backbone="vit_b"),
            backbone_digest=backbone_card("vit_b").sha256,
        )
        assert clinic.welcome().backbone == "vit_b"

    @pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[1]", b" " * 65_537], ids=range(5))
    def test_a_damaged_or_huge_one_is_refused(self, clinic, data):
        (clinic.path / "WELCOME.json").write_bytes(data)
        with pytest.raises(EnrolmentError):
            clinic.welcome()

    def test_one_that_lost_its_end_is_refused(self, clinic):
        path = clinic.path / "WELCOME.json"
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(EnrolmentError, match="cannot be used"):
            clinic.welcome()

    def test_the_machine_stays_this_sites_own_choice(self, clinic):
        give_welcome(clinic, method=type(METHOD)(device="cuda", threads=64, epochs=7))
        method = clinic.method(clinic.welcome())
        assert (method.device, method.threads, method.epochs) == ("cpu", 1, 7)


class TestTrust:
    def test_nobody_is_trusted_before_a_person_said_so(self, clinic):
        welcome = clinic.welcome()
        assert not clinic.trusts(welcome)
        clinic.trust(welcome)
        assert clinic.trusts(welcome)
        assert SiteHome(clinic.path).trusts(welcome)

    @pytest.mark.parametrize(
        "change",
        [
            {"aggregator_key": public_pem(Ed25519PrivateKey.generate().public_key())},
            {"address": "127.0.0.2:8443"},
            {"ca": authority(1)},
            {"app": "b" * 64},
            {"federation": "another"},
        ],
        ids=["key", "address", "authority", "app", "federation"],
    )
    def test_a_person_is_asked_again_when_this_changes(self, clinic, change):
        clinic.trust(clinic.welcome())
        give_welcome(clinic, **change)
        assert not clinic.trusts(clinic.welcome())

    def test_a_welcome_for_new_keys_by_the_same_aggregator_needs_no_new_question(self, clinic):
        clinic.trust(clinic.welcome())
        renew_keys(clinic)
        give_welcome(clinic)
        assert clinic.trusts(clinic.welcome())

    @pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"null", b"[]", b"{}", b"true"], ids=range(7))
    def test_what_was_confirmed_and_is_damaged_is_not_confirmed(self, clinic, data):
        clinic.trust(clinic.welcome())
        (clinic.path / "trusted.json").write_bytes(data)
        assert not clinic.trusts(clinic.welcome())

    def test_an_addition_to_what_was_confirmed_is_not_confirmed(self, clinic):
        clinic.trust(clinic.welcome())
        path = clinic.path / "trusted.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "more": ""}))
        assert not clinic.trusts(clinic.welcome())

    def test_a_welcome_is_what_a_person_can_read(self, clinic):
        lines = (clinic.path / "WELCOME.json").read_text().splitlines()
        assert '  "address": "127.0.0.1:8443",' in lines
        request = open_request(clinic.request.read_bytes())
        assert (clinic.path / "WELCOME.json").read_bytes() == welcome_json(welcome_for(request))
