"""Which environments `make compat` tries, each described by what pip is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compat.bounds import EXTRAS, SERVER_EXTRAS, lowest_of
from demo.wheel_check import wheel

RUNTIME: Final = Path("runtime/pyproject.toml")
EXPORTER: Final = Path("exporter/pyproject.toml")
CONSTRAINTS: Final = Path("constraints.txt")

PYTHONS: Final = ("3.11", "3.12", "3.13")
#: Of ONNX Runtime, those with which the newest opset is measured.
ORT: Final = (
    "1.15",
    "1.16",
    "1.17",
    "1.18",
    "1.20",
    "1.21",
    "1.22",
    "1.24",
    "1.26",
    "1.31",
    "1.32",
)
#: From this one on, ONNX Runtime is built for NumPy 2.
_FOR_NUMPY_2: Final = (1, 19)

#: What an environment takes on disk, in gigabytes. PyTorch from PyPI brings CUDA's libraries.
_SMALL: Final = 2
_LARGE: Final = 12


@dataclass(frozen=True)
class Environment:
    """One environment: what is installed there, and what is run.

    `pins` are constraints for pip, `requirements` what is installed. Where `promised`, it is a
    failure if it does not install. With `is_exporter` the exporter is tried, otherwise the runtime.
    """

    name: str
    python: str
    requirements: tuple[str, ...]
    pins: tuple[str, ...] = ()
    promised: bool = True
    is_exporter: bool = False
    gigabytes: int = _SMALL


def environments() -> Iterator[Environment]:
    """All of them, in the order of the table. The wheels must lie in dist/."""
    extras = ",".join(EXTRAS)
    runtime, exporter = wheel("stateport-[0-9]*"), wheel("stateport_exporter-*")
    everything = f"stateport[{extras}] @ {runtime}"
    oldest = PYTHONS[0]
    lowest = lowest_of(RUNTIME, EXTRAS)
    yield Environment("runtime lowest", oldest, (everything,), tuple(lowest.values()))
    for python in PYTHONS:
        yield Environment("runtime newest", python, (everything,))
    server = f"stateport[{','.join(SERVER_EXTRAS)}] @ {runtime}"
    yield Environment(
        "server lowest", oldest, (server,), tuple(lowest_of(RUNTIME, SERVER_EXTRAS).values())
    )
    yield Environment("server newest", PYTHONS[-1], (server,))
    for version in ORT:
        yield _with_ort(version, f"stateport @ {runtime}", lowest["numpy"])
    both = (f"stateport[cpu] @ {runtime}", f"stateport-exporter @ {exporter}")
    tools = ("pytest", "hypothesis")
    yield Environment(
        "exporter lowest",
        oldest,
        (*both, *tools),
        (*{**lowest_of(RUNTIME, ["cpu"]), **lowest_of(EXPORTER)}.values(),),
        is_exporter=True,
        gigabytes=_LARGE,
    )
    # PyTorch's oldest version may bring CUDA's libraries where that of development does not.
    yield Environment(
        "exporter lowest, PyTorch of development",
        oldest,
        (*both, *tools),
        (*{**lowest_of(RUNTIME, ["cpu"]), **lowest_of(EXPORTER), **_developed("torch")}.values(),),
        is_exporter=True,
    )
    yield Environment(
        "exporter newest", PYTHONS[-1], (*both, *tools), is_exporter=True, gigabytes=_LARGE
    )


def _developed(package: str) -> dict[str, str]:
    """The version of a package that the project is developed with, as a pin."""
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{package}=="):
            return {package: line.strip()}
    raise ValueError(f"{CONSTRAINTS} does not pin {package}.")


def _with_ort(version: str, runtime: str, numpy: str) -> Environment:
    """The runtime with one version of ONNX Runtime, and the NumPy that it was built for."""
    is_old = tuple(int(part) for part in version.split(".")) < _FOR_NUMPY_2
    return Environment(
        f"onnxruntime {version}",
        PYTHONS[0],
        (runtime, f"onnxruntime=={version}.*"),
        (numpy,) if is_old else (),
        promised=False,
    )
