# SPDX-License-Identifier: Apache-2.0
"""The axes of a file's inputs and outputs, as the caller names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stateport.contract import ArraySpec, Axis, by_name
from stateport.errors import InputError
from stateport.model_file.onnx_outline import OnnxFile
from stateport.suggestions import did_you_mean


def with_named_axes(file: OnnxFile, axes: Mapping[str, Sequence[Axis]]) -> OnnxFile:
    """The outline of a file, in which some inputs and outputs have other axes.

    Args:
        file: the outline.
        axes: by input or output, its axes: {"x": ("batch", "time", 5)}.

    Raises:
        InputError: the file has no such input or output, or it has another number of axes, or other
            sizes.
    """
    specs = by_name((*file.inputs, *file.outputs))
    for name, shape in axes.items():
        if name not in specs:
            raise InputError(
                f"There is no input or output {name!r} whose axes could be named; the file has "
                f"{', '.join(map(str, specs.values()))}.{did_you_mean(name, specs)}"
            )
        _check_shape(specs[name], shape)

    def named(spec: ArraySpec) -> ArraySpec:
        if spec.name in axes:
            return replace(spec, shape=tuple(axes[spec.name]))
        return spec

    inputs = tuple(map(named, file.inputs))
    outputs = tuple(map(named, file.outputs))
    return replace(file, inputs=inputs, outputs=outputs)


def _check_shape(spec: ArraySpec, shape: Sequence[Axis]) -> None:
    """Checks that an array of the file may have these axes; a file may leave its axes out."""
    fits = not spec.shape or len(shape) == len(spec.shape)
    if fits:
        for axis, own in zip(shape, spec.shape, strict=False):
            fits = fits and (not isinstance(own, int) or axis == own)

    if not fits:
        named = ", ".join(map(str, shape))
        raise InputError(
            f"The axes of {spec.name!r} are named {named}, but the file has {spec}. Name each axis "
            "in its order; the sizes that the file fixes stay numbers."
        )
