# SPDX-License-Identifier: Apache-2.0
"""What `ort-node` and `ort-web` share: engines that run a file with the npm package `stateport`.

The package runs in another process, the peer, which is asked in frames: the length of a JSON text
in 4 bytes (little-endian), the text, and the bytes of the arrays that the text lists.
`npm_calls.mjs` is the other side.
"""

from __future__ import annotations

import json
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, InputError
from ..files.reading import parse_json
from ..suggestions import did_you_mean
from .base import Arrays, HostEngine
from .requirements import NotInstalledError

#: The variable that names the folder with `node_modules`.
MODULES: Final = "STATEPORT_NODE_MODULES"

Answer = tuple[dict[str, Any], list[NDArray[Any]]]


class Peer(ABC):
    """A process with the package, which holds one model or none.

    Attributes:
        version: the version of ONNX Runtime and of what runs it.
    """

    version: str

    @abstractmethod
    def send(self, parts: Sequence[bytes]) -> None:
        """Sends a frame, which is in parts. It does not fail if the process has ended."""

    @abstractmethod
    def receive(self) -> Answer:
        """The next answer: its header, and its arrays.

        Raises:
            EngineError: the process has ended.
        """

    @abstractmethod
    def stop(self) -> None:
        """Ends the process, at any time and any number of times."""

    def ask(self, inputs: Arrays, outputs: Sequence[str]) -> Answer:
        """Sends the inputs; returns the answer's header, and its arrays in the outputs' order."""
        arrays = {name: np.asarray(array, order="C") for name, array in inputs.items()}
        described = []
        for name, array in arrays.items():
            described.append({"name": name, "dtype": array.dtype.name, "shape": array.shape})
        text = json.dumps({"outputs": [*outputs], "arrays": described}).encode()

        parts = [len(text).to_bytes(4, "little"), text]
        parts += [array.tobytes() for array in arrays.values()]
        self.send(parts)
        return self.receive()


class NpmEngine(HostEngine):
    """A graph in a peer, or in several if calls run at the same time."""

    def __init__(self, name: str, start: Callable[[], Peer]) -> None:
        self.name = name
        self._start = start
        first = start()
        self.version = first.version
        # Peers without a call. A call takes one out, and puts it back if nothing failed in between:
        # after an exception from outside, the rest of an answer may still be on its way.
        self._idle = [first]
        self._end = weakref.finalize(self, _stop_all, self._idle)

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once, in a peer."""
        try:
            peer = self._idle.pop()
        except IndexError:
            peer = self._start()

        try:
            answer, arrays = peer.ask(inputs, outputs)
        except BaseException:
            peer.stop()
            raise

        self._idle.append(peer)
        if "error" in answer:
            raise EngineError(answer["error"])
        return arrays


def read_answer(read: Callable[[int], bytes]) -> Answer:
    """Reads one frame: its header, and its arrays. `read` returns the next bytes."""
    length = int.from_bytes(read(4), "little")
    answer: dict[str, Any] = parse_json(read(length).decode(), finite=False)
    arrays = []
    for entry in answer.get("arrays", []):
        array = np.empty(entry["shape"], entry["dtype"])
        array.reshape(-1).view(np.uint8)[...] = np.frombuffer(read(array.nbytes), "u1")
        arrays.append(array)
    return answer, arrays


def check_options(name: str, options: Mapping[str, object], known: Sequence[str]) -> None:
    """Refuses options that the engine does not have, or that are no paths.

    Raises:
        InputError: there are some.
    """
    for option in sorted({*options} - {*known}):
        hint = did_you_mean(option, known)
        raise InputError(f"{name} has no option {option!r}; it takes {' and '.join(known)}.{hint}")

    for option, value in options.items():
        if value is not None and not isinstance(value, str | PathLike):
            raise InputError(f"{option} is {value!r}; a path was expected.")


def modules_folder(name: str, options: Mapping[str, object], library: str, install: str) -> str:
    """The folder with `node_modules`, by the option `modules` or the environment's variable.

    Nothing is looked for in the working directory: anybody may have put code there.

    Raises:
        NotInstalledError: neither is given.
    """
    modules = options.get("modules") or os.environ.get(MODULES)
    if modules is None:
        raise NotInstalledError(
            f"{name} needs the npm packages stateport and {library}. Install them in any folder: "
            f"{install}; and name that folder: {MODULES}=FOLDER."
        )
    return str(modules)


def absent(name: str, library: str, folder: str, install: str) -> NotInstalledError:
    """The error of a folder that has not both packages."""
    return NotInstalledError(
        f"{name} needs the npm packages stateport and {library}, which are not in {folder}. "
        f"Install them there: {install}."
    )


def _stop_all(peers: Sequence[Peer]) -> None:
    for peer in peers:
        peer.stop()
