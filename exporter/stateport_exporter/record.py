"""Vectors from PyTorch: the truth in float64, and what PyTorch itself loses in float32."""

from __future__ import annotations

import copy
import itertools
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from stateport.arrays import initial_state
from stateport.contract import ArraySpec, Contract, Streaming, resolve
from stateport.parity.vectors import (
    Case,
    Rows,
    Vectors,
    call_inputs,
    results,
    row_errors,
    rows,
)

from .errors import ExportError
from .example import Example
from .explicit import Explicit
from .guard import computing_in, evaluation_twin, float64_copy, unchanged_globals, use_onednn

Array = NDArray[Any]
Answers = dict[str, Rows]

_BATCHES: Final = (1, 2, 5)
_TIMES: Final = (1, 2, 7, 64, 513)
_RAGGED: Final = (1, 7, 2, 64, 3, 1, 1, 31, 5)
_CHAIN: Final = 2048
#: Numbers beyond this count as too large for float32: on the way to them, sums are larger still.
_LARGEST: Final = 1e35
#: Of longer rows only so many elements are kept that no array is larger than this.
_MOST_ELEMENTS: Final = 1 << 20
_NUDGES: Final = 8
#: Networks with more parameters are not copied for that.
_MOST_NUDGED: Final = 10_000_000
#: A network that can stream gives the same in float64 whole and in chunks, but for rounding.
_SAME: Final = 1e-9
#: Of so many inputs without time is tried what they are after the first call: 3 ways each.
_MOST_MASKS: Final = 3


class Network:
    """The module as a function of named arrays, as the exported graph is one.

    `inputs` and `results` are the graph's names, in the order of the flattened arguments and
    results; a result that the graph has not is None. `initial` are the first values of states that
    do not start from zeros, `dtype` is what the network computes in.
    """

    def __init__(
        self,
        module: Explicit,
        example: Example,
        inputs: Sequence[str],
        results: Sequence[str | None],
        initial: Mapping[str, Array],
    ) -> None:
        self.module = module
        self.example = example
        self.inputs = inputs
        self.results = results
        self.initial = initial
        self.dtype = torch.float32
        self._template, self._structure = pytree.tree_flatten(example.make(example.sizes))

    def in_float64(self) -> Network:
        """The same network computing in float64."""
        other = copy.copy(self)
        other.module = float64_copy(self.module)
        other.dtype = torch.float64
        return other

    def nudged(self, seed: int) -> Network:
        """The same network with every parameter off by one unit in the last place of float32."""
        other = copy.copy(self)
        other.module = evaluation_twin(self.module, share_parameters=False)
        random = torch.Generator().manual_seed(seed)
        for parameter in other.module.parameters():
            sign = torch.randint(0, 2, parameter.shape, generator=random) * 2 - 1
            parameter.mul_(1 + sign * torch.finfo(torch.float32).eps)
        return other

    def __call__(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """One call; floating-point arrays go in, and come out, in the network's dtype."""
        given = iter([self._tensor(arrays[name]) for name in self.inputs])
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self._template]
        arguments = pytree.tree_unflatten(leaves, self._structure)
        with computing_in(self.dtype):
            returned = pytree.tree_leaves(self.module(*arguments))
        found = [leaf for leaf in returned if isinstance(leaf, Tensor)]
        named = zip(self.results, found, strict=True)
        return {name: tensor.numpy() for name, tensor in named if name is not None}

    def _tensor(self, array: Array) -> Tensor:
        tensor = torch.from_numpy(np.array(array))
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


def record(network: Network, contract: Contract) -> Vectors:
    """Runs PyTorch on every case.

    A network that cannot run in float64 gives the truth in float32, and no floor.

    Raises:
        ExportError: the network fails at a size that it was not traced at.
    """
    cases = list(_cases(network, contract))
    with unchanged_globals(seed=0), torch.no_grad():
        # A step is too small to share out, and one thread sums in the same order everywhere.
        torch.set_num_threads(1)
        truth = _truth_network(network, contract)
        answered = list(_answered(truth, contract, cases))
        floor = _floor(network, truth, contract, answered)
    return Vectors(
        contract=contract,
        truth=str(truth.dtype).removeprefix("torch."),
        floor=floor,
        cases=tuple(_with_truth(case, answers) for case, answers in answered),
        made_with={"torch": torch.__version__, "machine": platform.machine()},
    )


def _answered(
    truth: Network, contract: Contract, cases: Sequence[Case]
) -> Iterator[tuple[Case, Answers]]:
    """The cases with their answers, as far as these are numbers in float32.

    Sequences too short for the network itself are left out. Where a network grows without bound, a
    case ends before the call that would overflow.
    """
    traced = truth.example.sizes["time"]
    for case in cases:
        try:
            answers = _answers(truth, contract, case)
        except ExportError:
            if len(case.chunks) > 1 or sum(case.chunks) >= traced:
                raise
            continue
        calls = _calls_in_range(case, answers)
        if 0 < calls < len(case.chunks):
            case = _first_calls(contract, case, calls)
            answers = _answers(truth, contract, case)
        if calls or sum(case.chunks) <= traced:
            yield case, answers


def _calls_in_range(case: Case, answers: Answers) -> int:
    """How many calls are made before one in which a number is beyond the range of float32."""
    first = sum(case.chunks)
    for table, steps in answers.values():
        size = np.abs(table.astype(np.float64), where=np.isfinite(table), out=np.zeros(table.shape))
        beyond = (size > _LARGEST).any(axis=1)
        if table.dtype.kind == "f" and beyond.any():
            first = min(first, int(steps[beyond].min()))
    return sum(end <= first for end in case.ends)


def _first_calls(contract: Contract, case: Case, calls: int) -> Case:
    """The case without the calls behind the first ones."""
    before, time = sum(case.chunks), sum(case.chunks[:calls])
    inputs = {}
    for spec in contract.inputs:
        array = case.inputs[spec.name]
        axis, first = (spec.shape.index("time"), time) if "time" in spec.shape else (0, calls)
        inputs[spec.name] = np.take(array, range(first), axis)
    name = case.name.replace(f"x{before}", f"x{time}", 1)
    return replace(case, name=name, chunks=case.chunks[:calls], inputs=inputs)


def measure_streaming(network: Network, contract: Contract, because: str | None) -> Streaming:
    """What the contract says of streaming, after trying: the same sequence whole and in chunks.

    `because` is the reason to give where they differ, if one is known. An input without time may be
    the same in every call, or a mask that is 0 (or 1) in all calls but the first.
    """
    if not contract.streaming.ok:
        return contract.streaming
    if "time" not in network.example.axes:
        return Streaming(because is None, because)
    # It ends in short ones: long ones would hide what a network forgets.
    chunks = (256, 142, *reversed(_RAGGED))
    # Where batch and time are one axis, of several rows it is not clear which element is whose.
    joined = {str(axis) for spec in contract.outputs for axis in spec.shape} - {"batch"}
    batch = 1 if any("batch" in axis for axis in joined) else 2
    chunked = _case(network, contract, "ragged", chunks, batch)
    whole = _case(network, contract, "whole", [sum(chunks)], batch)
    given = [spec.name for spec in contract.inputs if "time" not in spec.shape]
    with unchanged_globals(seed=0), torch.no_grad():
        torch.set_num_threads(1)
        truth = _truth_network(network, contract)
        at_once = _answers(truth, contract, whole)
        problems = []
        for values in itertools.product((None, 0, 1), repeat=min(len(given), _MOST_MASKS)):
            masks = {name: v for name, v in zip(given, values, strict=False) if v is not None}
            try:
                in_parts = _answers(truth, contract, _masked_later(chunked, masks))
            except ExportError as failure:
                return Streaming(False, f"it cannot take short chunks: {failure}")
            same = _SAME if truth.dtype == torch.float64 else 1e-4
            problem = _difference(contract, at_once, in_parts, same)
            if problem is None:
                return contract.streaming
            problems.append(problem)
    return Streaming(False, because or f"measured: fed in chunks, {problems[0]}")


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


def _cases(network: Network, contract: Contract) -> Iterator[Case]:
    """Sizes that were not traced, first states, chunkings, permuted rows, and a long chain."""
    axes = network.example.axes
    batches = _BATCHES if "batch" in axes else (1,)
    times = _TIMES if "time" in axes else (1,)
    for i, batch in enumerate(batches):
        for j, time in enumerate(times):
            start = "random" if (i + j) % 2 else "zeros"
            yield _case(network, contract, "whole", [time], batch, start)
    if "batch" in axes:
        yield _permuted(network, contract, [times[len(times) // 2]])
    if not contract.states:
        return
    batch = batches[len(batches) // 2]
    if not contract.streaming.ok:
        yield _case(network, contract, "chain of calls", [8] * (_CHAIN // 8), batch)
        return
    if "time" in axes:
        yield _case(network, contract, "step by step", [1] * 64, batch, through="stream")
        yield _case(network, contract, "ragged chunks", _RAGGED, batch, through="stream")
        yield _case(network, contract, "ragged calls", _RAGGED, batch)
    yield _case(network, contract, "chain", [1] * _CHAIN, batch, through="stream")


def _case(
    network: Network,
    contract: Contract,
    name: str,
    chunks: Sequence[int],
    batch: int,
    start: str = "random",
    through: str = "model",
) -> Case:
    """A case; the same batch and number of steps give the same sequence, however it is cut."""
    axes = network.example.axes
    sizes = {a: n for a, n in network.example.sizes.items() if a in axes and a != "time"}
    if "batch" in axes:
        sizes["batch"] = batch
    seed = 10_000 * batch + sum(chunks)
    title = f"{name} {batch}x{sum(chunks)}"
    return Case(
        name=f"{title}, from {start}" if contract.states else title,
        through=through,
        sizes=sizes,
        chunks=tuple(chunks),
        inputs=_inputs(network, contract, sizes, chunks, seed),
        initial=_random_state(contract, sizes, seed) if start == "random" else {},
    )


def _inputs(
    network: Network, contract: Contract, sizes: Mapping[str, int], chunks: Sequence[int], seed: int
) -> dict[str, Array]:
    """Inputs as `Case` keeps them: whole along time, or one per call where there is no time."""
    if "time" in network.example.axes:
        made = _made(network, {**sizes, "time": sum(chunks)}, seed)
        per_call = [made] * len(chunks)
    else:
        per_call = [_made(network, sizes, seed + call) for call in range(len(chunks))]
    lengths = {spec.name for spec in contract.inputs if spec.lengths_of is not None}
    return {
        spec.name: _lengths(network.example, spec, sizes, chunks, seed)
        if spec.name in lengths
        else per_call[0][spec.name]
        if "time" in spec.shape
        else np.stack([call[spec.name] for call in per_call])
        for spec in contract.inputs
    }


def _lengths(
    example: Example, spec: ArraySpec, sizes: Mapping[str, int], chunks: Sequence[int], seed: int
) -> Array:
    """The lengths of rows in each call, within its chunk: (calls, batch)."""
    shape = resolve(spec.shape, sizes)
    calls = [example.draw_lengths(shape, chunk, seed + i) for i, chunk in enumerate(chunks)]
    return np.stack(calls).astype(spec.dtype)


def _made(network: Network, sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    """What the example gives, by name. A constant says nothing, so random numbers replace it."""
    random = np.random.default_rng(seed)
    arrays = [
        tensor.numpy() for _, tensor in network.example.tensors(network.example.make(sizes, seed))
    ]
    return {
        name: random.standard_normal(array.shape).astype(array.dtype)
        if array.dtype.kind == "f" and array.size and (array == array.flat[0]).all()
        else array
        for name, array in zip(network.inputs, arrays, strict=True)
    }


def _random_state(contract: Contract, sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        s.input: (0.5 * random.standard_normal(resolve(s.shape, sizes))).astype(s.dtype)
        for s in contract.states
    }


def _permuted(network: Network, contract: Contract, chunks: Sequence[int]) -> Case:
    """A case with the rows of its batch in reverse order."""
    case = _case(network, contract, "whole", chunks, 5)

    def flip(array: Array, shape: Sequence[object], offset: int) -> Array:
        if "batch" not in shape:
            return array
        return np.flip(array, list(shape).index("batch") + offset)

    inputs = {
        spec.name: flip(case.inputs[spec.name], spec.shape, 0 if "time" in spec.shape else 1)
        for spec in contract.inputs
        if spec.lengths_of is None or not network.example.descending
    }
    initial = {s.input: flip(case.initial[s.input], s.shape, 0) for s in contract.states}
    return replace(
        case,
        name=f"reversed rows, {case.name}",
        inputs={**case.inputs, **inputs},
        initial=initial,
    )


def _answers(network: Network, contract: Contract, case: Case) -> Answers:
    """The network's answers to a case, as rows; states after every call among them."""
    sizes = {"time": case.chunks[0], **case.sizes}
    state = dict(case.initial) or dict(initial_state(contract, network.initial, sizes))
    answers = []
    for inputs in call_inputs(contract, case):
        try:
            answer = network({**inputs, **state})
        except Exception as error:  # the user's forward may raise anything
            raise ExportError(
                f"The network fails on {case.name!r}, a size that it was not traced at: {error}"
            ) from error
        state = {s.input: answer[s.output] for s in contract.states}
        answers.append(answer)
    collected = {spec.name: [a[spec.name] for a in answers] for spec in results(contract)}
    return {spec.name: rows(spec, case, collected[spec.name]) for spec in results(contract)}


def _truth_network(network: Network, contract: Contract) -> Network:
    """The network in float64 where it runs in that and answers in it, else as it is."""
    case = _case(network, contract, "whole", [2 if "time" in network.example.axes else 1], 2)
    try:
        double = network.in_float64()
        answers = _answers(double, contract, case)
    except ExportError:
        return network
    floats = [answers[s.name].table.dtype for s in results(contract) if s.dtype.startswith("float")]
    return double if all(dtype == np.float64 for dtype in floats) else network


def _floor(
    network: Network, truth: Network, contract: Contract, answered: Sequence[tuple[Case, Answers]]
) -> dict[str, Array]:
    """The largest error of PyTorch in float32 up to each step, over all cases.

    PyTorch has two implementations of an LSTM on the CPU, its own and oneDNN's, which round
    differently; the worse of the two counts. Where both happen to be exact, half a unit in the
    last place of the largest value so far is still owed to any other order of summation.

    Where a network amplifies differences on its way, how far float32 is off hangs on the luck of
    single roundings. So the truth is also taken with every parameter off by one unit in its last
    place, at random, a few times: an engine that is exact for such a network is right.
    """
    small = sum(p.numel() for p in network.module.parameters()) <= _MOST_NUDGED
    nudges = _NUDGES if small and truth is not network else 0
    nudged = [truth.nudged(seed) for seed in range(nudges)]
    length = max(sum(case.chunks) for case, _ in answered)
    floor = {spec.name: np.zeros(length) for spec in results(contract)}
    for case, exact in answered:
        runs = [(network, True), (network, False)]
        if len(case.chunks) == 1:  # whole sequences are quick
            runs += [(other, True) for other in nudged]
        for run, onednn in runs:
            use_onednn(onednn)
            answers = _answers(run, contract, case)
            for spec in results(contract):
                _raise_floor(floor[spec.name], spec, answers[spec.name], exact[spec.name].table)
    return {name: _smooth(np.maximum.accumulate(steps)) for name, steps in floor.items()}


def _smooth(growing: Array) -> Array:
    """The floor with a look ahead of an eighth of the way.

    In a network that amplifies small differences, errors grow exponentially, and where they stand
    at a given step hangs on the very first roundings. An engine may be that much ahead of PyTorch.
    Where errors do not grow, this changes nothing.
    """
    steps = np.arange(len(growing))
    smooth: Array = growing[np.minimum(steps + steps // 8, len(growing) - 1)]
    return smooth


def _raise_floor(floor: Array, spec: ArraySpec, answer: Rows, truth: Array) -> None:
    errors = row_errors(answer.table, truth)
    sizes = np.abs(truth, where=np.isfinite(truth), out=np.zeros(truth.shape))
    largest = sizes.max(axis=1, initial=0.0)
    owed = largest * (np.finfo(np.float32).eps / 2) if spec.dtype.startswith("float") else 0.0
    worst = np.where(np.isfinite(errors), np.maximum(errors, owed), owed)
    np.maximum.at(floor, answer.steps, worst)


def _with_truth(case: Case, answers: Answers) -> Case:
    """The case with its truth; of very long rows, a random part."""
    kept: dict[str, Array] = {}
    truth = {name: table for name, (table, _) in answers.items()}
    for name, (table, _) in answers.items():
        most = max(_MOST_ELEMENTS // max(len(table), 1), 1)
        if table.shape[1] > most:
            random = np.random.default_rng(table.shape[1])
            kept[name] = np.sort(random.choice(table.shape[1], most, replace=False))
            truth[name] = table[:, kept[name]]
    return replace(case, truth=truth, kept=kept)
