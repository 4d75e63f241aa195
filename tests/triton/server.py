# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's Triton server on this machine, with what `stateport deploy triton` writes.

`make triton-check` installs the wheel of nvidia-pytriton into .venv-triton. The wheel holds the
server's binary and its Python backend; this is what it takes to run them without a container.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sysconfig
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import urllib3

from stateport.deploy.triton.configuration import Settings
from stateport.deploy.triton.repository import write_repository

ROOT: Final = Path(__file__).parents[2]
#: The environment with the wheel. Its Python runs in the backend.
ENVIRONMENT: Final = ROOT / ".venv-triton"


@dataclass(frozen=True)
class Triton:
    """A running server.

    Attributes:
        http: the address of REST, as 127.0.0.1:8000.
        grpc: the address of gRPC.
        process: its process id.
        log: the last lines that it has logged.
    """

    http: str
    grpc: str
    process: int
    log: deque[str]


def is_installed() -> bool:
    """Whether `make triton-check` has installed the wheel."""
    return bool(list(ENVIRONMENT.glob("lib/python3.*/site-packages/pytriton/tritonserver")))


@contextmanager
def triton(
    folder: Path,
    models: Mapping[str, Path],
    *,
    idle: float = 600,
    capacity: int = 2048,
    batch: int = 256,
    threads: int = 1,
) -> Iterator[Triton]:
    """Runs Triton with these model files, each under its name.

    Args:
        folder: the folder of the repository, which is made.
        models: the model files by their names.
        idle: seconds after which an idle sequence expires.
        capacity: the most live sequences of each model.
        batch: the most sequences in one call of the backend.
        threads: of each model's engine.

    Raises:
        RuntimeError: the server ended before it was ready; the message has its log.
    """
    site = _site()
    for name, file in models.items():
        settings = Settings(name, capacity, batch, idle, threads=threads)
        write_repository(file, folder, settings)

    http, grpc = _free_ports(2)
    command = _command(site, folder, http, grpc)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=_variables(site)
    ) as process:
        log: deque[str] = deque(maxlen=1000)
        reader = threading.Thread(target=_read_on, args=(process, log))
        try:
            _await_start(process, log)
            reader.start()
            _await_listening(http)
            yield Triton(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", process.pid, log)
        finally:
            process.terminate()
            process.wait()
            if reader.ident is not None:
                reader.join()


def _site() -> Path:
    """The folder that holds the wheel, made ready to run from.

    A wheel has no run bits, and the backend looks for its stub beside itself. The backend's Python
    is isolated: it takes stateport from a `.pth` file, and no notice of PYTHONPATH.
    """
    [server] = ENVIRONMENT.glob("lib/python3.*/site-packages/pytriton/tritonserver")
    version = server.parents[2].name.removeprefix("python")
    stub = server / "backends" / "python" / "triton_python_backend_stub"
    if not stub.exists():
        shutil.copy(server / "python_backend_stubs" / version / stub.name, stub)
    for program in (stub, server / "bin" / "tritonserver"):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    site = server.parents[1]
    (site / "stateport.pth").write_text(f"{ROOT / 'runtime'}\n", encoding="utf-8")
    return site


def _free_ports(count: int) -> list[int]:
    """Ports that are free now: Triton takes no port 0."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _command(site: Path, repository: Path, http: int, grpc: int) -> list[str]:
    options = {
        "model-repository": repository,
        "backend-directory": site / "pytriton" / "tritonserver" / "backends",
        "http-address": "127.0.0.1",
        "http-port": http,
        "grpc-address": "127.0.0.1",
        "grpc-port": grpc,
        "allow-metrics": "false",
        "exit-timeout-secs": 5,
    }
    program = site / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    return [str(program), *(f"--{name}={value}" for name, value in options.items())]


def _variables(site: Path) -> dict[str, str]:
    """The environment: the wheel's libraries, and the Python that has NumPy below 2 first."""
    libraries = [str(site / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR") or ""]
    path = f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": path,
        "OMP_NUM_THREADS": "1",
    }


def _await_start(process: subprocess.Popen[str], log: deque[str]) -> None:
    """Reads the log until both services have started."""
    assert process.stderr is not None
    awaited = {"Started GRPCInferenceService", "Started HTTPService"}
    for line in process.stderr:
        log.append(line)
        awaited = {text for text in awaited if text not in line}
        if not awaited:
            return
    raise RuntimeError("Triton ended before it was ready. Its log:\n" + "".join(log))


def _await_listening(port: int) -> None:
    """Asks until REST answers: Triton logs that it has started a moment before."""
    retries = urllib3.Retry(20, backoff_factor=0.05)
    urllib3.request("GET", f"http://127.0.0.1:{port}/v2/health/ready", retries=retries)


def _read_on(process: subprocess.Popen[str], log: deque[str]) -> None:
    """Goes on reading the log, so that the pipe is never full."""
    assert process.stderr is not None
    log.extend(process.stderr)  # in turn, as each line comes
