# SPDX-License-Identifier: Apache-2.0
"""Functions that keep their results, by `functools.lru_cache` or `functools.cache`.

A cache cannot be put back as it was, so that tracing must not use the author's: it would leave
symbolic tensors there. The functions themselves take its place while a network is exported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..network.example import Example
from ..network.explicit import Explicit
from ..network.isolation import evaluation_twin, quiet, unchanged_globals
from ..network.trees import agree, are_close, tensors_in
from .kept import Slot, Uncached, cache_slots, unchanged_shared


@contextlib.contextmanager
def uncached(network: nn.Module, *, keeping: Collection[str] = ()) -> Iterator[list[str]]:
    """Lets a network call the functions themselves in place of those with a cache.

    Gives the names of these functions. Those named in `keeping` have new caches.
    """
    slots = cache_slots(network)
    before = [(slot, slot.value) for slot in slots]
    new: dict[int, Uncached] = {}
    try:
        for slot, value in before:
            cache = value.cache if isinstance(value, Uncached) else value
            slot.put(new.setdefault(id(cache), Uncached(cache, keeps=slot.name in keeping)))
        yield [slot.name for slot in slots]
    finally:
        for slot, value in before:
            _put(slot, value)


def _put(slot: Slot, value: object) -> None:
    # What held the slot may be gone.
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        slot.put(value)


def check_caches(network: nn.Module, method: str, example: Example) -> None:
    """Refuses a network whose results depend on what its cached functions keep.

    A cached function that gives the same again for the same arguments does no harm.

    Raises:
        ExportError: with the names of the functions.
    """
    with uncached(network) as names:
        if not names:
            return
        expected = _answers(network, method, example)

    distinct = list(dict.fromkeys(names))
    if not _differs(network, method, example, expected, distinct):
        return

    single = []
    for name in distinct:
        if _differs(network, method, example, expected, [name]):
            single.append(name)

    raise ExportError(
        f"The results depend on what the cache of {', '.join(single or distinct)} keeps from call "
        "to call. An ONNX file would lose that: take it as an argument of forward and return the "
        "next one, or leave the cache out."
    )


def _differs(
    network: nn.Module,
    method: str,
    example: Example,
    expected: Sequence[Tensor],
    keeping: Sequence[str],
) -> bool:
    """Whether the answers are others where these functions keep their results."""
    with uncached(network, keeping=keeping):
        actual = _answers(network, method, example)
    return not agree(are_close, expected, actual)


def _answers(network: nn.Module, method: str, example: Example) -> list[Tensor]:
    """The results of three calls, each of which starts from the same attributes."""
    twin = evaluation_twin(network)
    explicit = Explicit(twin, method)
    answers: list[Tensor] = []
    with unchanged_shared(twin), quiet(), torch.no_grad():
        for seed in (0, 1, 0):
            with unchanged_globals(seed), contextlib.suppress(Exception, SystemExit):
                results, _ = explicit(*example.make(example.sizes, seed=seed))
                answers += [tensor.clone() for tensor in tensors_in(results)]
    return answers
