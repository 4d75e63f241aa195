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
from . import Status
from .base import Arrays, Buffer, Buffers
from .failure import failure
from .requirements import library, no_lengths

#: What the option `precision` may be -> OpenVINO's name for it. It would pick bf16 by itself where
#: the machine has it, which loses three decimal digits; so float32 is said unless asked otherwise.
PRECISIONS: Final = {"float32": "f32", "bfloat16": "bf16"}
#: A number of float32 that bfloat16, with its 8 bits of mantissa, rounds to 1.
_NOT_IN_BFLOAT16: Final = 1 + 2**-12
#: Enough rows and columns for every kernel that OpenVINO may choose in bfloat16.
_PROBE_SIZE: Final = 64
#: OpenVINO's own names are taken too.
_FULL_NAMES: Final = {short: name for name, short in PRECISIONS.items()}


def open_engine(
    name: str,
    file: OnnxFile,
    threads: int | None,
    options: Mapping[str, object],
) -> OpenVinoEngine:
    """Loads a file; see `stateport.engines.open_engine`. The one option is `precision`."""
    precision = _precision(name, options)
    openvino = _require(name)
    no_lengths(name, file)
    settings = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": 1 if threads is None else threads,
        "NUM_STREAMS": 1,
    }
    try:
        compiled = _core(openvino).compile_model(str(file.path.resolve()), "CPU", settings)
    except Exception as error:  # RuntimeError mostly, and what its frontend raises
        raise failure(f"OpenVINO cannot load {file.path}: {_reason(error)}", error) from error
    return OpenVinoEngine(openvino, compiled, computed_precision(precision))


def status(name: str) -> Status:
    """Whether the engine works here, by loading the library and asking for its devices."""
    return Status(name, _version(_require(name)), None)


class OpenVinoEngine:
    """A graph in OpenVINO. Each thread that calls it borrows an infer request, or makes one."""

    name = "openvino"
    max_bound_calls = 32  # each is an infer request, with memory for all that stands between

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
        """An array of NumPy: it computes in the host's memory."""
        return np.zeros(shape, dtype)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        """An infer request of its own, which works in the arrays themselves."""
        # A shared tensor does not keep its array alive.
        held = {**inputs, **outputs}
        try:
            request = self._compiled.create_infer_request()
            for name, array in held.items():
                request.set_tensor(name, self._tensor(array, shared_memory=True))
        except Exception as error:  # an output that is an input has no tensor of its own
            raise failure(f"OpenVINO cannot bind its arrays: {_reason(error)}", error) from error

        def bound(_held: object = held) -> None:
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
    """The precision that OpenVINO really computes in on this processor when asked for `precision`.

    `precision` is only a hint to OpenVINO: without instructions for bfloat16 it computes in
    float32. So a small product is computed whose values bfloat16 cannot hold.
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
    return "float32" if np.array_equal(answer, values) else precision


def _precision(name: str, options: Mapping[str, object]) -> str:
    for option in sorted({*options} - {"precision"}):
        raise InputError(f"{name} has no option {option!r}; it takes precision.")
    precision = options.get("precision", "float32")
    if isinstance(precision, str):
        precision = _FULL_NAMES.get(precision, precision)
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InputError(
            f"precision is {precision!r}; {' or '.join(map(repr, PRECISIONS))} was expected."
        )
    return precision


def _require(name: str) -> ModuleType:
    openvino = library(name, "openvino", "openvino")
    if "CPU" not in _core(openvino).available_devices:
        raise EngineUnavailable(
            f"{name} runs on OpenVINO's CPU device, and OpenVINO {openvino.__version__} has none "
            "here. Use engine='ort-cpu'."
        )
    return openvino


@cache
def _core(openvino: ModuleType) -> Any:
    """The one core of this process, which lives as long as that.

    A core's CPU plugin gives its thread a stack for handlers of signals, and puts back the one
    before when it goes (SigAltStackSetup in OpenVINO's intel_cpu/src/plugin.cpp). With two cores,
    that may be the other one's, which is freed by then; and the next signal, such as Ctrl-C, ends
    the process.
    """
    return openvino.Core()


def _version(openvino: ModuleType) -> str:
    return f"openvino {str(openvino.__version__).partition('-')[0]}"


def _failure(error: Exception) -> EngineError:
    return failure(f"OpenVINO failed: {_reason(error)}", error)


def _reason(error: Exception) -> str:
    """The last line of what OpenVINO says, which starts with places in its own sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-2:]) if lines else type(error).__name__
