"""A new aggregator's folder: private, whole or not at all."""

import dataclasses
import stat

import pytest

from aggregator import founding
from aggregator.authority import authority_pem, days_left
from aggregator.founding import create_home
from aggregator.home import AggregatorConfig, Home
from casam_fed.backbone.backbones import backbone_card
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.config import MethodConfig
from casam_fed.errors import BackboneError, ConfigError, KeyFileError, StorageError

CONFIG = AggregatorConfig("north", "127.0.0.1:8443", "127.0.0.1:8443", 18443)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


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

    def test_the_next_one_of_a_process_encodes_no_image_again(self, made_home, tmp_path, monkeypatch):
        monkeypatch.setattr(founding, "load_backbone", lambda *arguments: pytest.fail("loaded again"))
        config = dataclasses.replace(CONFIG, method=MethodConfig(device="cpu"))
        other = create_home(tmp_path / "other", config)
        assert LayerBank(other.bank).snapshot() == LayerBank(made_home.bank).snapshot()
        assert other.probes.read_bytes() == made_home.probes.read_bytes()

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
