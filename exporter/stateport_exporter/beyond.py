"""The sizes at which a network may do otherwise: tried as well, or kept away by the contract.

A graph follows the way that forward took at the sizes that it was traced at. Where another size
would take another way, PyTorch's answers there are recorded too, and the file is held against them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from stateport.contract import Contract
from stateport.parity.vectors import Case

from .blame import Line
from .cases import BATCHES, TIMES, case_at
from .errors import ExportError
from .guard import unchanged_globals
from .network import Network, answers_of
from .sizes.comparisons import Comparison, differs
from .sizes.search import Search, Sizes


@dataclass(frozen=True)
class Beyond:
    """What lies beyond the usual sizes.

    `cases` are to be recorded as well; `limits` are the largest sizes of axes in one call;
    `compares` is what was compared at any of the sizes, `usual` are those that were traced.
    """

    cases: Sequence[Case] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    compares: Sequence[Comparison] = ()
    usual: Sizes = field(default_factory=dict)

    def turned(self, sizes: Sizes) -> tuple[bool, Line | None]:
        """Whether something is decided otherwise than at the usual sizes, and where, if known."""
        here = {**self.usual, **sizes}
        turned = [one for one in self.compares if differs(one, here, self.usual)]
        lines = [one.line for one in turned if one.line is not None]
        return bool(turned), next(iter(lines), None)


def look_beyond(
    network: Network,
    contract: Contract,
    compares: Sequence[Comparison],
    ask: Callable[[Sizes], Sequence[Comparison]],
) -> Beyond:
    """Runs the network at the sizes at which its comparisons turn.

    `compares` are those behind its graph; `ask` tells what the author's code compares at given
    sizes. It is asked again wherever a comparison turns: behind it may stand other ones.

    Raises:
        ExportError: too many sizes would have to be tried, one of them is out of reach, or the
            network fails between sizes that it takes.
    """
    multiple, example = contract.streaming.multiple, network.example
    tried: dict[str, tuple[int, ...]] = {axis: (size,) for axis, size in example.sizes.items()}
    tried |= {"batch": BATCHES, "time": tuple(time * multiple for time in TIMES)}
    search = Search(network.module, example.axes, {"batch": 1, "time": max(tried["time"])}, tried)
    search.add(compares)
    if not search.lines and not search.beyond:
        return Beyond(compares=compares, usual=example.sizes)

    def run(sizes: Sizes) -> bool:
        try:
            answers_of(network, contract, case_at(network, contract, sizes))
        except ExportError:
            return False
        return True

    seen = list(ask(example.sizes))
    search.add(seen)
    with unchanged_globals(seed=0), torch.no_grad():
        while search.waiting:
            sizes = search.waiting.pop(0)
            search.note(sizes, ran=run(sizes))
            if search.ran_at(sizes):
                more = ask({**example.sizes, **sizes})
                search.add(more)
                seen += more
        limits = search.limits(run)
    cases = {}
    for sizes in search.worked():
        if all(size <= limits.get(axis, size) for axis, size in sizes.items()):
            case = case_at(network, contract, sizes)
            cases[case.name] = case
    return Beyond(tuple(cases.values()), limits, [*seen, *compares], example.sizes)
