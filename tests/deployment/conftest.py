"""One running federation for all tests of this folder."""

import pytest

from .federation import Federation


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASAM_CACHE", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture(scope="session")
def federation(tmp_path_factory, cache):
    running = Federation(tmp_path_factory.mktemp("federation"))
    running.start()
    yield running
    assert running.stop() == 0
