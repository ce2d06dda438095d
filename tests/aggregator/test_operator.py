"""`casam-aggregator` as its operator uses it: what it asks, prints, refuses, and leaves behind."""

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from aggregator.cli import aggregator
from aggregator.home import AggregatorConfig, Home, create_home
from aggregator.sites import enrol, read_sites
from casam_fed.audit.dsse import seal
from casam_fed.audit.keys import load_private_key, public_key
from casam_fed.bank import LayerBank
from casam_fed.enrolment import open_request, open_welcome
from casam_fed.errors import CasamError, ConfigError, EnrolmentError
from casam_fed.release import parse
from site_client.home import SiteHome, create_site_home, renew_keys
from site_client.outbox import Outbox

from .deployed import METHOD, new_home, new_site


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASAM_CACHE", str(folder / "cache"))
        home = new_home(folder / "aggregator")
        new_site(home, folder / "north", "endoscopy")
        yield folder


@pytest.fixture
def home(made, tmp_path):
    shutil.copytree(made / "aggregator", tmp_path / "aggregator")
    return Home(tmp_path / "aggregator")


@pytest.fixture
def clinic(tmp_path):
    data = {"kind": "phantom", "modality": "endoscopy", "train": 12, "test": 10}
    return create_site_home(tmp_path / "clinic", {"name": "clinic", "data": data})


def fingerprint(site: SiteHome) -> str:
    return open_request(site.request.read_bytes()).fingerprint


def run(*arguments: object, code: int = 0) -> str:
    """Run a command in this process; errors of ours are what `main` would print."""
    result = CliRunner().invoke(aggregator, [str(argument) for argument in arguments])
    if isinstance(result.exception, CasamError):
        assert code == 1, result.exception
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


def admit(home: Home, made: Path) -> None:
    """Put the site's release into the bank, past every decision."""
    outbox = Outbox(SiteHome(made / "north"))
    LayerBank(home.bank).admit(parse(outbox.path(outbox.newest().digest).read_bytes()))


class TestInit:
    def test_secrets_are_for_this_user_only(self, home):
        for name in ("ca.key", "server.pem", "signing.key", "superexec.secret"):
            assert stat.S_IMODE((home.keys / name).stat().st_mode) == 0o600
        assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700

    def test_a_folder_that_holds_something_is_left_alone(self, home):
        before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
        said = run("init", home.path, "--name", "x", "--address", "127.0.0.1:9443", code=1)
        assert "is not empty; give a new folder" in said
        assert {path: path.read_bytes() for path in before} == before

    def test_what_was_cut_short_does_not_pass_for_an_aggregator(self, tmp_path, monkeypatch):
        def full(*arguments, **options):
            raise ConfigError("cut short")

        monkeypatch.setattr("casam_fed.bank.LayerBank.create", full)
        config = AggregatorConfig("test", "127.0.0.1:9443", "127.0.0.1:9443", 9444, METHOD)
        with pytest.raises(ConfigError):
            create_home(tmp_path / "new", config)
        with pytest.raises(ConfigError, match="is not an aggregator's folder"):
            Home(tmp_path / "new")

    @pytest.mark.parametrize("address", ["nowhere", "https://a:1", "a b:1", "host:port", "host:123456"])
    def test_an_address_that_is_none_is_refused(self, tmp_path, address):
        assert "address" in run("init", tmp_path / "new", "--name", "x", "--address", address, code=1)
        assert not (tmp_path / "new" / "aggregator.yaml").exists()


class TestEnrol:
    def test_the_welcome_says_what_the_site_has_to_know(self, home, clinic):
        printed = run("enroll", home.path, clinic.request, "--fingerprint", fingerprint(clinic))
        welcome = open_welcome((clinic.path / "WELCOME.json").read_bytes())
        assert (welcome.federation, welcome.site, welcome.address) == ("test", "clinic", "127.0.0.1:9443")
        assert welcome.fingerprint == home.fingerprint()
        assert welcome.method.min_steps == 2
        assert "BEGIN CERTIFICATE" in welcome.ca
        assert "PRIVATE" not in (clinic.path / "WELCOME.json").read_text()
        assert home.fingerprint()[:4] in printed
        assert clinic.welcome() == welcome

    def test_another_fingerprint_than_that_read_out_enrols_nobody(self, home, clinic):
        said = run("enroll", home.path, clinic.request, "--fingerprint", "0" * 64, code=1)
        assert "somebody may have changed the file" in said
        assert "clinic" not in read_sites(home.sites)
        assert not (clinic.path / "WELCOME.json").exists()

    def test_without_a_terminal_the_answer_has_to_be_an_option(self, home, clinic):
        assert "There is no terminal" in run("enroll", home.path, clinic.request, code=2)

    def test_a_request_that_was_changed_is_refused(self, home, clinic):
        data = json.loads(clinic.request.read_bytes())
        data["payload"] = data["payload"][:-8] + "AAAAAAA="
        clinic.request.write_text(json.dumps(data, separators=(",", ":")))
        assert "cannot be used" in run("enroll", home.path, clinic.request, "--fingerprint", "0" * 64, code=1)

    def test_a_request_signed_by_another_key_than_it_names_is_refused(self, home, clinic):
        request = open_request(clinic.request.read_bytes())
        payload = json.dumps(vars(request), sort_keys=True, separators=(",", ":")).encode()
        key = load_private_key(home.keys / "signing.key")
        clinic.request.write_bytes(seal("application/vnd.casam-fed.request+json", payload, key))
        assert "cannot be used" in run("enroll", home.path, clinic.request, "--fingerprint", "0" * 64, code=1)

    def test_a_file_that_is_no_request_is_refused(self, home, tmp_path):
        (tmp_path / "other.json").write_text("{}")
        assert "cannot be used" in run("enroll", home.path, tmp_path / "other.json", code=1)
        assert "cannot read" in run("enroll", home.path, tmp_path / "nothing.json", code=1)


class TestKeys:
    def test_enrolling_twice_changes_nothing(self, home, clinic):
        request = open_request(clinic.request.read_bytes())
        assert enrol(home.sites, request) == enrol(home.sites, request)
        assert len(read_sites(home.sites)["clinic"].keys) == 1

    def test_a_name_that_is_taken_is_not_given_again(self, home, clinic):
        enrol(home.sites, open_request(clinic.request.read_bytes()))
        renew_keys(clinic)
        with pytest.raises(EnrolmentError, match="is enrolled with other keys; use casam-aggregator rotate"):
            enrol(home.sites, open_request(clinic.request.read_bytes()))

    def test_rotating_ends_the_old_keys_and_tells_the_site(self, home, clinic):
        run("enroll", home.path, clinic.request, "--fingerprint", fingerprint(clinic))
        old = fingerprint(clinic)
        renew_keys(clinic)
        run("rotate", home.path, clinic.request, "--fingerprint", fingerprint(clinic))
        first, second = read_sites(home.sites)["clinic"].keys
        assert (first.fingerprint, bool(first.ended)) == (old, True)
        assert (second.fingerprint, bool(second.ended)) == (fingerprint(clinic), False)
        assert clinic.welcome().site_key == fingerprint(clinic)

    def test_revoking_ends_all_keys_and_old_ones_never_come_back(self, home, clinic):
        run("enroll", home.path, clinic.request, "--fingerprint", fingerprint(clinic))
        run("revoke", home.path, "clinic", "--yes")
        assert read_sites(home.sites)["clinic"].current is None
        assert "belongs or belonged" in run(
            "rotate", home.path, clinic.request, "--fingerprint", fingerprint(clinic), code=1
        )

    def test_keys_of_one_site_cannot_be_another_ones(self, home, clinic, tmp_path):
        enrol(home.sites, open_request(clinic.request.read_bytes()))
        request = open_request(clinic.request.read_bytes())
        with pytest.raises(EnrolmentError, match="belongs or belonged to site clinic"):
            enrol(home.sites, type(request)(**{**vars(request), "site": "double"}))

    def test_revoking_nobody_is_said(self, home):
        assert "there is no site nobody" in run("revoke", home.path, "nobody", "--yes", code=1)

    def test_a_damaged_record_is_named(self, home, clinic):
        (home.sites / "clinic.json").write_text("{")
        assert "clinic.json" in run("status", home.path, code=1)


class TestBank:
    def test_an_empty_bank_is_listed_and_verified(self, home):
        assert json.loads(run("bank", "list", home.path, "--json"))["entries"] == []
        assert "0 entries verified" in run("bank", "verify", home.path)

    def test_an_entry_without_a_decision_is_found(self, home, made):
        admit(home, made)
        assert "no decision is on record for north" in run("bank", "verify", home.path, code=1)

    def test_a_flipped_bit_is_found(self, home, made):
        admit(home, made)
        (path,) = (path for path in (home.bank / "objects").iterdir() if path.stat().st_size > 1_000_000)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        assert "is not what its name says" in run("bank", "verify", home.path, code=1)

    def test_retiring_takes_one_entry_and_asks_first(self, home, made):
        admit(home, made)
        assert "There is no terminal" in run("bank", "retire", home.path, "north", code=2)
        assert "is retired" in run("bank", "retire", home.path, "north", "--yes")
        (entry,) = json.loads(run("bank", "list", home.path, "--json"))["entries"]
        assert entry["status"] == "retired"
        assert "no task north" in run("bank", "retire", home.path, "north", "--yes", code=1)

    def test_what_is_not_there_cannot_be_shown_or_accepted(self, home):
        assert "nothing is known of a task nowhere" in run("bank", "show", home.path, "nowhere", code=1)
        assert "no release of task nowhere is in quarantine" in run(
            "bank", "accept", home.path, "nowhere", "--yes", code=1
        )


class TestStatus:
    def test_it_names_the_sites_and_says_that_nothing_runs(self, home):
        facts = json.loads(run("status", home.path, "--json"))
        assert facts["up"] is False
        assert facts["sites"]["north"]["online"] is False
        assert facts["certificate_days"] > 300
        assert "not running" in run("status", home.path)

    def test_a_folder_that_is_none_is_said(self, tmp_path):
        assert "is not an aggregator's folder" in run("status", tmp_path, code=1)


def test_a_public_key_of_another_kind_is_refused(clinic):
    request = open_request(clinic.request.read_bytes())
    with pytest.raises(CasamError, match="no Ed25519 key"):
        public_key(request.node_key, "a test")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["enroll", "--help"], ["bank", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    program = (
        "import atexit, os, sys\n"
        "def check():\n"
        "    heavy = {'torch', 'flwr', 'ray'} & set(sys.modules)\n"
        "    if heavy:\n"
        "        print('loaded', heavy, file=sys.stderr); sys.stderr.flush(); os._exit(9)\n"
        "atexit.register(check)\n"
        "from aggregator.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonsense"], 2, "No such command"),
        (["init"], 2, "Missing argument"),
        (["status", "/nowhere"], 1, "casam-aggregator: /nowhere is not an aggregator's folder"),
    ],
)
def test_exit_codes(arguments, code, words):
    program = [sys.executable, "-c", "from aggregator.cli import main; main()", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
