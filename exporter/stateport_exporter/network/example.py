"""What a network's `forward` takes, in a form that can be made at any size.

Parity is judged at many sizes, so one example tensor is not enough: an example says which dimension
is the batch and which is time.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from stateport.axes import SIZE_LIMIT
from stateport.contract import Axis, describe, resolve
from stateport.errors import in_words
from stateport.files.reading import MOST_DIMENSIONS, read_npy
from stateport.shown import shown

from ..errors import ExportError
from .isolation import unchanged_globals
from .packing import Padded, padded_arguments

# Distinct and at least 2: sizes of 0 and 1 specialise (pytorch#157621). Primes, so that a product
# or multiple of them is not mistaken for another axis.
_TRACE_SIZES: Final = (3, 7, 11, 13, 17, 19, 23, 29)

#: What may stand among the arguments beside tensors: fixed in the file.
_CONSTANTS: Final = (
    *(int, float, complex, str, bytes, type(None)),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)

_SPEC = re.compile(
    r"(?P<what>\w+|.*\.npy)\[(?P<shape>[^\]]*)\](?::(?P<low>-?[0-9]+)\.\.(?P<high>-?[0-9]+))?"
)
_SIZE = re.compile(r"-?[0-9]+")
_MOST_DIGITS: Final = 20  # all integers of 64 bits, with a sign


@dataclass(frozen=True, init=False)
class Spec:
    """The dtype and shape of one argument of `forward`.

    Args:
        dtype: a PyTorch dtype's name: "float32", "int64", "bool", ...
        shape: a size, or a name for a dynamic axis, per dimension. "batch" and "time" say which
            axis is which.
        low: for integers, the smallest value that the network takes; 0 by default.
        high: for integers, the largest; 1 by default, which every vocabulary has.

    `Spec.parse("int64[batch,time]:0..96")` reads the forms that the command line takes.
    """

    dtype: str
    shape: tuple[Axis, ...]
    low: int
    high: int

    def __init__(self, dtype: str, *shape: Axis, low: int = 0, high: int = 1) -> None:
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ExportError(
                f"{shown(dtype)} is not a dtype of PyTorch; 'float32' or 'int64' are."
            )
        for axis in shape:
            if not _is_axis(axis):
                raise ExportError(f"{shown(axis)} is neither a size nor the name of an axis.")
        sizes = [axis for axis in shape if isinstance(axis, int)]
        if len(shape) > MOST_DIMENSIONS or prod(sizes) >= SIZE_LIMIT:
            raise ExportError(
                f"{shown(shape)} is no shape of an example; at most {MOST_DIMENSIONS} dimensions "
                f"are, and fewer than {SIZE_LIMIT} elements along those whose sizes are fixed."
            )
        if low > high:
            raise ExportError(
                f"The smallest value {shown(low)} is above the largest, {shown(high)}."
            )
        if not -(2**63) <= low <= high < 2**63 - 1:
            raise ExportError(f"{shown(low)} to {shown(high)} is no range of 64-bit integers.")
        for name, value in (("dtype", dtype), ("shape", shape), ("low", low), ("high", high)):
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        return describe(self.dtype, self.shape)

    @classmethod
    def of(cls, tensor: Tensor, *axes: Axis) -> Spec:
        """The dtype and range of an example tensor, together with the names of its axes.

        Raises:
            ExportError: the axes are not one per dimension, or a size is not the tensor's.
        """
        fits = len(axes) == tensor.ndim and all(
            isinstance(axis, str) or axis == size
            for axis, size in zip(axes, tensor.shape, strict=True)
        )
        if not fits:
            raise ExportError(
                f"A tensor of shape {tuple(tensor.shape)} cannot have the axes {axes}; name every "
                "dimension, or repeat its size."
            )
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_floating_point() or tensor.is_complex() or tensor.numel() == 0:
            return cls(dtype, *axes)
        array = tensor.numpy(force=True)  # PyTorch itself has no extremes of uint16 and larger
        return cls(dtype, *axes, low=int(array.min()), high=int(array.max()))

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Reads `float32[batch,time,5]`, `int64[batch,time]:0..96` or `x.npy[batch,time,5]`.

        The second says which integers occur; the third takes dtype and range from a file.

        Raises:
            ExportError: the text is of none of these forms, or the file is not what it should be.
        """
        match = _SPEC.fullmatch(text.strip())
        if match is None:
            raise ExportError(
                f"{shown(text)} is not a dtype and a shape, or a .npy file and its axes; write "
                "float32[batch,time,5], int64[batch,time]:0..96 or x.npy[batch,time,5]."
            )
        parts = [part.strip() for part in match["shape"].split(",") if part.strip()]
        shape = [_integer(part) if _SIZE.fullmatch(part) else part for part in parts]
        if match["what"].endswith(".npy"):
            return cls.of(_tensor(match["what"]), *shape)
        low, high = _integer(match["low"] or "0"), _integer(match["high"] or "1")
        return cls(match["what"], *shape, low=low, high=high)

    def make(self, sizes: Mapping[str, int], random: np.random.Generator) -> Tensor:
        """A random tensor: standard normal, or uniform over the integers from low to high."""
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in self.shape]
        dtype: torch.dtype = getattr(torch, self.dtype)
        if dtype.is_floating_point:
            return torch.from_numpy(random.standard_normal(shape)).to(dtype)
        return torch.from_numpy(random.integers(self.low, self.high + 1, shape)).to(dtype)


def _is_axis(axis: object) -> bool:
    if isinstance(axis, str):
        return axis.isidentifier()
    return isinstance(axis, int) and 0 < axis < SIZE_LIMIT


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ExportError(f"{shown(digits)} is no 64-bit integer: it has {len(digits)} digits.")
    return int(digits)


def _tensor(path: str) -> Tensor:
    """The array in a .npy file, if PyTorch has its dtype.

    Raises:
        ExportError: it has not.
        FileError: the file is not what it should be.
    """
    array = read_npy(path)
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:  # float128; another byte order than this machine's
        raise ExportError(
            f"{path} holds {array.dtype}, which PyTorch has not. Save it in another dtype."
        ) from error


#: A function of (batch, time) that returns what `forward` takes: a tuple by position, a dict by
#: name, or one tensor; or `Spec`s in the same places.
ExampleLike = Callable[[int, int], Any] | Sequence[Any] | Mapping[str, Any] | Spec


@dataclass(frozen=True)
class Leaf:
    """One tensor among the arguments: where it stands, its dtype and its axes."""

    path: tuple[str, ...]
    dtype: str
    shape: tuple[Axis, ...]

    def __str__(self) -> str:
        return ".".join(self.path)


class Arguments(NamedTuple):
    """What an `Explicit` network is called with: the author's arguments, and lifted states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    states: tuple[tuple[Tensor, ...], ...]


class Example:
    """An example in the one form that the rest of the exporter knows.

    `leaves` are the tensors among the arguments, in the order of the flattened arguments, which is
    the order of the file's inputs; `sizes` are those that the network is traced at. `lifted` are
    the states that the author's arguments do not have, by call of a recurrent function. `lengths`
    are the positions of the leaves that hold the lengths of rows, which stand in decreasing order
    where `descending` says so.
    """

    def __init__(self, function: Callable[..., Any], example: ExampleLike) -> None:
        self._signature = inspect.signature(function)
        self._name = getattr(function, "__name__", "forward")
        self._make: Callable[[Mapping[str, int], int], Any]
        if callable(example):
            self._make = lambda sizes, _: example(sizes["batch"], sizes["time"])
            names = ["batch", "time"]
        else:
            self._make = lambda sizes, seed: _from_specs(example, sizes, seed)
            specs = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Spec)]
            axes = {a for spec in specs for a in spec.shape if isinstance(a, str)}
            names = ["batch", "time", *sorted(axes - {"batch", "time"})]
        if len(names) > len(_TRACE_SIZES):
            raise ExportError(
                f"The example has {len(names)} axes; {len(_TRACE_SIZES)} is the most."
            )
        self.sizes = dict(zip(names, _TRACE_SIZES, strict=False))
        self.lifted: tuple[tuple[Leaf, ...], ...] = ()
        self.lengths: frozenset[int] = frozenset()
        self.descending = False
        self.leaves = self._find_leaves()

    def with_lifted(self, lifted: Sequence[tuple[Leaf, ...]]) -> Example:
        """The same example with further leaves for lifted states, behind the author's own."""
        other = copy.copy(self)
        other.lifted = tuple(lifted)
        other.leaves = (*self.leaves, *(leaf for states in lifted for leaf in states))
        return other

    def with_time(self, time: int) -> Example:
        """The same example, traced at this length."""
        other = copy.copy(self)
        other.sizes = {**self.sizes, "time": time}
        return other

    def with_lengths(self, positions: Collection[int], descending: bool) -> Example:
        """The same example, where the leaves at these positions are lengths of rows."""
        other = copy.copy(self)
        other.lengths, other.descending = frozenset(positions), descending
        return other

    def draw_lengths(self, shape: Sequence[int], time: int, seed: int) -> NDArray[np.int64]:
        """Lengths of rows within `time`: all equal, ragged, or ragged with a row of full length."""
        random = np.random.default_rng(seed)
        kind = random.integers(3)
        lengths = random.integers(1, time + 1, shape)
        if kind == 0:
            lengths[...] = lengths.flat[0]
        elif kind == 1:
            lengths.flat[random.integers(lengths.size)] = time
        return -np.sort(-lengths, axis=0) if self.descending else lengths

    def make(
        self, sizes: Mapping[str, int], seed: int = 0, longest: int | None = None
    ) -> Arguments:
        """The arguments at these sizes; the same seed gives the same values. States are zero.

        Rows of several lengths are at most `longest` long, by default as long as the data.
        """
        sizes = {**self.sizes, **sizes}
        with unchanged_globals(seed), torch.no_grad():
            try:
                made = self._make(sizes, seed)
            except ExportError:
                raise
            except (Exception, SystemExit) as error:  # a user's own function
                raise ExportError(
                    f"The example failed at {_shown(sizes)}: {in_words(error)}"
                ) from error
        made = padded_arguments(made, sizes.get("time", 1))
        # One tensor given twice, (zeros, zeros), is still two arguments.
        made = pytree.tree_map(
            lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, made
        )
        args, kwargs = ((), made) if isinstance(made, dict) else (made, {})
        if not isinstance(args, tuple | list) or isinstance(args, Padded):
            args = (args,)
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ExportError(
                f"The example does not fit {self._name}{self._signature}: {error}."
            ) from error
        states = tuple(tuple(_zeros(leaf, sizes) for leaf in call) for call in self.lifted)
        arguments = Arguments(bound.args, bound.kwargs, states)
        return (
            self._fitting(arguments, longest or sizes["time"], sizes["time"], seed)
            if self.lengths
            else arguments
        )

    def _fitting(self, arguments: Arguments, longest: int, time: int, seed: int) -> Arguments:
        """The arguments with lengths that fit: no row is empty, or longer than there is data."""
        leaves, structure = pytree.tree_flatten(arguments)
        tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for position in self.lengths:
            old = leaves[tensors[position]]
            lengths = torch.from_numpy(self.draw_lengths(old.shape, longest, seed + position))
            if longest < time:  # at least one row is as long as that
                lengths.view(-1)[0] = longest
            leaves[tensors[position]] = lengths.to(old.dtype)
        made: Arguments = pytree.tree_unflatten(leaves, structure)
        return made

    @property
    def defaults(self) -> dict[str, Any]:
        """The parameters that may be left out, with what they are then."""
        parameters = self._signature.parameters.items()
        return {name: p.default for name, p in parameters if p.default is not p.empty}

    def named(self, arguments: Arguments) -> dict[str, Any]:
        """The author's arguments by the names of their parameters."""
        return dict(self._signature.bind(*arguments.args, **arguments.kwargs).arguments)

    @property
    def axes(self) -> frozenset[str]:
        """The dynamic axes that the arguments have."""
        return frozenset(a for leaf in self.leaves for a in leaf.shape if isinstance(a, str))

    def tensors(self, arguments: Arguments) -> list[tuple[tuple[str, ...], Tensor]]:
        """The tensors among the arguments with their paths, in the order of flattening."""
        names, found = self._parameter_names(), []
        try:
            leaves = leaves_by_name(arguments)
        except ValueError as error:  # a container whose parts have no names
            raise ExportError(f"PyTorch cannot look into the example: {error}") from error
        for keys, leaf in leaves:
            path = _path_names(keys, names)
            if isinstance(leaf, Tensor):
                found.append((path, leaf))
            elif not isinstance(leaf, _CONSTANTS):
                raise ExportError(
                    f"In the example, {'.'.join(path)!r} is a {type(leaf).__qualname__}, which "
                    "PyTorch cannot look into. Register it: torch.export.register_dataclass for a "
                    "dataclass, torch.utils._pytree.register_pytree_node for another container."
                )
        return found

    def _parameter_names(self) -> list[str]:
        """The names of positional arguments; all those of *args have that name."""
        names: list[str] = []
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                return names + [f"{name}_{i}" for i in range(100)]
            names.append(name)
        return names

    def _find_leaves(self) -> tuple[Leaf, ...]:
        """Finds the axes by calling at two sizes of each: the dimension that grows along is it."""
        made = self.make(self.sizes)
        found = self.tensors(made)
        shapes: list[list[Axis]] = [list(tensor.shape) for _, tensor in found]
        self._check_constants(made, self.make(self.sizes, seed=1), "it is made again")
        for axis, size in self.sizes.items():
            grown = self.make({axis: size + 1})
            other = self.tensors(grown)
            self._check_constants(made, grown, f"{axis} changes")
            if [path for path, _ in other] != [path for path, _ in found]:
                raise ExportError(f"The example gives other arguments when {axis} changes.")
            for (path, before), (_, after), shape in zip(found, other, shapes, strict=True):
                _name_axis(".".join(path), axis, size, before.shape, after.shape, shape)
        return tuple(
            Leaf(path, str(tensor.dtype).removeprefix("torch."), tuple(shape))
            for (path, tensor), shape in zip(found, shapes, strict=True)
        )

    def _check_constants(self, made: Arguments, other: Arguments, when: str) -> None:
        """Refuses an argument besides the tensors that changes: a file has one value of it."""
        names = self._parameter_names()
        for (keys, before), (_, after) in zip(
            leaves_by_name(made), leaves_by_name(other), strict=False
        ):
            if not isinstance(before, Tensor) and repr(before) != repr(after):
                raise ExportError(
                    f"In the example, {'.'.join(_path_names(keys, names))!r} is {before!r}, and "
                    f"{after!r} when {when}. A file would keep the one value that it was exported "
                    "with. Pass it as a tensor, or let forward compute it from the sizes of others."
                )


def _zeros(leaf: Leaf, sizes: Mapping[str, int]) -> Tensor:
    return torch.zeros(resolve(leaf.shape, sizes), dtype=getattr(torch, leaf.dtype))


def _shown(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items())


def leaves_by_name(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    """The leaves of nested containers with the keys, fields and positions on the way to them."""
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return [(tuple(_key_name(key) for key in path), leaf) for path, leaf in leaves]


def _key_name(key: object) -> str:
    """One step of a pytree path: a dict's key, a field's name, or a position."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _path_names(keys: tuple[str, ...], parameters: list[str]) -> tuple[str, ...]:
    """The keys on the way to an argument: the parameter of `forward`, then what is below it."""
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
    random = np.random.default_rng(seed)
    return pytree.tree_map(
        lambda leaf: leaf.make(sizes, random) if isinstance(leaf, Spec) else leaf, example
    )
