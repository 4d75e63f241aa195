"""The contract of a file that carries none: as its caller says, or as its own names tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from ..contract import ArraySpec, Axis, Contract, StateSpec, describe
from ..errors import ContractError, InputError
from .foreign.streaming import streaming_of
from .onnx_outline import OnnxFile

#: What other exporters call the two axes that have a meaning here.
_BATCH: Final = re.compile(r"(batch(_?size)?|bs?|n)", re.IGNORECASE)
_TIME: Final = re.compile(
    r"(time(_?steps?)?|seq(uence)?(_?len(gth)?)?|len(gth)?|[lt]|(num_?|n_?)?(frames|samples|steps)"
    r"|chunk(_?size|_?len(gth)?)?)",
    re.IGNORECASE,
)

_ADVICE: Final = "Say which they are: states={'input': 'output'}, or --state input=output."

#: How the input and the output of a state are named: a pattern, and what its output is called then.
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
#: Names that only say what goes in and what comes out: a signal may have them as well as a state.
_IN_AND_OUT: Final = (
    (r"(.+)", (r"\1_out", r"out_\1")),
    (r"(.+)_in", (r"\1_out",)),
    (r"in_(.+)", (r"out_\1",)),
    (r"(.*)input_?(.+)", (r"\1output_\2", r"\1output\2")),
    (r"(.+)_input", (r"\1_output",)),
    (r"(.+)_i", (r"\1_o",)),
    (r"i_(.+)", (r"o_\1",)),
)
#: What is called that is no signal.
_STATE: Final = re.compile(
    r"(^|_)[hcs]x?\d*(_|$)|hid|state|mem|carry|cell|prev|past|recur|lstm|gru|rnn|cache|buf|hist|ctx"
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
        states: the output that gives the next value of each input that is a state; by default as
            the names tell: h0 and hn, state and stateN, past_x and present_x, x_in and x_out.
        axes: what is known of the file's names of axes: {"s27": "time"}.

    Raises:
        ContractError: no names tell, or they tell several things.
        InputError: `states` names what there is not, or what does not fit.
    """
    pairs = match_state_names(file) if states is None else _declared(file, states)
    if states is None and not pairs:
        raise ContractError(
            f"{file.path} carries no contract, and no names of its inputs "
            f"({_listed(file.inputs)}) and outputs ({_listed(file.outputs)}) tell which are a "
            f"state. {_ADVICE} states={{}} says that it has none."
        )
    taken = {*pairs, *pairs.values()}
    renamed = _axes_of_states(spec for spec in file.inputs if spec.name in pairs)
    renamed |= axes or {}
    inputs = [_named(spec, renamed) for spec in file.inputs if spec.name not in taken]
    known = {axis for spec in inputs for axis in spec.shape if isinstance(axis, str)}
    found = tuple(
        StateSpec(spec.name, pairs[spec.name], spec.dtype, _shape_of_state(spec, renamed))
        for spec in file.inputs
        if spec.name in pairs
    )
    known |= {axis for state in found for axis in state.shape if isinstance(axis, str)}
    outputs = [_named(spec, renamed, known) for spec in file.outputs if spec.name not in taken]
    contract = Contract(tuple(inputs), tuple(outputs), found)
    return replace(contract, streaming=streaming_of(file, contract))


def _declared(file: OnnxFile, states: Mapping[str, str]) -> dict[str, str]:
    inputs = {spec.name: spec for spec in file.inputs}
    outputs = {spec.name: spec for spec in file.outputs}
    for given, gives in states.items():
        for name, there, what in ((given, inputs, "input"), (gives, outputs, "output")):
            if name not in there:
                raise InputError(
                    f"{file.path} has no {what} {name!r} to be a state; it has "
                    f"{', '.join(map(str, there.values())) or 'none'}."
                )
        if not _fits(inputs[given], outputs[gives]):
            raise InputError(
                f"{given!r} and {gives!r} cannot be one state: the input is {inputs[given]}, the "
                f"output {outputs[gives]}."
            )
        if [*states.values()].count(gives) > 1:
            raise InputError(f"The output {gives!r} is named as the next value of two states.")
    return dict(states)


def match_state_names(file: OnnxFile) -> dict[str, str]:
    """The states that the names of a file's inputs and outputs tell of; empty where they do not.

    A pair that is the file's only real input, or its only output, is no state.

    Raises:
        ContractError: they tell several things.
    """
    sure, perhaps = _readings(file)
    claimed = [name for names in sure.values() for name in names]
    several = len(claimed) > len(sure) or len({*claimed}) < len(claimed)
    alone = not _leaves_a_signal(file, sure)
    if several or perhaps or (alone and len(sure) > 1):
        pairs = {**sure, **perhaps}
        candidates = "; ".join(f"{name!r} with {_either(names)}" for name, names in pairs.items())
        raise ContractError(
            f"{file.path} carries no contract, and its names tell several things: {candidates}. "
            f"{_ADVICE}"
        )
    return {} if alone else {name: names[0] for name, names in sure.items()}


def _readings(file: OnnxFile) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What names say is a state; and what they say of a state and of a signal alike."""
    sure, general = _candidates(file, _PAIRS), _candidates(file, _IN_AND_OUT)
    for name, names in general.items():
        if name in sure or _STATE.search(name):
            sure[name] = [*sure.get(name, ()), *(n for n in names if n not in sure.get(name, ()))]
    claimed = {name for names in sure.values() for name in names}
    sequences = {spec.name for spec in file.inputs if _is_sequence(spec)}
    perhaps = {
        name: names
        for name, names in general.items()
        if not (name in sure or name in sequences or claimed.intersection(names))
        and _leaves_a_signal(file, {**sure, name: names})
    }
    return sure, perhaps


def _candidates(
    file: OnnxFile, patterns: Iterable[tuple[str, tuple[str, ...]]]
) -> dict[str, list[str]]:
    """By the input that may be a state, the outputs that may give its next value."""
    outputs = {spec.name: spec for spec in file.outputs}
    found = {
        spec.name: [
            name for name in _following(spec.name, outputs, patterns) if _fits(spec, outputs[name])
        ]
        for spec in file.inputs
    }
    return {name: names for name, names in found.items() if names}


def _leaves_a_signal(file: OnnxFile, pairs: Mapping[str, Iterable[str]]) -> bool:
    """Whether something goes in and comes out beside these states; a number is no signal."""
    taken = {name for names in pairs.values() for name in names}
    inputs = [spec for spec in file.inputs if spec.name not in pairs and not _is_number(spec)]
    return bool(inputs) and any(spec.name not in taken for spec in file.outputs)


def _is_number(spec: ArraySpec) -> bool:
    return "float" not in spec.dtype and all(axis == 1 for axis in spec.shape)


def _is_sequence(spec: ArraySpec) -> bool:
    """Whether the axes of an array are those of a signal: time is one, or two have no size."""
    open_ = [str(axis) for axis in spec.shape if not _fixed(axis)]
    return len(open_) > 1 or any(_TIME.fullmatch(axis) for axis in open_)


def _following(
    name: str, outputs: Iterable[str], patterns: Iterable[tuple[str, tuple[str, ...]]]
) -> Iterator[str]:
    """The outputs that may give the next value of an input, by their names."""
    there, seen = {*outputs}, set[str]()
    for pattern, forms in patterns:
        match = re.fullmatch(pattern, name)
        for form in forms if match else ():
            assert match is not None
            other = match.expand(form)
            if other in there and other != name and other not in seen:
                seen.add(other)
                yield other


def _fits(given: ArraySpec, gives: ArraySpec) -> bool:
    """Whether an output may be the next value of an input, as far as the file says."""
    if given.dtype != gives.dtype:
        return False
    if not gives.shape or not given.shape:  # the file does not say
        return True
    return len(given.shape) == len(gives.shape) and all(
        a == b or not _fixed(a) or not _fixed(b)
        for a, b in zip(given.shape, gives.shape, strict=True)
    )


def _fixed(axis: Axis) -> bool:
    return isinstance(axis, int)


def _axes_of_states(states: Iterable[ArraySpec]) -> dict[str, str]:
    """Of a state all axes but one have a size; that one is the batch, whatever it is called."""
    renamed = {}
    for spec in states:
        open_ = [axis for axis in spec.shape if not _fixed(axis)]
        if len(open_) == 1:
            renamed[str(open_[0])] = "batch"
    return renamed


def _shape_of_state(spec: ArraySpec, renamed: Mapping[str, str]) -> tuple[Axis, ...]:
    open_ = [place for place, axis in enumerate(spec.shape) if not _fixed(axis)]
    if len(open_) == 1:
        return tuple(axis if _fixed(axis) else "batch" for axis in spec.shape)
    return _named(spec, renamed).shape


def _named(spec: ArraySpec, renamed: Mapping[str, str], known: set[str] | None = None) -> ArraySpec:
    """A spec whose axes are called batch and time where they are that.

    Of an output (`known` are the axes that have sizes) a name that no input has tells nothing.
    """
    shape: list[Axis] = []
    for place, axis in enumerate(spec.shape):
        if _fixed(axis):
            shape.append(axis)
        elif axis != "?":
            shape.append(_common(str(axis), renamed))
        else:
            shape.append(f"{spec.name} axis {place}")
    nameless = [p for p, axis in enumerate(spec.shape) if axis == "?"]
    if known is None:
        if nameless[:1] == [0] and "batch" in renamed.values() and "batch" not in shape:
            shape[nameless.pop(0)] = "batch"
        if len(nameless) == 1 and "time" not in shape:
            shape[nameless[0]] = "time"
    else:
        shape = [
            axis if isinstance(axis, int) or axis in known else f"{spec.name} axis {place}"
            for place, axis in enumerate(shape)
        ]
    return replace(spec, shape=tuple(shape))


def _common(axis: str, renamed: Mapping[str, str]) -> str:
    if axis in renamed:
        return renamed[axis]
    if "batch" not in renamed.values() and _BATCH.fullmatch(axis):
        return "batch"
    return "time" if _TIME.fullmatch(axis) else axis


def _listed(specs: Iterable[ArraySpec]) -> str:
    return ", ".join(f"{spec.name}: {describe(spec.dtype, spec.shape)}" for spec in specs) or "none"


def _either(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))
