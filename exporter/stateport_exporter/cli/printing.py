# SPDX-License-Identifier: Apache-2.0
"""Lines that several commands print."""

from __future__ import annotations

from collections.abc import Collection

from stateport.cli.output import say
from stateport.contract import Contract


def say_contract(contract: Contract, lifted: Collection[str]) -> None:
    """Prints the inputs, outputs and states of a model, and whether it can stream.

    `lifted` are the inputs of states that the source kept to itself.
    """
    for kind, specs in (("input", contract.inputs), ("output", contract.outputs)):
        for spec in specs:
            say(f"{kind:7} {spec}")
    for state in contract.states:
        start = f", lifted, starts from {state.initial}" if state.input in lifted else ""
        say(f"{'state':7} {state}{start}")

    _say_sizes(contract)
    _say_streaming(contract)


def _say_sizes(contract: Contract) -> None:
    for axis, largest in contract.limits:
        say(f"A call takes at most {largest} along the axis {axis!r}.")
    if not any(isinstance(axis, str) for spec in contract.inputs for axis in spec.shape):
        say("All sizes are fixed. For others, name the axes: --example x=float32[batch,time,5].")


def _say_streaming(contract: Contract) -> None:
    """What a call is, and whether a sequence may be cut into several."""
    others = contract.axes - {"batch", "time"}
    if "time" not in contract.axes and (contract.states or others):
        say("Each call is one step of a sequence, since no axis is called 'time'.")

    streaming = contract.streaming
    if not streaming.ok:
        say(f"It cannot stream: {streaming.reason}.")
    elif streaming.chunk_multiple > 1:
        say(f"It streams in chunks whose length is a multiple of {streaming.chunk_multiple} steps.")
