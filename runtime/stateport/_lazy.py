# SPDX-License-Identifier: Apache-2.0
"""Packages that import what they export on its first use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from importlib import import_module


def on_first_use(
    package: str, names: Collection[str], modules: Sequence[str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Makes a package's `__getattr__` and `__dir__`.

    Args:
        package: the package's name.
        names: the names that it exports.
        modules: the modules that define these names, the cheapest to import first.
    """

    def import_name(name: str) -> object:
        if name in names:
            for module in modules:
                definitions = vars(import_module(f".{module}", package))
                if name in definitions:
                    return definitions[name]

        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def list_names() -> list[str]:
        return sorted({*names, "__all__", "__doc__", "__name__", "__version__"})

    return import_name, list_names
