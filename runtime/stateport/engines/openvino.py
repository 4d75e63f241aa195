# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the CPU (`openvino`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, EngineUnavailable, InputError
from ..model_file.onnx_outline import OnnxFile
from ..suggestions import did_you_mean
from . import Status
from .base import Arrays, Buffer, Buffers, EngineFacts
from .failure import failure
from .requirements import library, no_lengths

#: The values of the option `precision` -> OpenVINO's names for them. By default OpenVINO computes
#: in bf16 where the processor can, which loses three decimal digits; so it always gets a precision.
PRECISIONS: Final = {"float32": "f32", "bfloat16": "bf16"}
_FACTS: Final = EngineFacts(
    packages=("openvino",),
    install="pip install 'stateport[openvino]'",
    precisions={"float32": {}, "bfloat16": {"precision": "bfloat16"}},
    step_graphs=True,
)
#: OpenVINO's own names are accepted, too.
_FULL_NAMES: Final = {short: name for name, short in PRECISIONS.items()}
#: A float32 number that bfloat16, with its 8 bits of mantissa, rounds to 1.
_NOT_IN_BFLOAT16: Final = 1 + 2**-12
#: Rows and columns of a small product: enough for every kernel that OpenVINO has for bfloat16.
_PROBE_SIZE: Final = 64


def open_engine(
    name: str,
    file: OnnxFile,
    threads: int | None,
    options: Mapping[str, object],
) -> OpenVinoEngine:
    """Loads a file; see `stateport.engines.open_engine`. The only option is `precision`."""
    precision = _read_precision(name, options)
    openvino = _import_openvino(name)
    no_lengths(name, file)

    settings = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": 1 if threads is None else threads,
        "NUM_STREAMS": 1,
    }
    try:
        compiled = _core(openvino).compile_model(str(file.path.resolve()), "CPU", settings)
    except Exception as error:  # mostly RuntimeError, but its frontend raises others
        raise failure(f"OpenVINO cannot load {file.path}: {_reason(error)}", error) from error
    return OpenVinoEngine(openvino, compiled, computed_precision(precision))


def facts(name: str) -> EngineFacts:  # noqa: ARG001
    """The facts about the engine."""
    return _FACTS


def status(name: str) -> Status:
    """Whether the engine works here, by loading the library and asking for its devices."""
    return Status(name, _version(_import_openvino(name)), None)


class OpenVinoEngine:
    """A graph in OpenVINO. Each thread that calls it borrows an infer request, or makes one."""

    name = "openvino"
    max_bound_calls = 32  # each is an infer request, with memory for all intermediate values

    def __init__(self, openvino: ModuleType, compiled: Any, precision: str) -> None:
        self.version = _version(openvino)
        self.precision = precision
        self._tensor = openvino.Tensor
        self._compiled = compiled
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once; every array is new."""
        try:
            request = self._idle_request()
            for name, array in inputs.items():
                request.set_tensor(name, self._tensor(np.ascontiguousarray(array)))
            request.infer()
            results = [np.array(request.get_tensor(name).data) for name in outputs]
        except Exception as error:
            raise _failure(error) from error

        self._idle.put(request)
        return results

    def zeros(self, shape: Sequence[int], dtype: Any) -> Buffer:
        """A NumPy array: OpenVINO computes in the host's memory."""
        return np.zeros(shape, dtype)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        """A new infer request, which works in the arrays themselves."""
        arrays = {**inputs, **outputs}
        try:
            request = self._compiled.create_infer_request()
            for name, array in arrays.items():
                request.set_tensor(name, self._tensor(array, shared_memory=True))
        except Exception as error:  # an output that is an input cannot be bound
            raise failure(f"OpenVINO cannot bind its arrays: {_reason(error)}", error) from error

        # A shared tensor does not keep its array alive: the default argument does.
        def bound(_arrays: object = arrays) -> None:
            try:
                request.infer()
            except Exception as error:
                raise _failure(error) from error

        return bound

    def _idle_request(self) -> Any:
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._compiled.create_infer_request()


@cache
def computed_precision(precision: str) -> str:
    """The precision in which OpenVINO computes on this processor when asked for `precision`.

    `precision` is only a hint to OpenVINO: without instructions for bfloat16 it computes in
    float32. This is measured by a small product of values that bfloat16 cannot represent.
    """
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter([1, _PROBE_SIZE], np.float32)
    product = ops.matmul(x, ops.constant(np.eye(_PROBE_SIZE, dtype=np.float32)), False, False)
    model = openvino.Model([product], [x])
    settings = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision], "INFERENCE_NUM_THREADS": 1}
    request = _core(openvino).compile_model(model, "CPU", settings).create_infer_request()

    values = np.full((1, _PROBE_SIZE), _NOT_IN_BFLOAT16, np.float32)
    (answer,) = request.infer([values]).values()
    if np.array_equal(answer, values):
        return "float32"
    return precision


def _read_precision(name: str, options: Mapping[str, object]) -> str:
    for option in sorted({*options} - {"precision"}):
        hint = did_you_mean(option, ["precision"])
        raise InputError(f"{name} has no option {option!r}; it takes precision.{hint}")

    precision = options.get("precision", "float32")
    if isinstance(precision, str):
        precision = _FULL_NAMES.get(precision, precision)

    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InputError(
            f"precision is {precision!r}; {' or '.join(map(repr, PRECISIONS))} was expected."
        )
    return precision


def _import_openvino(name: str) -> ModuleType:
    """OpenVINO, if it has the CPU device that this engine runs on."""
    openvino = library(name, "openvino", _FACTS.install)
    if "CPU" not in _core(openvino).available_devices:
        raise EngineUnavailable(
            f"{name} runs on OpenVINO's CPU device, and OpenVINO {openvino.__version__} has none "
            "here. Use engine='ort-cpu'."
        )
    return openvino


@cache
def _core(openvino: ModuleType) -> Any:
    """The only core of this process, which lives as long as the process.

    A core's CPU plugin installs a stack for signal handlers in its thread, and restores the
    previous stack when the core is deleted (SigAltStackSetup in OpenVINO's
    intel_cpu/src/plugin.cpp). With two cores, the previous stack may belong to the second core and
    be freed already; then the next signal, such as Ctrl-C, ends the process.
    """
    return openvino.Core()


def _version(openvino: ModuleType) -> str:
    return f"openvino {str(openvino.__version__).partition('-')[0]}"


def _failure(error: Exception) -> EngineError:
    return failure(f"OpenVINO failed: {_reason(error)}", error)


def _reason(error: Exception) -> str:
    """The last two lines of OpenVINO's message; before them are positions in its own sources."""
    lines = []
    for line in str(error).splitlines():
        if line.strip():
            lines.append(line.strip())

    return " ".join(lines[-2:]) if lines else type(error).__name__
