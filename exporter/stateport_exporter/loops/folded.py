# SPDX-License-Identifier: Apache-2.0
"""A network whose loops over time have been rolled up, as a module."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stateport.errors import in_words
from stateport.picking import instances_of

from ..capture.associative_scan import First, first_values, scans_as_loops
from ..capture.complex_numbers import RealParts, has_complex_numbers
from ..capture.torch_export import functional, torch_export, with_named_axes
from ..errors import ExportError
from ..memory.kept import unchanged_shared
from ..network.example import Example, Leaf
from ..network.explicit import put_back
from ..network.isolation import quiet, unchanged_globals
from ..network.program import Program
from ..network.scan import scan
from .check import FOR_NUMBERS, FOR_ROUNDS, check_folded
from .joins import repeat_equal_items, take_last_states
from .parallel_attention import replace_parallel_attention
from .recurrences import replace_rounds
from .roll import roll
from .trace import Unrolled
from .unify import unify
from .unroll import unroll
from .windows import windows_in

#: The lengths that are traced: enough steps to tell a loop's first and last step from the others.
_TIMES: Final = (5, 6)
#: The same for loops that keep values for many steps, so that more steps differ from the others.
_TIMES_OF_DELAYS: Final = (17, 18)


class RolledNetwork(nn.Module):
    """Computes what the author's method does, with every loop over time as one call of `scan`.

    `network` is the author's module, whose parameters it uses. The program counts time in
    `multiple` steps.
    """

    def __init__(
        self,
        network: nn.Module,
        program: Program,
        leaves: Sequence[Leaf],
        names: Sequence[str],
        constants: Mapping[str, Tensor],
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple
        self.program = program
        self.names = tuple(names)
        self.time_at = next(
            (number, leaf.shape.index("time"))
            for number, leaf in enumerate(leaves)
            if "time" in leaf.shape
        )

        self.constant_names = tuple(constants)
        for number, name in enumerate(self.constant_names):
            self.register_buffer(f"constant_{number}", constants[name])

    @property
    def has_loops(self) -> bool:
        """Whether the program has a loop."""
        return any(op.target is scan for op in self.program.ops)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the author's method returns for these arguments."""
        tensors = instances_of(Tensor, pytree.tree_leaves((args, kwargs)))
        number, axis = self.time_at
        constants = {
            name: getattr(self, f"constant_{number}")
            for number, name in enumerate(self.constant_names)
        }
        weights = [_weight(self, name, constants) for name in self.names]

        time = tensors[number].shape[axis]
        count = time if self.multiple == 1 else time // self.multiple
        results = self.program.run([*tensors, *weights], count, seen=True)
        return pytree.tree_unflatten(results, self.program.structure)


class _Whole(nn.Module):
    """The author's method, as the forward of a module."""

    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the author's method returns."""
        run = self.network if self.method == "forward" else getattr(self.network, self.method)
        with put_back(self.network):
            return run(*args, **kwargs)


class _UntraceableError(ExportError):
    """The network cannot run at the lengths that are traced, or not under torch.export."""


def roll_loops(
    network: nn.Module, method: str, example: Example, refusal: ExportError
) -> RolledNetwork:
    """Rolls up the loops over time of a network.

    `refusal` says why the network was not captured as it is.

    Raises:
        ExportError: `refusal`, where the network cannot be traced; or its loops do not do the same
            in every step.
    """
    try:
        programs = _traced(network, method, example, _TIMES)
    except _UntraceableError as error:
        raise refusal from error

    try:
        return _rolled(network, method, example, programs, _TIMES)
    except ExportError as error:
        first_error = error

    # A parallel scan takes another number of rounds at another length.
    with contextlib.suppress(ExportError):
        return _rolled(network, method, example, programs, _TIMES, rounds=True)
    with contextlib.suppress(ExportError):
        programs = _traced(network, method, example, _TIMES_OF_DELAYS)
        return _rolled(network, method, example, programs, _TIMES_OF_DELAYS)
    raise first_error


def roll_rounds(network: nn.Module, method: str, example: Example) -> RolledNetwork | None:
    """Writes the parallel scans of a network as loops; None where it has none, or other loops."""
    try:
        programs = _traced(network, method, example, _TIMES)
        return _rolled(network, method, example, programs, _TIMES, rounds=True)
    except ExportError:
        return None


def _rolled(
    network: nn.Module,
    method: str,
    example: Example,
    programs: Sequence[torch.export.ExportedProgram],
    times: tuple[int, int],
    *,
    rounds: bool = False,
) -> RolledNetwork:
    """The network with its loops rolled up, and with `rounds` its parallel scans as loops.

    Raises:
        ExportError: the programs are not of one network, or the network is another one.
    """
    try:
        multiple = example.time_multiple
        windows = windows_in(programs)
        traces = [
            unroll(program, count * multiple, multiple, windows)
            for program, count in zip(programs, times, strict=True)
        ]
        if rounds:  # before other loops, whose sequences they may be
            _replace_all_scans(network, example, traces, times)
        has_loops = _roll_all(traces)
        program = unify(traces[0], traces[1], times)
    except ExportError as error:
        raise ExportError(
            f"{type(network).__qualname__} cannot take any number of time steps: {error}. "
            "Rewrite it with tensor operations, or export one step of it and loop outside it."
        ) from error

    folded = _module_of(network, program, traces[0], example)
    # Rounds, and laws of numbers, were read off few steps.
    further = [*(FOR_ROUNDS if rounds else ()), *(FOR_NUMBERS if traces[0].sees_numbers else ())]
    check_folded(network, method, folded, example, has_loops=has_loops, further=further)
    return folded


def _roll_all(traces: Sequence[Unrolled]) -> bool:
    """Rolls up all loops of two traces, in place; returns whether they have any."""
    short, long = traces
    has_loops = False
    while roll(short, long):
        has_loops = True
    for trace in traces:
        take_last_states(trace)
        repeat_equal_items(trace)
    return has_loops


def _replace_all_scans(
    network: nn.Module, example: Example, traces: Sequence[Unrolled], times: tuple[int, int]
) -> None:
    """Writes parallel scans and linear attention in both traces as loops, in place.

    Raises:
        ExportError: a trace has none, or cannot be run.
    """
    whole = _Whole(network, "forward")
    axes = [leaf.shape.index("time") if "time" in leaf.shape else None for leaf in example.leaves]
    for trace, count in zip(traces, times, strict=True):
        time = example.time_multiple * count
        # An axis of one entry looks like one that is not there.
        batch = max(2, example.sizes.get("batch", 2))
        arguments = example.make({**example.sizes, "batch": batch, "time": time})
        tensors = instances_of(Tensor, pytree.tree_leaves((arguments.args, arguments.kwargs)))

        def inputs(trace: Unrolled = trace, tensors: Sequence[Tensor] = tensors) -> list[Tensor]:
            return [*tensors, *(_weight(whole, name, trace.constants) for name in trace.names)]

        try:
            has_any = replace_rounds(trace, inputs(), time)
            while replace_parallel_attention(trace, inputs(), axes, time):
                # Its decays may be powers of the distance, as far as few steps show.
                has_any = trace.sees_numbers = True
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            # Operations of the author's may take neither float64 nor other numbers of rows.
            raise ExportError(
                f"its operations cannot be run alone, which fails with {in_words(error)}"
            ) from error
        if not has_any:
            raise ExportError("it has no parallel scan")


def _module_of(
    network: nn.Module, program: Program, trace: Unrolled, example: Example
) -> RolledNetwork:
    """A program as a module; `trace` is one of those that it was made from."""
    # In messages it is called what its author called it.
    kind = type(type(network).__qualname__, (RolledNetwork,), {})
    folded: RolledNetwork = kind(
        network, program, example.leaves, trace.names, trace.constants, example.time_multiple
    )
    return folded.eval()


def _weight(whole: nn.Module, name: str, constants: Mapping[str, Tensor]) -> Any:
    """A parameter, buffer or constant of the author's module, which is the `network` of `whole`."""
    if name in constants:
        return constants[name]
    path, _, attribute = name.rpartition(".")
    return getattr(whole.get_submodule(path), attribute)


def _traced(
    network: nn.Module, method: str, example: Example, counts: tuple[int, int]
) -> list[torch.export.ExportedProgram]:
    """The programs of the author's method for the lengths that are traced.

    Raises:
        _UntraceableError: it has none.
    """
    times = [example.time_multiple * count for count in counts]
    return [_trace(network, method, example, time) for time in times]


def _trace(
    network: nn.Module, method: str, example: Example, time: int
) -> torch.export.ExportedProgram:
    """The program of the author's method for one number of time steps.

    Raises:
        _UntraceableError: it has none.
    """
    sizes = {**example.sizes, "time": time}
    arguments = example.make(sizes)
    whole = _Whole(network, method).eval()
    operands = (arguments.args, arguments.kwargs)

    def export(firsts: Sequence[First], dims: Mapping[str, Any]) -> torch.export.ExportedProgram:
        shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
        for leaf, (_, tensor) in zip(example.leaves, example.tensors(arguments), strict=True):
            axes = enumerate(leaf.shape)
            shapes[tensor] = {number: dims[str(axis)] for number, axis in axes if axis in dims}
        with scans_as_loops(firsts):
            program = torch_export(whole, operands, shapes.dynamic_shapes(whole, operands))
        if not has_complex_numbers(program):
            return program
        real = RealParts(functional(program))
        return torch_export(real, operands, shapes.dynamic_shapes(real, operands))

    with unchanged_globals(seed=0), unchanged_shared(network), quiet(), torch.no_grad():
        try:
            firsts = first_values(lambda: whole(*operands))
            dynamic_axes = [axis for axis in sizes if axis != "time"]
            program = with_named_axes(dynamic_axes, functools.partial(export, firsts))
            return functional(program)
        except Exception as error:  # the user's forward may raise anything
            raise _UntraceableError(
                f"traced with {time} steps, it fails with {in_words(error)}"
            ) from error
