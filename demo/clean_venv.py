"""Clean virtual environments."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path


def make_venv(folder: Path, *requirements: str) -> Path:
    """Makes the environment anew, with these requirements in it, and returns its Python."""
    venv.create(folder, clear=True, with_pip=True)
    python = folder / "bin" / "python"
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "-c", "constraints.txt", *requirements], check=True, stdout=sys.stderr)
    return python.absolute()


def size_in_mb(folder: Path) -> float:
    """The size of an environment on disk, in 10**6 bytes."""
    return sum(f.lstat().st_size for f in folder.rglob("*") if not f.is_dir()) / 1e6
