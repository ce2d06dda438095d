"""`casam`: cheap to start, and honest in its exit codes."""

import subprocess
import sys

import pytest

CASAM = "from simulations.cli import main; main()"


def casam(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", before + CASAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["backbone", "list"], ["backbone", "--help"]])
def test_listing_what_there_is_loads_nothing_heavy(arguments):
    check = (
        "import atexit, os, sys\n"
        "def check():\n"
        "    heavy = {'torch', 'flwr', 'ray', 'matplotlib', 'monai'} & set(sys.modules)\n"
        "    if heavy:\n"
        "        print('loaded', heavy, file=sys.stderr); sys.stderr.flush(); os._exit(9)\n"
        "atexit.register(check)\n"
    )
    done = casam(*arguments, before=check)
    assert done.returncode == 0, done.stderr


def test_telemetry_is_off_before_a_command_is_imported():
    names = ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "RAY_USAGE_STATS_ENABLED")
    check = (
        "import sys, os\n"
        "class Spy:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'simulations.backbone_command':\n"
        f"            print([os.environ.get(key) for key in {names}])\n"
        "sys.meta_path.insert(0, Spy())\n"
    )
    assert "['0', '1', '0']" in casam("backbone", "list", before=check).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonsense"], 2, "No such command"),
        (["backbone", "verify", "vit_x"], 1, "casam: unknown backbone 'vit_x'; choose one of mini, vit_b"),
        (["backbone", "pull", "mini"], 1, "ships with casam-fed"),
        (["backbone", "import", "nowhere.pth"], 1, "no checkpoint at nowhere.pth"),
        (["backbone", "verify", "mini"], 0, "mini: verified"),
    ],
)
def test_exit_codes(arguments, code, words):
    done = casam(*arguments)
    assert done.returncode == code
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_defect():
    done = subprocess.run(
        f"{sys.executable} -c '{CASAM}' backbone list --json | head -c 1", shell=True, capture_output=True, check=False
    )
    assert b"Traceback" not in done.stderr
