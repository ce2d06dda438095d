"""CA-SAM (arXiv 2511.17201) for streams of institutions: the method, without any network code.

    from casam_fed import open_bank

    bank = open_bank("runs/demo")
    found = bank.segment("image.png", boxes={"polyp": [(12, 40, 96, 130)]})
    found.masks["polyp"], found.route.task, found.route.why

Importing this package is cheap: what it offers is imported when it is first asked for, and torch with it.
"""

import importlib

__all__ = ["CasamError", "CaseRoute", "Found", "OpenedBank", "__version__", "open_bank", "segment"]

__version__ = "0.1.0"

# Their types stand in __init__.pyi.
_HOMES = dict.fromkeys(("CaseRoute", "Found", "OpenedBank", "open_bank", "segment"), "casam_fed.segmenting.opened")
_HOMES["CasamError"] = "casam_fed.errors"


def __getattr__(name: str) -> object:
    """Import what is public when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
