"""Clean virtual environments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def make_venv(
    folder: Path,
    *requirements: str,
    python: str | Path = sys.executable,
    constraints: Path = Path("constraints.txt"),
) -> Path:
    """Makes the environment again, with these requirements in it, and returns its Python.

    `python` is the interpreter that it is of.

    Raises:
        subprocess.CalledProcessError: it cannot be made, or something does not install. What pip
            says goes to stderr.
    """
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    made = folder / "bin" / "python"
    pip: list[str | Path] = [made, "-m", "pip", "install", "--quiet", "-c", constraints]
    command = [*pip, "--disable-pip-version-check", *requirements]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return made.absolute()


def size_in_mb(folder: Path) -> float:
    """The size of an environment on disk, in 10**6 bytes."""
    return sum(f.lstat().st_size for f in folder.rglob("*") if not f.is_dir()) / 1e6
