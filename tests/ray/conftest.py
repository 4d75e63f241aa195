# SPDX-License-Identifier: Apache-2.0
"""A Ray on this machine, and 20,000 sequences of mixed lengths."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from numpy.typing import NDArray

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray warns of its own use of what others have deprecated
    import ray.serve

ROOT = Path(__file__).parents[2]
COUNT = 20_000
KIND = pa.list_(pa.list_(pa.float32(), 5))


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    paths = [str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    ray.init(
        _node_ip_address="127.0.0.1",
        num_cpus=4,  # logical ones: two for the workers, and some for reading
        include_dashboard=False,
        object_store_memory=200 << 20,
        runtime_env={"env_vars": variables},
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def sequences() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 60, COUNT)
    return [random.standard_normal((n, 5)).astype(np.float32) for n in lengths]


@pytest.fixture(scope="session")
def folder(sequences: list[NDArray[np.float32]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sequences in files of 500, each with its number."""
    path = tmp_path_factory.mktemp("data")
    for start in range(0, COUNT, 500):
        part = sequences[start : start + 500]
        table = {
            "number": range(start, start + 500),
            "x": pa.array([row.tolist() for row in part], KIND),
        }
        pq.write_table(pa.table(table), path / f"{start:05}.parquet")
    return path
