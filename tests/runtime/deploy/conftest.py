# SPDX-License-Identifier: Apache-2.0
"""A file whose state starts from values of the file, and has the batch second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from stateport import ArraySpec, Contract, StateSpec
from stateport.contract import INITIAL_PREFIX
from tests.runtime.conftest import Build

#: h begins with 3 and 4; hn = h + x, and y = hn without its first axis.
LEARNED = Contract(
    inputs=(ArraySpec("x", "float32", ("batch", 2)),),
    outputs=(ArraySpec("y", "float32", ("batch", 2)),),
    states=(StateSpec("h", "hn", "float32", (1, "batch", 2), "file"),),
)
Deploy = Callable[..., Path]


@pytest.fixture
def learned(build: Build) -> Path:
    first = np.array([[[3, 4]]], np.float32)
    nodes = [
        helper.make_node("Add", ["h", "x"], ["hn"]),
        helper.make_node("Squeeze", ["hn", "first_axis"], ["y"]),
    ]
    initializers = [
        numpy_helper.from_array(first, f"{INITIAL_PREFIX}h"),
        numpy_helper.from_array(np.array([0], np.int64), "first_axis"),
    ]
    return build(LEARNED, nodes, initializers=initializers)
