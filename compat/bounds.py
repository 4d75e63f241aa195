"""The lower bounds that the two distributions state."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

#: The extras that one environment can hold together; `gpu` excludes `cpu`, and needs a GPU.
EXTRAS: Final = ("cpu", "openvino", "tract", "onnx-reference")
#: Those of a server and of data sets: the lowest protobuf is too old for onnx. `ray` has a suite of
#: its own, `make ray-check`.
SERVER_EXTRAS: Final = ("cpu", "serve", "data")

#: The other distribution, of which the exporter takes the same minor version.
_SIBLING: Final = "stateport>="

#: "onnxruntime>=1.20".
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9][0-9.]*))?")


def lowest_of(project: Path, extras: Iterable[str] = ()) -> dict[str, str]:
    """Each dependency of a project and of these extras, at exactly its lower bound.

    Args:
        project: the file pyproject.toml.
        extras: names of its optional dependencies.

    Returns:
        Names of packages, and pins: {"numpy": "numpy==1.26"}. The other distribution of this
        project is left out.

    Raises:
        ValueError: a dependency has something else than one lower bound.
    """
    described: Any = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    requirements = list(described["dependencies"])
    for extra in extras:
        requirements += described["optional-dependencies"][extra]
    return pins(requirements)


def pins(requirements: Iterable[str]) -> dict[str, str]:
    """Requirements such as "numpy>=1.26" as pins, {"numpy": "numpy==1.26"}.

    Raises:
        ValueError: a requirement is not a name and one lower bound.
    """
    found = {}
    for requirement in requirements:
        if requirement.startswith(_SIBLING):
            continue
        named, _, _ = requirement.partition(";")  # a marker says where it is needed
        match = _REQUIREMENT.fullmatch(named.strip())
        if match is None or match[2] is None:
            raise ValueError(
                f"{requirement!r} is no name with one lower bound, as numpy>=1.26; make compat "
                "would not know what to try."
            )
        found[match[1]] = f"{match[1]}=={match[2]}"
    return found
