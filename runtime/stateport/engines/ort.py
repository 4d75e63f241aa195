"""ONNX Runtime, on the CPU (`ort-cpu`) and on NVIDIA GPUs (`ort-cuda`)."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..contract import Contract, axis_sizes, resolve
from ..errors import EngineError, EngineUnavailable, InputError
from ..onnx_file import OnnxFile
from . import Status
from .base import Arrays

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

    def carrier(self) -> OrtCarrier:
        """A live sequence whose state stays on the engine's device."""
        return OrtCarrier(self._ort.OrtValue, self._session, self._contract, self._device)

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


class OrtCarrier:
    """One live sequence: what one call's state outputs are bound to, the next one's inputs are.

    On the CPU, for chunk sizes seen before, every buffer is there and bound already: a step copies
    the input in, runs, and copies the output out. On the GPU inputs and outputs are bound anew for
    each step and alone cross the bus; the state never leaves the device.
    """

    def __init__(
        self, ort_value: Any, session: Any, contract: Contract, device: tuple[str, int]
    ) -> None:
        self._ort_value = ort_value
        self._session = session
        self._contract = contract
        self._device = device
        self._state: list[Any] = []  # what the next step starts from
        self._other: list[Any] = []  # the other half of the ping-pong: where it may write
        self._swapped = False
        self._bound: dict[tuple[object, ...], _Bound | None] = {}

    def write(self, state: Arrays) -> None:
        """Replaces the state by a copy on the device."""
        arrays = [state[spec.input] for spec in self._contract.states]
        # On the CPU an OrtValue shares the array's memory, so the copy is ours to make.
        self._state = [self._value(np.array(array)) for array in arrays]
        self._other = [self._value(np.empty_like(array)) for array in arrays]
        self._swapped = False
        self._bound.clear()

    def read(self) -> dict[str, NDArray[Any]]:
        """A copy of the state in the host's memory."""
        pairs = zip(self._contract.states, self._state, strict=True)
        return {spec.input: np.array(value.numpy()) for spec, value in pairs}

    def step(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Runs one chunk and keeps the next state, unless the engine fails."""
        # Every microsecond here counts: the engine needs less than ten for a small network.
        key = inputs[0].shape if len(inputs) == 1 else tuple([array.shape for array in inputs])
        bound = self._bound.get(key)
        if bound is None and key not in self._bound:
            bound = self._bound[key] = self._bind(inputs)
        try:
            if bound is None:
                return self._step_unbound(inputs)
            for number, array in enumerate(inputs):
                bound.inputs[number][...] = array
            self._session.run_with_iobinding(bound.bindings[self._swapped])
        except Exception as error:  # ONNX Runtime's exceptions share no base but this
            raise EngineError(f"ONNX Runtime failed: {_reason(error)}") from error
        self._state, self._other = self._other, self._state
        self._swapped = not self._swapped
        return [buffer.copy() for buffer in bound.outputs]

    def _bind(self, inputs: Sequence[NDArray[Any]]) -> _Bound | None:
        """Buffers for chunks of this size, bound for both directions of the ping-pong."""
        sizes = self._sizes(inputs)
        outputs = self._contract.outputs
        known = {axis for spec in outputs for axis in spec.shape if isinstance(axis, str)}
        if self._device[0] != "cpu" or not known <= sizes.keys():
            return None
        bound = _Bound(
            inputs=[np.empty(array.shape, array.dtype) for array in inputs],
            outputs=[np.empty(resolve(spec.shape, sizes), spec.dtype) for spec in outputs],
        )
        halves = (self._state, self._other)
        if self._swapped:
            halves = (self._other, self._state)
        for before, after in (halves, halves[::-1]):
            bound.bindings.append(self._binding(bound, before, after))
        return bound

    def _binding(self, bound: _Bound, before: list[Any], after: list[Any]) -> Any:
        binding, contract = self._session.io_binding(), self._contract
        for spec, array in zip(contract.inputs, bound.inputs, strict=True):
            binding.bind_ortvalue_input(spec.name, self._value(array))
        for spec, array in zip(contract.outputs, bound.outputs, strict=True):
            binding.bind_ortvalue_output(spec.name, self._value(array))
        for state, old, new in zip(contract.states, before, after, strict=True):
            binding.bind_ortvalue_input(state.input, old)
            binding.bind_ortvalue_output(state.output, new)
        return binding

    def _step_unbound(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """A step for which the engine allocates: on the GPU, and for outputs of unknown size."""
        binding, contract = self._session.io_binding(), self._contract
        for spec, array in zip(contract.inputs, inputs, strict=True):
            binding.bind_cpu_input(spec.name, np.ascontiguousarray(array))
        for state, value in zip(contract.states, self._state, strict=True):
            binding.bind_ortvalue_input(state.input, value)
        for spec in contract.outputs:
            binding.bind_output(spec.name, "cpu")
        for state in contract.states:
            binding.bind_output(state.output, *self._device)
        self._session.run_with_iobinding(binding)
        results = binding.get_outputs()
        answers = [np.array(value.numpy()) for value in results[: len(contract.outputs)]]
        self._state = results[len(contract.outputs) :]
        self._bound.clear()  # they are bound to the state's old place
        return answers

    def _sizes(self, inputs: Sequence[NDArray[Any]]) -> dict[str, int]:
        specs = self._contract.inputs
        return axis_sizes(specs, {s.name: x.shape for s, x in zip(specs, inputs, strict=True)})

    def _value(self, array: NDArray[Any]) -> Any:
        return self._ort_value.ortvalue_from_numpy(array, *self._device)


@dataclass(frozen=True)
class _Bound:
    """Buffers for chunks of one size, and a binding for each direction of the ping-pong."""

    inputs: list[NDArray[Any]]
    outputs: list[NDArray[Any]]
    bindings: list[Any] = field(default_factory=list)


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
