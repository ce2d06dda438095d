"""An aggregator's settings and addresses: refused with one sentence where one is wrong."""

import dataclasses

import pytest
import yaml
from cryptography import x509

from aggregator.enrolment import welcome_of
from aggregator.founding import create_home
from aggregator.home import AggregatorConfig, Home, default_listen, host_and_port
from casam_fed.config import MethodConfig, from_mapping
from casam_fed.errors import ConfigError

from .small_sites import small_request

CONFIG = AggregatorConfig("north", "127.0.0.1:8443", "127.0.0.1:8443", 18443)


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


def test_settings_are_read_strictly():
    with pytest.raises(ConfigError, match="key 'federation' is missing"):
        from_mapping(AggregatorConfig, {}, "the options")
