# SPDX-License-Identifier: Apache-2.0
"""What is missing for CUDA is named, with the command that brings it."""

from __future__ import annotations

import mmap
import struct
import sys
from pathlib import Path

import pytest

from stateport.engines import cuda_libraries
from stateport.engines.cuda_libraries import missing_libraries, why_cuda_fails


@pytest.fixture
def provider(tmp_path: Path) -> Path:
    """An ELF file of 64 bits that needs three libraries."""
    needed = [b"libc.so.6", b"libcublasLt.so.13", b"libcudnn.so.9"]
    names = b"\0" + b"\0".join(needed) + b"\0"
    entries = b"".join(struct.pack("<qQ", 1, names.index(name)) for name in needed)
    entries += struct.pack("<qQ", 14, 0) + struct.pack("<qQ", 0, 0)  # the file's own name; the end

    head = 64
    sections = b"".join(
        struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, start, size, link, 0, 0, 0)
        for kind, start, size, link in (
            (0, 0, 0, 0),
            (6, head + len(names), len(entries), 2),
            (3, head, len(names), 0),
        )
    )
    header = bytearray(head)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 40, head + len(names) + len(entries))
    struct.pack_into("<H", header, 60, 3)

    path = tmp_path / "libonnxruntime_providers_cuda.so"
    path.write_bytes(bytes(header) + names + entries + sections)
    return path


def loads(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    """Makes the loader find these libraries alone."""
    monkeypatch.setattr(cuda_libraries, "_can_load", lambda library: library in present)


def test_the_libraries_and_the_driver_are_named(
    provider: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads(monkeypatch, "libc.so.6")
    text = why_cuda_fails(provider)
    assert "The NVIDIA driver is missing (libcuda.so.1)" in text
    assert "Libraries are missing: libcublasLt.so.13, libcudnn.so.9." in text
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in text


def test_only_what_is_missing_is_named(provider: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads(monkeypatch, "libc.so.6", "libcuda.so.1", "libcudnn.so.9")
    assert missing_libraries(provider) == ["libcublasLt.so.13"]
    assert "driver" not in why_cuda_fails(provider)


def test_where_nothing_is_missing_the_machine_is_to_be_looked_at(
    provider: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads(monkeypatch, "libc.so.6", "libcuda.so.1", "libcudnn.so.9", "libcublasLt.so.13")
    assert "nvidia-smi" in why_cuda_fails(provider)


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_a_provider_that_cannot_be_read_names_no_library(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "provider.so"
    if content is not None:
        path.write_bytes(content)
    assert missing_libraries(path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="ELF files are those of Linux")
def test_a_real_library_names_what_it_needs() -> None:
    import _ctypes

    library = Path(_ctypes.__file__)
    assert missing_libraries(library) == []
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
        assert any(name.startswith("libc.so") for name in cuda_libraries._needed(m))


def test_the_loader_itself_is_asked() -> None:
    assert not cuda_libraries._can_load("libno-such-library-of-a-test.so.99")
