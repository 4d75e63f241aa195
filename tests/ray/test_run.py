# SPDX-License-Identifier: Apache-2.0
"""`stateport run --ray`: the same file as without Ray, also if workers die or it is stopped.

Run by `make ray-check`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import ray

from tests.ray.conftest import COUNT
from tests.ray.processes import processes


def run(model: Path, folder: Path, output: Path, *options: str) -> subprocess.Popen[str]:
    """Starts the command."""
    command = [sys.executable, "-m", "stateport", "run", str(model), "-i", str(folder)]
    command += ["--batch", "1", "--keep-states", "-o", str(output), *options]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def parts(output: Path) -> int:
    """How many parts of the output are there."""
    return len([*output.parent.glob(f"{output.name}.parts/*.parquet")])


def wait_for_parts(process: subprocess.Popen[str], output: Path, count: int) -> None:
    while parts(output) < count:
        assert process.poll() is None, process.communicate()


def test_a_run_with_workers_that_die_is_stopped_and_continued(
    reference: Path, folder: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    with run(reference, folder, here) as process:
        assert process.communicate() == (f"Wrote {here}: {COUNT:,} of {COUNT:,} rows.\n", "")

    cluster = ["--ray", ray.get_runtime_context().gcs_address, "--workers", "2"]
    with run(reference, folder, there, *cluster) as process:
        wait_for_parts(process, there, 2)
        os.kill(processes("ray::_Worker")[0], signal.SIGKILL)
        wait_for_parts(process, there, parts(there) + 6)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 1
    assert "rows, which are kept in there.parquet.parts." in said

    with run(reference, folder, there, *cluster) as process:
        said, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert said.startswith(f"Wrote {there}: {COUNT:,} of {COUNT:,} rows, ")
    assert pq.read_table(there).equals(pq.read_table(here))


def check_no_cluster(address: str, model: Path, folder: Path, output: Path) -> None:
    with run(model, folder, output, "--ray", address) as process:
        _, said = process.communicate()
    assert process.returncode == 1
    assert f"There is no Ray cluster at '{address}'" in said
    assert "Traceback" not in said


def test_an_address_without_a_cluster_is_refused(
    reference: Path, folder: Path, tmp_path: Path
) -> None:
    check_no_cluster("127.0.0.1:1", reference, folder, tmp_path / "y.parquet")


def test_a_server_that_says_nothing_is_no_cluster(
    reference: Path, folder: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        check_no_cluster(address, reference, folder, tmp_path / "y.parquet")
