"""ONNX Runtime, on the CPU (`ort-cpu`) and on NVIDIA GPUs (`ort-cuda`)."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..contract import Contract
from ..errors import EngineError, EngineUnavailable, InputError
from ..onnx_file import OnnxFile
from . import Status
from .base import Arrays, Carrier
from .bound import BoundCarrier

_PROVIDERS: Final = {"ort-cpu": "CPUExecutionProvider", "ort-cuda": "CUDAExecutionProvider"}
_EXTRAS: Final = {"ort-cpu": "stateport[cpu]", "ort-cuda": "stateport[gpu]"}
_WHEELS: Final = ("onnxruntime", "onnxruntime-gpu")

#: One thread is the default: a step of a recurrent network is too small to share out, and services
#: scale by streams (docs/performance.md).
DEFAULT_THREADS: Final = 1


def open_engine(
    name: str,
    file: OnnxFile,
    contract: Contract,
    threads: int | None,
    options: Mapping[str, object],
) -> OrtEngine:
    """Loads a file; see `stateport.engines.open_engine`. `ort-cuda` takes the option `device`."""
    device = _device(name, options)
    ort = _require(name)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = DEFAULT_THREADS if threads is None else threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # what matters comes as an exception, not on stderr
    if name == "ort-cpu" and any(weight.dtype == "float16" for weight in file.weights):
        # It computes these in float32, between casts. Its fusions do not know that, and take the
        # process down or leave operators without a kernel (onnxruntime#26717, #32186).
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    provider = _PROVIDERS[name]
    provider_options = {"device_id": str(device)} if name == "ort-cuda" else {}
    try:
        # ONNX Runtime's own check of external data takes the folder of the path that it is given.
        session = ort.InferenceSession(
            str(file.path.resolve()),
            settings,
            providers=[(provider, provider_options)],
            enable_fallback=0,  # it would print, and try other providers by itself
        )
    except Exception as error:  # its exceptions share no base but this
        raise EngineError(f"ONNX Runtime cannot load {file.path}: {_reason(error)}") from error
    if session.get_providers()[0] != provider:  # it falls back to the CPU with a mere warning
        raise EngineUnavailable(
            f"{name} could not start on this machine: ONNX Runtime {ort.__version__} has "
            f"{provider}, but it does not come up. CUDA 13, cuDNN 9 and a driver for them are "
            "needed; `stateport doctor` says more."
        )
    return OrtEngine(ort, session, contract, name, device)


def status(name: str) -> Status:
    """Whether the engine works here, by loading the library and asking for its providers."""
    try:
        ort = _require(name)
        if name == "ort-cuda":
            _try_cuda(ort)
    except EngineUnavailable as error:
        return Status(name, None, str(error))
    return Status(name, f"onnxruntime {ort.__version__}", None)


class OrtEngine:
    """A graph in ONNX Runtime. `InferenceSession.run` may be called from many threads."""

    def __init__(
        self, ort: ModuleType, session: Any, contract: Contract, name: str, device: int
    ) -> None:
        self.name = name
        self.precision = "float32"
        self.version = f"onnxruntime {ort.__version__}"
        self._ort = ort
        self._session = session
        self._contract = contract
        self._device = ("cuda", device) if name == "ort-cuda" else ("cpu", 0)

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once; every array is new."""
        try:
            result: list[NDArray[Any]] = self._session.run(list(outputs), dict(inputs))
        except Exception as error:  # ONNX Runtime's exceptions share no base but this
            raise EngineError(f"ONNX Runtime failed: {_reason(error)}") from error
        return result

    def carrier(self) -> Carrier:
        """A live sequence whose state stays on the engine's device."""
        kind, device = self._device
        if kind == "cpu":
            return BoundCarrier(self._contract, self)
        return CudaCarrier(self._ort.OrtValue, self._session, self._contract, device)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Callable[[], None]:
        """On the CPU the engine works in the arrays themselves, without a copy."""
        if self._device[0] != "cpu":

            def copied() -> None:
                for name, result in zip(outputs, self.run(inputs, [*outputs]), strict=True):
                    np.copyto(outputs[name], result)

            return copied
        binding = self._session.io_binding()
        value = self._ort.OrtValue.ortvalue_from_numpy
        # An OrtValue shares its array's memory, so the arrays have to live as long as the call.
        held = (dict(inputs), dict(outputs))
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, value(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, value(array))

        def bound(_held: object = held) -> None:
            try:
                self._session.run_with_iobinding(binding)
            except Exception as error:  # ONNX Runtime's exceptions share no base but this
                raise EngineError(f"ONNX Runtime failed: {_reason(error)}") from error

        return bound


class CudaCarrier:
    """One live sequence on a GPU: a call's state outputs are the next call's inputs.

    Inputs and outputs are bound anew for each step and alone cross the bus; the state never leaves
    the device.
    """

    def __init__(self, ort_value: Any, session: Any, contract: Contract, device: int) -> None:
        self._ort_value = ort_value
        self._session = session
        self._contract = contract
        self._device = ("cuda", device)
        self._state: list[Any] = []

    def write(self, state: Arrays) -> None:
        """Replaces the state by a copy on the device."""
        value = self._ort_value.ortvalue_from_numpy
        arrays = [np.ascontiguousarray(state[spec.input]) for spec in self._contract.states]
        self._state = [value(array, *self._device) for array in arrays]

    def read(self) -> dict[str, NDArray[Any]]:
        """A copy of the state in the host's memory."""
        pairs = zip(self._contract.states, self._state, strict=True)
        return {spec.input: np.array(value.numpy()) for spec, value in pairs}

    def step(self, inputs: Sequence[NDArray[Any]], shapes: Hashable) -> list[NDArray[Any]]:  # noqa: ARG002
        """Runs one chunk and keeps the next state, unless the engine fails."""
        binding, contract = self._session.io_binding(), self._contract
        for spec, array in zip(contract.inputs, inputs, strict=True):
            binding.bind_cpu_input(spec.name, np.ascontiguousarray(array))
        for state, value in zip(contract.states, self._state, strict=True):
            binding.bind_ortvalue_input(state.input, value)
        for spec in contract.outputs:
            binding.bind_output(spec.name, "cpu")
        for state in contract.states:
            binding.bind_output(state.output, *self._device)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions share no base but this
            raise EngineError(f"ONNX Runtime failed: {_reason(error)}") from error
        results = binding.get_outputs()
        answers = [np.array(value.numpy()) for value in results[: len(contract.outputs)]]
        self._state = results[len(contract.outputs) :]
        return answers


def _reason(error: Exception) -> str:
    """ONNX Runtime's message in one line, without its own error code in front."""
    text = " ".join(str(error).split())
    return text.removeprefix("[ONNXRuntimeError] : ")


def _device(name: str, options: Mapping[str, object]) -> int:
    known = {"device"} if name == "ort-cuda" else set()
    for option in sorted({*options} - known):
        raise InputError(f"{name} has no option {option!r}; it takes {', '.join(known) or 'none'}.")
    device = options.get("device", 0)
    if type(device) is not int or device < 0:
        raise InputError(
            f"device is {device!r}; the number of a GPU was expected, 0 for the first."
        )
    return device


def _require(name: str) -> ModuleType:
    """ONNX Runtime, in the build that the engine needs."""
    wheels = [wheel for wheel in _WHEELS if _installed(wheel)]
    if len(wheels) > 1:
        raise EngineUnavailable(
            "onnxruntime and onnxruntime-gpu are both installed, and each overwrites files of the "
            "other. Remove both (pip uninstall onnxruntime onnxruntime-gpu), then install one: "
            f"pip install '{_EXTRAS[name]}'."
        )
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EngineUnavailable(
            f"{name} needs ONNX Runtime, which cannot be imported ({error}). "
            f"Install it: pip install '{_EXTRAS[name]}'."
        ) from error
    if _PROVIDERS[name] not in ort.get_available_providers():
        raise EngineUnavailable(
            f"{name} needs the GPU build of ONNX Runtime; the CPU build {ort.__version__} is "
            f"installed. Replace it: pip uninstall onnxruntime, then "
            f"pip install '{_EXTRAS[name]}'. To run on the CPU, say engine='ort-cpu'."
        )
    if name == "ort-cuda" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that wheels brought
    return ort


def _try_cuda(ort: ModuleType) -> None:
    """A first allocation on the GPU: the cheapest thing that fails where CUDA does not work."""
    try:
        ort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", 0)
    except Exception as error:  # ONNX Runtime's exceptions share no base but this
        raise EngineUnavailable(f"ort-cuda does not come up: {_reason(error)}") from error


def _installed(wheel: str) -> bool:
    try:
        importlib.metadata.distribution(wheel)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
