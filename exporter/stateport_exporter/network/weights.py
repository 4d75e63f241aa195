"""Loads a file of weights into a module: .safetensors, or .pt and .pth of plain tensors.

Only what PyTorch's `weights_only` accepts is unpickled, and the size of the file's content is
checked before. Names, dtypes and shapes are compared with the network's before they are used.
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

#: The most steps of the pickle in a PyTorch file. PyTorch runs each in Python; a tensor needs 35.
_MOST_STEPS: Final = 500_000
#: The number of pickles at the beginning of a file that PyTorch before 1.6 wrote.
_OLD_PICKLES: Final = 5

_LONGEST: Final = 200  # characters of a name in a message
_SAVE: Final = "Save them with torch.save(module.state_dict(), file), or as .safetensors."


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads weights into the module, all of them or none.

    Raises:
        TargetError: the file cannot be read, holds more than plain weights, or does not fit.
    """
    weights = _read_weights(path)
    name = type(module).__qualname__
    problems = list(_problems(weights, module.state_dict()))
    if problems:
        raise TargetError(
            f"{path} does not fit {name}: {'; '.join(problems)}. "
            "Pass the arguments (--arg) that the network was trained with."
        )

    run_author(f"Loading {path} into {name}", lambda: module.load_state_dict(weights))


def _problems(
    weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> Iterator[str]:
    """What keeps weights from fitting: missing names, unknown names, other dtypes and shapes."""
    missing = sorted(expected.keys() - weights)
    if missing:
        yield f"it lacks {_few(missing)}"

    unknown = sorted(weights.keys() - expected.keys())
    if unknown:
        yield f"the network has no {_few(unknown)}"

    misfits = []
    for name in sorted(expected.keys() & weights.keys()):
        actual, needed = _described(weights[name]), _described(expected[name])
        if actual != needed:
            misfits.append(f"{name} is {actual}, not {needed}")
    if misfits:
        yield _few(misfits)


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

    if not isinstance(weights, dict) or not all(map(_is_plain_entry, weights.items())):
        raise TargetError(f"{path} holds no state_dict (names and plain tensors). {_SAVE}")
    return weights


def _is_plain_entry(entry: tuple[object, object]) -> bool:
    name, value = entry
    return isinstance(name, str) and _is_plain(value)


def _is_plain(value: object) -> bool:
    """Whether it is a dense tensor in memory, and of no other class than PyTorch's."""
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
        warnings.simplefilter("ignore")  # PyTorch warns of pickles before it refuses them
        try:
            zipped = file.peek(4).startswith(b"PK\x03\x04")
            _check_pickles([*_pickles(file)] if zipped else [file] * _OLD_PICKLES)

            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # PyTorch's unpickler may raise anything
            raise TargetError(
                f"{path} holds no plain weights, and stateport unpickles nothing else "
                f"({type(error).__name__}: {shown(str(error))}). {_SAVE}"
            ) from error


def _pickles(file: BufferedReader) -> Iterator[bytes]:
    """The pickles in a zip file, which PyTorch stores without compression.

    Raises:
        ValueError: a part is compressed, or the parts would be larger than the file.
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
    """Reads pickles without running them. A file that is listed twice gives its next pickle.

    Raises:
        ValueError: they have too many steps, or reserve memory for a bytearray of any size.
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
    """The first three names, shortened, and the number of the others."""
    text = ", ".join(map(_shortened, names[:3]))
    if len(names) > 3:
        text += f" and {len(names) - 3} more"
    return text


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
