"""What only some users need is installed by them: an extra of the package."""

import importlib.util

from casam_fed.errors import ConfigError

__all__ = ["require_extra"]


def require_extra(extra: str, *modules: str) -> None:
    """Check that an extra of the package is installed, without importing it.

    Raises:
        ConfigError: one of its modules is not there; the message has the command that installs it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"this needs {module}, which is not installed; run: pip install 'casam-fed[{extra}]'")
