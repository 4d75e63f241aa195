# SPDX-License-Identifier: Apache-2.0
"""The network with its states in the open: a finished graph, tried in chunks.

What is measured decides: the contract says that a network streams where chunks give what the whole
sequence gives. Where they do not, other choices of states are tried.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import torch

from stateport import Contract
from stateport.contract import Streaming

from ..capture.capture import Captured, capture
from ..errors import ExportError
from ..graph.opset import NEWEST_CAPTURED
from ..loops import check_memory
from ..memory.check import check_kept
from ..memory.draws import check_no_own_generator
from ..network.example import Example
from ..network.explicit import Explicit
from ..network.isolation import unchanged_globals
from ..network.returned import named_results
from ..network.running_values import COUNT, SUM
from ..sizes.longest import longest_time
from ..sizes.shortest import fewest_steps, shortest_chunk
from ..states.checks import (
    check_carried,
    check_chance,
    check_default_start,
    check_padding,
    check_repeatable,
)
from ..states.convolutions import ConvolutionContexts
from ..states.declared import Declared, positions_of
from ..states.growing import check_growing, growing_caches
from ..states.hidden import make_explicit
from ..states.pairing import Wish
from ..states.possible import PossibleState
from ..states.row_lengths import packed
from ..streaming.measure import measure_streaming
from ..vectors.cases import short_case
from ..vectors.reachable import from_reachable_states
from ..vectors.torch_reference import Network, run_reference
from .finishing import FinishedGraph, finish_graph
from .tracing import TracedNetwork

#: The number of steps after which a network that numbers them has to go on as before.
_MANY_STEPS: Final = 1 << 20


@dataclass(frozen=True)
class BuiltNetwork:
    """A finished graph, the network that it is compared with, and what it promises.

    Attributes:
        captured: the graph, written in ONNX.
        network: the same network in PyTorch, as a function of named arrays.
        contract: what the graph promises, with streaming as measured.
        lifted: the inputs of the states that the author's network makes itself.
        reason: why chunks may differ from the whole, if a reason is seen.
        possible: arguments and results that may be states and were not taken as such.
        other_levels: levels of sureness at which other pairs would be states.
    """

    captured: Captured
    network: Network
    contract: Contract
    lifted: tuple[str, ...]
    reason: str | None
    possible: tuple[PossibleState, ...]
    other_levels: tuple[tuple[str, ...], ...]


def build_network(
    traced: TracedNetwork, contexts: ConvolutionContexts, opset: int, declared: Declared
) -> BuiltNetwork:
    """Builds the network with the states that let it be fed in chunks, if any do.

    Raises:
        ExportError: the network keeps or does something that a graph cannot; or `declared` names
            something that does not exist or does not fit.
    """
    captured = traced.captured
    names = named_results(getattr(traced.twin, traced.method), captured.output_paths)
    caches = growing_caches(captured.model.graph, captured.input_paths)
    check_growing(caches, names, declared)
    positions = positions_of(declared, captured.model.graph, captured.input_paths, names)
    wish = Wish(positions, names)

    # What the author takes and returns comes before running values that are carried for the author.
    steps_only = contexts.without(SUM, COUNT)
    first = _build_and_measure(traced, steps_only, opset, wish)
    if first.contract.streaming.ok:
        return first

    for levels in first.other_levels:
        retried = _build_and_measure(
            traced, steps_only, opset, replace(wish, levels=levels), is_retry=True
        )
        if retried.contract.streaming.ok:
            return retried

    with_values = _build_with_running_values(traced, contexts, opset, wish)
    if with_values is not None:
        return with_values
    if steps_only.contexts:
        return _build_without_contexts(traced, contexts, opset, wish, first)
    return first


@dataclass(frozen=True)
class _Unmeasured:
    """A finished graph whose streaming has not been measured."""

    captured: Captured
    network: Network
    finished: FinishedGraph

    @cached_property
    def contract(self) -> Contract:
        """What the graph promises, before streaming is measured."""
        multiple = self.network.example.time_multiple
        multiples = () if multiple == 1 else (("time", multiple),)
        contract = self.finished.contract
        streaming = contract.streaming
        if streaming.ok:  # until chunks are tried
            streaming = replace(streaming, chunk_multiple=multiple)

        contract = replace(contract, multiples=multiples, streaming=streaming)
        longest = longest_time(self.network, contract)
        limits = () if longest is None else (("time", longest),)
        return replace(contract, limits=limits)

    def with_streaming(self, streaming: Streaming, reason: str | None) -> BuiltNetwork:
        """The network with what was measured, and with what its graph says against it."""
        contract = self.contract
        other_levels = self.finished.other_levels if contract.streaming.ok else ()
        return BuiltNetwork(
            self.captured,
            self.network,
            _with_fewest_steps(self.network, replace(contract, streaming=streaming)),
            self.finished.lifted,
            reason,
            self.finished.possible,
            # Where a layer needs the whole sequence, no choice of states changes that.
            other_levels,
        )


def _with_fewest_steps(network: Network, contract: Contract) -> Contract:
    """The contract with the fewest steps of a call, where not every call has as many."""
    fewest = fewest_steps(network, contract)
    always = dict(contract.multiples).get("time", 1)
    if fewest == always:
        return contract
    return replace(contract, minimums=(("time", fewest),))


def _build_and_measure(
    traced: TracedNetwork,
    contexts: ConvolutionContexts,
    opset: int,
    wish: Wish,
    *,
    is_retry: bool = False,
) -> BuiltNetwork:
    """Builds the network, and tries whether chunks give what the whole sequence gives.

    `is_retry` says that the network was built before, with other choices of states.
    """
    built = _build(traced, contexts, opset, wish, recapture=is_retry, check_memory_too=not is_retry)
    return built.with_streaming(_measure(built, contexts), built.finished.reason)


def _measure(built: _Unmeasured, contexts: ConvolutionContexts) -> Streaming:
    """Whether chunks give what the whole sequence gives."""
    contract = built.contract
    return measure_streaming(
        built.network,
        contract,
        built.finished.reason,
        contexts.multiple,
        shortest=shortest_chunk(built.network, contract),
        is_tied=built.finished.is_tied,
    )


def _build_with_running_values(
    traced: TracedNetwork, contexts: ConvolutionContexts, opset: int, wish: Wish
) -> BuiltNetwork | None:
    """The network with sums and numbers of steps that go on from call to call, if that helps.

    Sums are tried alone first: numbers of steps may tell padding from data in a call.
    """
    tried = contexts.without(SUM, COUNT)
    for candidate in (contexts.without(COUNT), contexts):
        if candidate == tried:
            continue

        tried = candidate
        try:
            built = _build_and_measure(traced, candidate, opset, wish, is_retry=True)
        except ExportError:  # as of numbers by which it indexes a call's own steps
            continue
        if built.contract.streaming.ok and _takes_great_numbers(built, candidate):
            return built
    return None


def _takes_great_numbers(built: BuiltNetwork, contexts: ConvolutionContexts) -> bool:
    """Whether a network still runs after very many steps; a table of positions has an end."""
    network, contract = built.network, built.contract
    case = short_case(network, contract)
    state = dict(case.initial)
    for context in contexts.contexts:
        if context.kind == COUNT:
            state[context.name] = np.full_like(state[context.name], _MANY_STEPS)

    try:
        with unchanged_globals(seed=0), torch.no_grad():
            run_reference(network, contract, replace(case, initial=state))
    except ExportError:
        return False
    return True


def _build_without_contexts(
    traced: TracedNetwork,
    contexts: ConvolutionContexts,
    opset: int,
    wish: Wish,
    before: BuiltNetwork,
) -> BuiltNetwork:
    """Builds a network that gets nothing from the call before but the states of its layers.

    `before` is the network that gets more, for which chunks were tried in vain. What looks like
    padding may be something else, so that chunks are tried once more; mostly it takes whole
    sequences alone.
    """
    built = _build(
        traced, contexts.without_contexts(), opset, wish, recapture=False, check_memory_too=False
    )
    streaming = _measure(built, contexts)
    if streaming.ok:
        return built.with_streaming(streaming, None)

    reason = before.reason or built.finished.reason
    said = streaming if before.reason is None else before.contract.streaming
    return built.with_streaming(said, reason)


def _build(
    traced: TracedNetwork,
    contexts: ConvolutionContexts,
    opset: int,
    wish: Wish,
    *,
    recapture: bool,
    check_memory_too: bool,
) -> _Unmeasured:
    """Makes hidden states and contexts explicit, checks them, and finishes the graph.

    Args:
        traced: the author's network.
        contexts: what its convolutions need of a call before.
        opset: the opset to write.
        wish: which arguments and results are to be states.
        recapture: whether the graph in `traced` is finished already, and cannot be used again.
        check_memory_too: whether to check that the network keeps nothing else from call to call.
    """
    explicit = traced.explicit
    sample = traced.sample
    captured = traced.captured
    has_lifted_states = bool(traced.hidden or contexts.contexts)
    if has_lifted_states:
        explicit, sample = make_explicit(explicit, sample, traced.hidden, contexts)
    if has_lifted_states or recapture:
        captured = capture(explicit, sample, min(opset, NEWEST_CAPTURED))

    _check_states(traced, explicit, sample, captured)
    if check_memory_too:
        _check_nothing_else_kept(traced, explicit, sample)

    finished = finish_graph(
        captured, opset, traced.hidden, contexts, sample.lengths, wish, sample.first_values
    )
    check_default_start(traced.twin, traced.method, sample, finished.state_parameters)
    network = Network(
        explicit,
        sample,
        finished.inputs,
        finished.results,
        finished.initial,
        contexts.running_values() | sample.reached,
    )
    network = from_reachable_states(network, finished.contract)
    return _Unmeasured(captured, network, finished)


def _check_states(
    traced: TracedNetwork, explicit: Explicit, sample: Example, captured: Captured
) -> None:
    """Checks that the network's results depend on nothing but its arguments and states."""
    if traced.rolled is not None:
        lifted = {each.call: each.positions for each in traced.hidden}
        check_memory(traced.twin, traced.method, traced.rolled, sample, lifted)

    try:
        check_repeatable(explicit, sample)
    except ExportError:
        check_no_own_generator(traced.twin)  # which says more
        raise
    check_chance(captured.model)
    check_padding(explicit, sample, [*map(str, packed(captured))])
    check_carried(explicit, sample, traced.hidden)


def _check_nothing_else_kept(traced: TracedNetwork, explicit: Explicit, sample: Example) -> None:
    """Checks that the network keeps nothing from call to call but the states that are lifted."""
    arguments = sample.make(sample.sizes)
    if traced.rolled is None:
        first_states = explicit.first_states(arguments.states)
        check_kept(traced.twin, traced.method, sample, first_states)
        return

    with unchanged_globals(seed=1), torch.no_grad():
        _, lasts = Explicit(traced.rolled).eval()(arguments.args, arguments.kwargs, ())
    lifted = []
    for each in traced.hidden:
        lifted += [lasts[each.call][position] for position in each.positions]
    check_kept(traced.twin, traced.method, sample, {}, lifted)
