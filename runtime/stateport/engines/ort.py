# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime, on the CPU (`ort-cpu`) and on NVIDIA GPUs (`ort-cuda`)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..axes import is_count
from ..errors import EngineError, EngineUnavailable, InputError
from ..model_file.onnx_outline import OnnxFile
from ..suggestions import did_you_mean
from . import Status
from .base import Arrays, Buffer, Buffers, EngineFacts
from .cuda_libraries import why_cuda_fails
from .device_array import DeviceArray
from .failure import failure
from .requirements import NotInstalledError, library
from .too_new import too_new

_PROVIDERS: Final = {"ort-cpu": "CPUExecutionProvider", "ort-cuda": "CUDAExecutionProvider"}
_FACTS: Final = {
    "ort-cpu": EngineFacts(
        packages=("onnxruntime",), install="pip install 'stateport[cpu]'", step_graphs=True
    ),
    "ort-cuda": EngineFacts(packages=("onnxruntime-gpu",), install="pip install 'stateport[gpu]'"),
}
_WHEELS: Final = ("onnxruntime", "onnxruntime-gpu")

#: With this variable set, ONNX Runtime sends nothing.
_TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"

#: The number of a call that is neither captured as a CUDA graph nor replayed.
_NO_GRAPH: Final = -1

#: One thread is the default: a step of a recurrent network is too small to be divided, and services
#: scale by streams (docs/performance.md).
DEFAULT_THREADS: Final = 1


def open_engine(
    name: str,
    file: OnnxFile,
    threads: int | None,
    options: Mapping[str, object],
) -> OrtEngine:
    """Loads a file; see `stateport.engines.open_engine`.

    `ort-cuda` takes the options `device` and `graphs`.
    """
    device, graphs = _read_options(name, options)
    ort = _import_ort(name)
    settings = _session_settings(ort, name, file, threads)
    provider = _PROVIDERS[name]
    provider_options = _cuda_options(device, graphs=graphs) if name == "ort-cuda" else {}

    try:
        # Resolved, because ONNX Runtime looks for external data in the folder of this path.
        session = ort.InferenceSession(
            str(file.path.resolve()),
            settings,
            providers=[(provider, provider_options)],
            enable_fallback=0,  # otherwise it prints, and tries other providers by itself
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base but this
        newer = too_new(file, str(error), ort.__version__)
        if newer is not None:
            raise EngineError(newer) from error

        reason = _reason(error)
        advice = _loading_advice(file, reason, graphs=graphs)
        raise failure(f"ONNX Runtime cannot load {file.path}: {reason}{advice}", error) from error

    # A provider that does not start is replaced by the CPU's, with no more than a warning.
    if session.get_providers()[0] != provider:
        raise EngineUnavailable(
            f"{name} is installed and cannot start on this machine. "
            f"{why_cuda_fails(_cuda_file(ort))}"
        )

    return OrtEngine(ort, session, name, device, graphs=graphs)


def _loading_advice(file: OnnxFile, reason: str, *, graphs: bool) -> str:
    """A sentence on what helps where a file cannot be loaded; empty where nothing is known."""
    if graphs:
        return " Networks with loops or branches need graphs=False."
    if "NOT_IMPLEMENTED" in reason and any(weight.dtype == "bfloat16" for weight in file.weights):
        return (
            " The file computes in bfloat16, for which ONNX Runtime lacks this operator. Write the "
            "file in float32 or float16."
        )
    return ""


def _session_settings(ort: ModuleType, name: str, file: OnnxFile, threads: int | None) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = DEFAULT_THREADS if threads is None else threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # errors are raised, so that nothing is printed on stderr

    if name == "ort-cpu" and any(weight.dtype == "float16" for weight in file.weights):
        # On the CPU, float16 operators run in float32, between casts. Some fusions ignore that:
        # they crash the process or leave operators without a kernel (onnxruntime#26717, #32186).
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return settings


def facts(name: str) -> EngineFacts:
    """The facts about the engine."""
    return _FACTS[name]


def status(name: str) -> Status:
    """Whether the engine works here, by loading the library and asking for its providers."""
    ort = _import_ort(name)
    if name == "ort-cuda":
        _try_cuda(ort)
    return Status(name, f"onnxruntime {ort.__version__}", None)


class OrtEngine:
    """A graph in ONNX Runtime. `InferenceSession.run` may be called from many threads."""

    def __init__(
        self, ort: ModuleType, session: Any, name: str, device: int, *, graphs: bool
    ) -> None:
        self.name = name
        self.precision = "float32"
        self.version = f"onnxruntime {ort.__version__}"

        # On the host, buffers of all sizes share their memory; on CUDA each size has separate
        # buffers.
        self.max_bound_calls = 1024 if name == "ort-cpu" else 32
        self._ort = ort
        self._session = session
        self._device = ("cuda", device) if name == "ort-cuda" else ("cpu", 0)
        self._read_on_host = _read_on_host(session) if name == "ort-cuda" else frozenset()

        # Each bound call is a separate CUDA graph. A session with graphs may not run in two threads
        # at once. The lock is reentrant, because a signal handler may step another stream.
        self._graphs = count(1) if graphs else None
        self._alone = RLock()

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once; every array is new."""
        options = None if self._graphs is None else self._options(_NO_GRAPH)
        try:
            with nullcontext() if options is None else self._alone:
                result: list[NDArray[Any]] = self._session.run([*outputs], {**inputs}, options)
        except Exception as error:  # ONNX Runtime's exceptions share no base but this
            raise _failure(error) from error
        return result

    def zeros(self, shape: Sequence[int], dtype: Any) -> Buffer:
        """A NumPy array; on CUDA, an array in the memory of the GPU."""
        if self._device[0] == "cpu":
            return np.zeros(shape, dtype)
        return DeviceArray(self._ort, shape, dtype, self._device)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        """A call in which the engine works in the buffers themselves, without copies."""
        binding = self._session.io_binding()
        try:
            for name, buffer in inputs.items():
                binding.bind_ortvalue_input(name, self._value(buffer))
            for name, buffer in outputs.items():
                binding.bind_ortvalue_output(name, self._value(buffer))
        except Exception as error:  # ONNX Runtime's exceptions share no base but this
            raise _failure(error) from error

        # What is on the GPU and read by a node on the CPU is copied when it is bound, and not when
        # the session runs (onnxruntime#5857): a bound state would stay what it was.
        again: list[tuple[str, Any]] = []
        for name, buffer in inputs.items():
            if name in self._read_on_host:
                again.append((name, self._value(buffer)))

        # An OrtValue shares its array's memory and does not keep the array alive: the call does.
        buffers = (dict(inputs), dict(outputs))
        if self._graphs is None:
            return self._call(binding, again, buffers)
        return self._replay(binding, again, buffers, next(self._graphs))

    def _call(
        self, binding: Any, again: Sequence[tuple[str, Any]], buffers: object
    ) -> Callable[[], None]:
        """A call with a binding. `again` are the inputs that are bound before each run."""
        session = self._session

        def bound(_buffers: object = buffers) -> None:
            try:
                for name, value in again:
                    binding.bind_ortvalue_input(name, value)
                session.run_with_iobinding(binding)
            except Exception as error:  # ONNX Runtime's exceptions share no base but this
                raise _failure(error) from error

        return bound

    def _replay(
        self, binding: Any, again: Sequence[tuple[str, Any]], buffers: object, graph: int
    ) -> Callable[[], None]:
        """The same as a CUDA graph with this number.

        The first call captures the graph, for which it runs several times. That changes nothing,
        because no output is an input (onnxruntime#32243). The graph contains the buffers'
        addresses, so that every bound call needs a separate number (onnxruntime-genai#2446).
        """
        session, options = self._session, self._options(graph)

        def replayed(_buffers: object = buffers) -> None:
            try:
                with self._alone:
                    for name, value in again:
                        binding.bind_ortvalue_input(name, value)
                    session.run_with_iobinding(binding, options)
            except Exception as error:  # ONNX Runtime's exceptions share no base but this
                raise _failure(error) from error

        return replayed

    def _value(self, buffer: Buffer) -> Any:
        if isinstance(buffer, DeviceArray):
            return buffer.value
        return self._ort.OrtValue.ortvalue_from_numpy(buffer)

    def _options(self, graph: int) -> Any:
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return options


def _read_on_host(session: Any) -> frozenset[str]:
    """The inputs of a session on a GPU that nodes on the CPU read; all, if it does not say."""
    names = [each.name for each in session.get_inputs()]
    if not hasattr(session, "get_input_memory_infos"):  # as in ONNX Runtime 1.20
        return frozenset(names)

    memories = [info.name for info in session.get_input_memory_infos()]
    pairs = zip(names, memories, strict=True)
    return frozenset(name for name, memory in pairs if memory != "Cuda")


def _failure(error: Exception) -> EngineError:
    return failure(f"ONNX Runtime failed: {_reason(error)}", error)


def _reason(error: Exception) -> str:
    """ONNX Runtime's message in one line, without its own error code in front."""
    text = " ".join(str(error).split())
    return text.removeprefix("[ONNXRuntimeError] : ")


def _read_options(name: str, options: Mapping[str, object]) -> tuple[int, bool]:
    """The values of `device` and `graphs`."""
    known = ("device", "graphs") if name == "ort-cuda" else ()
    for option in sorted({*options} - {*known}):
        takes = " and ".join(known) or "none"
        hint = did_you_mean(option, known)
        raise InputError(f"{name} has no option {option!r}; it takes {takes}.{hint}")

    device = options.get("device", 0)
    graphs = options.get("graphs", False)
    if not is_count(device, 0):
        raise InputError(
            f"device is {device!r}; the number of a GPU was expected, 0 for the first."
        )

    if type(graphs) is not bool:
        raise InputError(f"graphs is {graphs!r}; True or False was expected.")
    return device, graphs


def _cuda_options(device: int, *, graphs: bool) -> dict[str, str]:
    """The provider's options. Its default, TF32, loses three decimal digits and is switched off."""
    options = {"device_id": str(device), "use_tf32": "0"}
    if graphs:
        options["enable_cuda_graph"] = "1"
    return options


def _import_ort(name: str) -> ModuleType:
    """ONNX Runtime, in the build that the engine needs."""
    wheels = [*filter(_is_installed, _WHEELS)]

    if len(wheels) > 1:
        raise EngineUnavailable(
            "onnxruntime and onnxruntime-gpu are both installed, and each overwrites files of the "
            "other. Remove both (pip uninstall onnxruntime onnxruntime-gpu), then install one: "
            f"{_FACTS[name].install}."
        )

    with _without_telemetry():
        ort = library(name, "onnxruntime", _FACTS[name].install)
    if _PROVIDERS[name] not in ort.get_available_providers():
        raise NotInstalledError(
            f"{name} needs the GPU build of ONNX Runtime; the CPU build {ort.__version__} is "
            f"installed. Replace it: pip uninstall onnxruntime, then "
            f"{_FACTS[name].install}. To run on the CPU, say engine='ort-cpu'."
        )

    if name == "ort-cuda":
        _prepare_cuda(ort)
    return ort


def _prepare_cuda(ort: ModuleType) -> None:
    """Loads the CUDA libraries that are installed as wheels, and keeps ONNX Runtime quiet."""
    # Each allocation on the GPU outside a session prints a warning: no plugin is registered for
    # the device, and none is needed. Only the logger of the whole process can stop it.
    ort.set_default_logger_severity(3)

    if hasattr(ort, "preload_dlls"):
        # It prints what it lacks.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Switches off what the library would send to its maker, unless the caller has decided that.

    Its Linux wheels have a telemetry client since 1.29 (onnxruntime#27379). The library reads the
    variable once, while it is imported; the caller's environment remains as it was.
    """
    if _TELEMETRY in os.environ:
        yield
        return

    os.environ[_TELEMETRY] = "1"
    try:
        yield
    finally:
        os.environ.pop(_TELEMETRY, None)


def _cuda_file(ort: ModuleType) -> Path:
    """The shared library of the CUDA provider."""
    return Path(str(ort.__file__)).parent / "capi" / "libonnxruntime_providers_cuda.so"


def _try_cuda(ort: ModuleType) -> None:
    """A first allocation on the GPU: the cheapest thing that fails where CUDA does not work."""
    try:
        ort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", 0)
    except Exception as error:  # ONNX Runtime's exceptions share no base but this
        raise EngineUnavailable(
            "ort-cuda is installed and cannot start on this machine. "
            f"{why_cuda_fails(_cuda_file(ort))}"
        ) from error


def _is_installed(wheel: str) -> bool:
    try:
        importlib.metadata.distribution(wheel)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
