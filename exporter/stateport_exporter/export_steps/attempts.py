# SPDX-License-Identifier: Apache-2.0
"""The ways in which a network is tried, the simplest first.

As its author wrote it; with windows of former steps, where nothing else lets it be fed in chunks;
with what it remembers as arguments and results; with numbers in place of tensors that hold one;
with answers to what it asks of tensors' values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir
from torch import nn

from ..capture.capture import Captured, check_runs
from ..errors import ExportError
from ..memory.remembered import with_memory_explicit
from ..network.decisions import Answering, find_decisions
from ..network.example import Example
from ..network.explicit import Explicit
from ..network.kept_numbers import with_kept_numbers
from ..network.window_search import with_windows
from ..sizes.beyond import Beyond
from ..states.convolutions import NO_CONTEXTS, find_contexts
from ..states.declared import Declared
from ..states.growing import GrowingCacheError
from .building import BuiltNetwork, build_network
from .sizes import look_at_other_sizes
from .tracing import TracedNetwork, trace_network


@dataclass(frozen=True)
class Wishes:
    """What the caller of `export` asks for, as far as the graph depends on it."""

    opset: int
    lift: bool
    trace_time: int | None
    states: Declared
    progress: Callable[[str], None]


@contextlib.contextmanager
def time_by_its_name(sample: Example) -> Iterator[None]:
    """Adds to errors what to do where the axis of time may have another name, as "samples".

    Raises:
        ExportError: the error, with that advice.
    """
    try:
        yield
    except GrowingCacheError:
        raise
    except ExportError as error:
        others = sorted(sample.axes - {"batch"})
        if "time" in sample.axes or not others or "'time'" in str(error):
            raise
        raise ExportError(
            f"{error} No axis of the example is called 'time': if {others[0]!r} is time, call it "
            "that."
        ) from error


def try_to_build(
    twin: nn.Module, method: str, sample: Example, wishes: Wishes
) -> tuple[BuiltNetwork, Beyond, tuple[str, ...]]:
    """The network as a graph with explicit states, the other sizes to record, and notes.

    A network that cannot be built as it is may keep numbers in tensors. Then it is built with these
    as numbers. Or it may ask about values of tensors. Then it is built with the answers that are
    right for all values, if there are such.
    """
    try:
        return *_try_with_memory(twin, method, sample, wishes), ()
    except ExportError:
        with_numbers = with_kept_numbers(twin, method, sample)
        if with_numbers is not None:
            with contextlib.suppress(ExportError):
                return *_try_with_memory(with_numbers, method, sample, wishes), ()

        explicit = Explicit(twin, method).eval()
        decisions = find_decisions(explicit, sample)
        if decisions is None:
            raise

    # A check that refuses the example itself has a better message.
    check_runs(explicit, sample)

    with Answering(decisions.answers, traced_only=True):
        return *_try_with_memory(twin, method, sample, wishes), decisions.notes


def _try_with_memory(
    twin: nn.Module, method: str, sample: Example, wishes: Wishes
) -> tuple[BuiltNetwork, Beyond]:
    """The network as a graph with explicit states, and the other sizes to record.

    A network that cannot be built as it is may remember tensors in attributes and buffers. Then it
    is built with these as arguments and results.
    """
    try:
        return _try_as_written(twin, method, sample, wishes)
    except ExportError as error:
        explicit = with_memory_explicit(twin, method, sample) if wishes.lift else None
        if explicit is None:
            raise
        refusal = error

    states = {**explicit.declared, **wishes.states}
    with_states = replace(wishes, states=states)
    built, beyond = _try_as_written(explicit.network, "forward", explicit.example, with_states)

    # A layer that starts from zeros in every call of the author's goes on in the file's calls. That
    # is right where chunks give what the whole sequence gives, and wrong elsewhere.
    remembered = {state.name for state in explicit.network.states}
    if built.contract.streaming.ok or remembered.issuperset(built.lifted):
        return built, beyond

    unlifted = replace(with_states, lift=False)
    try:
        return _try_as_written(explicit.network, "forward", explicit.example, unlifted)
    except ExportError:
        raise refusal from None


def _try_as_written(
    twin: nn.Module, method: str, sample: Example, wishes: Wishes
) -> tuple[BuiltNetwork, Beyond]:
    """Traces a network, builds it with explicit states, and looks at other sizes."""
    # The author's network, as a graph in which recurrent layers are still whole.
    lift, opset = wishes.lift, wishes.opset
    wishes.progress("tracing")
    traced = trace_network(twin, method, sample, opset, lift=lift, trace_time=wishes.trace_time)

    # The same with states as inputs and outputs, written in ONNX, and tried in chunks.
    wishes.progress("making states explicit")
    contexts = find_contexts(traced.explicit, traced.sample) if lift else NO_CONTEXTS
    built = build_network(traced, contexts, opset, wishes.states)

    # Where the caller says what is a state, no others are made up.
    may_have_others = lift and not wishes.states
    may_have_loops = may_have_others and traced.rolled is None and _has_products(traced.captured)
    if may_have_loops and not built.contract.streaming.ok:
        wishes.progress("looking for linear attention")
        traced, built = _try_as_loops(traced, wishes) or (traced, built)

    if may_have_others and not built.contract.streaming.ok:
        wishes.progress("trying windows of former steps")
        windowed = _try_with_windows(traced, wishes, contexts.multiple)
        traced, built = windowed or (traced, built)

    wishes.progress("trying other sizes")
    return built, look_at_other_sizes(traced, built)


def _has_products(captured: Captured) -> bool:
    """Whether a graph multiplies matrices that are no weights, or adds up an axis.

    Linear attention in parallel form does one of both.
    """
    for node in captured.model.graph.all_nodes():
        if node.op_type in ("Einsum", "ReduceSum"):
            return True
        if node.op_type == "MatMul" and not any(map(_is_weight, node.inputs)):
            return True
    return False


def _is_weight(value: ir.Value | None) -> bool:
    """Whether a value is a parameter or a constant, or one that is transposed."""
    if value is None or value.const_value is not None:
        return True
    node = value.producer()
    return node is not None and node.op_type == "Transpose" and _is_weight(node.inputs[0])


def _try_as_loops(
    traced: TracedNetwork, wishes: Wishes
) -> tuple[TracedNetwork, BuiltNetwork] | None:
    """The network with linear attention as a loop, if it can be fed in chunks so."""
    try:
        again = trace_network(
            traced.twin,
            traced.method,
            traced.sample,
            wishes.opset,
            lift=True,
            scans_as_loops=True,
        )
        if again.rolled is None:
            return None
        contexts = find_contexts(again.explicit, again.sample)
        rebuilt = build_network(again, contexts, wishes.opset, wishes.states)
    except ExportError:  # as of a network that remembers something else, too
        return None
    return (again, rebuilt) if rebuilt.contract.streaming.ok else None


def _try_with_windows(
    traced: TracedNetwork, wishes: Wishes, shortening: int
) -> tuple[TracedNetwork, BuiltNetwork] | None:
    """The network with the last steps of the calls before, if it can be fed in chunks so."""
    windowed = with_windows(*traced.runs, traced.sample, shortening)
    if windowed is None:
        return None

    contexts = replace(NO_CONTEXTS, multiple=windowed.multiple)
    try:
        again = trace_network(
            windowed.network, "forward", windowed.example, wishes.opset, lift=True
        )
        rebuilt = build_network(again, contexts, wishes.opset, windowed.declared)
    except ExportError:  # as of an operator that PyTorch's exporter writes at fixed sizes alone
        return None
    return (again, rebuilt) if rebuilt.contract.streaming.ok else None
