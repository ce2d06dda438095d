"""Who is enrolled: names and keys belong to one site each, and what has ended stays ended."""

import json
import os
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.sites import enrol, read_sites, revoke, rotate
from casam_fed.errors import EnrolmentError, StorageError

from .small_sites import small_request


@pytest.fixture
def folder(tmp_path):
    """The folder of an aggregator that nobody has enrolled at: it is not even there."""
    return tmp_path / "sites"


class TestEnrol:
    def test_a_site_that_was_enrolled_is_read_back_with_its_keys(self, folder):
        request = small_request("clinic")
        record = enrol(folder, request)
        assert read_sites(folder) == {"clinic": record}
        assert (record.current.signing_key, record.current.node_key) == (request.signing_key, request.node_key)
        assert record.current.fingerprint == request.fingerprint

    def test_nobody_is_enrolled_in_a_folder_that_is_not_there(self, folder):
        assert read_sites(folder) == {}

    def test_the_same_request_again_changes_nothing(self, folder):
        request = small_request("clinic")
        first = enrol(folder, request)
        before = (folder / "clinic.json").read_bytes()
        assert enrol(folder, request) == first
        assert (folder / "clinic.json").read_bytes() == before

    def test_a_name_that_is_taken_is_refused(self, folder):
        first = enrol(folder, small_request("clinic"))
        with pytest.raises(
            EnrolmentError, match="site clinic is enrolled with other keys; use casam-aggregator rotate"
        ):
            enrol(folder, small_request("clinic"))
        assert read_sites(folder) == {"clinic": first}

    @pytest.mark.parametrize("name", ["Clinic", "CLINIC"])
    def test_a_name_that_differs_by_case_alone_is_refused(self, folder, name):
        """On some systems both would be one file."""
        enrol(folder, small_request("clinic"))
        with pytest.raises(EnrolmentError, match="site clinic is enrolled already"):
            enrol(folder, small_request(name))
        assert list(read_sites(folder)) == ["clinic"]

    def test_a_signing_key_of_another_site_is_refused(self, folder):
        key = Ed25519PrivateKey.generate()
        enrol(folder, small_request("clinic", key))
        with pytest.raises(EnrolmentError, match="belongs or belonged to site clinic"):
            enrol(folder, small_request("thief", key))
        assert list(read_sites(folder)) == ["clinic"]

    def test_a_node_key_of_another_site_is_refused(self, folder):
        first, second = small_request("clinic"), small_request("thief")
        enrol(folder, first)
        mixed = type(second)("thief", second.signing_key, first.node_key, "0.1.0")
        with pytest.raises(EnrolmentError, match="belongs or belonged to site clinic"):
            enrol(folder, mixed)


class TestRotate:
    def test_the_old_keys_end_and_the_new_ones_count(self, folder):
        old, new = small_request("clinic"), small_request("clinic")
        enrol(folder, old)
        record = rotate(folder, new)
        assert read_sites(folder)["clinic"] == record
        assert [bool(pair.ended) for pair in record.keys] == [True, False]
        assert record.current.fingerprint == new.fingerprint

    def test_the_same_request_again_changes_nothing(self, folder):
        enrol(folder, small_request("clinic"))
        new = small_request("clinic")
        assert rotate(folder, new) == rotate(folder, new)

    def test_keys_that_have_ended_never_come_back(self, folder):
        old = small_request("clinic")
        enrol(folder, old)
        rotate(folder, small_request("clinic"))
        with pytest.raises(EnrolmentError, match="belongs or belonged to site clinic"):
            rotate(folder, old)
        with pytest.raises(EnrolmentError, match="belongs or belonged to site clinic"):
            enrol(folder, type(old)("other", old.signing_key, old.node_key, "0.1.0"))

    def test_a_site_that_was_never_enrolled_cannot_rotate(self, folder):
        with pytest.raises(EnrolmentError, match="there is no site clinic; use casam-aggregator enroll"):
            rotate(folder, small_request("clinic"))
        assert read_sites(folder) == {}


class TestRevoke:
    def test_all_its_keys_end_and_the_record_stays(self, folder):
        enrol(folder, small_request("clinic"))
        rotate(folder, small_request("clinic"))
        record = revoke(folder, "clinic")
        assert read_sites(folder) == {"clinic": record}
        assert record.current is None
        assert all(pair.ended for pair in record.keys)

    def test_twice_is_as_once(self, folder):
        enrol(folder, small_request("clinic"))
        assert revoke(folder, "clinic") == revoke(folder, "clinic")

    @pytest.mark.parametrize("name", ["nobody", "../clinic", "", "clinic.json"])
    def test_nobody_else_can_be_revoked(self, folder, name):
        record = enrol(folder, small_request("clinic"))
        with pytest.raises(EnrolmentError, match="there is no site"):
            revoke(folder, name)
        assert read_sites(folder) == {"clinic": record}

    def test_it_does_not_get_in_by_enrolling_again(self, folder):
        request = small_request("clinic")
        enrol(folder, request)
        revoke(folder, "clinic")
        for again in (request, small_request("clinic")):
            with pytest.raises(EnrolmentError, match=r"was shut out; let it make new keys \(casam-site rotate\)"):
                enrol(folder, again)
        assert read_sites(folder)["clinic"].current is None

    def test_an_operator_lets_it_in_again_with_new_keys_only(self, folder):
        request, new = small_request("clinic"), small_request("clinic")
        enrol(folder, request)
        revoke(folder, "clinic")
        with pytest.raises(EnrolmentError, match="belongs or belonged"):
            rotate(folder, request)
        assert rotate(folder, new).current.fingerprint == new.fingerprint


class TestDamage:
    @pytest.fixture
    def record(self, folder):
        enrol(folder, small_request("clinic"))
        rotate(folder, small_request("clinic"))
        return json.loads((folder / "clinic.json").read_text())

    def refuses(self, folder, name="clinic.json"):
        with pytest.raises(EnrolmentError, match=f"{name} is no record of that site; restore it from a copy"):
            read_sites(folder)

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe"])
    def test_a_file_that_is_no_record_stops_everything(self, folder, record, data):
        """To go on without it would let a revoked site in, or shut an enrolled one out."""
        (folder / "clinic.json").write_bytes(data)
        self.refuses(folder)
        with pytest.raises(EnrolmentError):
            enrol(folder, small_request("other"))

    @pytest.mark.parametrize(
        "change",
        [
            {"keys": []},
            {"site": "other"},
            {"site": "../../etc"},
            {"schema_version": 2},
            {"more": 1},
        ],
    )
    def test_a_record_that_contradicts_itself_is_damaged(self, folder, record, change):
        (folder / "clinic.json").write_text(json.dumps(record | change))
        self.refuses(folder)

    def test_two_pairs_in_force_or_no_key_in_a_pair_are_damaged(self, folder, record):
        for change in ({"ended": ""}, {"signing_key": "none"}):
            first, last = record["keys"]
            (folder / "clinic.json").write_text(json.dumps(record | {"keys": [first | change, last]}))
            self.refuses(folder)

    def test_a_copy_under_another_name_brings_no_ended_key_back(self, folder):
        enrol(folder, small_request("clinic"))
        shutil.copy(folder / "clinic.json", folder.parent / "clinic.old.json")
        revoke(folder, "clinic")
        shutil.move(folder.parent / "clinic.old.json", folder)
        self.refuses(folder, "clinic.old.json")

    def test_a_key_of_two_records_is_damage(self, folder, record):
        (folder / "other.json").write_text(json.dumps(record | {"site": "other"}))
        with pytest.raises(EnrolmentError, match=r"other.json has a key of site clinic"):
            read_sites(folder)


def test_a_crash_or_a_full_disk_leaves_the_old_record(folder, monkeypatch):
    record = enrol(folder, small_request("clinic"))

    def full(*_paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for change in (lambda: rotate(folder, small_request("clinic")), lambda: revoke(folder, "clinic")):
        with pytest.raises(StorageError, match="no space left on device"):
            change()
        assert read_sites(folder) == {"clinic": record}
    with pytest.raises(StorageError):
        enrol(folder, small_request("other"))
    assert [path.name for path in folder.iterdir()] == ["clinic.json"]
    # A process that is killed in the middle cannot even remove its half-written file.
    (folder / ".clinic.json.abc.part").write_text("{")
    assert read_sites(folder) == {"clinic": record}
