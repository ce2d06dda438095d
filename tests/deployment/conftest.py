"""One running federation for all tests of this folder."""

import pytest

from .federation import Federation


@pytest.fixture(scope="session")
def federation(tmp_path_factory, cache):
    running = Federation(tmp_path_factory.mktemp("federation"))
    running.start()
    yield running
    assert running.stop() == 0
