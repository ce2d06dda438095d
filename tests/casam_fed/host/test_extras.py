"""A missing extra is one sentence with the command that installs it."""

import pytest

from casam_fed.errors import ConfigError
from casam_fed.host.extras import require_extra


def test_what_is_there_is_not_asked_for():
    require_extra("sim", "json", "ray")


def test_what_is_missing_is_one_sentence_with_the_command():
    with pytest.raises(ConfigError) as caught:
        require_extra("sim", "json", "no_such_module")
    assert str(caught.value) == ("this needs no_such_module, which is not installed; run: pip install 'casam-fed[sim]'")
