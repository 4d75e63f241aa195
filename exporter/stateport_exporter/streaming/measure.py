"""Whether a network can be fed in chunks: tried, by holding chunks against the whole."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from stateport.contract import ArraySpec, Contract, Streaming
from stateport.parity.vectors import Case, results, row_errors

from ..errors import ExportError
from ..network.isolation import unchanged_globals
from ..vectors.cases import RAGGED, case_of, short_case
from ..vectors.torch_reference import Answers, Array, Network, float64_reference, run_reference

#: A network that can stream gives the same in float64 whole and in chunks, but for rounding.
_SAME: Final = 1e-9
#: Of so many inputs without time is tried what they are after the first call: 3 ways each.
_MOST_MASKS: Final = 3


def measure_streaming(
    network: Network, contract: Contract, reason: str | None, multiple: int = 1
) -> Streaming:
    """What the contract says of streaming, after trying: the same sequence whole and in chunks.

    `because` is the reason to give where they differ, if one is known. Chunks are tried at every
    divisor of `multiple`, the smallest first. An input without time may be the same in every call,
    or a mask that is 0 (or 1) in all calls but the first.
    """
    if not contract.streaming.ok:
        return contract.streaming
    if "time" not in network.example.axes:
        return Streaming(reason is None, reason)
    with unchanged_globals(seed=0), torch.no_grad():
        torch.set_num_threads(1)
        truth = float64_reference(network, contract, short_case(network, contract))
        problem = None
        for divisor in (n for n in range(1, multiple + 1) if multiple % n == 0):
            problem = _problem(truth, contract, divisor)
            if problem is None:
                lookahead = measure_delay(truth, contract, divisor)
                return Streaming(True, None, divisor, lookahead)
    return Streaming(False, reason or problem)


def _problem(truth: Network, contract: Contract, multiple: int) -> str | None:
    """What is wrong with chunks of multiples of this, if anything is."""
    # It ends in short ones: long ones would hide what a network forgets.
    chunks = [multiple * time for time in (256, 142, *reversed(RAGGED))]
    # Where batch and time are one axis, of several rows it is not clear which element is whose.
    joined = {str(axis) for spec in contract.outputs for axis in spec.shape} - {"batch"}
    batch = 1 if any("batch" in axis for axis in joined) else 2
    chunked = case_of(truth, contract, "ragged", chunks, batch)
    whole = case_of(truth, contract, "whole", [sum(chunks)], batch)
    given = [spec.name for spec in contract.inputs if "time" not in spec.shape]
    at_once = run_reference(truth, contract, whole)
    problems = []
    for values in itertools.product((None, 0, 1), repeat=min(len(given), _MOST_MASKS)):
        masks = {name: v for name, v in zip(given, values, strict=False) if v is not None}
        try:
            in_parts = run_reference(truth, contract, _masked_later(chunked, masks))
        except ExportError as failure:
            return f"it cannot take short chunks: {failure}"
        same = _SAME if truth.dtype == torch.float64 else 1e-4
        problem = _difference(contract, at_once, in_parts, same)
        if problem is None:
            return None
        problems.append(problem)
    return f"measured: fed in chunks, {problems[0]}"


def measure_delay(truth: Network, contract: Contract, multiple: int) -> int:
    """How many steps behind its own place in the input the last step is that an output needs.

    Each of `multiple` steps in a row is changed, and the first step of the outputs that then
    differs tells which of them needed it. A step of an output that has half as many stands for two.
    """
    outputs = [spec for spec in contract.outputs if spec.time_axis is not None]
    if multiple == 1 or not outputs:
        return 0  # what is right in chunks of one step depends on no later one
    time = multiple * 4
    base = case_of(truth, contract, "whole", [time], 1, "zeros")
    before = run_reference(truth, contract, base)
    other = case_of(truth, contract, "whole", [time + multiple], 1, "zeros")
    found = 0
    for step in range(multiple, 2 * multiple):
        changed = {
            spec.name: _with_step_of(base.inputs[spec.name], other.inputs[spec.name], spec, step)
            for spec in contract.inputs
        }
        after = run_reference(truth, contract, replace(base, inputs=changed))
        for spec in outputs:
            errors = row_errors(after[spec.name].table, before[spec.name].table)
            if (errors > 0).any():
                place = int(np.argmax(errors > 0)) * time // len(errors)
                found = max(found, step - place)
    return found


def _with_step_of(one: Array, other: Array, spec: ArraySpec, step: int) -> Array:
    """An array with one step of another one."""
    if "time" not in spec.shape:
        return one
    at = (slice(None),) * spec.shape.index("time") + (step,)
    changed = one.copy()
    changed[at] = other[at]
    return changed


def _masked_later(case: Case, masks: Mapping[str, int]) -> Case:
    """The case with inputs of these values in all calls but the first."""
    inputs = dict(case.inputs)
    for name, value in masks.items():
        later = np.full_like(inputs[name][1:], value)
        inputs[name] = np.concatenate([inputs[name][:1], later])
    return replace(case, inputs=inputs)


def _difference(contract: Contract, whole: Answers, chunked: Answers, same: float) -> str | None:
    """How the answers to a sequence in chunks differ from those to the whole, if they do."""
    for spec in results(contract):
        at_once = whole[spec.name].table
        last = chunked[spec.name].table[-len(at_once) :]
        if last.shape != at_once.shape:
            return f"{spec.name!r} has another length than of the whole sequence"
        scale = float(np.abs(at_once).max(initial=0.0))
        error = float(row_errors(last, at_once).max(initial=0.0))
        if not error <= same * max(scale, 1e-30):
            return f"{spec.name!r} is {error:.1g} away from what the whole sequence gives"
    return None
