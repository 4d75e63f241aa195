# SPDX-License-Identifier: Apache-2.0
"""PyTorch's control flow as operators: `scan`, `while_loop`, `map` and `cond`, run in Python.

PyTorch compiles a network's call of one of these, which fails where anything looks at the functions
that the network calls, and ONNX has no such operator. PyTorch's documentation defines each by a
Python loop. Here they run as these loops, like those that an author writes. `cond` chooses between
the results of both branches, which have no other effects.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_PACKAGE: Final = "torch._higher_order_ops"


@contextlib.contextmanager
def control_flow_in_python() -> Iterator[None]:
    """Runs `scan`, `while_loop`, `map` and `cond` in Python."""
    with contextlib.ExitStack() as stack:
        for module, name, replacement in _REPLACEMENTS:
            stack.enter_context(replaced(module, name, replacement))
        yield


@contextlib.contextmanager
def replaced(module_name: str, name: str, replacement: Any) -> Iterator[Any]:
    """Replaces a function of a module of PyTorch's higher-order operators, if it is there.

    Gives the original, or None.
    """
    try:
        module = importlib.import_module(f"{_PACKAGE}.{module_name}")
        original = getattr(module, name)
    except (ImportError, AttributeError):  # another version of PyTorch
        yield None
        return

    setattr(module, name, replacement)
    try:
        yield original
    finally:
        setattr(module, name, original)


def _run(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any] | None = None
) -> Any:
    return function(*args, **(kwargs or {}))


def _scan(
    combine: Callable[..., Any],
    init: Sequence[Tensor],
    xs: Sequence[Tensor],
    additional_inputs: Sequence[Any] = (),
) -> tuple[Any, Any]:
    """What `scan` returns: the last states, and the results of all steps, stacked."""
    leaves: Sequence[Any] = init
    states: Any = None
    results = []
    for number in range(len(xs[0])):
        slices = [x[number] for x in xs]
        states, result = combine(*leaves, *slices, *additional_inputs)
        leaves = pytree.tree_leaves(states)
        results.append(result)

    return states, _stacked(results)


def _map(
    function: Callable[..., Any], xs: Sequence[Tensor], additional_inputs: Sequence[Any] = ()
) -> Any:
    """What `map` returns: the results for all slices of the first axis, stacked."""
    results = []
    for number in range(len(xs[0])):
        slices = [x[number] for x in xs]
        results.append(function(*slices, *additional_inputs))
    return _stacked(results)


def _while_loop(
    condition: Callable[..., Any],
    body: Callable[..., Any],
    carried_inputs: Sequence[Any],
    additional_inputs: Sequence[Any] = (),
) -> Any:
    """What `while_loop` returns: the values for which the condition does not hold any more."""
    values: Any = tuple(carried_inputs)
    leaves: Sequence[Any] = values
    while condition(*leaves, *additional_inputs):
        values = body(*leaves, *additional_inputs)
        leaves = pytree.tree_leaves(values)
    return values


def _cond(
    condition: Any,
    if_true: Callable[..., Any],
    if_false: Callable[..., Any],
    operands: Sequence[Any] = (),
) -> Any:
    """What `cond` returns: the results of one of two functions, which are of the same shapes."""
    if not isinstance(condition, Tensor):
        return if_true(*operands) if condition else if_false(*operands)

    chosen = []
    results = [if_true(*operands), if_false(*operands)]
    structure = pytree.tree_structure(results[0])
    for a, b in zip(*map(pytree.tree_leaves, results), strict=True):
        chosen.append(torch.where(condition, a, b) if isinstance(a, Tensor) else a)
    return pytree.tree_unflatten(chosen, structure)


def _stacked(results: Sequence[Any]) -> Any:
    """Results of the same structure as one, with their tensors stacked along a new first axis."""
    structure = pytree.tree_structure(results[0])
    columns = zip(*map(pytree.tree_leaves, results), strict=True)
    stacked = [None if column[0] is None else torch.stack(column) for column in columns]
    return pytree.tree_unflatten(stacked, structure)


#: Modules, functions of theirs, and what stands in their place.
_REPLACEMENTS: Final[tuple[tuple[str, str, Callable[..., Any]], ...]] = (
    ("scan", "_maybe_compile_and_run_fn", _run),
    ("scan", "scan_op", _scan),
    ("map", "map_impl", _map),
    ("while_loop", "while_loop_op", _while_loop),
    ("cond", "cond_op", _cond),
    ("utils", "_maybe_compile_and_run_fn", _run),
    ("utils", "_hop_compile_and_call", _call),
)
