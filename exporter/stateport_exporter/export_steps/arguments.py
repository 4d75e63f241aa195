# SPDX-License-Identifier: Apache-2.0
"""What the caller of `export` passes, checked before any work is done."""

from __future__ import annotations

from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from torch import Tensor, nn

from stateport import FileError
from stateport.files.paths import usable_path
from stateport.plain import kind_of

from ..dtypes import DTYPES, KINDS, OPERATORS
from ..errors import ExportError
from ..memory.places import places_of
from ..network.quantized import check_not_quantized

OLDEST_OPSET: Final = 18


def check_arguments(module: object, opset: int, method: str) -> None:
    """Checks that there is a network with a method to export, and that its opset is known.

    Raises:
        ExportError: one of them cannot be used.
    """
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise ExportError(
            f"{module.__qualname__} is a class; pass a network of it, {module.__qualname__}(...)."
        )
    if not isinstance(module, nn.Module):
        raise ExportError(
            f"{type(module).__qualname__} is not a torch.nn.Module; pass the network itself."
        )
    if isinstance(module, torch.jit.ScriptModule):
        return  # it is exported in another way, which has other checks

    _check_parts(module)
    _check_method(module, method)
    _check_opset(opset)


def weights_path(weights: object) -> Path:
    """The path of a file of weights.

    Raises:
        ExportError: it is something else, such as the weights themselves.
    """
    if not isinstance(weights, str | PathLike):
        raise ExportError(
            f"weights= is {kind_of(weights)}; the path of a file was expected. Load weights that "
            "are in memory yourself: network.load_state_dict(weights)."
        )
    return Path(weights)


def checked_dtype(dtype: str, keep_float32: Collection[str]) -> str:
    """The dtype's full name, "float32" or "float16".

    Raises:
        ExportError: the dtype is unknown, or `keep_float32` does not fit.
    """
    if dtype not in DTYPES:
        raise ExportError(f"dtype is {dtype!r}; 'float32' or 'float16' was expected.")

    if keep_float32 and DTYPES[dtype] == "float32":
        raise ExportError(
            "keep_float32 applies only with dtype='float16'; this export writes float32 alone."
        )

    unknown = {*keep_float32} - {*KINDS}
    if unknown:
        raise ExportError(
            f"keep_float32 names {min(unknown)!r}; it takes any of {', '.join(KINDS)}."
        )
    return DTYPES[dtype]


def check_operators(operators: str, dtype: str) -> None:
    """Checks which operators may be written.

    Raises:
        ExportError: the word is unknown, or ONNX Runtime's own operators were asked for in float16.
    """
    if operators not in OPERATORS:
        raise ExportError(f"operators is {operators!r}; 'onnx' or 'native' was expected.")
    if operators == "native" and dtype != "float32":
        raise ExportError("operators='native' applies only with dtype='float32'.")


def checked_path(path: str | PathLike[str]) -> Path:
    """The path of the file to write.

    Raises:
        ExportError: it is no path; the message says so if it is an example in its place.
    """
    if isinstance(path, str | PathLike):
        return Path(path)
    raise ExportError(
        f"The file to write is {type(path).__name__}; a path was expected. The order is "
        "export(module, example, path)."
    )


def existing_path(recordings: str | PathLike[str]) -> Path:
    """The path of recorded data, which is read when the network's inputs are known.

    Raises:
        FileError: there is no such file or folder.
    """
    path = usable_path(recordings)
    if not path.exists():
        raise FileError(
            f"{path} does not exist; a file or a folder of recordings was expected. Save one with "
            "numpy.savez, with an array for each input of the network."
        )
    return path


def check_parameters(module: nn.Module) -> None:
    """Checks that all parameters and buffers are float32, dense, and have their values on the CPU.

    Raises:
        ExportError: one of them is of another dtype, sparse, or on another device, or a parameter
            is NaN.
    """
    _check_dense(module)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ExportError(
                f"{name!r} is {str(tensor.dtype).removeprefix('torch.')}; float32 was expected. "
                "Convert the network first: module.float()."
            )
        if tensor.device.type == "meta":
            raise ExportError(
                f"{name!r} is on the device meta, where it has no values. Make the network on the "
                "CPU, or give it memory first and load its weights: module.to_empty(device='cpu')."
            )
        if tensor.device.type != "cpu":
            raise ExportError(
                f"{name!r} is on the device {tensor.device}; the CPU was expected. "
                "Move the network first: module.cpu()."
            )
    _check_numbers(module)


def _check_dense(module: nn.Module) -> None:
    """Checks that no tensor is sparse, also of those that are kept in attributes."""
    tensors: dict[str, Any] = dict(module.named_parameters())
    for place in places_of(module):
        name = ".".join(filter(None, (place.module, place.key, *map(str, place.inner))))
        tensors[name] = place.get(module)

    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.layout is not torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise ExportError(
                f"{name!r} is {layout}, and the operators of ONNX take dense tensors alone. Keep "
                "it dense: to_dense()."
            )


def _check_numbers(module: nn.Module) -> None:
    """Checks that no parameter has a NaN, which would make results NaN."""
    for name, parameter in module.named_parameters():
        count = int(parameter.isnan().sum()) if parameter.is_floating_point() else 0
        if count:
            raise ExportError(
                f"{name!r} has {count} of {parameter.numel()} values that are NaN (not a number), "
                "so that results would be NaN too. Training may have diverged; load weights of an "
                "earlier checkpoint."
            )


def check_script_options(**is_set: bool) -> None:
    """Checks that nothing is asked for that cannot be done with TorchScript.

    Args:
        is_set: for each option of `export`, whether the caller gave it another value than usual.

    Raises:
        ExportError: one of them is set.
    """
    for option, is_unusual in is_set.items():
        if is_unusual:
            raise ExportError(f"A TorchScript module is exported as it is; leave out {option!r}.")


def _check_parts(module: nn.Module) -> None:
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ExportError(
            "A part of the network is TorchScript, which PyTorch's exporter cannot look into. Pass "
            "the nn.Module that it was made from, or make all of it TorchScript."
        )
    check_not_quantized(module)


def _check_method(module: nn.Module, method: str) -> None:
    name = type(module).__qualname__
    if not callable(getattr(module, method, None)):
        raise ExportError(f"{name} has no method {method!r}.")
    if method == "forward" and type(module).forward is nn.Module.forward:
        raise ExportError(
            f"{name} has no forward. Say which method to export, for example method='step'."
        )


def _check_opset(opset: int) -> None:
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ExportError(
            f"Opset {opset} is not among {OLDEST_OPSET} to {newest}, which the installed onnx "
            f"{onnx.__version__} knows."
        )
