# SPDX-License-Identifier: Apache-2.0
"""Says why CUDA does not come up: the driver or libraries that are missing, and how to get them."""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator
from itertools import filterfalse
from pathlib import Path
from typing import Final

#: The driver's library, which comes with the driver and with nothing else.
_DRIVER: Final = "libcuda.so.1"
_INSTALL: Final = "pip install 'onnxruntime-gpu[cuda,cudnn]'"

# The parts of an ELF file of 64 bits that name the libraries it needs. Source: System V ABI,
# "Section Header" and "Dynamic Section", https://refspecs.linuxfoundation.org/elf/gabi4+/.
_MAGIC: Final = b"\x7fELF\x02\x01"
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_ENTRY: Final = struct.Struct("<qQ")
_DYNAMIC: Final = 6
_NEEDED: Final = 1


def why_cuda_fails(provider: Path) -> str:
    """What is missing on this machine and what to do, in one or two sentences.

    Args:
        provider: the shared library of ONNX Runtime's CUDA provider.
    """
    sentences = []
    if not _can_load(_DRIVER):
        sentences.append(
            f"The NVIDIA driver is missing ({_DRIVER}): install it, or give the container a GPU."
        )

    missing = []
    for name in missing_libraries(provider):
        if name != _DRIVER:
            missing.append(name)

    if missing:
        sentences.append(f"Libraries are missing: {', '.join(missing)}. Install them: {_INSTALL}.")
    if not sentences:
        sentences.append(
            "The driver and the libraries are there, so they may be too old, or no GPU is visible: "
            "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES."
        )
    return " ".join(sentences)


def missing_libraries(provider: Path) -> list[str]:
    """The libraries that the provider needs and the loader does not find, in the file's order."""
    try:
        with provider.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
            names = list(_needed(m))
    except (OSError, ValueError, struct.error, IndexError):  # missing, empty, or of another system
        return []
    return [*filterfalse(_can_load, names)]


def _needed(elf: mmap.mmap) -> Iterator[str]:
    """The names of the libraries that an ELF file needs."""
    if elf[: len(_MAGIC)] != _MAGIC:
        return

    (offset,) = struct.unpack_from("<Q", elf, 40)
    (count,) = struct.unpack_from("<H", elf, 60)
    sections = [_SECTION.unpack_from(elf, offset + i * _SECTION.size) for i in range(count)]
    for _, kind, _, _, start, size, link, *_ in sections:
        if kind != _DYNAMIC:
            continue
        names = sections[link][4]
        for position in range(start, start + size, _ENTRY.size):
            tag, value = _ENTRY.unpack_from(elf, position)
            if tag == _NEEDED:
                end = elf.find(b"\0", names + value)
                yield elf[names + value : end].decode()


def _can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
