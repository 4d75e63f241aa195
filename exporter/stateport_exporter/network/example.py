# SPDX-License-Identifier: Apache-2.0
"""The arguments of a network's `forward`, in a form that can be made at any size.

Parity is judged at many sizes, so one example tensor is not enough: an example says which dimension
is the batch and which is time.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from stateport.axes import dynamic_axes
from stateport.contract import Axis, resolve
from stateport.errors import in_words
from stateport.picking import instances_of, without
from stateport.shown import shown
from stateport.suggestions import did_you_mean

from ..errors import ExportError
from .isolation import unchanged_globals
from .packing import Padded, padded_arguments
from .spec import Spec as Spec  # which others import from here
from .spec import is_spec
from .trees import tensor_positions

# Distinct and at least 2: sizes of 0 and 1 specialise (pytorch#157621). Primes, so that a product
# or multiple of them is not mistaken for another axis.
_TRACE_SIZES: Final = (3, 7, 11, 13, 17, 19, 23, 29)

#: The number of steps, or of multiples of them, that a network is traced at.
USUAL_TIME: Final = _TRACE_SIZES[1]

#: Types of arguments besides tensors. Their values are fixed in the file.
_CONSTANTS: Final = (
    *(int, float, complex, str, bytes, type(None)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)

#: A function of (batch, time) that returns what `forward` takes: a tuple by position, a dict by
#: name, or one tensor; or `Spec`s in the same places.
ExampleLike = Callable[[int, int], Any] | Sequence[Any] | Mapping[str, Any] | Spec


@dataclass(frozen=True)
class Leaf:
    """One tensor among the arguments: its path, dtype and axes."""

    path: tuple[str, ...]
    dtype: str
    shape: tuple[Axis, ...]

    def __str__(self) -> str:
        return ".".join(self.path)


class Arguments(NamedTuple):
    """The arguments of an `Explicit` network: the author's, and lifted states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    states: tuple[tuple[Tensor, ...], ...]


class Example:
    """An example in the one form that the rest of the exporter uses.

    Attributes:
        leaves: the tensors among the arguments, in the order of the flattened arguments, which is
            the order of the file's inputs.
        sizes: the sizes at which the network is traced, by axis.
        time_multiple: the number of which the network takes multiples of time steps alone.
        lifted: the states that are not among the author's arguments, for each lifted call of a
            recurrent function.
        given_time: the number of time steps of the tensors or files that the example was made of;
            None where there are none, or they differ.
        remembered: the named arguments, behind the author's, that take what the network keeps in
            attributes.
        first_values: what these start from, by name, with dynamic axes of size 1.
        reached: the names of those that cannot be any values, as a number of steps.
        lengths: the positions of the leaves that hold the lengths of rows.
        descending: whether the lengths of rows decrease.
    """

    def __init__(self, function: Callable[..., Any], example: ExampleLike) -> None:
        self._signature = inspect.signature(function)
        self._name = getattr(function, "__name__", "forward")
        self._make: Callable[[Mapping[str, int], int], Any]
        if not callable(example):
            _check_has_tensors(example)
        self.given_time = None if callable(example) else _given_time(example)
        if callable(example):
            self._make = lambda sizes, _: example(sizes["batch"], sizes["time"])
            names = ["batch", "time"]
        else:
            self._make = lambda sizes, seed: _from_specs(example, sizes, seed)
            names = _names_of_axes(example)

        if len(names) > len(_TRACE_SIZES):
            raise ExportError(
                f"The example has {len(names)} axes; {len(_TRACE_SIZES)} is the most."
            )
        self.sizes = dict(zip(names, _TRACE_SIZES, strict=False))
        self.time_multiple = 1
        self.lifted: tuple[tuple[Leaf, ...], ...] = ()
        self.remembered: tuple[Leaf, ...] = ()
        self.first_values: Mapping[str, Tensor] = {}
        self.reached: frozenset[str] = frozenset()
        self.lengths: frozenset[int] = frozenset()
        self.descending = False
        self.leaves = self._find_leaves()

    def with_lifted(self, lifted: Sequence[tuple[Leaf, ...]]) -> Example:
        """The same example with further leaves for lifted states, behind the author's."""
        copied = copy.copy(self)
        copied.lifted = tuple(lifted)
        copied.leaves = (*self.leaves, *chain.from_iterable(lifted))
        return copied

    def with_remembered(
        self, leaves: Sequence[Leaf], firsts: Sequence[Tensor], reached: Collection[str] = ()
    ) -> Example:
        """The same example with named arguments for what the network keeps in attributes.

        `firsts` are the values that a sequence starts from, with dynamic axes of size 1. `reached`
        are the names of those that cannot be any values.
        """
        copied = copy.copy(self)
        copied.remembered = tuple(leaves)
        copied.leaves = (*self.leaves, *leaves)
        names = [*map(str, leaves)]
        copied.first_values = dict(zip(names, firsts, strict=True))
        copied.reached = frozenset(reached)
        return copied

    def with_time(self, time: int) -> Example:
        """The same example, traced at this length."""
        copied = copy.copy(self)
        copied.sizes = {**self.sizes, "time": time}
        return copied

    def with_multiple(self, multiple: int) -> Example:
        """The same example for a network that takes multiples of a number of steps alone.

        Its length is one that the network takes, of at least as many multiples as steps are usual.
        """
        copied = copy.copy(self)
        copied.time_multiple = multiple
        time = max(self.sizes["time"], USUAL_TIME * multiple)
        copied.sizes = {**self.sizes, "time": -(-time // multiple) * multiple}
        return copied

    def with_usual_time(self) -> Example:
        """The same example at the usual length, or at as many multiples of steps."""
        copied = copy.copy(self)
        copied.sizes = {**self.sizes, "time": USUAL_TIME * self.time_multiple}
        return copied

    def with_lengths(self, positions: Collection[int], descending: bool) -> Example:
        """The same example, where the leaves at these positions are lengths of rows."""
        copied = copy.copy(self)
        copied.lengths, copied.descending = frozenset(positions), descending
        return copied

    def draw_lengths(self, shape: Sequence[int], time: int, seed: int) -> NDArray[np.int64]:
        """Lengths of rows, from 1 to `time`: all equal, ragged, or ragged with one full row."""
        random = np.random.default_rng(seed)
        kind = random.integers(3)
        lengths = random.integers(1, time + 1, shape)
        if kind == 0:
            lengths[...] = lengths.flat[0]
        elif kind == 1:
            lengths.flat[random.integers(lengths.size)] = time

        if self.descending:
            return -np.sort(-lengths, axis=0)
        return lengths

    def make(
        self, sizes: Mapping[str, int], seed: int = 0, longest: int | None = None
    ) -> Arguments:
        """The arguments at these sizes; the same seed gives the same values. States are zero.

        Rows of several lengths have at most `longest` steps, by default as many as the data.

        Raises:
            ExportError: the author's function fails, or its result does not fit `forward`.
        """
        sizes = {**self.sizes, **sizes}
        values = padded_arguments(self._make_values(sizes, seed), sizes.get("time", 1))
        # One tensor passed twice, (zeros, zeros), is still two arguments.
        values = pytree.tree_map_only(Tensor, lambda tensor: tensor.clone(), values)
        bound = self._bind(values)

        states = tuple(tuple(_zeros(leaf, sizes) for leaf in call) for call in self.lifted)
        kwargs = {**bound.kwargs, **self._draw_remembered(sizes, seed)}
        arguments = Arguments(bound.args, kwargs, states)
        if not self.lengths:
            return arguments
        return self._with_drawn_lengths(arguments, longest or sizes["time"], sizes["time"], seed)

    def _draw_remembered(self, sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
        """Random values of what the network keeps in attributes, by name."""
        random = np.random.default_rng(seed)
        specs = {str(leaf): Spec(leaf.dtype, *leaf.shape) for leaf in self.remembered}
        return {name: spec.make(sizes, random) for name, spec in specs.items()}

    def _make_values(self, sizes: Mapping[str, int], seed: int) -> Any:
        """What the author's function or specs give at these sizes."""
        with unchanged_globals(seed), torch.no_grad():
            try:
                return self._make(sizes, seed)
            except ExportError:
                raise
            except (Exception, SystemExit) as error:  # the user's function may raise anything
                raise ExportError(
                    f"The example failed at {_shown(sizes)}: {in_words(error)}"
                ) from error

    def _bind(self, values: Any) -> inspect.BoundArguments:
        """Binds a tuple, a dict or one tensor to the parameters of `forward`."""
        args, kwargs = ((), values) if isinstance(values, dict) else (values, {})
        if not isinstance(args, tuple | list) or isinstance(args, Padded):
            args = (args,)

        try:
            return self._signature.bind(*args, **kwargs)
        except TypeError as error:
            parameters = self._signature.parameters
            unknown = without(kwargs, parameters)
            hint = did_you_mean(unknown[0], parameters) if unknown else ""
            raise ExportError(
                f"The example does not fit {self._name}{self._signature}: {error}.{hint}"
            ) from error

    def _with_drawn_lengths(
        self, arguments: Arguments, longest: int, time: int, seed: int
    ) -> Arguments:
        """The arguments with lengths of 1 to `longest`: no row is empty or longer than its data."""
        leaves, structure = pytree.tree_flatten(arguments)

        tensors = tensor_positions(leaves)
        for position in self.lengths:
            old = leaves[tensors[position]]
            lengths = torch.from_numpy(self.draw_lengths(old.shape, longest, seed + position))
            if longest < time:  # at least one row is as long as that
                lengths.view(-1)[0] = longest
            leaves[tensors[position]] = lengths.to(old.dtype)

        changed: Arguments = pytree.tree_unflatten(leaves, structure)
        return changed

    @property
    def defaults(self) -> dict[str, Any]:
        """The default values of parameters, for those that have one."""
        parameters = self._signature.parameters.items()

        values = {}
        for name, p in parameters:
            if p.default is not p.empty:
                values[name] = p.default
        return values

    def named(self, arguments: Arguments) -> dict[str, Any]:
        """The author's arguments by the names of their parameters."""
        names = set(map(str, self.remembered))

        own = {}
        for name, value in arguments.kwargs.items():
            if name not in names:
                own[name] = value

        remembered = {name: arguments.kwargs[name] for name in names}
        return {**self._signature.bind(*arguments.args, **own).arguments, **remembered}

    @property
    def axes(self) -> frozenset[str]:
        """The dynamic axes that the arguments have."""
        axes = chain.from_iterable(leaf.shape for leaf in self.leaves)
        return frozenset(dynamic_axes(axes))

    def tensors(self, arguments: Arguments) -> list[tuple[tuple[str, ...], Tensor]]:
        """The tensors among the arguments with their paths, in the order of flattening.

        Raises:
            ExportError: PyTorch cannot look into a container among the arguments.
        """
        names, tensors = self._parameter_names(), []
        try:
            leaves = leaves_by_name(arguments)
        except ValueError as error:  # a container whose parts have no names
            raise ExportError(f"PyTorch cannot look into the example: {error}") from error

        for keys, leaf in leaves:
            path = _path_names(keys, names)
            if isinstance(leaf, Tensor):
                tensors.append((path, leaf))
            elif not isinstance(leaf, _CONSTANTS):
                raise ExportError(
                    f"In the example, {'.'.join(path)!r} is a {type(leaf).__qualname__}, which "
                    "PyTorch cannot look into. Register it: torch.export.register_dataclass for a "
                    "dataclass, torch.utils._pytree.register_pytree_node for another container."
                )
        return tensors

    def _parameter_names(self) -> list[str]:
        """The names of positional arguments; those of *args are args_0, args_1 and so on."""
        names: list[str] = []
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                return names + [f"{name}_{i}" for i in range(100)]
            names.append(name)
        return names

    def _find_leaves(self) -> tuple[Leaf, ...]:
        """Finds the axes: enlarges one size after the other and sees which dimensions grow."""
        arguments = self.make(self.sizes)
        tensors = self.tensors(arguments)
        shapes: list[list[Axis]] = [list(tensor.shape) for _, tensor in tensors]
        self._check_constants(arguments, self.make(self.sizes, seed=1), "it is made again")

        for axis, size in self.sizes.items():
            grown = self.make({axis: size + 1})
            larger = self.tensors(grown)
            self._check_constants(arguments, grown, f"{axis} changes")
            if _paths(larger) != _paths(tensors):
                raise ExportError(f"The example gives other arguments when {axis} changes.")

            for (path, before), (_, after), shape in zip(tensors, larger, shapes, strict=True):
                _name_axis(".".join(path), axis, size, before.shape, after.shape, shape)
            self._check_not_rounded(axis, tensors, shapes)

        return tuple(
            Leaf(path, str(tensor.dtype).removeprefix("torch."), tuple(shape))
            for (path, tensor), shape in zip(tensors, shapes, strict=True)
        )

    def _check_not_rounded(
        self,
        axis: str,
        tensors: Sequence[tuple[tuple[str, ...], Tensor]],
        shapes: Sequence[Sequence[Axis]],
    ) -> None:
        """Refuses an example that rounds a size: the same for one more, it would pass for fixed."""
        size = self.sizes[axis]
        doubled = self.tensors(self.make({axis: 2 * size}))
        for (path, before), (_, after), shape in zip(tensors, doubled, shapes, strict=True):
            for usual, larger, name in zip(before.shape, after.shape, shape, strict=True):
                if usual != larger and isinstance(name, int):
                    raise ExportError(
                        f"The example gives {'.'.join(path)!r} the size {usual} for {axis}={size} "
                        f"and {axis}={size + 1}, and {larger} for {axis}={2 * size}. Give each "
                        "argument the size that is asked for: which sizes forward takes is found "
                        "by trying."
                    )

    def _check_constants(self, first: Arguments, second: Arguments, when: str) -> None:
        """Refuses an argument besides the tensors that changes: a file has one value of it."""
        names = self._parameter_names()
        pairs = zip(leaves_by_name(first), leaves_by_name(second), strict=False)

        for (keys, before), (_, after) in pairs:
            if not isinstance(before, Tensor) and repr(before) != repr(after):
                raise ExportError(
                    f"In the example, {'.'.join(_path_names(keys, names))!r} is {before!r}, and "
                    f"{after!r} when {when}. A file would keep the one value that it was exported "
                    "with. Pass it as a tensor, or let forward compute it from the sizes of others."
                )


def _check_has_tensors(example: object) -> None:
    """Refuses an example without a tensor, such as a text that only the command line reads."""
    for leaf in pytree.tree_leaves(example):
        if isinstance(leaf, np.ndarray):
            raise ExportError(
                "The example has a NumPy array; write torch.from_numpy(array), or a Spec: "
                'Spec("float32", "batch", "time", 5).'
            )
        if isinstance(leaf, str) and is_spec(leaf):
            raise ExportError(
                f"The example has the text {shown(leaf)}; write Spec.parse({shown(leaf)})."
            )

    if isinstance(example, _CONSTANTS):
        raise ExportError(
            f"The example is {shown(example)}, which has no tensor. Describe each argument of "
            'forward: {"x": Spec("float32", "batch", "time", 5)}.'
        )


def _names_of_axes(example: object) -> list[str]:
    """The batch, time, and then the other dynamic axes of specs in alphabetical order."""
    names: set[str] = set()
    for spec in _specs_in(example):
        names.update(dynamic_axes(spec.shape))
    return ["batch", "time", *sorted(names - {"batch", "time"})]


def _given_time(example: object) -> int | None:
    """The length of the tensors or files that specs were made of, if it is one."""
    times = {spec.example_time for spec in _specs_in(example)} - {None}
    if len(times) == 1:
        return times.pop()
    return None


def _specs_in(example: object) -> list[Spec]:
    return instances_of(Spec, pytree.tree_leaves(example))


def _paths(tensors: Sequence[tuple[tuple[str, ...], Tensor]]) -> list[tuple[str, ...]]:
    return [path for path, _ in tensors]


def _zeros(leaf: Leaf, sizes: Mapping[str, int]) -> Tensor:
    return torch.zeros(resolve(leaf.shape, sizes), dtype=getattr(torch, leaf.dtype))


def _shown(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items())


def leaves_by_name(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    """The leaves of nested containers with the keys, fields and positions that lead to them."""
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return [(tuple(map(_key_name, path)), leaf) for path, leaf in leaves]


def _key_name(key: object) -> str:
    """One step of a pytree path: a dict's key, a field's name, or a position."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _path_names(keys: tuple[str, ...], parameters: list[str]) -> tuple[str, ...]:
    """The path of an argument: its parameter of `forward`, then the keys below it."""
    # Positional arguments are at ("args", "0", ...), named ones at ("kwargs", name, ...).
    if keys[0] == "args" and int(keys[1]) < len(parameters):
        return (parameters[int(keys[1])], *keys[2:])

    return keys[1:]


def _name_axis(
    leaf: str,
    axis: str,
    size: int,
    before: torch.Size,
    after: torch.Size,
    shape: list[Axis],
) -> None:
    """Writes the axis into `shape` at each dimension that grew with it."""
    if len(before) != len(after):
        raise ExportError(f"In the example, {leaf!r} changes its rank when {axis} changes.")

    for position, (old, new) in enumerate(zip(before, after, strict=True)):
        if old == new:
            continue

        if (old, new) != (size, size + 1):
            raise ExportError(
                f"In the example, dimension {position} of {leaf!r} is {old} at {axis} {size} and "
                f"{new} at {axis} {size + 1}. A dynamic dimension must be an axis itself."
            )
        shape[position] = axis


def _from_specs(example: object, sizes: Mapping[str, int], seed: int) -> object:
    """The example with a random tensor in place of every spec."""
    random = np.random.default_rng(seed)
    return pytree.tree_map_only(Spec, lambda spec: spec.make(sizes, random), example)
