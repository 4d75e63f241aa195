"""Every kind of network on every engine that is here, and streams carried between them.

What an engine cannot do stands below by name: it must be refused, or fail, exactly so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from torch import nn

from stateport import engines
from stateport.engines.choice import EngineChoice
from stateport.parity.matrix import Matrix, run_matrix
from stateport.parity.reports.wording import reason
from stateport_exporter import export
from tests.exporter.patterns import PATTERNS, Pattern, seeded
from tests.references import REFERENCES

#: All but CUDA, which is judged where a GPU is.
ENGINES: Final = ("ort-cpu", "openvino", "tract", "onnx-reference")
CUDA: Final = ("ort-cuda",) if engines.status("ort-cuda").problem is None else ()
#: Judged where STATEPORT_NODE_MODULES names its packages; `make javascript` insists on it.
NPM: Final = tuple(e for e in ("ort-node", "ort-web") if engines.status(e).problem is None)
#: Needs a C compiler and stateport-exporter's extra `c`.
C: Final = ("c",) if engines.status("c").problem is None else ()

_RELU = "Unknown activation function 'Relu'"
_LENGTHS = "ignores the lengths of rows"
_OPEN_SIZES = "tract failed"
_STEPS = "C source takes one step after the other"

#: (pattern, engine) -> what the engine says, or how it is caught.
LIMITS: Final[dict[tuple[str, str], str]] = {
    ("Layers: `nn.RNN`, relu, two layers", "onnx-reference"): _RELU,
    ("Layers: `nn.RNNCell`, relu, no bias", "onnx-reference"): _RELU,
    # tract computes tanh, whatever `activations` says.
    ("Layers: `nn.RNN`, relu, two layers", "tract"): "off at step",
    ("Layers: `nn.RNNCell`, relu, no bias", "tract"): "off at step",
    # tract's Scan wants shapes that the body does not have, and no reversed axis of open size.
    ("Loops over time: a spiking cell (leaky integrate-and-fire)", "tract"): _OPEN_SIZES,
    ("Loops over time: a loop backwards", "tract"): _OPEN_SIZES,
    ("Loops over time: two loops, there and back", "tract"): _OPEN_SIZES,
    # tract compares no booleans, as masks of attention need, and does not know windows' sizes.
    **{
        (str(pattern), "tract"): "Bool is not a number|Impossible to unify"
        for pattern in PATTERNS
        if ("window_steps", "window_steps_n") in pattern.states
    },
    # OpenVINO takes the gates for those of its GRU cell, and then splits their bias.
    ("Loops over time: one step of a cell written by hand", "openvino"): "Axis 1 out of",
    **{
        (str(pattern), engine): _LENGTHS
        for pattern in PATTERNS
        if pattern.group == "Lengths"
        for engine in ENGINES[1:]
    },
    # c computes one step, for each row and step of a call.
    **{
        (str(pattern), "c"): _STEPS
        for pattern in PATTERNS
        if not pattern.streams or pattern.group == "Lengths"
    },
    ("Layers: result reshaped to (batch * time, features)", "c"): "axis 'batch.time'",
    ("Carried: a loop that sees the number of its step", "c"): "count_n has no axis 'batch'",
    ("States: cleared by a mask at the start of a call", "c"): "once in each call",
    ("States: cleared by torch.where at the start of a call", "c"): "once in each call",
}


def judged(module: nn.Module, example: object, folder: Path, method: str = "forward") -> Matrix:
    path = folder / "m.onnx"
    result = export(module, example, path, method=method)  # type: ignore[arg-type]
    choices = [EngineChoice(name) for name in (*ENGINES, *CUDA, *NPM, *C)]
    return run_matrix(path, result.vectors, choices)


def check(matrix: Matrix, limits: dict[str, str], *, stateful: bool) -> None:
    """Every engine passes and takes every other's state, but for those with a limit."""
    for row in matrix.rows:
        says = limits.get(row.choice.name)
        if says is None:
            assert row.status == "passed", f"{row.choice}: {reason(row)}"
        else:
            assert row.status in ("failed", "error"), f"{row.choice} passes now"
            assert re.search(says, str(reason(row))), reason(row)
    good = {row.choice.name for row in matrix.rows} - limits.keys()
    between = [c for c in matrix.carried if {c.source, c.target} <= good]
    for carried in between:
        assert carried.status == "passed", (
            f"{carried.source} to {carried.target}: {reason(carried)}"
        )
    assert len(between) == (len(good) * (len(good) - 1) if stateful else 0)


@pytest.mark.parametrize("name", REFERENCES)
def test_the_reference_networks(name: str, tmp_path: Path) -> None:
    module = REFERENCES[name]()
    limits = {"c": _STEPS} if name == "bidirectional" and C else {}
    check(judged(module, module.example_inputs, tmp_path), limits, stateful=True)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_one_network_of_every_kind(pattern: Pattern, tmp_path: Path) -> None:
    matrix = judged(seeded(pattern.make), pattern.example, tmp_path, pattern.method)
    limits = {engine: says for (name, engine), says in LIMITS.items() if name == str(pattern)}
    check(matrix, limits, stateful=bool(pattern.states))
