"""Making an environment, trying it, and taking it away again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from compat.environments import Environment
from demo.clean_venv import make_venv

#: The packages whose versions the table shows.
SHOWN: Final = (
    *("numpy", "onnxruntime", "openvino", "tract", "onnx", "torch", "onnxscript", "onnx-ir"),
    *("click", "rich", "safetensors"),
)

#: The tests that an exporter's environment runs. They ask nothing of the newest ONNX Runtime.
_TESTS: Final = (
    "tests/exporter/capture/test_torch_export.py",
    "tests/exporter/test_export_module.py",
    "tests/exporter/layers/test_cells.py",
    "tests/exporter/loops/test_loops.py",
    "tests/exporter/states/test_hidden.py",
    "tests/exporter/streaming/test_streaming.py",
    "tests/cli/test_export.py",
)
_NETWORKS: Final = (
    "models.lstm:reference",
    "models.text_generator:trained",
    "models.sentiment:trained",
)

#: Set to anything, this lets an environment bring CUDA's libraries.
CUDA: Final = "STATEPORT_COMPAT_CUDA"

#: In seconds; what hangs is a failure.
_LIMIT: Final = 1800


@dataclass(frozen=True)
class Outcome:
    """What came of an environment.

    `failed` names what did, and why. `not_tried` is why it could not be tried, None where it was.
    """

    environment: Environment
    versions: Mapping[str, str] = field(default_factory=dict)
    passed: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    not_tried: str | None = None
    newest_opset: int | None = None

    def is_bad(self) -> bool:
        """Whether a promise is broken."""
        return bool(self.failed)

    def summary(self) -> str:
        """What the table says."""
        if self.not_tried is not None:
            return f"not tried: {self.not_tried}"
        opset = "" if self.newest_opset is None else f"; newest opset {self.newest_opset}"
        if self.failed:
            return f"FAILED: {', '.join(self.failed)}; {self.passed} passed{opset}"
        return f"{self.passed} passed{opset}"


def try_environment(environment: Environment, files: Path, build: Path) -> Outcome:
    """Makes the environment in `build`, runs its checks on `files`, and removes it."""
    python = find_python(environment.python)
    if python is None:
        return Outcome(environment, not_tried=f"no Python {environment.python} was found")
    free = shutil.disk_usage(build).free // 10**9
    if free < environment.gigabytes:
        room = f"it takes {environment.gigabytes} GB of disk, and {free} GB are free"
        return Outcome(environment, not_tried=room)
    folder = build / re.sub(r"[^a-z0-9.]+", "-", f"{environment.name} {environment.python}")
    try:
        pins = _pins(environment, python)
        if environment.is_exporter and brings_cuda(python, pins) and not os.environ.get(CUDA):
            return Outcome(
                environment,
                not_tried=f"PyTorch brings gigabytes of CUDA's libraries here; {CUDA}=1 tries it",
            )
        made = _install(environment, pins, python, folder)
    except subprocess.CalledProcessError:
        shutil.rmtree(folder, ignore_errors=True)
        if environment.promised:
            return Outcome(environment, failed={"install": "pip failed; see above"})
        return Outcome(environment, not_tried=f"it does not install on Python {environment.python}")
    try:
        versions = _versions(made)
        check = _check_exporter if environment.is_exporter else _check_runtime
        return check(environment, made, versions, files)
    finally:
        shutil.rmtree(folder)


def find_python(version: str) -> Path | None:
    """An interpreter of that version, "3.12": this one, one on the PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates: list[str | Path | None] = [sys.executable, shutil.which(f"python{version}")]
    candidates += sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in candidates:
        if candidate is None:
            continue
        answer = subprocess.run([candidate, "-c", ask], capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:  # a pyenv shim may be of no version at all
            return Path(candidate)
    return None


def _pins(environment: Environment, python: Path) -> list[str]:
    """What pip is held to; for the newest exporter, PyTorch alone."""
    if environment.is_exporter and not environment.pins:
        return [_newest_torch(python)]
    return list(environment.pins)


def brings_cuda(python: Path, pins: Sequence[str]) -> bool:
    """Whether this PyTorch would install CUDA's libraries. Nothing is installed to find out."""
    torch = [pin for pin in pins if pin.startswith("torch==")]
    asked: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--dry-run"]
    options = ["--ignore-installed", "--break-system-packages", "--report", "-"]
    report = subprocess.run([*asked, *options, *torch], capture_output=True, text=True, check=True)
    packages = [entry["metadata"]["name"] for entry in json.loads(report.stdout)["install"]]
    return any(package.startswith("nvidia-") for package in packages)


def _install(environment: Environment, pins: Sequence[str], python: Path, folder: Path) -> Path:
    constraints = folder.parent / f"{folder.name}.constraints.txt"
    constraints.write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
    return make_venv(folder, *environment.requirements, python=python, constraints=constraints)


def _newest_torch(python: Path) -> str:
    """PyTorch's newest version that installs, as a pin.

    Without one, pip may take a version that it has in a cheaper place for the newest.
    """
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check"]
    listed = subprocess.run(
        [*pip, "index", "versions", "torch"], capture_output=True, text=True, check=True
    )
    versions = re.search(r"Available versions: (.*)", listed.stdout)
    for version in versions[1].split(", ") if versions else ():
        # In the site's own environment nothing would be looked at that is installed already.
        attempt = [*pip, "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet"]
        found = subprocess.run(
            [*attempt, "--break-system-packages", f"torch=={version}"],
            capture_output=True,
            check=False,
        )
        if found.returncode == 0:
            return f"torch=={version}"
    raise subprocess.CalledProcessError(1, "pip index versions torch")


def _versions(python: Path) -> dict[str, str]:
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {each["name"]: each["version"] for each in json.loads(listed.stdout)}


def _check_runtime(
    environment: Environment, python: Path, versions: Mapping[str, str], files: Path
) -> Outcome:
    script = Path(__file__).with_name("check_runtime.py")
    result = _run([python, "-P", script, files.absolute()], cwd=files)
    lines = result.stdout.splitlines()
    if result.returncode != 0 or not lines:
        last = (result.stderr.strip() or "no message").splitlines()[-1]
        return Outcome(environment, versions, failed={"every check": last})
    told: dict[str, Any] = json.loads(lines[-1])
    return Outcome(
        environment,
        versions,
        passed=told["passed"],
        failed=told["failed"],
        newest_opset=told["newest_opset"],
    )


def _check_exporter(
    environment: Environment,
    python: Path,
    versions: Mapping[str, str],
    files: Path,
) -> Outcome:
    """The tests, from the repository's top but for the packages, and three exports by command."""
    usual = "not large and not patterns and not soak"
    options = ["-q", "-p", "no:cacheprovider", "-m", usual]
    result = _run([python, "-m", "pytest", *options, *_TESTS])
    failed = dict(re.findall(r"^(?:FAILED|ERROR) (\S+)(?: - (.*))?$", result.stdout, re.MULTILINE))
    counted = re.search(r"(\d+) passed", result.stdout)
    if result.returncode != 0 and not failed:
        failed["pytest"] = result.stdout[-2000:] + result.stderr[-2000:]
    passed = int(counted[1]) if counted else 0
    for target in _NETWORKS:
        made = files / "again.onnx"
        export = _run([python.with_name("stateport"), "export", target, "-o", made])
        if export.returncode == 0:
            passed += 1
        else:
            failed[f"export {target}"] = export.stderr.strip()
    return Outcome(environment, versions, passed=passed, failed=failed)


def _run(command: list[str | Path], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command that may fail, and keeps what it says."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=cwd, timeout=_LIMIT
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"it ran for more than {_LIMIT} seconds")
