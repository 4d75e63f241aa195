"""The processor that measures, and its kind: figures of one kind say nothing about the other."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[1] / "docs"
CUDA_PAGE: Final = DOCS / "performance-cuda.md"

_INFORMATION: Final = Path("/proc/cpuinfo")
#: Linux's names of instructions that matter here -> their usual names.
_INSTRUCTIONS: Final = {
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "avx512_bf16": "BF16",
    "amx_tile": "AMX",
}


def processor() -> str:
    """The processor's name, the number of cores, and its instructions that matter here."""
    entries = _entries()
    names = dict.fromkeys(
        name for flag, name in _INSTRUCTIONS.items() if flag in entries.get("flags", "").split()
    )
    model = entries.get("model name") or platform.processor() or platform.machine()
    return f"{model} ({_cores()} cores; {', '.join(names) or 'no AVX-512 and no VNNI'})"


def kind_of_processor() -> str:
    """One of two kinds: "with VNNI" or "without VNNI"."""
    flags = _entries().get("flags", "").split()
    return "with VNNI" if {"avx512_vnni", "avx_vnni"} & {*flags} else "without VNNI"


def figures_page() -> Path:
    """The page with the figures of this kind: docs/performance-with-vnni.md, for example."""
    return DOCS / f"performance-{kind_of_processor().replace(' ', '-').lower()}.md"


def _entries() -> dict[str, str]:
    """What Linux says about the last core; nothing on another system."""
    entries = {}
    for line in _text().splitlines():
        key, _, value = line.partition(":")
        entries[key.strip()] = value.strip()
    return entries


def _cores() -> int:
    return _text().count("processor\t")


def _text() -> str:
    try:
        return _INFORMATION.read_text(encoding="utf-8")
    except OSError:
        return ""
