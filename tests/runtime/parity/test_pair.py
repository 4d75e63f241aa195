"""Vectors name the model that they were recorded with; another model is reported."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from stateport import FileError
from stateport.engines.choice import EngineChoice
from stateport.parity.matrix import run_matrix
from stateport.parity.pair import Standing, digest, remarks
from stateport.parity.vectors import Vectors, vectors_path
from stateport.parity.workers import client
from stateport_exporter import quantize

OTHER = "recorded with another file"


def recorded(model: Path) -> Vectors:
    return Vectors.load(vectors_path(model))


def rewrite(path: Path) -> None:
    """As a tool does: other bytes, the same network."""
    model = onnx.load(path)
    model.doc_string = "rewritten"
    onnx.save(model, path)


def test_the_digest_is_that_of_the_file(copied: Path) -> None:
    assert digest(copied) == hashlib.sha256(copied.read_bytes()).hexdigest()
    assert recorded(copied).models == (digest(copied),)


def test_weights_beside_the_model_count_too(copied: Path) -> None:
    model = onnx.load(copied)
    onnx.save(model, copied, save_as_external_data=True, location="m.data", size_threshold=0)
    data = copied.with_name("m.data")
    whole = copied.read_bytes() + data.read_bytes()
    before = digest(copied)
    assert before == hashlib.sha256(whole).hexdigest()
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    assert digest(copied) != before
    with data.open("r+b") as file:
        file.truncate(3 << 30)  # takes no room on the disk, and would take seconds to read
    with pytest.raises(FileError, match="more than the weights"):
        digest(copied)


def test_a_pair_that_was_written_together_needs_no_remark(copied: Path) -> None:
    assert remarks(copied, recorded(copied)) == ()


def test_another_file_is_told_of_and_judged_by_its_numbers(copied: Path) -> None:
    rewrite(copied)
    (said,) = remarks(copied, recorded(copied))
    assert OTHER in said
    found = run_matrix(copied, vectors_path(copied), [EngineChoice("ort-cpu")])
    assert found.passed
    assert found.remarks == (said,)


def test_vectors_that_name_no_model_are_told_of(copied: Path) -> None:
    replace(recorded(copied), models=()).save(vectors_path(copied))
    (said,) = remarks(copied, recorded(copied))
    assert "do not say which file" in said


def test_models_survive_saving_and_loading(copied: Path, tmp_path: Path) -> None:
    vectors = replace(recorded(copied), models=("a" * 64, "b" * 64))
    vectors.save(tmp_path / "v")
    assert Vectors.load(tmp_path / "v").models == vectors.models


def test_a_quantized_file_and_its_origin_both_stand_in_its_vectors(
    copied: Path, tmp_path: Path
) -> None:
    path = tmp_path / "q.onnx"
    result = quantize(copied, path, check=False)
    assert result.remarks == ()
    assert recorded(path).models == (digest(copied), digest(path))
    assert remarks(path, recorded(path)) == ()
    assert remarks(copied, recorded(path)) == ()


def test_a_file_made_of_another_one_goes_on_to_be_told_of(copied: Path, tmp_path: Path) -> None:
    rewrite(copied)
    path = tmp_path / "q.onnx"
    result = quantize(copied, path, check=False)
    assert OTHER in result.remarks[0]
    assert recorded(path).models == recorded(copied).models
    assert OTHER in remarks(path, recorded(path))[0]


def test_two_quantized_files_that_were_mixed_up_are_told_of(copied: Path, tmp_path: Path) -> None:
    eight, four = tmp_path / "8.onnx", tmp_path / "4.onnx"
    quantize(copied, eight, bits=8, check=False)
    quantize(copied, four, bits=4, check=False)
    shutil.copy(vectors_path(four), vectors_path(eight))
    assert OTHER in remarks(eight, recorded(eight))[0]


@pytest.mark.parametrize("which", [lambda path: path, vectors_path], ids=["model", "vectors"])
def test_a_pair_that_is_replaced_while_it_is_read_is_noticed(
    copied: Path, which: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = client.ask

    def replaced(*arguments: Any, **options: Any) -> Any:
        answer = ask(*arguments, **options)
        new = copied.with_name("new")
        shutil.copy(which(copied), new)
        new.replace(which(copied))
        return answer

    monkeypatch.setattr("stateport.parity.matrix.ask", replaced)
    with pytest.raises(FileError, match="written to while"):
        run_matrix(copied, vectors_path(copied), [EngineChoice("ort-cpu")])


def test_files_that_stay_are_the_same_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("a")
    standing = Standing([path, tmp_path / "none"])
    standing.check()
    (tmp_path / "b").write_text("a")
    (tmp_path / "b").replace(path)
    with pytest.raises(FileError, match="Try again"):
        standing.check()
