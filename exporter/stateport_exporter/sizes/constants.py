"""Numbers that an author's code mentions: where something may be decided that nobody sees."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from torch import Tensor, nn

from ..authors import authored, cell_value, constants_in, named, names_in

#: Of longer lists the numbers in them are left, but for how many there are.
_MOST_ITEMS: Final = 64


def mentioned(network: nn.Module) -> list[int]:
    """The numbers of 2 or more, in order.

    They stand in the code itself, in globals and attributes that it names, and in what it closes
    over; lengths of lists and of tables are among them.
    """
    reached, values, names = authored(network), list[Any](), set[str]()
    for function in reached.functions:
        if function.__name__ == "__init__":  # what it kept is named elsewhere
            continue
        values += constants_in(function.__code__)
        values += [holder[name] for holder, name in named(function)]
        values += [cell_value(cell) for cell in function.__closure__ or ()]
        values += function.__defaults__ or ()
        names |= names_in(function.__code__)
    for holder in (*reached.objects, *reached.classes):
        attributes = {**vars(holder)} if hasattr(holder, "__dict__") else {}
        if isinstance(holder, nn.Module):
            attributes |= {**holder._parameters, **holder._buffers}
        values += [attributes[name] for name in names & attributes.keys()]
    return sorted({number for number in _numbers(values) if number > 1})


def _numbers(values: Iterable[Any]) -> Iterator[int]:
    for value in values:
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            yield value
        elif isinstance(value, float) and abs(value) < 2**53:
            yield int(value)
        elif isinstance(value, str):
            yield from (int(digits) for digits in re.findall(r"\d{1,9}", value[:100]))
        elif isinstance(value, Tensor):
            yield from value.shape
        elif isinstance(value, list | tuple | set | frozenset | dict):
            yield len(value)
            if len(value) <= _MOST_ITEMS:
                yield from _numbers((*value, *(value.values() if isinstance(value, dict) else ())))
