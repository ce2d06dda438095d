"""What all tests of the audit share."""

import os

import pytest


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush nothing: what a killed process has written stays, and no test here cuts the power.

    That entries are flushed, and before what, is shown by tests that watch the calls.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
