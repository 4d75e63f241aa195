# SPDX-License-Identifier: Apache-2.0
"""Numbers that a network keeps in tensors, such as a stride in a buffer.

A padding that is computed from the number of steps and such a buffer is a tensor too. A graph
cannot know its value, and no tensor is a size. So numbers take the place of these tensors in a copy
of the network.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from .example import Example
from .explicit import Explicit
from .isolation import evaluation_twin
from .number import INTEGERS, Number
from .trial import runs_at


def with_kept_numbers(network: nn.Module, method: str, example: Example) -> nn.Module | None:
    """A copy of a network with numbers in place of the tensors that hold one.

    These are the buffers and attributes of integers without axes that a call leaves as they are.
    None if the network has none.
    """
    tried = evaluation_twin(network)
    before = {place: (tensor, tensor._version) for place, tensor in _numbers_in(tried)}
    if not before or not runs_at(Explicit(tried, method).eval(), example, {}):
        return None

    unchanged = set()
    for place, tensor in _numbers_in(tried):
        if before.get(place) == (tensor, tensor._version):
            unchanged.add(place)

    twin = evaluation_twin(network)
    for place, tensor in [*_numbers_in(twin)]:
        if place in unchanged:
            path, name = place
            part = twin.get_submodule(path)
            part._buffers.pop(name, None)
            vars(part)[name] = Number(int(tensor))
    return twin if unchanged else None


def _numbers_in(network: nn.Module) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """The integers without axes that a network keeps: the part's path, the name, the tensor."""
    for path, part in network.named_modules():
        if type(part).__module__.startswith("torch."):
            continue  # as the counters of `nn.BatchNorm1d`
        for name, value in (*part._buffers.items(), *vars(part).items()):
            if isinstance(value, Tensor) and value.ndim == 0 and value.dtype in INTEGERS:
                yield (path, name), value
