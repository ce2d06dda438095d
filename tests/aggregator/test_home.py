"""An aggregator's folder: private, whole or not at all, and refused with one sentence where a setting is wrong."""

import dataclasses
import json
import stat

import pytest
import yaml
from cryptography import x509
from safetensors.torch import load_file

from aggregator import founding
from aggregator.authority import authority_pem, days_left
from aggregator.enrolment import welcome_of
from aggregator.founding import create_home
from aggregator.home import AggregatorConfig, Home, default_listen, host_and_port
from casam_fed.backbone.backbones import backbone_card
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.config import MethodConfig, from_mapping
from casam_fed.errors import BackboneError, ConfigError, KeyFileError, StorageError
from casam_fed.host.files import sha256_file
from casam_fed.wire.enrolment import open_welcome, welcome_json

from .small_sites import small_request

CONFIG = AggregatorConfig("north", "127.0.0.1:8443", "127.0.0.1:8443", 18443)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def quick(monkeypatch, made_home):
    """Make folders without encoding an image: what that gives was made once."""
    bank = LayerBank(made_home.bank)
    made = bank.snapshot().backbone_digest, bank.background, load_file(made_home.probes)
    monkeypatch.setattr(founding, "_about_backbone", lambda name, device: made)


class TestCreate:
    def test_it_holds_what_its_docstring_lists(self, made_home):
        names = {path.name for path in made_home.path.iterdir()}
        assert names == {"aggregator.yaml", "audit", "keys", "app.fab", "bank", "probes.safetensors"}
        keys = {path.name for path in made_home.keys.iterdir()}
        assert keys == {"ca.key", "ca.pem", "server.pem", "signing.key", "signing.pub", "superexec.secret"}
        bank = LayerBank(made_home.bank)
        assert bank.entries() == []
        assert bank.snapshot().backbone_digest == backbone_card("mini").sha256
        assert days_left(made_home.keys).server > 300

    def test_no_other_user_can_read_it_and_no_secret_even_if_the_folder_is_opened(self, made_home):
        assert mode(made_home.path) == mode(made_home.keys) == 0o700
        for name in ("ca.key", "server.pem", "signing.key", "superexec.secret"):
            assert mode(made_home.keys / name) == 0o600

    def test_a_loose_signing_key_is_refused(self, new_home):
        (new_home.keys / "signing.key").chmod(0o644)
        with pytest.raises(KeyFileError, match="can be read by others"):
            new_home.fingerprint()

    def test_two_folders_share_no_secret(self, made_home, quick, tmp_path):
        other = create_home(tmp_path / "other", CONFIG)
        assert other.fingerprint() != made_home.fingerprint()
        assert other.superexec_secret.read_bytes() != made_home.superexec_secret.read_bytes()
        assert len(other.superexec_secret.read_bytes()) == 64
        assert authority_pem(other.keys) != authority_pem(made_home.keys)

    def test_a_folder_that_is_not_empty_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "theirs.txt").write_text("theirs")
        with pytest.raises(ConfigError, match="is not empty; give a new folder"):
            create_home(tmp_path, CONFIG)
        with pytest.raises(ConfigError, match="is not empty; give a new folder"):
            create_home(tmp_path / "theirs.txt", CONFIG)
        assert [path.name for path in tmp_path.iterdir()] == ["theirs.txt"]

    def test_a_finished_folder_is_never_made_again(self, new_home):
        before = (new_home.keys / "ca.key").read_bytes()
        with pytest.raises(ConfigError, match="is not empty"):
            create_home(new_home.path, CONFIG)
        assert (new_home.keys / "ca.key").read_bytes() == before

    def test_an_empty_folder_is_taken_and_made_private(self, quick, tmp_path):
        (tmp_path / "empty").mkdir(mode=0o755)
        assert mode(create_home(tmp_path / "empty", CONFIG).path) == 0o700

    def test_a_folder_that_cannot_be_made_is_one_sentence(self, quick, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match=r"cannot write .*/file/aggregator: not a directory"):
            create_home(tmp_path / "file" / "aggregator", CONFIG)


class Killed(BaseException):
    """As a signal that nobody catches: nothing is tidied."""


STEPS = ["signing.key", "superexec.secret", "app.fab", "probes.safetensors", "aggregator.yaml"]


class TestInterrupted:
    @pytest.fixture
    def write_until(self, monkeypatch):
        """Let the writing of a file of this name fail."""
        real = founding.write_atomically

        def until(name, error):
            def write(path, data, **how):
                if path.name == name:
                    raise error
                real(path, data, **how)

            monkeypatch.setattr(founding, "write_atomically", write)

        return until

    @pytest.mark.parametrize("step", STEPS)
    def test_what_was_killed_at_any_step_does_not_look_finished(self, quick, write_until, monkeypatch, tmp_path, step):
        monkeypatch.setattr(founding.shutil, "rmtree", lambda path, **how: None)
        monkeypatch.setattr("pathlib.Path.unlink", lambda path, **how: None)
        write_until(step, Killed())
        with pytest.raises(Killed):
            create_home(tmp_path / "aggregator", CONFIG)
        assert any((tmp_path / "aggregator").iterdir())
        with pytest.raises(ConfigError, match="is not an aggregator's folder; make one with casam-aggregator init"):
            Home(tmp_path / "aggregator")

    @pytest.mark.parametrize("step", STEPS)
    @pytest.mark.parametrize("was_there", [True, False])
    def test_a_full_disk_leaves_nothing_so_that_the_same_command_works_later(
        self, quick, write_until, tmp_path, step, was_there
    ):
        path = tmp_path / "aggregator"
        if was_there:
            path.mkdir()
        write_until(step, StorageError("cannot write: no space left on device; free space"))
        with pytest.raises(StorageError):
            create_home(path, CONFIG)
        assert path.exists() == was_there
        assert not was_there or not any(path.iterdir())
        write_until("", None)
        assert create_home(path, CONFIG).config == CONFIG

    @pytest.mark.parametrize("address", ["0.0.0.0:8443", "127.1:8443", "[::]:8443"])
    def test_a_host_that_no_certificate_can_name_leaves_nothing(self, quick, tmp_path, address):
        with pytest.raises(ConfigError):
            create_home(tmp_path / "aggregator", dataclasses.replace(CONFIG, address=address))
        assert not (tmp_path / "aggregator").exists()

    def test_an_unknown_backbone_leaves_nothing(self, tmp_path):
        config = dataclasses.replace(CONFIG, method=MethodConfig(backbone="none"))
        with pytest.raises(BackboneError):
            create_home(tmp_path / "aggregator", config)
        assert not (tmp_path / "aggregator").exists()


class TestSettings:
    def test_they_come_back_as_they_were_given(self, made_home, quick, tmp_path):
        assert Home(made_home.path).config == made_home.config
        method = MethodConfig(epochs=7, learning_rate=3e-4, router="vae", vae_sampled=True, device="cpu", threads=3)
        config = AggregatorConfig("1e3", "[2001:db8::7]:443", "[::]:8443", 9, method, 0)
        assert create_home(tmp_path / "other", config).config == config

    def test_a_person_reads_only_what_differs_from_the_defaults(self, made_home):
        text = (made_home.path / "aggregator.yaml").read_text()
        assert text.startswith("# Settings of this aggregator; all keys: docs/reference/aggregator-yaml.md\n")
        assert yaml.safe_load(text)["method"] == {"device": "cpu", "threads": 1, "epochs": 3}

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"federation": "a b"}, "'federation' in aggregator.yaml cannot be 'a b': a name has letters"),
            ({"adress": "x:1"}, "unknown key 'adress' in aggregator.yaml; did you mean 'address'?"),
            ({"address": "nowhere"}, "'address' in aggregator.yaml cannot be 'nowhere'"),
            ({"address": "https://x:1"}, "'address' in aggregator.yaml cannot be 'https://x:1'"),
            ({"address": "x:0"}, "'address' in aggregator.yaml cannot be 'x:0'"),
            ({"address": "x:65536"}, "'address' cannot be 'x:65536': ports end at 65535"),
            ({"listen": "0.0.0.0:70000"}, "'listen' cannot be '0.0.0.0:70000': ports end at 65535"),
            ({"superlink_port": 65536}, "'superlink_port' in aggregator.yaml cannot be 65536"),
            ({"superlink_port": 8444}, "'listen' and 'superlink_port' cannot both have port 8444"),
            ({"minimum_images": -1}, "'minimum_images' in aggregator.yaml cannot be -1"),
            ({"method": {"epoch": 1}}, "unknown key 'method.epoch' in aggregator.yaml; did you mean 'epochs'?"),
            ({"method": {"epochs": 0}}, "'method.epochs' in aggregator.yaml cannot be 0"),
        ],
    )
    def test_a_wrong_one_is_one_sentence(self, new_home, change, sentence):
        settings = new_home.path / "aggregator.yaml"
        settings.write_text(yaml.safe_dump(yaml.safe_load(settings.read_text()) | change))
        with pytest.raises(ConfigError) as caught:
            Home(new_home.path)
        assert str(caught.value).startswith(sentence)
        assert "\n" not in str(caught.value)

    def test_a_missing_one_is_one_sentence(self, new_home):
        (new_home.path / "aggregator.yaml").write_text("federation: north\n")
        with pytest.raises(ConfigError, match=r"^key 'address' is missing in aggregator.yaml; add it$"):
            Home(new_home.path)

    @pytest.mark.parametrize("text", ["- a\n", "a: [\n", "\x00"])
    def test_what_is_no_yaml_is_one_sentence(self, new_home, text):
        (new_home.path / "aggregator.yaml").write_text(text)
        with pytest.raises(ConfigError):
            Home(new_home.path)

    def test_a_folder_that_is_none_and_one_that_is_not_ours_to_read_say_so(self, tmp_path, monkeypatch):
        with pytest.raises(ConfigError, match="is not an aggregator's folder; make one with casam-aggregator init"):
            Home(tmp_path)

        def forbidden(*_arguments, **_how):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("os.stat", forbidden)
        with pytest.raises(ConfigError, match="is not an aggregator's folder"):
            Home(tmp_path / "theirs")

    def test_a_relative_path_holds_when_the_process_moves(self, new_home, monkeypatch, tmp_path):
        monkeypatch.chdir(new_home.path.parent)
        home = Home(type(new_home.path)(new_home.path.name))
        monkeypatch.chdir("/")
        assert home.path == new_home.path
        assert home.bank.is_dir()


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "host", "port"),
        [
            ("casam.hospital.org:443", "casam.hospital.org", 443),
            ("192.0.2.7:8443", "192.0.2.7", 8443),
            ("[2001:db8::7]:443", "2001:db8::7", 443),
            ("[::1]:1", "::1", 1),
        ],
    )
    def test_they_come_apart(self, address, host, port):
        assert host_and_port(address) == (host, port)

    @pytest.mark.parametrize(
        ("address", "listen"),
        [
            ("casam.hospital.org:443", "0.0.0.0:443"),
            ("192.0.2.7:8443", "0.0.0.0:8443"),
            ("[2001:db8::7]:443", "[::]:443"),
            ("nowhere", "0.0.0.0:nowhere"),
        ],
    )
    def test_who_comes_by_ipv6_is_listened_to_there(self, address, listen):
        assert default_listen(address) == listen

    def test_a_certificate_is_good_for_an_ipv6_address(self, quick, tmp_path):
        config = dataclasses.replace(CONFIG, address="[2001:db8::7]:8443", listen="[::]:8443")
        home = create_home(tmp_path / "aggregator", config)
        certificate = x509.load_pem_x509_certificate(home.server_certificate.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert "2001:db8::7" in map(str, names.get_values_for_type(x509.IPAddress))
        assert welcome_of(home, small_request("clinic")).address == "[2001:db8::7]:8443"


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


def test_settings_are_read_strictly():
    with pytest.raises(ConfigError, match="key 'federation' is missing"):
        from_mapping(AggregatorConfig, {}, "the options")
