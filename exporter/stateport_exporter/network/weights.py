"""A file of weights into a module: .safetensors, or .pt and .pth of plain tensors.

Nothing is unpickled but what PyTorch's `weights_only` takes, and the file is bounded before that:
what it says of its tensors is held against the network before they are used.
"""

from __future__ import annotations

import os
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import IO, Final

import safetensors
import safetensors.torch
import torch
from torch import nn

from stateport.contract import describe
from stateport.errors import FileError
from stateport.files.paths import opened
from stateport.files.reading import read_header
from stateport.shown import shown

from ..errors import TargetError
from .loading import run_author

#: Steps of the pickle in a file of PyTorch's, which takes each in Python: a tensor has some 35.
_MOST_STEPS: Final = 500_000
#: The pickles that a file of PyTorch before 1.6 begins with, before the numbers.
_OLD_PICKLES: Final = 5

_LONGEST: Final = 200  # characters of a name in a message
_SAVE: Final = "Save them with torch.save(module.state_dict(), file), or as .safetensors."


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads weights into the module, all of them or none.

    Raises:
        TargetError: the file cannot be read, holds more than plain weights, or does not fit.
    """
    weights = _read_weights(path)
    expected = module.state_dict()
    missing, unknown = sorted(expected.keys() - weights), sorted(weights.keys() - expected.keys())
    misfits = [
        f"{name} is {_described(weights[name])}, not {_described(expected[name])}"
        for name in sorted(expected.keys() & weights.keys())
        if _described(weights[name]) != _described(expected[name])
    ]
    problems = [f"it lacks {_few(missing)}"] * bool(missing)
    problems += [f"the network has no {_few(unknown)}"] * bool(unknown)
    problems += [_few(misfits)] * bool(misfits)
    if problems:
        raise TargetError(
            f"{path} does not fit {type(module).__qualname__}: {'; '.join(problems)}. "
            "Pass the arguments (--arg) that the network was trained with."
        )
    name = type(module).__qualname__
    run_author(f"Loading {path} into {name}", lambda: module.load_state_dict(weights))


def _read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise TargetError(
            f"{shown(str(path))} has an unknown ending; weights are read from .safetensors, .pt "
            "and .pth."
        )
    try:
        weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except FileError as error:
        raise TargetError(str(error)) from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and _is_plain(value) for name, value in weights.items()
    ):
        raise TargetError(f"{path} holds no state_dict (names and plain tensors). {_SAVE}")
    return weights


def _is_plain(value: object) -> bool:
    """Whether it is a tensor as others are: in memory, dense, and no class of somebody's."""
    return (
        type(value) in (torch.Tensor, nn.Parameter)
        and value.layout is torch.strided  # type: ignore[attr-defined]
        and value.device.type == "cpu"  # type: ignore[attr-defined]
        and not value.is_quantized  # type: ignore[attr-defined]
    )


def _read_safetensors(path: Path) -> object:
    read_header(path)
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise TargetError(
            f"{path} is not a safetensors file that PyTorch reads: {error}."
        ) from error


def _read_torch(path: Path) -> object:
    with opened(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles that it is about to refuse
        try:
            zipped = file.peek(4).startswith(b"PK\x03\x04")
            _check_pickles([*_pickles(file)] if zipped else [file] * _OLD_PICKLES)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # PyTorch's unpickler ends in every way that Python has
            raise TargetError(
                f"{path} holds no plain weights, and stateport unpickles nothing else "
                f"({type(error).__name__}: {shown(str(error))}). {_SAVE}"
            ) from error


def _pickles(file: BufferedReader) -> Iterator[bytes]:
    """The pickles in a file whose parts are held against its size: PyTorch stores them as they are.

    Raises:
        ValueError: the parts would be larger than the file.
    """
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("its parts are compressed")
        if sum(part.file_size for part in parts) > size:
            raise ValueError("its parts are larger than the file")
        for part in parts:
            if part.filename.endswith(".pkl"):
                yield archive.read(part)


def _check_pickles(pickles: Sequence[IO[bytes] | bytes]) -> None:
    """Looks at pickles, and runs nothing of them. A file that comes again has the next one.

    Raises:
        ValueError: they have more steps than are taken, or make room for bytes without end.
    """
    steps = 0
    for pickle in pickles:
        for _, argument, _ in pickletools.genops(pickle):
            steps += 1
            if steps > _MOST_STEPS:
                raise ValueError("its pickle is too long")
            if isinstance(argument, str) and argument.endswith(" bytearray"):
                raise ValueError("its pickle makes a bytearray")


def _described(tensor: torch.Tensor) -> str:
    return describe(str(tensor.dtype).removeprefix("torch."), tensor.shape)


def _few(names: list[str]) -> str:
    first = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..." for name in names[:3]]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
