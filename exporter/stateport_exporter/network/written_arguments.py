# SPDX-License-Identifier: Apache-2.0
"""Arguments that forward writes into and returns, as a cache of keys or Mamba's state of a step.

A caller of PyTorch's sees the new value in the tensor that was passed. An ONNX file has no such
tensors: it returns the new value, and that is all that the caller needs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stateport.picking import instances_of

from .example import Example
from .isolation import evaluation_twin, quiet, unchanged_globals


def copy_written_arguments(network: nn.Module, method: str, example: Example) -> tuple[str, ...]:
    """Lets a network write into copies of its arguments, if it returns all that it writes into.

    Args:
        network: the network, whose class becomes one that copies arguments. A network that returns
            only some of what it writes into stays as it is.
        method: the method that is exported.
        example: what the method takes.

    Returns:
        a note for each argument that is copied.
    """
    written = _written_and_returned(network, method, example)
    if not written:
        return ()

    network.__class__ = _copying_class(type(network), method)
    notes = []
    for name in written:
        notes.append(
            f"{method} writes into its argument {name!r} and returns it. The file leaves the "
            "argument as it is, and returns the new value."
        )
    return tuple(notes)


def _written_and_returned(network: nn.Module, method: str, example: Example) -> list[str]:
    """The names of the arguments that are written into; none if one of them is not returned."""
    arguments = example.make(example.sizes)
    tensors = list(example.tensors(arguments))
    versions = [tensor._version for _, tensor in tensors]
    run = getattr(evaluation_twin(network), method)
    try:
        with unchanged_globals(seed=0), quiet(), torch.no_grad():
            result = run(*arguments.args, **arguments.kwargs)
    except (Exception, SystemExit):  # a check that comes later says what failed
        return []

    returned = [id(leaf) for leaf in instances_of(Tensor, pytree.tree_leaves(result))]
    written = []
    for (_, tensor), leaf, version in zip(tensors, example.leaves, versions, strict=True):
        if tensor._version == version:
            continue
        if id(tensor) not in returned:
            return []
        written.append(str(leaf))
    return written


def _copying_class(kind: type[nn.Module], method: str) -> type[nn.Module]:
    """A class of the same name whose method runs on copies of its arguments."""
    original = getattr(kind, method)

    @functools.wraps(original)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))
        return original(self, *args, **kwargs)

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, method: run}
    return type(kind.__name__, (kind,), names)
