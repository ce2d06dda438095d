"""The package as a wheel in an environment of its own, beside the installed dependencies, away from the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

__all__ = ["apart", "installed"]

ROOT = Path(__file__).parents[2]


def installed(folder: Path) -> Path:
    """Build sdist and wheel, install the wheel, and return the folder of the environment's programs."""
    run("-m", "hatchling", "build", "--directory", folder / "dist", cwd=ROOT)
    (wheel,) = (folder / "dist").glob("*.whl")
    assert list((folder / "dist").glob("*.tar.gz"))
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    programs = environment / "bin"
    python = programs / "python"
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # A line in a .pth adds the folder, but reads no .pth in it: the editable install there is not found.
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    for program in Path(sys.executable).parent.glob("fl*w*r*"):
        lines = program.read_text().splitlines()
        (programs / program.name).write_text("\n".join([f"#!{python}", *lines[1:]]) + "\n")
        (programs / program.name).chmod(0o755)
    return programs


def run(*arguments: object, **options: object) -> None:
    """Run this Python and check that it ends well."""
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr


def apart(programs: Path) -> dict[str, str]:
    """Return an environment in which nothing leads to the checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
