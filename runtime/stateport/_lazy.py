"""Packages that import what they export on its first use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from importlib import import_module


def on_first_use(
    package: str, names: Collection[str], modules: Sequence[str]
) -> Callable[[str], object]:
    """A package's `__getattr__`.

    Args:
        package: the package's name.
        names: what it exports.
        modules: where that is, those that load quickly first.
    """

    def find(name: str) -> object:
        for module in modules if name in names else ():
            found = vars(import_module(f".{module}", package))
            if name in found:
                return found[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
