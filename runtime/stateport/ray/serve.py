# SPDX-License-Identifier: Apache-2.0
"""`deployment`: the server of `stateport serve` as replicas of Ray Serve.

Ray sends all requests with the same session to one replica, by a ring of hashes. The state store
is the truth: where the ring changes or a replica dies, another one reads the stream from the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from ..contract import check_streaming
from ..errors import InputError
from ..model_file.onnx_outline import read
from ..model_file.read_contract import read_contract
from ..picking import map_values
from .common import ModelFile, missing, sent

if TYPE_CHECKING:
    from ray.serve import Deployment

#: Ray's router that keeps a session on one replica. Ray calls it experimental.
ROUTER: Final = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
#: The header with the session, unless RAY_SERVE_SESSION_ID_HEADER_KEY names another one.
HEADER: Final = "x-session-id"
#: How often each replica is on the ring: more spread sessions more evenly.
_VIRTUAL_NODES: Final = 100


def deployment(
    models: str | PathLike[str] | Mapping[str, ModelFile],
    *,
    store: str,
    replicas: int = 2,
    cores: float = 1.0,
    engine: str | None = None,
    max_queue: int = 4096,
    **server: Any,
) -> Deployment:
    """Live streams on many replicas: the server of `stateport serve` behind sticky routing.

    Replicas may die, be added and be removed, and any of them can go on with any stream, because
    the store has all streams. Clients send the header `x-session-id` with the id of the sequence,
    so that its state is mostly in the memory of the replica that it reaches; without the header
    the streams are right too, but are read from the store for most steps. Clients number their
    steps (`sequence_step`) and repeat a request that was not answered, as with any server.

    `ray.serve.run(deployment(...).bind())` starts it. Ray's own settings are set as for each
    deployment: `deployment(...).options(autoscaling_config=...)`. Replicas answer REST and
    WebSockets; the gRPC of Ray is not that of the open inference protocol.

    Args:
        models: a file, which is served under its stem; or a file, or the bytes of one, for each
            name. Replicas have to find files under the same path; bytes are sent to them.
        store: where streams are kept: "redis://HOST:PORT", or "file:DIR" if all replicas run on
            one machine.
        replicas: how many.
        cores: the cores that Ray reserves for each replica.
        engine: the engine of the files; by default "ort-cpu".
        max_queue: how many requests of one model each replica may have under way at once.
        server: more options of `stateport.serve.app`.

    Returns:
        A `ray.serve.Deployment` with the name "stateport".

    Raises:
        InputError: the store is "memory", or a value is none of these.
        FileError: a file cannot be read.
        ContractError: a model has no contract.
        StreamingError: a network needs whole sequences.
        StateportError: Ray Serve or the server is not installed.
    """
    try:
        from ray import serve
        from ray.serve.config import RequestRouterConfig

        from ..serve.assembly import app
    except ImportError as error:
        raise missing("stateport.ray.deployment", error, "cpu,serve,ray") from error

    check_replicas(store, replicas, cores)
    files = map_values(sent, _named(models))
    options = {**server, "store": store, "max_queue": max_queue}
    # What a replica would refuse is refused here: Ray starts one again and again.
    with TemporaryDirectory() as folder:
        paths = _on_disk(files, Path(folder))
        app(paths, engine=engine, **options)
        for path in paths.values():
            check_streaming(read_contract(read(path)))

    router = RequestRouterConfig(
        request_router_class=ROUTER,
        # Without fallback: a session on two replicas would be read from the store at each change.
        request_router_kwargs={
            "num_virtual_nodes": _VIRTUAL_NODES,
            "num_fallback_replicas": 0,
        },
    )

    class Replica:
        """One server, which Ray starts, asks for its health, and stops."""

        def __init__(self) -> None:
            self._folder = TemporaryDirectory()  # of models that were sent
            paths = _on_disk(files, Path(self._folder.name))
            self._application = app(paths, engine=engine, **options)

        def __serve_build_asgi_app__(self) -> Any:  # the name is Ray's
            return self._application

        async def check_health(self) -> None:
            """Raises an error if the server has ended, so that Ray starts another replica."""
            if not self._application.service.is_live():
                raise RuntimeError("The server of this replica has ended.")

    made: Deployment = serve.deployment(
        serve.ingress()(Replica),
        name="stateport",
        num_replicas=replicas,
        max_ongoing_requests=max_queue,
        ray_actor_options={"num_cpus": cores},
        request_router_config=router,
    )
    return made


def check_replicas(store: str, replicas: int, cores: float = 1.0) -> None:
    """Refuses a store that dies with a replica, and numbers that are none.

    Raises:
        InputError: with what was expected.
    """
    if store == "memory":
        raise InputError(
            "store is 'memory', which ends with its replica, and Ray moves streams between "
            "replicas. Pass 'redis://HOST:PORT', or 'file:DIR' if all replicas run on one machine."
        )
    if type(replicas) is not int or replicas < 1:
        raise InputError(
            f"replicas is {replicas!r}; a number of at least 1 was expected. For a number that "
            "follows the load, pass autoscaling_config to the deployment's options()."
        )
    if isinstance(cores, bool) or not isinstance(cores, int | float) or not 0 <= cores < 1e6:
        raise InputError(f"cores is {cores!r}; a number from 0 was expected.")


def _named(models: str | PathLike[str] | Mapping[str, ModelFile]) -> dict[str, ModelFile]:
    """The models by their names; a single file has its stem as its name."""
    if isinstance(models, str | PathLike):
        return {Path(models).stem: models}
    return dict(models)


def _on_disk(files: Mapping[str, str | bytes], folder: Path) -> dict[str, Path]:
    """A path for each model; those that were sent are written to the folder."""
    paths = {}
    for number, (name, file) in enumerate(files.items()):
        if isinstance(file, bytes):
            path = folder / f"{number}.onnx"
            path.write_bytes(file)
        else:
            path = Path(file)
        paths[name] = path
    return paths
