# SPDX-License-Identifier: Apache-2.0
"""The contract of a file that carries none, from the caller's pairs of states or from names."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import replace
from itertools import filterfalse
from typing import Final

from ..contract import ArraySpec, Axis, Contract, StateSpec, axis_names, by_name, describe
from ..errors import ContractError, InputError
from ..picking import among, without
from .foreign.growing import check_growing
from .foreign.kinds import check_kinds
from .foreign.streaming import streaming_of
from .onnx_outline import OnnxFile

#: The names that other exporters give the two axes that have a meaning here.
_BATCH: Final = re.compile(r"(batch(_?size)?|bs?|n)", re.IGNORECASE)
_TIME: Final = re.compile(
    r"(time(_?steps?)?|seq(uence)?(_?len(gth)?)?|len(gth)?|[lt]|(num_?|n_?)?(frames|samples|steps)"
    r"|chunk(_?size|_?len(gth)?)?)",
    re.IGNORECASE,
)

_FORMS: Final = "states={'input': 'output'}, or --state input=output."
_ADVICE: Final = f"Declare them: {_FORMS}"
#: The operators that have a state in any case.
_RECURRENT: Final = ("LSTM", "GRU", "RNN", "com.microsoft::DynamicQuantizeLSTM")

#: Names of a state's input and output: a pattern for the input, and forms for the output.
_PAIRS: Final = (
    (r"(.*?)_?0", (r"\1n", r"\1_n")),  # h0 -> hn, h_0 -> h_n
    (r"(.+)", (r"\1N", r"\1n", r"\1_n", r"\1_next", r"next_\1")),
    (r"(.+)", (r"new_\1", r"\1_new", r"updated_\1", r"\1_updated")),
    (r"(.+)_in", (r"\1_n", r"\1N")),
    (r"past_(.+)", (r"present_\1", r"new_\1")),
    (r"past(.+)", (r"present\1",)),
    (r"prev_(.+)", (r"\1", r"next_\1", r"new_\1")),
    (r"(.+)_prev", (r"\1", r"\1_next", r"\1_new")),
)
#: The same for names that only say "in" and "out": a signal may have them as well as a state.
_IN_AND_OUT: Final = (
    (r"(.+)", (r"\1_out", r"out_\1")),
    (r"(.+)_in", (r"\1_out",)),
    (r"in_(.+)", (r"out_\1",)),
    (r"(.*)input_?(.+)", (r"\1output_\2", r"\1output\2")),
    (r"(.+)_input", (r"\1_output",)),
    (r"(.+)_i", (r"\1_o",)),
    (r"i_(.+)", (r"o_\1",)),
)
#: Names that states have, and signals do not.
_STATE: Final = re.compile(
    r"(^|[_/])[hcs]x?\d*(_|$)|hid|state|mem|carry|cell|prev|past|recur|lstm|gru|rnn|cache|buf|hist|ctx"
    r"|context|fifo|delay",
    re.IGNORECASE,
)


def infer_contract(
    file: OnnxFile,
    states: Mapping[str, str] | None = None,
    axes: Mapping[str, str] | None = None,
) -> Contract:
    """The contract of a file without one.

    Args:
        file: the file.
        states: by state input, the output that gives its next value; by default matched by names:
            h0 and hn, state and stateN, past_x and present_x, x_in and x_out.
        axes: new names for axes of the file: {"s27": "time"}.

    Raises:
        ContractError: the names match no pairing of states, or more than one; or an input or output
            is no array of numbers or truth values.
        InputError: `states` names what the file lacks, or what does not fit; or a state grows with
            every call.
    """
    check_kinds(file)
    pairs = _matched_states(file) if states is None else _declared_states(file, states)

    check_growing(file, pairs)
    ports_of_states = {*pairs, *pairs.values()}
    state_inputs = [spec for spec in file.inputs if spec.name in pairs]
    renamed = {**_batch_axes(state_inputs), **(axes or {})}
    if renamed.get("time") == "batch":  # a file that has both names the wrong way round
        renamed.setdefault("batch", "time")

    signals = _not_named(file.inputs, ports_of_states)
    inputs = tuple(_name_input_axes(spec, renamed) for spec in signals)
    state_specs = tuple(_state_spec(spec, pairs[spec.name], renamed) for spec in state_inputs)

    known = _named_axes(inputs, state_specs)
    signals = _not_named(file.outputs, ports_of_states)
    outputs = tuple(_name_output_axes(spec, renamed, known) for spec in signals)

    contract = Contract(inputs, outputs, state_specs)
    return replace(contract, streaming=streaming_of(file, contract))


def _not_named(specs: Iterable[ArraySpec], names: Container[str]) -> list[ArraySpec]:
    """The inputs or outputs that do not have these names."""
    return [spec for spec in specs if spec.name not in names]


def _matched_states(file: OnnxFile) -> dict[str, str]:
    """The states by the names of the file; there has to be one."""
    pairs = match_state_names(file)
    if not pairs:
        operator = operator_with_state(file.operators)
        advice = f"{_ADVICE} states={{}} says that it has none."
        if operator:
            advice = (
                f"Its {operator} has a state: if the file hides it, "
                "`stateport lift IN.onnx -o OUT.onnx` makes it an input and an output; if both are "
                f"there, declare them: {_FORMS}"
            )
        raise ContractError(
            f"{file.path} carries no contract, and no names of its inputs "
            f"({_listed(file.inputs)}) and outputs ({_listed(file.outputs)}) match a pairing of "
            f"states. {advice}"
        )
    return pairs


def operator_with_state(operators: Collection[str]) -> str:
    """The first operator with a state among those of a file: "LSTM"; empty where there is none."""
    recurrent = among(_RECURRENT, operators)
    return recurrent[0].rpartition(":")[2] if recurrent else ""


def _declared_states(file: OnnxFile, states: Mapping[str, str]) -> dict[str, str]:
    """The states that the caller declared, if the file has them."""
    inputs = by_name(file.inputs)
    outputs = by_name(file.outputs)
    for before, after in states.items():
        _check_exists(file, before, inputs, "input")
        _check_exists(file, after, outputs, "output")
        if not _fits(inputs[before], outputs[after]):
            raise InputError(
                f"{before!r} and {after!r} cannot be one state: the input is {inputs[before]}, the "
                f"output {outputs[after]}."
            )

        if [*states.values()].count(after) > 1:
            raise InputError(f"The output {after!r} is named as the next value of two states.")
    return dict(states)


def _check_exists(file: OnnxFile, name: str, specs: Mapping[str, ArraySpec], what: str) -> None:
    if name in specs:
        return

    raise InputError(
        f"{file.path} has no {what} {name!r} to be a state; it has "
        f"{', '.join(map(str, specs.values())) or 'none'}."
    )


def match_state_names(file: OnnxFile) -> dict[str, str]:
    """The states that the names of a file's inputs and outputs match; empty if they match none.

    A pair that is the file's only real input, or its only output, is no state.

    Raises:
        ContractError: the names match more than one pairing of states.
    """
    certain, possible = _read_names(file)
    claimed = [name for names in certain.values() for name in names]
    unique = len(claimed) == len(certain) == len({*claimed})
    leaves_signal = _leaves_signal(file, certain)

    # Of several pairs that leave no signal, it is unknown which one is the signal.
    signal_among_pairs = not leaves_signal and len(certain) > 1

    if not unique or possible or signal_among_pairs:
        candidates = []
        for name, names in {**certain, **possible}.items():
            candidates.append(f"{name!r} with {_either(names)}")

        raise ContractError(
            f"{file.path} carries no contract, and its names match more than one pairing of "
            f"states: {'; '.join(candidates)}. {_ADVICE}"
        )

    if not leaves_signal:
        return {}

    return {name: names[0] for name, names in certain.items()}


def _read_names(file: OnnxFile) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What the names say of states.

    Returns:
        By input, the outputs with which it is a state for certain; and by input, the outputs with
        which it is a state or a signal.
    """
    certain = _candidates(file, _PAIRS)
    general = _candidates(file, _IN_AND_OUT)
    for name, names in general.items():
        if name in certain or _STATE.search(_snake_case(name)):
            certain[name] = list(dict.fromkeys([*certain.get(name, ()), *names]))

    possible = {}
    for name, names in general.items():
        is_settled = name in certain or _is_claimed(names, certain)
        if not is_settled and _may_be_state(file, name, names, certain):
            possible[name] = names
    return certain, possible


def _is_claimed(names: Iterable[str], pairs: Mapping[str, Iterable[str]]) -> bool:
    """Whether one of these outputs belongs to a pair."""
    return any(set(names).intersection(outputs) for outputs in pairs.values())


def _may_be_state(
    file: OnnxFile, name: str, names: Iterable[str], certain: Mapping[str, Iterable[str]]
) -> bool:
    """Whether an input may be a state with these outputs, beside the certain ones."""
    is_sequence = any(spec.name == name and _is_sequence(spec) for spec in file.inputs)
    return not is_sequence and _leaves_signal(file, {**certain, name: names})


def _candidates(
    file: OnnxFile, patterns: Iterable[tuple[str, tuple[str, ...]]]
) -> dict[str, list[str]]:
    """By each input that may be a state, the outputs that may give its next value."""
    outputs = by_name(file.outputs)
    candidates = {}
    for spec in file.inputs:
        matching = _matching_outputs(spec.name, outputs, patterns)
        names = [name for name in matching if _fits(spec, outputs[name])]
        if names:
            candidates[spec.name] = names
    return candidates


def _leaves_signal(file: OnnxFile, pairs: Mapping[str, Iterable[str]]) -> bool:
    """Whether the file has inputs and outputs beside these states; a number is no signal."""
    taken = {name for names in pairs.values() for name in names}
    has_input = any(spec.name not in pairs and not _is_number(spec) for spec in file.inputs)
    has_output = any(spec.name not in taken for spec in file.outputs)
    return has_input and has_output


def _is_number(spec: ArraySpec) -> bool:
    has_one_element = all(axis == 1 for axis in spec.shape)
    return "float" not in spec.dtype and has_one_element


def _is_sequence(spec: ArraySpec) -> bool:
    """Whether an array has the axes of a signal: one is time, or two are open."""
    open_axes = _open_axes(spec)
    is_called_time = any(_TIME.fullmatch(str(axis)) for axis in open_axes)
    return len(open_axes) > 1 or is_called_time


def _open_axes(spec: ArraySpec) -> list[Axis]:
    """The axes whose size the file leaves open."""
    return [*filterfalse(_is_fixed, spec.shape)]


def _matching_outputs(
    name: str, outputs: Collection[str], patterns: Iterable[tuple[str, tuple[str, ...]]]
) -> list[str]:
    """The outputs whose names match that of an input, so that they may give its next value.

    Names as they are come first. Where none matches, names in camel case, in capitals, or with
    TensorFlow's ":0" are compared in snake case.
    """
    matching = _forms_of(name, patterns)

    exact = without(among(matching, outputs), [name])
    if exact:
        return exact

    matching = _forms_of(_snake_case(name), patterns)
    return [output for output in outputs if _snake_case(output) in matching and output != name]


def _forms_of(name: str, patterns: Iterable[tuple[str, tuple[str, ...]]]) -> list[str]:
    """The names that the next value of a state with this name may have."""
    forms_of: list[str] = []
    for pattern, forms in patterns:
        match = re.fullmatch(pattern, name)
        if match is not None:
            forms_of += [*map(match.expand, forms)]
    return [*dict.fromkeys(forms_of)]


def _snake_case(name: str) -> str:
    """`lstm/hiddenStateIn:0` -> `lstm/hidden_state_in`."""
    without_number = re.sub(r":\d+$", "", name)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", without_number).lower()


def _fits(before: ArraySpec, after: ArraySpec) -> bool:
    """Whether an output may be the next value of an input, as far as the file says."""
    if before.dtype != after.dtype:
        return False
    if not after.shape or not before.shape:  # the file does not say
        return True
    if len(before.shape) != len(after.shape):
        return False

    return all(map(_may_be_equal, before.shape, after.shape))


def _may_be_equal(axis: Axis, other: Axis) -> bool:
    return axis == other or not (_is_fixed(axis) and _is_fixed(other))


def _is_fixed(axis: Axis) -> bool:
    return isinstance(axis, int)


def _batch_axes(states: Iterable[ArraySpec]) -> dict[str, str]:
    """New names for axes: the only open axis of a state is the batch, whatever its name."""
    renamed = {}
    for spec in states:
        open_axes = _open_axes(spec)
        if len(open_axes) == 1:
            renamed[str(open_axes[0])] = "batch"
    return renamed


def _state_spec(spec: ArraySpec, output: str, renamed: Mapping[str, str]) -> StateSpec:
    """The state of an input, whose next value an output gives."""
    if len(_open_axes(spec)) == 1:
        shape = tuple(axis if _is_fixed(axis) else "batch" for axis in spec.shape)
    else:
        shape = _name_input_axes(spec, renamed).shape
    return StateSpec(spec.name, output, spec.dtype, shape)


def _named_axes(inputs: Iterable[ArraySpec], states: Iterable[StateSpec]) -> set[str]:
    """The names of axes that inputs and states have: before a call, these have sizes."""
    return {*axis_names(inputs), *axis_names(states)}


def _name_input_axes(spec: ArraySpec, renamed: Mapping[str, str]) -> ArraySpec:
    """An input or a state whose axes are called batch and time where they are that."""
    shape = _rename_axes(spec, renamed)
    nameless = [number for number, axis in enumerate(spec.shape) if axis == "?"]

    # A first axis without a name is the batch, if the states have one; then a single one is time.
    first_is_nameless = nameless[:1] == [0]
    if first_is_nameless and "batch" in renamed.values() and "batch" not in shape:
        shape[nameless.pop(0)] = "batch"
    if len(nameless) == 1 and "time" not in shape:
        shape[nameless[0]] = "time"
    return replace(spec, shape=tuple(shape))


def _name_output_axes(spec: ArraySpec, renamed: Mapping[str, str], known: set[str]) -> ArraySpec:
    """An output whose axes are called batch and time where they are that.

    A name that is not among the `known` ones, those of inputs and states, says nothing of a size.
    """
    shape: list[Axis] = []
    for number, axis in enumerate(_rename_axes(spec, renamed)):
        has_size = isinstance(axis, int) or axis in known
        shape.append(axis if has_size else _nameless_axis(spec, number))
    return replace(spec, shape=tuple(shape))


def _rename_axes(spec: ArraySpec, renamed: Mapping[str, str]) -> list[Axis]:
    """The axes of an array with their new names; each axis without a name gets a separate one."""
    shape: list[Axis] = []
    for number, axis in enumerate(spec.shape):
        if _is_fixed(axis):
            shape.append(axis)
        elif axis == "?":
            shape.append(_nameless_axis(spec, number))
        else:
            shape.append(_common_name(str(axis), renamed))
    return shape


def _nameless_axis(spec: ArraySpec, number: int) -> str:
    """A name for an axis that has none."""
    return f"{spec.name} axis {number}"


def _common_name(axis: str, renamed: Mapping[str, str]) -> str:
    """`batch` or `time` for the names that other exporters give these axes; else the name."""
    if axis in renamed:
        return renamed[axis]
    if "batch" not in renamed.values() and _BATCH.fullmatch(axis):
        return "batch"
    return "time" if _TIME.fullmatch(axis) else axis


def _listed(specs: Iterable[ArraySpec]) -> str:
    return ", ".join(f"{spec.name}: {describe(spec.dtype, spec.shape)}" for spec in specs) or "none"


def _either(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))
