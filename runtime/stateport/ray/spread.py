# SPDX-License-Identifier: Apache-2.0
"""`stateport run --ray`: batches of a data set on the workers of a cluster, and back in order."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle
from typing import Any, Final

from ..datasets.job import Options, Spread, run_batch
from ..errors import StateportError, first_line
from ..model import load
from .common import missing

#: How many batches each worker has at once: one that it runs, and the next.
_AHEAD: Final = 2
#: Seconds to wait for a cluster's first answer.
_PATIENCE: Final = 10
#: What a client of HTTP/2 says first: the preface, and settings that change nothing.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@contextlib.contextmanager
def on_ray(
    address: str, arguments: Mapping[str, Any], options: Options, workers: int | None
) -> Iterator[Spread]:
    """Connects to a cluster, with a model in each of some workers.

    A worker that dies is replaced, and its batches run again elsewhere.

    Args:
        address: of the cluster, as `ray.init` takes it: "auto", "HOST:PORT", "ray://HOST:PORT", or
            "local" for one that is started here.
        arguments: what `load` is called with in each worker, which finds files under their paths.
        options: how the batches are run.
        workers: how many; by default one for each core of the cluster.

    Yields:
        What `run_data_set` takes as `spread`.

    Raises:
        StateportError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise missing("stateport run --ray", error, "cpu,ray") from error

    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = first_line(error).rstrip(".")
        raise StateportError(
            f"There is no Ray cluster at {address!r}: {reason}. Pass the address of one that runs, "
            "--ray HOST:6379, or --ray local to start one on this machine."
        ) from error
    try:
        threads = arguments.get("threads") or 1
        count = workers or max(int(ray.cluster_resources().get("CPU", 1) // threads), 1)
        actor = ray.remote(num_cpus=threads, max_restarts=-1, max_task_retries=-1)(_Worker)
        actors = [actor.remote(arguments, options) for _ in range(count)]
        yield lambda batches: _answers(actors, batches)
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Connects to an address and waits for the first byte: Ray itself waits for minutes.

    Ray speaks gRPC, which is HTTP/2: the server answers the client's preface (RFC 9113, section
    3.4) with its settings. One that wants TLS answers something else, or closes the connection.

    Raises:
        OSError: nothing listens there, or what listens says nothing.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return

    with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE) as connection:
        connection.sendall(_PREFACE)
        with contextlib.suppress(ConnectionError):
            connection.recv(1)


class _Worker:
    """An actor with the model."""

    def __init__(self, arguments: Mapping[str, Any], options: Options) -> None:
        self._model = load(**arguments)
        self._options = options

    def run(self, batch: Any) -> Any:
        """The table of answers to a batch."""
        return run_batch(self._model, batch, self._options)


def _answers(actors: list[Any], batches: Iterable[Any]) -> Iterator[Any]:
    """The answers to the batches, in their order; a few batches are under way at a time."""
    under_way: deque[Any] = deque()
    for batch, actor in zip(batches, cycle(actors), strict=False):
        if len(under_way) == _AHEAD * len(actors):
            yield _taken(under_way.popleft())
        under_way.append(actor.run.remote(batch))
    while under_way:
        yield _taken(under_way.popleft())


def _taken(answer: Any) -> Any:
    """Waits for an answer.

    Raises:
        StateportError: the workers cannot load the model, or run it.
    """
    import ray

    try:
        return ray.get(answer)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise StateportError(
            f"A worker of Ray has failed: {str(cause).strip().splitlines()[-1]} Every machine "
            "needs stateport, and the model's file under the same path."
        ) from error
