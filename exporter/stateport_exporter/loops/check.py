"""Whether a network with its loops rolled up is still the author's network."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stateport.errors import first_line

from ..errors import ExportError
from ..example import Arguments, Example
from ..explicit import Calls
from ..guard import computing_in, evaluation_twin, float64_copy, unchanged_globals
from ..sizes.comparisons import Comparison, turned
from ..sizes.constants import mentioned
from ..sizes.limits import reach
from ..sizes.search import Search, Sizes
from ..sizes.symbolic import compared

#: Sizes other than those traced, odd and even; one step, because a loop may start in its own way;
#: and many steps, for what begins late.
_SIZES: Final = ((1, 1), (2, 2), (3, 3), (2, 8), (1, 13), (2, 64), (1, 513), (1, 2049))
_AXES: Final = ("batch", "time")
_CALLS: Final = 3
#: Of up to so many states is tried which ones are kept; of more, all or none.
_MOST_KEPT: Final = 4
#: So many sizes at which the author's code may do otherwise are tried, and the steps in all.
_MOST_SIZES: Final = 64
_MOST_STEPS: Final = 100_000
#: At longer sequences it is not asked again what forward compares: every step of a loop would be.
_LONGEST_ASKED: Final = 64


def check_folded(
    network: nn.Module, method: str, folded: nn.Module, example: Example
) -> dict[str, int]:
    """Runs both at sizes that were not traced.

    Among them are the sizes at which the author's code may do otherwise: those that it compares a
    size or the number of a step with, and all other numbers that it mentions. Returns the largest
    sizes of axes that the author's network takes, where it fails beyond.

    Raises:
        ExportError: the results differ.
    """
    both = _Comparing(network, method, folded, example)
    both.ask({})
    for batch, time in _SIZES:
        both.try_sizes({"batch": batch, "time": time})
    both.try_turns()
    both.try_numbers(mentioned(network))
    return both.limits()


class _Comparing:
    """The author's network and the folded one, side by side."""

    def __init__(
        self, network: nn.Module, method: str, folded: nn.Module, example: Example
    ) -> None:
        self.network = network
        self.method = method
        self.folded = folded
        self.example = example
        tried: dict[str, tuple[int, ...]] = {axis: (size,) for axis, size in example.sizes.items()}
        tried |= {axis: tuple({pair[at] for pair in _SIZES}) for at, axis in enumerate(_AXES)}
        self.search = Search(network, example.axes, {"batch": 1, "time": 1}, tried, loops=True)
        self.compares: list[Comparison] = []
        self.steps = 0

    def try_sizes(self, sizes: Sizes) -> None:
        """Runs both, and compares. Sizes that the author's network fails on are noted."""
        sizes = {"batch": 1, "time": self.example.sizes["time"], **sizes}
        if self.search.is_noted(sizes) or self.steps > _MOST_STEPS:
            return
        self.steps += sizes["time"]
        arguments = self.example.make({**self.example.sizes, **sizes}, seed=sizes["time"])
        expected = self._run(arguments)
        self.search.note(sizes, ran=expected is not None)
        if expected is None:
            return
        try:
            answer = _results(self.folded, "forward", arguments)
        except Exception as error:
            raise self._other(sizes, f"it fails: {first_line(error)}") from error
        if not _close(expected, answer) and not self._rounds(arguments):
            raise self._other(sizes, "the results differ")

    def ask(self, sizes: Sizes) -> None:
        """Lets the sizes wait at which comparisons turn that the author's code makes at these."""
        usual = self.example.sizes
        new = compared(self.network, self.method, self.example, {**usual, **sizes})
        self.compares += new
        self.search.add(new)

    def try_turns(self) -> None:
        """Tries the sizes at which comparisons turn."""
        while self.search.waiting:
            sizes = self.search.waiting.pop(0)
            self.try_sizes(sizes)
            if sizes.get("time", 1) <= _LONGEST_ASKED:
                self.ask(sizes)

    def try_numbers(self, numbers: Iterable[int]) -> None:
        """Tries the lengths that the author's code mentions: it may count steps up to one."""
        most = reach(self.network, "time", loops=True)
        for number in sorted((n for n in numbers if 3 < n < most), reverse=True)[:_MOST_SIZES]:
            self.try_sizes({"time": number + 1})
            self.try_sizes({"time": number})

    def limits(self) -> dict[str, int]:
        """The largest size of each axis that the author's network takes, where there is one."""
        return self.search.limits(
            lambda sizes: self._run(self.example.make({**self.example.sizes, **sizes})) is not None
        )

    def _run(self, arguments: Arguments) -> list[Tensor] | None:
        """The author's results; None where the network fails."""
        try:
            return _results(evaluation_twin(self.network), self.method, arguments)
        except Exception:  # too short for it, perhaps, or too long
            return None

    def _rounds(self, arguments: Arguments) -> bool:
        """Whether the two differ by rounding alone, as far as the network can tell.

        One that amplifies small differences is as far from itself, once its input is off by a
        little.
        """
        exact = pytree.tree_map(_to_float64, arguments)
        off = pytree.tree_map(_nudged, exact)
        author, folded = float64_copy(self.network).eval(), float64_copy(self.folded).eval()
        with computing_in(torch.float64):
            try:
                expected = _results(author, self.method, exact)
                answer = _results(folded, "forward", exact)
                other = _results(float64_copy(self.network).eval(), self.method, off)
            except Exception:  # it cannot run in float64
                return False
        return _close(expected, answer) or not _close(expected, other)

    def _other(self, sizes: Sizes, how: str) -> ExportError:
        lines = turned(self.compares, self.example.sizes, _SIZES[:-2], sizes)
        return ExportError(
            f"The loop over time in {type(self.network).__qualname__} does not do the same in "
            f"every step: seen at two lengths and then run over {sizes['time']} steps, {how}. "
            f"{f'See {lines[0]}. ' if lines else ''}Let every step do the same, or export one "
            "step of it and loop outside."
        )


def _to_float64(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _nudged(leaf: Any) -> Any:
    is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf * (1 + 4 * torch.finfo(torch.float64).eps) if is_float else leaf


def check_memory(
    network: nn.Module, method: str, folded: nn.Module, example: Example, lifted: Collection[int]
) -> None:
    """Checks what the author's network remembers from call to call: lifted states, or nothing.

    `lifted` are the numbers of the calls whose states are lifted. The author's network may keep
    some of them, and start the others anew in every call.

    Raises:
        ExportError: it goes on from something else.
    """
    twin = evaluation_twin(network)
    calls = [example.make(example.sizes, seed=number + 1) for number in range(_CALLS)]
    expected = [_results(twin, method, arguments) for arguments in calls]
    counts = range(len(lifted) + 1) if len(lifted) <= _MOST_KEPT else (0, len(lifted))
    for kept in itertools.chain.from_iterable(itertools.combinations(lifted, n) for n in counts):
        answers = _remembering(folded, calls, kept)
        if all(_close(a, b) for a, b in zip(expected, answers, strict=True)):
            return
    raise ExportError(
        f"{type(network).__qualname__} remembers something from call to call, and does not simply "
        "go on from where its loop ended. Take the state as an argument and return the next one."
    )


def _remembering(
    folded: nn.Module, calls: Iterable[Arguments], kept: Collection[int]
) -> Iterator[list[Tensor]]:
    """The results of one call after the other, where the states of some go on."""
    given: Mapping[int, tuple[Tensor, ...]] = {}
    for arguments in calls:
        with Calls(given) as recorded:
            answer = _results(folded, "forward", arguments)
        given = {call: recorded.lasts[call] for call in kept}
        yield answer


def _results(module: nn.Module, method: str, arguments: Arguments) -> list[Tensor]:
    with unchanged_globals(seed=0), torch.no_grad():
        returned = getattr(module, method)(*arguments.args, **arguments.kwargs)
    return [leaf.clone() for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]


def _close(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape
        and x.dtype == y.dtype
        and torch.allclose(x, y, rtol=1e-4, atol=1e-5, equal_nan=True)
        for x, y in zip(a, b, strict=True)
    )
