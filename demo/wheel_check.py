"""The wheels alone: one environment exports with both, another runs with the runtime's only.

Run by `make wheel-check`, after `make wheels`. It prints the sizes that the README states.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from demo.clean_venv import make_venv, size_in_mb

BUILD = Path("build")


def main() -> None:
    """Exports in one clean environment, verifies and runs in the other."""
    BUILD.mkdir(exist_ok=True)
    model = (BUILD / "wheel-check.onnx").absolute()
    runtime, exporter = wheel("stateport-[0-9]*"), wheel("stateport_exporter-*")
    runs = make_venv(BUILD / "wheel-venv", f"stateport[cpu] @ {runtime}")
    exports = make_venv(
        BUILD / "exporter-venv", f"stateport[cpu] @ {runtime}", f"stateport-exporter @ {exporter}"
    )
    stateport(exports, "export", str(Path("models/lstm.py").absolute()) + ":reference", "-o", model)
    for name in ("torch", "onnx", "onnxscript"):
        if run([runs, "-c", f"import {name}"]).returncode == 0:
            sys.exit(f"{name} can be imported where only the runtime is installed.")
    stateport(runs, "verify", model)
    refused = run([runs.with_name("stateport"), "export", "a:b", "-o", "c.onnx"])
    if refused.returncode != 1 or "pip install stateport-exporter" not in refused.stderr:
        sys.exit("Without the exporter, `stateport export` does not say how to install it.")
    print(f"with the runtime: {size_in_mb(BUILD / 'wheel-venv'):.0f} MB")
    print(f"with the exporter and PyTorch: {size_in_mb(BUILD / 'exporter-venv'):.0f} MB")


def wheel(pattern: str) -> str:
    """The one wheel of that name in dist/, as a URL."""
    (path,) = Path("dist").glob(f"{pattern}.whl")
    return path.absolute().as_uri()


def stateport(python: Path, *arguments: str | Path) -> None:
    """Runs the command of that environment, in a folder from which nothing can be imported."""
    command = [python.with_name("stateport"), *arguments]
    subprocess.run(command, check=True, cwd=BUILD / "wheel-venv")


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    """Runs a command that may fail, and keeps what it says."""
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=BUILD / "wheel-venv"
    )


if __name__ == "__main__":
    main()
