"""Small real things that many tests need: a SAM of a few thousand weights, and a dataset on disk."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from casam_fed.backbone.backbones import Geometry
from casam_fed.backbone.model import Backbone, load_backbone
from casam_fed.backbone.sam_modules import build_sam

# Sums differ in their last bits with the number of threads, and a site sets it for its process: one number for all tests.
torch.set_num_threads(1)

TESTS = Path(__file__).parent
FIRST = (
    "deployment/test_crash.py",
    "simulations/sweep/test_sweep_run.py",
    "simulations/test_sim_run.py",
    "casam_fed/audit/test_defects.py",
    "deployment",
)
"""What takes longest, and mostly waits for processes."""

SLOW = (
    "deployment",
    "simulations/methods",
    "simulations/mini_sam",
    "simulations/sweep/test_sweep_run.py",
    "simulations/test_sim_run.py",
    "simulations/test_stages.py",
    "casam_fed/audit/test_defects.py",
    "casam_fed/audit/test_tiles.py",
    "casam_fed/bank/test_layer_bank_crash.py",
    "casam_fed/drawn",
    "casam_fed/host/test_supervision.py",
    "casam_fed/routing/test_overlap.py",
    "casam_fed/segmenting/test_command.py",
)
"""What `--fast` leaves out: whole federations and commands, crashes, training, and every defect of an export."""

TINY = Geometry(64, 16, 32, 32, 2, 2, 2, (1,), 64, 2, 32)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--fast`, for while one works; what counts is the whole suite."""
    parser.addoption("--fast", action="store_true", help="leave out what takes long")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what takes long where that is asked for."""
    slow = config.getoption("--fast") and any(collection_path == TESTS / name for name in SLOW)
    return True if slow else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest start first."""
    items.sort(key=lambda item: next((n for n, name in enumerate(FIRST) if item.path.is_relative_to(TESTS / name)), 99))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep a file's tests together, which share what is costly to make, where tests are spread over processes."""
    return _ByFile(config, log)


class _ByFile(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if path.endswith("test_defects.py"):
            # Of hundreds of independent tests, the longest file without waiting, several processes may have a share.
            return f"{path} {zlib.crc32(nodeid.encode()) % 3}"
        # Both look for what Ray leaves running.
        return "Ray" if path.endswith(("test_sim_run.py", "test_sweep_run.py")) else path


@pytest.fixture(scope="session")
def tiny_backbone() -> Backbone:
    """A SAM with a 64 px square, embeddings [32, 4, 4] and random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sam = build_sam(TINY)
    return Backbone("tiny", TINY, "a" * 64, sam, torch.device("cpu"))


@pytest.fixture(scope="session")
def mini_backbone() -> Backbone:
    """The mini SAM that ships with the package."""
    return load_backbone("mini", "cpu")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """The folder of stored embeddings for tests that start processes or share a site, one thread each."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASAM_CACHE", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """A folder with train/ and test/: 8 and 4 grey images, 48 x 64, each with two bright discs as instances."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for number in range(count):
            write_blobs(tmp_path / "blobs" / split, f"p{number // 2}_{number}", rng)
    return tmp_path / "blobs"


def write_blobs(folder: Path, name: str, rng: np.random.Generator) -> None:
    """Write one image and its instance mask."""
    rows, columns = np.mgrid[:48, :64]
    labels = np.zeros((48, 64), dtype=np.uint8)
    for label, x in ((1, 16), (2, 46)):
        cy, cx, radius = rng.uniform(16, 30), x + rng.uniform(-4, 4), rng.uniform(6, 11)
        labels[(rows - cy) ** 2 + (columns - cx) ** 2 < radius**2] = label
    image = np.clip(60 + 120 * (labels > 0) + rng.normal(0, 12, labels.shape), 0, 255).astype(np.uint8)
    for kind, pixels in (("images", image), ("masks", labels)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{name}.png")
