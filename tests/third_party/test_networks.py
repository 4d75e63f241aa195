"""Networks of other people's packages, exported as they are and compared with their own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import stateport
from stateport.contract import resolve
from stateport_exporter import ExportError, export
from tests.chunks import check_chunks

from .networks import NETWORKS, REFUSED, Network

Array = NDArray[Any]

BATCH, TIME = 2, 24
CHUNKS = (1, 7, 2, 14)

# resemblyzer imports binary_dilation from where SciPy used to have it.
pytestmark = pytest.mark.filterwarnings("ignore:Please import `binary_dilation`:DeprecationWarning")


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_network_of_another_package(network: Network, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = network.build().eval()
    result = export(net, network.example, tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed

    contract = result.contract
    assert {state.input: state.shape for state in contract.states} == network.states
    assert contract.streaming.ok == network.streams
    check_chunks(result.path)
    (x,), (y,) = contract.inputs, contract.outputs
    assert "batch" in x.shape
    assert "batch" in y.shape

    given = _draw(x)
    with torch.no_grad():
        expected = network.own(net, torch.from_numpy(given)).numpy()
    assert expected.std() > 0
    got = _fed(stateport.load(result.path), given)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_of_another_package_that_is_refused(name: str, tmp_path: Path) -> None:
    build, example, reason = REFUSED[name]
    with pytest.raises(ExportError, match=reason):
        export(build().eval(), example, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def _draw(x: stateport.ArraySpec) -> Array:
    """A sequence for the input; single steps stand one behind the other: (time, batch, ...)."""
    random = np.random.default_rng(0)
    shape = resolve(x.shape, {"batch": BATCH, "time": TIME})
    if "time" not in x.shape:
        shape = (TIME, *shape)
    if x.dtype == "int64":
        return random.integers(0, 32, shape)
    return random.standard_normal(shape, dtype=np.float32)


def _fed(model: stateport.Model, given: Array) -> Array:
    """What the file answers: in chunks, in steps, or whole where it cannot stream."""
    (x,), (y,) = model.contract.inputs, model.contract.outputs
    if not model.contract.streaming.ok:
        whole: Array = model(given)[0]
        return whole
    stream = model.stream()
    if "time" not in x.shape:
        return np.stack([stream(one) for one in given])
    parts = np.split(given, np.cumsum(CHUNKS)[:-1], x.shape.index("time"))
    answers = [stream(part) for part in parts]
    return np.concatenate(answers, y.shape.index("time")) if "time" in y.shape else answers[-1]
