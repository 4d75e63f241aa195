# SPDX-License-Identifier: Apache-2.0
"""`stateport run` on Parquet files: order, failures kept apart, and on from a stop."""

from __future__ import annotations

import builtins
import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from numpy.typing import NDArray
from onnx import helper

import stateport
from stateport import ArraySpec, Contract
from stateport.cli.run_data import bar
from stateport.contract import CONTRACT_KEY
from stateport.datasets import job
from stateport.datasets.rows import run_rows
from tests.cli.conftest import Command

Refused = Callable[..., None]
Array = NDArray[Any]
KIND = pa.list_(pa.list_(pa.float32(), 5))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sequences(count: int, seed: int = 0) -> list[Array]:
    random = np.random.default_rng(seed)
    return [
        random.standard_normal((n, 5)).astype(np.float32) for n in random.integers(1, 30, count)
    ]


def write(path: Path, rows: list[Array] | list[Any], column: str = "x") -> None:
    values = [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({column: pa.array(values, KIND)}), path)


def answers(path: Path) -> dict[int, Array]:
    table = pq.read_table(path)
    rows = table["row"].to_pylist()
    assert rows == sorted(rows)
    return dict(zip(rows, (np.array(y, np.float32) for y in table["y"].to_pylist()), strict=True))


def check(path: Path, model: Path, rows: dict[int, Array]) -> None:
    loaded = stateport.load(model)
    found = answers(path)
    assert found.keys() == rows.keys()
    for number, row in rows.items():
        assert np.abs(found[number] - loaded(row[None])[0][0]).max() <= 2e-6


def test_a_folder_is_run_in_the_order_of_its_rows(command: Command, reference: Path) -> None:
    rows = sequences(50)
    write(Path("data/b.parquet"), rows[30:], "audio")
    write(Path("data/a.parquet"), rows[:30], "audio")
    line = ["run", reference, "-i", "data", "--column", "audio", "-o", "y.parquet", "--chunk", 8]
    outcome = command(*line, "--batch", 4)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout == "Wrote y.parquet: 50 of 50 rows.\n"
    check(Path("y.parquet"), reference, dict(enumerate(rows)))
    assert sorted(path.name for path in Path().iterdir()) == ["data", "y.parquet"]
    assert str(pq.read_schema("y.parquet").field("y").type).startswith("large_list<")


def test_a_pattern_names_files_too(command: Command, reference: Path) -> None:
    rows = sequences(6)
    write(Path("data/a1.parquet"), rows[:3])
    write(Path("data/a2.parquet"), rows[3:])
    write(Path("data/b.parquet"), rows)
    assert command("run", reference, "-i", "data/a*.parquet", "-o", "y.parquet").returncode == 0
    check(Path("y.parquet"), reference, dict(enumerate(rows)))


@pytest.mark.parametrize("data", ["k=1", "k=1/a.parquet", "k=*/a.parquet", "*/*.parquet"])
def test_folders_may_be_named_after_values(command: Command, reference: Path, data: str) -> None:
    rows = sequences(3)
    write(Path("k=1/a.parquet"), rows)
    write(Path("y.parquet.parts/000000000000-000000000001.parquet"), sequences(1), "answers")
    outcome = command("run", reference, "-i", data, "-o", "z.parquet")
    assert outcome.stdout == "Wrote z.parquet: 3 of 3 rows.\n"
    check(Path("z.parquet"), reference, dict(enumerate(rows)))


def test_answers_may_lie_below_the_folder_of_a_pattern(command: Command, reference: Path) -> None:
    write(Path("data/a.parquet"), sequences(2))
    Path("data/out").mkdir()
    line = ["run", reference, "-i", "data/*.parquet", "-o", "data/out/y.parquet"]
    assert command(*line).returncode == 0


def test_rows_that_fail_are_kept_apart(command: Command, reference: Path) -> None:
    rows: list[Any] = [*sequences(4)]
    rows[1], rows[2] = None, []
    write(Path("x.parquet"), rows)
    outcome = command("run", reference, "-i", "x.parquet", "-o", "y.parquet")
    assert outcome.returncode == 1
    assert outcome.stdout == (
        "Wrote y.parquet: 2 of 4 rows.\n2 rows failed; y.failed.parquet says why.\n"
    )
    check(Path("y.parquet"), reference, {0: rows[0], 3: rows[3]})
    failed = pq.read_table("y.failed.parquet").to_pylist()
    assert [each["row"] for each in failed] == [1, 2]
    assert "is null" in failed[0]["error"]
    assert "is empty" in failed[1]["error"]


def stopping_in_the_third(counts: list[int]) -> Callable[..., Any]:
    """What runs rows, until it is stopped in the third batch; `counts` gets the rows of each."""

    def run(model: Any, given: list[Any], **options: Any) -> Any:
        if len(counts) == 2:
            raise KeyboardInterrupt
        counts.append(len(given))
        return run_rows(model, given, **options)

    return run


def test_a_second_run_goes_on_where_the_first_was_stopped(
    command: Command, refused: Refused, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = sequences(2600)
    write(Path("data/a.parquet"), rows[:1500])
    write(Path("data/b.parquet"), rows[1500:])
    line = ["run", reference, "-i", "data", "-o", "y.parquet"]
    counts: list[int] = []
    monkeypatch.setattr(job, "run_rows", stopping_in_the_third(counts))
    refused(command(*line), "Stopped after 1,500 rows, which are kept in y.parquet.parts.")
    assert not Path("y.parquet").exists()

    def count(model: Any, given: list[Any], **options: Any) -> Any:
        counts.append(len(given))
        return run_rows(model, given, **options)

    monkeypatch.setattr(job, "run_rows", count)
    for option, says in (
        (["--batch", 1], "is of a run with batch 32, and this one is with 1"),
        (["--threads", 2], "is of a run with threads 1, and this one is with 2"),
        (["--engine", "onnx-reference"], 'is of a run with engine "ort-cpu'),
    ):
        refused(command(*line, *option), says)
    outcome = command(*line)
    assert outcome.stdout == "Wrote y.parquet: 2,600 of 2,600 rows; 1,500 rows were done before.\n"
    assert counts == [1024, 476, 1024, 76]
    check(Path("y.parquet"), reference, dict(enumerate(rows)))


def test_ctrl_c_is_not_lost_where_a_library_drops_it(
    command: Command, refused: Refused, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path("x.parquet"), sequences(2600))

    def run(model: Any, given: list[Any], **options: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return run_rows(model, given, **options)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(job, "run_rows", run)
    line = ["run", reference, "-i", "x.parquet", "-o", "y.parquet"]
    refused(command(*line), "Stopped after 1,024 rows, which are kept in y.parquet.parts.")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_that_was_killed_is_continued(
    command: Command, reference: Path, tmp_path: Path
) -> None:
    rows = sequences(3000)
    write(Path("x.parquet"), rows)
    line = ["run", str(reference), "-i", "x.parquet", "-o", "y.parquet"]
    with subprocess.Popen([sys.executable, "-m", "stateport", *line]) as process:
        while process.poll() is None and not [*tmp_path.glob("y.parquet.parts/*.parquet")]:
            pass
        process.kill()
    assert process.returncode == -signal.SIGKILL

    outcome = command(*line)
    assert outcome.returncode == 0
    assert "rows were done before." in outcome.stdout
    check(Path("y.parquet"), reference, dict(enumerate(rows)))


@pytest.mark.parametrize(
    ("data", "output", "says"),
    [
        ("data/a.parquet", "data/a.parquet", "is read as data"),
        ("data", "data/b.parquet", "is read as data"),
        ("data/a.parquet", "link.parquet", "is read as data"),
        ("data/a.failed.parquet", "data/a.parquet", "is read as data"),
        ("data", "data/new.parquet", "would be one of the files that data names"),
        ("data/*.parquet", "data/new.parquet", "would be one of the files that data/*"),
    ],
)
def test_data_is_not_written_over(
    command: Command, refused: Refused, reference: Path, data: str, output: str, says: str
) -> None:
    for name in ("a", "b", "a.failed"):
        write(Path(f"data/{name}.parquet"), sequences(2))
    Path("link.parquet").symlink_to("data/a.parquet")
    before = {path: path.read_bytes() for path in Path("data").iterdir()}
    if data == "data/a.failed.parquet":
        Path("data/a.parquet").unlink()
        before.pop(Path("data/a.parquet"))
    refused(command("run", reference, "-i", data, "-o", output), says)
    assert {path: path.read_bytes() for path in Path("data").iterdir()} == before


@pytest.fixture
def stopped(
    command: Command, refused: Refused, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> list[object]:
    """The command of a run that was stopped after two parts of 1,024 rows."""
    write(Path("x.parquet"), sequences(2600))
    line: list[object] = ["run", reference, "-i", "x.parquet", "-o", "y.parquet"]
    with monkeypatch.context() as patch:
        patch.setattr(job, "run_rows", stopping_in_the_third([]))
        refused(command(*line), "Stopped after 2,048 rows")
    return line


FIRST, SECOND = (
    Path("y.parquet.parts") / f"{a:012}-{b:012}.parquet" for a, b in ((0, 1024), (1024, 2048))
)


def test_a_part_that_is_missing_is_missed(
    command: Command, refused: Refused, stopped: list[object]
) -> None:
    FIRST.unlink()
    refused(command(*stopped), "has no part that begins with row 0")
    assert SECOND.exists()


def test_a_damaged_part_is_named(command: Command, refused: Refused, stopped: list[object]) -> None:
    FIRST.write_bytes(b"junk")
    refused(command(*stopped), f"{FIRST} cannot be read as Parquet")
    FIRST.write_bytes(Path("x.parquet").read_bytes())
    refused(command(*stopped), "has 2,600 rows, which is not what its name says")


def test_other_data_are_another_run(
    command: Command, refused: Refused, stopped: list[object]
) -> None:
    write(Path("x.parquet"), sequences(2600, seed=1))
    says = (
        f"a run with other data: {Path('x.parquet').resolve()} was not there, or was written since"
    )
    refused(command(*stopped), says)


def test_the_file_of_another_version_is_not_read(
    command: Command, refused: Refused, stopped: list[object]
) -> None:
    for text in ("[]", "{}", "junk"):
        (FIRST.parent / "job.json").write_text(text)
        refused(command(*stopped), "job.json is not what this version of stateport writes")


def test_two_runs_do_not_write_the_same_file(
    command: Command, refused: Refused, stopped: list[object]
) -> None:
    with FileLock(FIRST.parent / "lock"):
        refused(command(*stopped), "Another run is writing its answers to y.parquet.parts")
    assert command(*stopped).returncode == 0
    assert sorted(path.name for path in Path().iterdir()) == ["x.parquet", "y.parquet"]


def test_parts_without_their_job_are_not_continued(
    command: Command, refused: Refused, stopped: list[object]
) -> None:
    (FIRST.parent / "job.json").unlink()
    refused(command(*stopped), "is there already, and has no job.json")
    assert FIRST.exists()


def test_what_somebody_else_put_there_stays(
    command: Command, refused: Refused, stopped: list[object], reference: Path
) -> None:
    mine = FIRST.parent / "notes.txt"
    mine.write_text("mine")
    assert command(*stopped).returncode == 0
    assert [*FIRST.parent.iterdir()] == [mine]
    refused(command(*stopped), "is there already, and has no job.json")

    Path("z.parquet.parts").write_text("a file")
    line = ["run", reference, "-i", "x.parquet", "-o", "z.parquet"]
    refused(command(*line), "cannot be used as a folder of parts")
    assert Path("z.parquet.parts").read_text() == "a file"


def test_columns_are_named_for_several_inputs(command: Command) -> None:
    two = Path("two.onnx")
    values = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 2])
        for name in ("a", "b", "sum", "difference")
    }
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    [*inputs, total, difference] = values.values()
    graph = helper.make_graph(nodes, "two", inputs, [total, difference])
    model = helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)], producer_name="tests"
    )
    specs = [ArraySpec(name, "float32", ("batch", 2)) for name in values]
    contract = Contract(tuple(specs[:2]), tuple(specs[2:]))
    helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    onnx.save(model, two)
    kind = pa.list_(pa.float32(), 2)
    columns = {"a": pa.array([[1, 2]], kind), "right": pa.array([[3, 5]], kind)}
    pq.write_table(pa.table(columns), "x.parquet")
    line = ["run", two, "-i", "x.parquet", "-o", "y.parquet", "--column", "a"]
    assert command(*line, "--column", "b=right").returncode == 0
    [row] = pq.read_table("y.parquet").to_pylist()
    assert row == {"row": 0, "sum": [4, 7], "difference": [-2, -3]}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-i", "x.parquet"], "Pass -o OUT.parquet"),
        (["-i", "x.parquet", "-o", "y.npz"], "Pass -o OUT.parquet"),
        (["-i", "x.parquet", "-i", "x.parquet", "-o", "y.parquet"], "is a data set, and 2 inputs"),
        (["-i", "x.parquet", "-o", "y.parquet", "--state-out", "s"], "--state-out is for arrays"),
        (
            ["-i", "x=x.npy", "--column", "x"],
            "--keep-states, --ray and --workers are for a data set",
        ),
        (
            ["-i", "x.parquet", "-o", "y.parquet", "--column", "x=a", "--column", "x=b"],
            "has two columns, 'a' and 'b'",
        ),
    ],
)
def test_misuse_is_refused(
    command: Command, refused: Refused, reference: Path, arguments: list[str], says: str
) -> None:
    write(Path("x.parquet"), sequences(1))
    refused(command("run", reference, *arguments), says, code=2)


def test_what_cannot_be_read_is_an_error(
    command: Command, refused: Refused, reference: Path
) -> None:
    output = ["-o", "y.parquet"]
    refused(command("run", reference, "-i", "z.parquet", *output), "There is no file z.parquet")
    Path("z.parquet").write_bytes(b"PAR1 and nothing else")
    refused(command("run", reference, "-i", "z.parquet", *output), "cannot be read as Parquet")
    write(Path("x.parquet"), sequences(1), "audio")
    refused(command("run", reference, "-i", "x.parquet", *output), "There is no column 'x'")
    refused(command("run", reference, "-i", "data", *output), "There is no file data; a Parquet")
    Path("empty").mkdir()
    line = ["run", reference, "-i", "empty", *output]
    refused(command(*line), "The folder empty has no file that ends in .parquet")
    assert not Path("y.parquet.parts").exists()


def test_without_pyarrow_the_extra_is_named(
    command: Command, refused: Refused, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path("x.parquet"), sequences(1))
    real = builtins.__import__

    def absent(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "datasets.columns":
            raise ImportError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    outcome = command("run", reference, "-i", "x.parquet", "-o", "y.parquet")
    refused(outcome, "pip install 'stateport[cpu,data]'")


def test_the_bar_is_filled_as_rows_are_done() -> None:
    assert [bar(done, 4) for done in (0, 1, 4)] == [
        "[--------------------]",
        "[#####---------------]",
        "[####################]",
    ]
    assert bar(0, 0) == "[--------------------]"


def test_states_are_columns_in_and_out(command: Command, refused: Refused, reference: Path) -> None:
    rows = sequences(20)
    write(Path("first.parquet"), rows)
    line = ["run", reference, "-o", "y.parquet", "--keep-states"]
    assert command(*line, "-i", "first.parquet").returncode == 0
    first = pq.read_table("y.parquet")
    assert first.column_names == ["row", "y", "hn", "cn"]

    table = pa.table({"x": pa.array([row.tolist() for row in rows], KIND)})
    for name in ("hn", "cn"):
        states = first[name].to_pylist()
        kind = first.schema.field(name).type
        table = table.append_column(name, pa.array([None, *states[1:]], kind))
    pq.write_table(table, "second.parquet")
    line += ["-i", "second.parquet", "--column", "h0=hn"]
    refused(command(*line), "The state 'c0' has no column, and others have one.")
    assert command(*line, "--column", "c0=cn").returncode == 0

    model = stateport.load(reference)
    for number, (row, y) in enumerate(zip(rows, answers(Path("y.parquet")).values(), strict=True)):
        _, state = model(row[None])
        expected = model(row[None], state if number else None)[0][0]
        assert np.abs(y - expected).max() <= 2e-6


def test_what_is_for_a_cluster_is_refused_elsewhere(
    command: Command, refused: Refused, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path("x.parquet"), sequences(2))
    line = ["run", reference, "-i", "x.parquet", "-o", "y.parquet"]
    refused(command(*line, "--workers", 2), "--workers is for --ray.", code=2)
    refused(command("run", reference, "-i", "x=x.npy", "--ray", "auto"), "are for a data", code=2)
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(command(*line, "--ray", "auto"), "pip install 'stateport[cpu,ray]'")
