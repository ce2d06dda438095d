"""Which room may import which: downwards only, without a circle, and without torch where it says so."""

import graphlib
import subprocess
import sys

import pytest

from ..rooms import PICTURE, ROOMS, ROOT, drawn, imports, modules, room_of

KNOWN = modules()
IMPORTED = {name: set(imports(name, path, KNOWN)) - {name} for name, path in KNOWN.items()}


def test_every_package_is_a_room():
    packages = {name for name, path in KNOWN.items() if path.name == "__init__.py" and name.count(".") <= 1}
    packages -= {name for name in packages if not name.startswith("casam_fed") and "." in name}
    assert packages == {room.name for room in ROOMS if KNOWN[room.name].name == "__init__.py"}
    # Only the package itself, in which others are, holds nothing beside them.
    assert {name for name in KNOWN if room_of(name).name == "casam_fed"} == {"casam_fed"}


def test_imports_go_down_only():
    assert len(KNOWN) > 150
    upwards = {
        f"{module} imports {other}"
        for module, others in IMPORTED.items()
        for other in others
        if room_of(other) != room_of(module) and room_of(other).level >= room_of(module).level
    }
    assert not upwards


def test_no_import_leads_back():
    """Not within a room either. A package is not led back to by what is in it."""
    graph = {
        module: {other for other in others if not module.startswith(f"{other}.")} for module, others in IMPORTED.items()
    }
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_imports_inside_functions_count_too(tmp_path):
    path = tmp_path / "late.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from casam_fed.bank import release\n"
        "def late():\n    import casam_fed.host.files as files\n    from .home import Home\n"
    )
    found = set(imports("aggregator.late", path, KNOWN))
    assert found == {"casam_fed.bank.release", "casam_fed.host.files", "aggregator.home"}


@pytest.mark.parametrize("room", [room.name for room in ROOMS if not room.torch])
def test_a_room_without_torch_imports_none(room):
    names = [name for name in KNOWN if room_of(name).name == room and not name.endswith("__main__")]
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = set(done.stdout.split())
    assert set(names) <= loaded
    assert not loaded & {"torch", "flwr", "ray"}


def test_the_picture_in_the_docs_is_the_one_that_the_order_gives():
    """`python tests/rooms.py` writes it anew."""
    assert PICTURE.read_text(encoding="utf-8") == drawn()
    assert "(../images/rooms.svg)" in (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
