"""Libraries of engines that are there and broken, which is another thing than missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import stateport
from stateport import EngineError, EngineUnavailable
from stateport.engines import status

#: The module that each engine imports first.
LIBRARIES = {
    "ort-cpu": "onnxruntime",
    "ort-cuda": "onnxruntime",
    "openvino": "openvino",
    "tract": "tract",
    "onnx-reference": "onnx",
}
BROKEN = {
    "raise OSError('libfast.so: no such file')": "cannot be imported: OSError: libfast.so",
    "import numpy.nowhere": "is installed and needs 'numpy.nowhere'",
}


@pytest.mark.parametrize(("code", "says"), BROKEN.items(), ids=["it raises", "it needs another"])
@pytest.mark.parametrize(("engine", "library"), LIBRARIES.items())
def test_a_broken_library_is_an_error_and_not_an_engine_that_is_not_here(
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    library: str,
    code: str,
    says: str,
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / f"{library}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=says) as refusal:
        stateport.load(reference, engine=engine)
    assert not isinstance(refusal.value, EngineUnavailable)
    assert says in str(status(engine).problem)
