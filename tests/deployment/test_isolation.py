"""Nothing phones home: in a network that has only loopback, a join works, and no packet wanted to go elsewhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NETWORK = ["unshare", "--net", "--map-root-user"]


def without_routes(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    shell = [*NETWORK, "sh", "-c", f'ip link set lo up && exec "$@" {command}', "sh", *arguments]
    return subprocess.run(shell, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)


def test_a_join_talks_to_the_aggregator_and_to_nobody_else(tmp_path, cache):
    if not (shutil.which("unshare") and shutil.which("ip")) or without_routes("", "true").returncode != 0:
        pytest.skip("network namespaces are not permitted here (unshare of util-linux, ip of iproute2)")
    done = without_routes("", sys.executable, "-m", "tests.deployment.isolated_join", str(tmp_path))
    assert "stage 1, alone: IoU" in done.stdout, done.stdout + done.stderr
    assert "elsewhere 0, and 1 when one was made on purpose" in done.stdout
