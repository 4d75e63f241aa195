"""What an environment with the runtime is asked. It is run there, by its path, with the files.

It prints one JSON object: `passed`, how many checks did; `failed`, the others and why; and
`newest_opset`, that of the newest file that ONNX Runtime loads and answers rightly, or None.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

OPSETS: Final = range(18, 29)

#: How far float32 may differ between two ways to the same answer.
_CLOSE: Final = 1e-5

Check = Callable[[], object]


def main() -> None:
    """Runs every check on the files of a folder."""
    folder = Path(sys.argv[1])
    newest = newest_opset(folder)
    passed, failed = 0, {}
    for name, check in checks(folder, newest):
        try:
            check()
            passed += 1
        except Exception as error:  # the table says which, and all others are tried
            failed[name] = f"{type(error).__name__}: {error}"
    print(json.dumps({"passed": passed, "failed": failed, "newest_opset": newest}))


def checks(folder: Path, newest: int | None) -> Iterator[tuple[str, Check]]:
    """Each check with its name."""
    oldest = folder / f"lstm.{OPSETS[0]}.onnx"
    files = {
        oldest.name: oldest,
        "gru.onnx": folder / "gru.onnx",
        "loop.onnx": folder / "loop.onnx",
    }
    for opset in (20, newest or OPSETS[0]):
        if newest is None or opset <= newest:
            path = folder / f"lstm.{opset}.onnx"
            files[path.name] = path
    for name, path in files.items():
        yield f"API {name}", partial(check_api, path)
        yield f"verify {name}", partial(stateport, "verify", str(path))
        yield f"--engine all {name}", partial(stateport, "verify", str(path), "--engine", "all")
    # Its scales are those of each call's own values, so that chunks are judged by `verify` alone.
    yield "verify int8.onnx", partial(stateport, "verify", str(folder / "int8.onnx"))
    yield "inspect --json", partial(check_inspect, oldest)
    yield "run", partial(check_run, oldest)
    yield "doctor", partial(stateport, "doctor")
    if find_spec("pyarrow"):
        yield "run on a data set", partial(check_data_set, oldest)
    if find_spec("starlette"):
        yield "serve", partial(check_server, oldest)


def newest_opset(folder: Path) -> int | None:
    """The newest opset of which ONNX Runtime loads a file, and answers as for the oldest."""
    import numpy as np

    from stateport import StateportError, load

    x = np.random.default_rng(0).standard_normal((2, 7, 5)).astype(np.float32)
    expected, found = None, None
    for opset in OPSETS:
        with contextlib.suppress(StateportError):
            y, _ = load(folder / f"lstm.{opset}.onnx")(x)
            expected = y if expected is None else expected
            if np.abs(y - expected).max() <= _CLOSE:
                found = opset
    return found


def check_api(path: Path) -> None:
    """Whole, in chunks, in a pool, and from a saved state: the same answers."""
    import numpy as np

    import stateport as sp

    model = sp.load(path)
    x = np.random.default_rng(1).standard_normal((2, 12, 5)).astype(np.float32)
    expected, _ = model(x)
    first, state = model(x[:, :5])
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder) / "state.safetensors")
        restored = sp.State.load(Path(folder) / "state.safetensors")
    second, _ = model(x[:, 5:], restored)
    agree("a saved state", np.concatenate([first, second], 1), expected)
    stream = model.stream()
    chunks = [stream(x[:, start : start + 4]).copy() for start in range(0, 12, 4)]
    agree("a stream", np.concatenate(chunks, 1), expected)
    pool = model.pool(capacity=4)
    streams = pool.open(2)
    steps = [pool.step(streams, x[:, step : step + 1]).copy() for step in range(12)]
    agree("a pool", np.concatenate(steps, 1), expected)


def agree(what: str, got: Any, expected: Any) -> None:
    """Fails where two arrays differ by more than float32 does."""
    import numpy as np

    difference = float(np.abs(got - expected).max())
    if got.shape != expected.shape or difference > _CLOSE:
        raise AssertionError(f"{what} is off by {difference:.1e} from the whole sequence")


def check_inspect(path: Path) -> None:
    """The description is JSON, and names the states."""
    document = json.loads(stateport("inspect", str(path), "--json"))
    assert "h0" in json.dumps(document), document


def check_run(path: Path) -> None:
    """The command computes what the API does."""
    import numpy as np

    import stateport as sp

    x = np.random.default_rng(2).standard_normal((1, 9, 5)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "x.npy", Path(folder) / "y.npz"
        np.save(given, x)
        stateport("run", str(path), "-i", f"x={given}", "-o", str(made), "--chunk", "4")
        agree("the command `run`", np.load(made)["y"], sp.load(path)(x)[0])


def check_data_set(path: Path) -> None:
    """The command computes for each row of a Parquet file what the API does."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    import stateport as sp

    random = np.random.default_rng(3)
    rows = [random.standard_normal((length, 5)).astype(np.float32) for length in (3, 7, 3)]
    column = pa.array([row.tolist() for row in rows], pa.list_(pa.list_(pa.float32())))
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "x.parquet", Path(folder) / "y.parquet"
        pq.write_table(pa.table({"x": column}), given)
        stateport("run", str(path), "-i", str(given), "--column", "x", "-o", str(made))
        answers = pq.read_table(made)["y"].to_pylist()
    model = sp.load(path)
    for row, answer in zip(rows, answers, strict=True):
        agree("a row", np.array(answer, np.float32), model(row[None])[0][0])


def check_server(path: Path) -> None:
    """A stream over REST, kept in a file, gives what the API does, and gRPC answers."""
    import grpc
    import numpy as np

    import stateport as sp

    x = np.random.default_rng(4).standard_normal((1, 6, 5)).astype(np.float32)
    parts = []
    with tempfile.TemporaryDirectory() as folder, running_server(path, folder) as places:
        for start in (0, 3):
            parts.append(_infer(places["http"], x[:, start : start + 3], is_first=start == 0))
        with grpc.insecure_channel(places["grpc"]) as channel:
            call: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
            ready = call(b"")
    agree("a stream over REST", np.concatenate(parts, 1), sp.load(path)(x)[0])
    assert ready == b"\x08\x01", ready


@contextlib.contextmanager
def running_server(path: Path, folder: str) -> Iterator[dict[str, str]]:
    """A server for a file, with its addresses by protocol; it ends with the block."""
    command = [str(Path(sys.executable).with_name("stateport")), "serve", f"lstm={path}"]
    command += ["--http", "0", "--grpc", "0", "--store", f"file:{folder}/streams"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready "), f"the server printed {line!r}"
            yield dict(word.split("=") for word in line.split()[1:])
        finally:
            process.terminate()


def _infer(address: str, x: Any, *, is_first: bool) -> Any:
    """The answer of the server to a chunk of a stream."""
    import numpy as np

    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
    body = {
        "parameters": {"sequence_id": 1, "sequence_start": is_first},
        "inputs": [tensor],
        "outputs": [{"name": "y"}],
    }
    connection = http.client.HTTPConnection(address)
    connection.request("POST", "/v2/models/lstm/infer", json.dumps(body))
    (answer,) = json.load(connection.getresponse())["outputs"]
    connection.close()
    return np.array(answer["data"], np.float32).reshape(answer["shape"])


def stateport(*arguments: str) -> str:
    """Runs the command of this environment; returns what it prints on stdout."""
    command = [str(Path(sys.executable).with_name("stateport")), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip()).splitlines()
        raise AssertionError(f"exit code {result.returncode}: {' / '.join(said[-12:])}")
    return result.stdout


if __name__ == "__main__":
    main()
