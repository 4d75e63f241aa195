"""Faults in weights: lost, rounded, perturbed, transposed, mixed up between layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from .fault import Applied, Change, Fault, at
from .graph import Array, Edit, edit_initializer, initializer, layers, nodes_of, operand
from .layer_weights import (
    PARTS,
    edit_gates,
    edit_weight,
    in_first_layer,
    largest,
    square_blocks,
    weight_of,
)
from .rounding import ROUNDINGS

#: How small a difference is noticed: the smallest of these are within rounding.
_PERTURBED: Final = "perturbations"
_SIZES: Final = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def _one_perturbed(size: float) -> Edit:
    def edit(array: Array) -> Array:
        array[largest(array)] *= 1 + size
        return array

    return edit


def _one_unit_in_the_last_place(array: Array) -> Array:
    place = largest(array)
    array[place] = np.nextafter(array[place], np.float32(np.inf))
    return array


def _all_perturbed(size: float) -> Edit:
    def edit(array: Array) -> Array:
        noise = np.random.default_rng(0).uniform(-size, size, array.shape)
        return np.asarray(array * (1 + noise))

    return edit


def _set_first(value: float) -> Edit:
    def edit(array: Array) -> Array:
        array.flat[0] = value
        return array

    return edit


def _sign_flipped(array: Array) -> Array:
    array.flat[0] *= -1
    return array


def _transposed(array: Array) -> Array:
    return square_blocks(array).swapaxes(2, 3).reshape(array.shape)


def _rolled(axis: int) -> Edit:
    return lambda array: np.roll(array, 1, axis)


def _unit_forgotten(array: Array) -> Array:
    array[..., 0] = 0
    return array


def _half_dropped(half: int) -> Edit:
    def edit(blocks: Array) -> Array:
        if blocks.shape[1] > half:
            blocks[:, half] = 0
        return blocks

    return edit


def _dropped(array: Array) -> Array:
    return np.zeros_like(array)


def _halves_subtracted(blocks: Array) -> Array:
    if blocks.shape[1] == 2:
        blocks[:, 1] *= -1
    return blocks


def _copied(target: int, source: int, parts: str) -> Change:
    """One layer's weights in another's place, where the shapes fit."""

    def apply(model: ModelProto) -> Applied | None:
        if len(layers(model)) < 2:
            return None
        to, of = layers(model)[target], layers(model)[source]
        done = [_copy(model, to, of, part) for part in parts]
        return at(to.name) if any(done) else None

    return apply


def _copy(model: ModelProto, to: NodeProto, of: NodeProto, part: str) -> bool:
    theirs, own = weight_of(model, of, part), weight_of(model, to, part)
    if theirs is None or own is None or theirs.shape != own.shape:
        return False
    return edit_weight(model, to, part, lambda _: theirs)


def _exchanged(model: ModelProto) -> Applied | None:
    """The recurrent weights of the first two layers, each in the other's place."""
    if len(layers(model)) < 2:
        return None
    first, second = layers(model)[:2]
    first.input[2], second.input[2] = second.input[2], first.input[2]
    return at(first.name, second.name)


def _everywhere(edit: Edit) -> Change:
    """Edits the weights of all recurrent layers."""

    def apply(model: ModelProto) -> Applied | None:
        for node in layers(model):
            for part in PARTS:
                edit_weight(model, node, part, edit)
        return at(*(node.name for node in layers(model))) if layers(model) else None

    return apply


def _outside(edit: Edit, *kinds: str, position: int = 1) -> Change:
    """Edits the weight of the first node of these kinds that has one."""

    def apply(model: ModelProto) -> Applied | None:
        for node in nodes_of(model, *kinds):
            name = operand(node, position)
            tensor = initializer(model, name)
            if tensor is not None and tensor.data_type == TensorProto.FLOAT:
                return at(node.name) if edit_initializer(model, name, edit) else None
        return None

    return apply


def _square_transposed(array: Array) -> Array:
    return array.T if array.ndim == 2 and array.shape[0] == array.shape[1] else array


def _rows_swapped(array: Array) -> Array:
    array[[1, 2]] = array[[2, 1]]
    return array


def _row_zeroed(array: Array) -> Array:
    array[0] = 0
    return array


def _in_part(part: str, edits: dict[str, Edit], edit_part: Callable[..., bool]) -> Iterator[Fault]:
    for name, edit in edits.items():
        yield Fault(name, "weights", in_first_layer(part, edit, edit_part))


def _perturbed() -> Iterator[Fault]:
    for size in _SIZES:
        name = f"one recurrent weight off by {size:g} of itself"
        yield Fault(name, _PERTURBED, in_first_layer("R", _one_perturbed(size)))
    for size in _SIZES[1:]:
        name = f"all weights of a layer off by {size:g} of themselves"
        yield Fault(name, _PERTURBED, in_first_layer("WRB", _all_perturbed(size)))
    for size in (1e-3, 1e-5):
        name = f"one bias off by {size:g} of itself"
        yield Fault(name, _PERTURBED, in_first_layer("B", _one_perturbed(size)))
    name = "one recurrent weight off by a unit in its last place"
    yield Fault(name, _PERTURBED, in_first_layer("R", _one_unit_in_the_last_place))


def _rounded() -> Iterator[Fault]:
    for kind, edit in ROUNDINGS.items():
        name = f"weights of a layer rounded to {kind}"
        yield Fault(name, "precision", in_first_layer("WRB", edit))
    for kind, edit in ROUNDINGS.items():
        name = f"recurrent weights rounded to {kind}"
        yield Fault(name, "precision", in_first_layer("R", edit))


WEIGHTS: Final = (
    *_perturbed(),
    *_rounded(),
    *_in_part(
        "R",
        {
            "one recurrent weight zero": _set_first(0.0),
            "recurrent weights transposed": _transposed,
            "recurrent weights of units moved by one": _rolled(2),
            "one unit's past forgotten": _unit_forgotten,
        },
        edit_weight,
    ),
    *_in_part(
        "W",
        {
            "sign of one input weight flipped": _sign_flipped,
            "input features moved by one": _rolled(2),
            "one input feature ignored": _unit_forgotten,
            "rows of the input weights moved by one": _rolled(1),
        },
        edit_weight,
    ),
    *_in_part(
        "B",
        {
            "one bias not a number": _set_first(np.nan),
            "all biases dropped": _dropped,
        },
        edit_weight,
    ),
    *_in_part(
        "B",
        {
            "input biases dropped": _half_dropped(0),
            "recurrent biases dropped": _half_dropped(1),
            "recurrent biases subtracted": _halves_subtracted,
        },
        edit_gates,
    ),
    Fault("weights of layer 2 in layer 1", "layers", _copied(0, 1, "WRB")),
    Fault("weights of layer 1 in layer 2", "layers", _copied(1, 0, "WRB")),
    Fault("recurrent weights of the layers exchanged", "layers", _exchanged),
    Fault("all weights off by 1e-4 of themselves", _PERTURBED, _everywhere(_all_perturbed(1e-4))),
    Fault("linear layer's weight transposed", "weights", _outside(_square_transposed, "MatMul")),
    Fault("linear layer's bias dropped", "weights", _outside(_dropped, "Add")),
    Fault("kernel flipped", "weights", _outside(lambda w: w[..., ::-1], "Conv")),
    Fault("bias of the convolution dropped", "weights", _outside(_dropped, "Conv", position=2)),
    Fault(
        "two rows of the embedding swapped",
        "weights",
        _outside(_rows_swapped, "Gather", position=0),
    ),
    Fault("one row of the embedding zero", "weights", _outside(_row_zeroed, "Gather", position=0)),
)
