"""Whatever is wrong, the command says so in a line, leaves no file, and shows no traceback."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from models.lstm import ReferenceLSTM
from tests.bare import written

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Refused = Callable[..., None]

LSTM = "models.lstm:ReferenceLSTM"
HEAD = "import sys, torch\nfrom models.lstm import ReferenceLSTM\n"
SPECS = ("x=float32[batch,time,5]", "h0=float32[1,batch,10]", "c0=float32[1,batch,10]")


@pytest.fixture
def target(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a Python file for TARGET to name."""

    def write(code: str, name: str = "network_of_a_test.py") -> Path:
        path = tmp_path / name
        path.write_text(HEAD + textwrap.dedent(code))
        return path

    return write


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module:Net", "no module 'no_such_module'"),
        ("models.no_such_module:Net", "no module 'models.no_such_module'"),
        ("none.py:Net", "no file none.py"),
        (".:Net", ""),
        ("..py:Net", "no file ..py"),
        ("a..b:Net", ""),
        ("models.lstm:Nothing", "models.lstm has no attribute 'Nothing'; it defines ReferenceLSTM"),
        ("models.lstm:ReferenceLSTM.nothing", "no attribute 'ReferenceLSTM.nothing'"),
        ("models.lstm", "write package.module:attribute"),
        ("models.lstm:", "write package.module:attribute"),
        (":Net", "write package.module:attribute"),
        ("", "write package.module:attribute"),
        ("math:pi", "math:pi is a float; an nn.Module was expected"),
        ("builtins:dict", "builtins:dict returned a dict; an nn.Module was expected"),
        ("json:dumps", "json:dumps"),
    ],
)
def test_a_target_that_names_no_network(
    command: Command, refused: Refused, out: Path, name: str, says: str
) -> None:
    refused(command("export", name, "-o", "m.onnx"), says)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('no luck\\nat all')", "RuntimeError: no luck"),
        ("raise SystemExit(0)", "SystemExit"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("import no_such_module", "no_such_module"),
        ("this is no Python", "SyntaxError"),
        ("def net(): raise ValueError('no luck')", "ValueError: no luck"),
        ("def net(): sys.exit(0)", "SystemExit"),
        ("def net(): raise KeyboardInterrupt", "nothing was written"),
        ("class E(Exception): __str__ = 3\ndef net(): raise E", "net() failed: E"),
        ("class E(Exception): __str__ = len\nraise E", "failed: E"),
        ("class E(BaseException): pass\ndef net(): raise E('no luck')", "E: no luck"),
        ("def net(): raise ValueError('\\udc80\\x1b]0;x\\x07')", r"\udc80\x1b]0;x\x07"),
        ("def net(): raise ValueError('x' * 10**6)", "xxx... and 999,400 characters more"),
        ("def net(): raise ExceptionGroup('no luck', [OSError()])", "no luck (1 sub-exception)"),
        ("def net(): return 3", "returned a int; an nn.Module was expected"),
        ("def net(size): return ReferenceLSTM()", "missing a required argument: 'size'"),
        ("net = 3", "is a int; an nn.Module was expected"),
    ],
)
def test_a_target_that_fails(
    command: Command,
    refused: Refused,
    out: Path,
    target: Callable[[str], Path],
    code: str,
    says: str,
) -> None:
    refused(command("export", f"{target(code)}:net", "-o", "m.onnx"), says)


def test_a_module_that_fails_when_it_is_imported(
    command: Command, refused: Refused, out: Path, target: Callable[..., Path]
) -> None:
    path = target("raise RuntimeError('no luck')", "failing_module.py")
    sys.path.insert(0, str(path.parent))  # the fixture `command` puts sys.path back
    says = "Importing failing_module failed: RuntimeError: no luck"
    refused(command("export", "failing_module:net", "-o", "m.onnx"), says)


NETWORK = """
    class Net(ReferenceLSTM):
        def {name}(self, *args):
            {body}
"""


@pytest.mark.parametrize(
    "body", ["raise ValueError('no luck')", "sys.exit(0)", "sys.exit(3)"], ids=["raise", "0", "3"]
)
@pytest.mark.parametrize("name", ["forward", "example_inputs"])
def test_a_network_whose_own_code_fails(
    command: Command,
    refused: Refused,
    out: Path,
    target: Callable[[str], Path],
    name: str,
    body: str,
) -> None:
    path = target(NETWORK.format(name=name, body=body))
    refused(command("export", f"{path}:Net", "-o", "m.onnx"))


@pytest.mark.parametrize("result", ["None", "()", "'text'", "(1, 2, 3)", "torch.zeros(3)"])
def test_a_network_whose_example_is_none(
    command: Command, refused: Refused, out: Path, target: Callable[[str], Path], result: str
) -> None:
    path = target(NETWORK.format(name="example_inputs", body=f"return {result}"))
    refused(command("export", f"{path}:Net", "-o", "m.onnx"))


@pytest.mark.parametrize(
    ("argument", "code", "says"),
    [
        ("bogus=3", 1, "unexpected keyword argument 'bogus'"),
        ("hidden_size=-1", 1, "hidden_size must be greater than zero"),
        ("hidden_size=many", 1, "hidden_size should be of type int, got: str"),
        ("hidden_size", 2, "'hidden_size' is not of the form NAME=VALUE"),
        ("=3", 2, "'=3' is not of the form NAME=VALUE"),
        ("no name=3", 2, "is not of the form NAME=VALUE"),
        ("bogus={1, 2}", 1, "unexpected keyword argument 'bogus'"),
    ],
)
def test_an_argument_that_does_not_fit(
    command: Command, refused: Refused, out: Path, argument: str, code: int, says: str
) -> None:
    outcome = command("export", LSTM, "-o", "m.onnx", "--arg", argument)
    refused(outcome, says, code=code)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (5000 * "-" + "1", "it is nested too deeply"),
        (5000 * "[", "it is nested too deeply"),
        (5000 * "1+" + "1j", "it is nested too deeply"),
        (5000 * "not " + "1", "it is nested too deeply"),
        (20000 * "~" + "1", "it is nested too deeply"),
        (5000 * "1", "it has too many digits"),
        ("0x" + 5000 * "f", "it has too many digits"),
    ],
    ids=["minus", "lists", "sums", "not", "tildes", "digits", "hexadecimal"],
)
def test_a_value_that_python_cannot_read(
    command: Command, refused: Refused, out: Path, reference: Path, value: str, says: str
) -> None:
    refused(command("export", LSTM, "-o", "m.onnx", "--arg", f"seed={value}"), says, code=2)
    refused(command("run", reference, "--constant", f"x={value}"), says, code=2)


def test_an_argument_for_what_is_a_network_already(
    command: Command, refused: Refused, out: Path, target: Callable[[str], Path]
) -> None:
    path = target("net = ReferenceLSTM()")
    says = "is a network already, so it takes no arguments (seed)"
    refused(command("export", f"{path}:net", "-o", "m.onnx", "--arg", "seed=1"), says)


def state_dict(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    weights = {**ReferenceLSTM().state_dict(), **changes}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lstm.bias_hh_l0": None}, "it lacks lstm.bias_hh_l0"),
        ({"lstm.extra": torch.zeros(1)}, "the network has no lstm.extra"),
        ({"lstm.bias_hh_l0": torch.zeros(3)}, "lstm.bias_hh_l0 is float32[3], not float32[40]"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_that_do_not_fit(
    command: Command,
    refused: Refused,
    out: Path,
    tmp_path: Path,
    ending: str,
    changes: dict[str, torch.Tensor | None],
    says: str,
) -> None:
    path = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        safetensors.torch.save_file(state_dict(**changes), path)
    else:
        torch.save(state_dict(**changes), path)
    refused(command("export", LSTM, "-o", "m.onnx", "--weights", path), says)


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        [torch.zeros(3)],
        {"state_dict": {"lstm.weight": torch.zeros(3)}},
        {1: torch.zeros(3)},
        {1: torch.zeros(3), "b": torch.zeros(3)},
        {"a": 3},
        {},
        None,
    ],
    ids=["tensor", "list", "nested", "number", "mixed", "int", "empty", "None"],
)
def test_a_file_that_holds_no_state_dict(
    command: Command, refused: Refused, out: Path, tmp_path: Path, content: object
) -> None:
    torch.save(content, tmp_path / "weights.pt")
    refused(command("export", LSTM, "-o", "m.onnx", "--weights", tmp_path / "weights.pt"))


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"no weights", b"\x80\x02", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(40), bytes(200)],
    ids=["empty", "text", "pickle", "number", "zip", "zeros"],
)
def test_weights_that_are_garbage(
    command: Command, refused: Refused, out: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(command("export", LSTM, "-o", "m.onnx", "--weights", tmp_path / name), name)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_weights_that_are_cut_off(
    command: Command, refused: Refused, out: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    if name == "w.pt":
        torch.save(state_dict(), path)
    else:
        safetensors.torch.save_file(state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    refused(command("export", LSTM, "-o", "m.onnx", "--weights", path), name)


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors"])
def test_weights_that_are_not_there(
    command: Command, refused: Refused, out: Path, name: str
) -> None:
    refused(command("export", LSTM, "-o", "m.onnx", "--weights", name), "could not be read")


@pytest.mark.parametrize("name", ["w.npz", "w", "w.onnx"])
def test_weights_with_an_unknown_ending(
    command: Command, refused: Refused, out: Path, tmp_path: Path, name: str
) -> None:
    torch.save(state_dict(), tmp_path / name)
    says = "has an unknown ending; weights are read from .safetensors, from .pt, .pth"
    refused(command("export", LSTM, "-o", "m.onnx", "--weights", tmp_path / name), says)


class Bomb:
    """Creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_a_pickle_that_runs_code_is_not_run(
    command: Command, refused: Refused, out: Path, tmp_path: Path, save: str
) -> None:
    path, marker = tmp_path / "weights.pt", tmp_path / "it-ran"
    content: dict[str, Any] = {**state_dict(), "lstm.bomb": Bomb(marker)}
    if save == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    outcome = command("export", LSTM, "-o", "m.onnx", "--weights", path)
    refused(outcome, "holds no plain weights, and stateport unpickles nothing else")
    assert not marker.exists()


def test_a_network_that_does_not_say_what_it_takes(
    command: Command, refused: Refused, out: Path
) -> None:
    sizes = ("--arg", "input_size=3", "--arg", "hidden_size=4")
    outcome = command("export", "torch.nn:LSTM", "-o", "m.onnx", *sizes)
    refused(outcome, "The arguments of LSTM.forward are not known. Describe each one: --example")


@pytest.mark.parametrize(
    ("examples", "code", "says"),
    [
        (["x"], 1, "'x' does not name"),
        (["x="], 2, "not of the form NAME=SPEC"),
        (["=float32[1]", "x=float32[1]"], 2, "not of the form NAME=SPEC"),
        (["x=float32"], 1, "'float32' is not a dtype and a shape"),
        (["x=float32[batch"], 1, "is not a dtype and a shape"),
        (["x=foo[batch]"], 1, "'foo' is not a dtype"),
        (["x=load[batch]"], 1, "'load' is not a dtype"),
        (["x=float32[0]"], 1, "0 is neither a size nor the name of an axis"),
        (["x=float32[-1]"], 1, "-1 is neither a size nor the name of an axis"),
        (["x=float32[--5]"], 1, ""),
        (["x=float32[\N{SUPERSCRIPT TWO}]"], 1, ""),
        (["x=float32[1.5]"], 1, "neither a size nor the name"),
        (["x=int64[batch]:5..1"], 1, "smallest value 5 is above the largest, 1"),
        (["x=int64[batch]:0..99999999999999999999", *SPECS[1:]], 1, ""),
        (SPECS[:2], 1, "missing a required argument: 'c0'"),
        ([*SPECS[:2], "c1=float32[1,batch,10]"], 1, "'c0'"),
        ([*SPECS, "d0=float32[1]"], 1, "unexpected keyword argument 'd0'"),
        (["x=float32[batch,time,6]", *SPECS[1:]], 1, "Expected 5, got 6"),
        (["x=float64[batch,time,5]", *SPECS[1:]], 1, ""),
        (["none.py:function"], 1, "no file none.py"),
        (["models.lstm:nothing"], 1, "has no attribute 'nothing'"),
        (["math:pi"], 1, "math:pi is not a function of (batch, time)"),
        (["math:sin"], 1, ""),
    ],
    ids=str,
)
def test_an_example_that_does_not_fit(
    command: Command, refused: Refused, out: Path, examples: list[str], code: int, says: str
) -> None:
    options = [part for text in examples for part in ("--example", text)]
    refused(command("export", LSTM, "-o", "m.onnx", *options), says, code=code)


@pytest.mark.parametrize(
    ("opset", "code", "says"),
    [("17", 2, "17 is not in the range"), ("99", 1, "Opset 99 is not among 18"), ("new", 2, "new")],
)
def test_an_opset_that_is_not_there(
    command: Command, refused: Refused, out: Path, opset: str, code: int, says: str
) -> None:
    refused(command("export", LSTM, "-o", "m.onnx", "--opset", opset), says, code=code)


def test_an_export_to_nowhere(command: Command, refused: Refused, out: Path) -> None:
    refused(command("export", LSTM), "Missing option '-o'", code=2)


def test_an_output_folder_that_is_not_there(command: Command, refused: Refused, out: Path) -> None:
    refused(command("export", LSTM, "-o", "none/m.onnx"), "there is no folder none")


def test_an_output_that_is_a_folder(command: Command, refused: Refused, out: Path) -> None:
    refused(command("export", LSTM, "-o", "."), "is a folder")


def test_an_output_that_is_no_onnx_file(command: Command, refused: Refused, out: Path) -> None:
    refused(command("export", LSTM, "-o", "m.txt"), "'m.txt' does not end in .onnx")


def test_an_output_below_a_file(
    command: Command, refused: Refused, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    refused(command("export", LSTM, "-o", tmp_path / "file" / "m.onnx"), "cannot be written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_cannot_be_written(
    command: Command, refused: Refused, out: Path
) -> None:
    out.chmod(0o500)
    refused(command("export", LSTM, "-o", "m.onnx"), "Permission denied")
    out.chmod(0o700)


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_disk_that_is_full(refused: Refused, out: Path) -> None:
    # No file may grow beyond this; Python ignores SIGXFSZ, so writing fails as on a full disk.
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        f"sys.argv = ['stateport', 'export', {LSTM!r}, '-o', 'm.onnx']; "
        "from stateport.cli import main; main()"
    )
    outcome = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    refused(outcome, "m.onnx could not be written: File too large")


WAITING = """
    import signal, sys, threading

    class Net(ReferenceLSTM):
        def forward(self, x, h0, c0):
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have ignored it
            # What forward prints goes to stderr.
            print("ready", file=sys.__stdout__, flush=True)
            threading.Event().wait()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_an_interruption_in_the_middle_of_an_export(
    script: Path, out: Path, target: Callable[[str], Path]
) -> None:
    with subprocess.Popen(
        [str(script), "export", f"{target(WAITING)}:Net", "-o", "m.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert err.strip() == "Error: Stopped; nothing was written."  # on a line of its own, after ^C
    assert process.returncode == 1


@pytest.mark.parametrize("name", ["inspect", "run", "verify"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"import torch\n" * 20, "is not a whole ONNX file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not a whole ONNX file"),
    ],
    ids=["missing", "empty", "text", "png"],
)
def test_a_model_that_is_none(
    command: Command,
    refused: Refused,
    out: Path,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    says: str,
) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    refused(command(name, path), says)


@pytest.mark.parametrize("name", ["inspect", "run", "verify"])
def test_a_model_that_is_cut_off(
    command: Command, refused: Refused, out: Path, tmp_path: Path, reference: Path, name: str
) -> None:
    content = reference.read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: len(content) // 2])
    refused(command(name, tmp_path / "m.onnx"), "is not a whole ONNX file")


@pytest.mark.parametrize("name", ["inspect", "run", "verify"])
def test_a_model_that_is_a_folder(
    command: Command, refused: Refused, out: Path, tmp_path: Path, name: str
) -> None:
    refused(command(name, tmp_path), "is a folder; an ONNX file was expected")


@pytest.mark.parametrize("name", ["run", "verify"])
def test_a_model_without_a_contract(
    command: Command, refused: Refused, out: Path, tmp_path: Path, name: str
) -> None:
    path = written(tmp_path / "m.onnx", {"a": "b"})
    refused(command(name, path), "carries no contract")


def test_a_command_that_is_not_there(command: Command, refused: Refused, out: Path) -> None:
    refused(command("explode"), "There is no command 'explode'", code=2)


def test_an_option_that_is_not_there(command: Command, refused: Refused, out: Path) -> None:
    refused(command("inspect", "--explode"), "No such option", code=2)


@pytest.mark.parametrize("name", ["inspect", "run", "verify"])
def test_no_model_at_all(command: Command, refused: Refused, out: Path, name: str) -> None:
    refused(command(name), "Missing argument 'MODEL.onnx'", code=2)


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("x", 2, "'x' is not of the form NAME=FILE"),
        ("x=", 2, "is not of the form NAME=FILE"),
        ("=x.npy", 2, "is not of the form NAME=FILE"),
        ("x=none.npy", 1, "none.npy could not be read: No such file"),
        ("x=.", 1, "is a folder; a file was expected"),
        ("X={folder}/good.npy", 1, "There is no input 'X'; the model takes x"),
        ("h0={folder}/good.npy", 1, "There is no input 'h0'; the model takes x"),
        ("x={folder}/objects.npy", 1, "is not a plain .npy file"),
        ("x={folder}/pickle.npy", 1, "is not a plain .npy file"),
        ("x={folder}/text.npy", 1, "text.npy is not"),
        ("x={folder}/empty.npy", 1, "is not a plain .npy file"),
        ("x={folder}/cut.npy", 1, "cut.npy is not a plain .npy file"),
        ("x={folder}/header.npy", 1, "header.npy"),
        ("x={folder}/huge.npy", 1, "huge.npy"),
        ("x={folder}/zip.npy", 1, "zip.npy"),
        ("x={folder}/arrays.npz", 1, "holds several arrays"),
        ("x={folder}/float64.npy", 1, "'x' is float64["),
        ("x={folder}/rank.npy", 1, "2 dimensions"),
        ("x={folder}/size.npy", 1, "dimension 2 must be 5, not 6"),
        ("x={folder}/nothing.npy", 1, "axis 'time' is empty"),
    ],
)
@pytest.mark.parametrize("chunk", [[], ["--chunk", "1"]], ids=["whole", "chunk"])
def test_an_input_that_does_not_fit(
    command: Command,
    refused: Refused,
    out: Path,
    tmp_path: Path,
    reference: Path,
    text: str,
    code: int,
    says: str,
    chunk: list[str],
) -> None:
    write_arrays(tmp_path)
    line = ["run", reference, "-i", text.format(folder=tmp_path), "-o", "y.npz", *chunk]
    refused(command(*line, "--state-out", "s.safetensors"), says, code=code)
    gc.collect()  # a file that was left open is found here, and not in another test


def write_arrays(folder: Path) -> None:
    good = np.zeros((1, 2, 5), np.float32)
    for name, array in {
        "good": good,
        "objects": np.array([object()]),
        "float64": good.astype(np.float64),
        "rank": good[0],
        "size": np.zeros((1, 2, 6), np.float32),
        "nothing": good[:, :0],
    }.items():
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "arrays.npz", good)
    content = (folder / "good.npy").read_bytes()
    for name, data in {
        "pickle": pickle.dumps([1]),
        "text": b"1.0 2.0 3.0\n",
        "empty": b"",
        "cut": content[:-8],
        "header": content[:20],
        "huge": content.replace(b"(1, 2, 5), }", b"(99999999999999,), }"),
        "zip": b"PK\x03\x04" + bytes(40),
    }.items():
        (folder / f"{name}.npy").write_bytes(data)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], 1, "The input 'x' is missing"),
        (["-i", "x=a.npy", "-i", "x=b.npy"], 2, "The input 'x' is given twice"),
        (["--engine", "abacus"], 2, "no engine 'abacus'; known are ort-cpu"),
        (["--threads", "0"], 2, "0 is not in the range"),
        (["--chunk", "0"], 2, "0 is not in the range"),
        (["-o", "y.npy"], 2, "outputs are written as an .npz file"),
        (["-i", "x={x}", "-o", "none/y.npz"], 1, "there is no folder none"),
        (["-i", "x={x}", "-o", "y.npz", "--state-out", "none/s"], 1, "there is no folder none"),
        (["-i", "x={x}", "--state-in", "none"], 1, "none could not be read"),
        (["-i", "x={x}", "--state-in", "{x}"], 1, "is not a safetensors file"),
        (["-i", "x={x}", "--state-in", "{vectors}"], 1, "holds no stateport state"),
    ],
)
def test_a_run_that_cannot_be(
    command: Command,
    refused: Refused,
    out: Path,
    reference: Path,
    x: Path,
    options: list[str],
    code: int,
    says: str,
) -> None:
    vectors = reference.with_name(f"{reference.stem}.vectors.safetensors")
    given = [option.format(x=x, vectors=vectors) for option in options]
    refused(command("run", reference, *given), says, code=code)


def test_chunks_of_a_network_that_cannot_stream(
    command: Command, refused: Refused, out: Path, exported: Callable[..., Path], x: Path
) -> None:
    path = exported(bidirectional=True)
    outcome = command("run", path, "-i", f"x={x}", "--chunk", "4", "-o", "y.npz")
    refused(outcome, "lstm is bidirectional: its backward half needs the whole sequence")


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--engine", "abacus"], 2, "no engine 'abacus'; known are ort-cpu"),
        (["--report", "r.pdf"], 2, "reports are written as FILE.json"),
        (["--atol", "-1"], 2, "is not in the range"),
        (["--rtol", "much"], 2, "'much' is no number. Write one such as 20"),
        (["--vectors", "none"], 1, "none could not be read"),
        (["--vectors", "{model}"], 1, "is not a safetensors file"),
        (["--vectors", "{other}"], 1, "The vectors are not those of"),
    ],
)
def test_a_verification_that_cannot_be(
    command: Command,
    refused: Refused,
    out: Path,
    exported: Callable[..., Path],
    options: list[str],
    code: int,
    says: str,
) -> None:
    model, other = exported(), exported(num_layers=2)
    vectors = other.with_name(f"{other.stem}.vectors.safetensors")
    given = [option.format(model=model, other=vectors) for option in options]
    refused(command("verify", model, *given), says, code=code)


def test_a_model_without_its_vectors(
    command: Command, refused: Refused, out: Path, tmp_path: Path, reference: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(reference.read_bytes())
    outcome = command("verify", tmp_path / "m.onnx")
    refused(outcome, "m.vectors.safetensors could not be read: No such file")


def test_debug_shows_the_traceback(command: Command, out: Path) -> None:
    outcome = command("inspect", "none.onnx", "--debug")
    assert outcome.returncode == 1
    assert "Traceback (most recent call last)" in outcome.stderr
    assert outcome.stderr.splitlines()[-1].startswith("Error: none.onnx could not be read")


def test_the_real_command_ends_the_same_way(
    process: Command, refused: Refused, out: Path, reference: Path
) -> None:
    refused(process("inspect", "none.onnx"), "No such file")
    refused(process("run", reference, "--engine", "abacus"), "'abacus'", code=2)
    refused(process("export", "no_such_module:Net", "-o", "m.onnx"), "no module")


PATHS = [
    ("inspect", "{}"),
    ("run", "{}"),
    ("bench", "{}"),
    ("tune", "{}"),
    ("verify", "{}"),
    ("verify", "m.onnx", "--vectors", "{}"),
    ("verify", "m.onnx", "--baseline", "{}", "--report", "r.json"),
    ("verify", "m.onnx", "--plan", "{}"),
    ("tune", "m.onnx", "-o", "{}"),
    ("quantize", "{}", "-o", "q.onnx"),
    ("quantize", "m.onnx", "-o", "{}"),
    ("lift", "{}", "-o", "q.onnx"),
    ("lift", "m.onnx", "-o", "{}"),
]


@pytest.mark.parametrize("line", PATHS, ids=" ".join)
@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("", 2, "The path is empty; the name of a file was expected"),
        ("a\0b.json", 1, "can be no file's name: it holds a NUL character"),
        ("n" * 300, 1, "can be no file's name: it is longer than 255 bytes"),
        ("\udcff\ud800", 1, "can be no file's name: it is no Unicode text"),
    ],
    ids=["empty", "NUL", "long", "surrogate"],
)
def test_a_path_that_no_file_can_have(
    command: Command, refused: Refused, line: tuple[str, ...], path: str, code: int, says: str
) -> None:
    refused(command(*(part.format(path) for part in line)), says, code=code)


def test_numbers_of_thousands_of_digits_are_refused(command: Command, refused: Refused) -> None:
    refused(command("bench", "m.onnx", "--streams", "9" * 5000), "is not a list of whole", code=2)
