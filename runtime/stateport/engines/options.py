"""What several engines say of what they do not have."""

from __future__ import annotations

from collections.abc import Mapping

from ..contract import CONTRACT_KEY, Contract
from ..errors import EngineError, InputError
from ..onnx_file import OnnxFile


def no_options(name: str, options: Mapping[str, object]) -> None:
    """Refuses options where an engine has none.

    Raises:
        InputError: there are some.
    """
    for option in sorted(options):
        raise InputError(f"{name} has no option {option!r}; it takes none.")


def one_thread(name: str, threads: int | None) -> None:
    """Refuses more threads where an engine has one.

    Raises:
        InputError: there are more.
    """
    if threads is not None and threads > 1:
        raise InputError(f"{name} computes in one thread; threads={threads} was asked for.")


def no_lengths(name: str, file: OnnxFile) -> None:
    """Refuses networks that take the lengths of rows, where an engine ignores them.

    OpenVINO, tract and onnx's reference do not read `sequence_lens` of the recurrent operators: the
    states of shorter rows would be those after their padding.

    Raises:
        EngineError: the network takes lengths.
    """
    text = file.metadata.get(CONTRACT_KEY)
    for spec in Contract.from_json(text).inputs if text else ():
        if spec.lengths_of is not None:
            raise EngineError(
                f"{name} ignores the lengths of rows ({spec.name!r}), and would give wrong states "
                "for the shorter ones. Use engine='ort-cpu'."
            )
