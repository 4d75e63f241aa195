# SPDX-License-Identifier: Apache-2.0
"""A request and its answer, as every transport gives and takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: An array of any of the protocol's dtypes.
Array = NDArray[np.generic]

#: The id of a sequence as the protocol has it: an integer from 1, or a string that is not empty.
SequenceId = int | str
#: The largest integer and the longest text that is an id.
LARGEST_ID: Final = 2**64 - 1
LONGEST_ID: Final = 256


@dataclass(frozen=True, slots=True)
class Request:
    """One inference request, whatever transport brought it.

    Attributes:
        model: the model's name.
        inputs: arrays by their names. A request without a sequence may give states, too.
        version: the model's version, or "" for the one that there is.
        id: the client's own name for this request; the answer repeats it.
        outputs: names of the outputs that are asked for, or () for all.
        sequence: the id of the stream, or None for a request without a stream.
        start: begins the stream, from the first state.
        end: ends the stream after this request.
        step: the number of this step in its stream, from 1; a repeated number is answered from
            the record, and a gap is an error. None: steps are not numbered.
        client: who asks, for limits by client: the name of a token, or an address.
    """

    model: str
    inputs: Mapping[str, Array]
    version: str = ""
    id: str = ""
    outputs: tuple[str, ...] = ()
    sequence: SequenceId | None = None
    start: bool = False
    end: bool = False
    step: int | None = None
    client: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to one request.

    Attributes:
        model: the model's name.
        version: the model's version.
        id: as the request gave it.
        outputs: arrays by their names, in the contract's order; those that the request names, in
            its order.
        parameters: what else is said, such as {"sequence_step": 3}.
    """

    model: str
    version: str
    id: str
    outputs: Mapping[str, Array]
    parameters: Mapping[str, bool | int | str] = field(default_factory=dict)


def is_unicode(text: str) -> bool:
    """Whether a text has a form in UTF-8; half of a surrogate pair has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
