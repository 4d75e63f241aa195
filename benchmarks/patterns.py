"""Every pattern of the catalogue, exported by stateport and by `torch.onnx.export` alone.

Run by `make patterns`, which rewrites the table in docs/patterns.md. Each network is exported in a
process of its own; what comes out is judged with ONNX Runtime, at the sizes that were traced and at
others.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from stateport_exporter import ExportError, export
from stateport_exporter.network.example import Arguments, Example
from stateport_exporter.network.packing import Padded, packed_arguments
from tests.exporter.patterns import PATTERNS, Pattern, seeded

PAGE: Final = Path(__file__).parents[1] / "docs" / "patterns.md"
BEGIN, END = "<!-- table: make patterns -->", "<!-- end of table -->"
SECONDS: Final = 300
#: What is not PyTorch's answer in float32 up to this, relative to the largest, is wrong.
CLOSE: Final = 1e-4
#: The characters of a reason that are kept.
_LONGEST: Final = 160

Verdict = tuple[str, str]  # one word or two, and a reason


def main() -> None:
    """Judges every pattern, or the one whose name is given, which is printed as JSON."""
    if len(sys.argv) == 2:
        found = next(pattern for pattern in PATTERNS if str(pattern) == sys.argv[1])
        print(json.dumps({"verdicts": judge(found)}))
        return
    lines = []
    for pattern in PATTERNS:
        mine, theirs = in_a_process(pattern)
        lines.append(row(pattern, mine, theirs))
        print(lines[-1], flush=True)
    PAGE.write_text(page_with(lines))


def in_a_process(pattern: Pattern) -> tuple[Verdict, Verdict]:
    """Both verdicts, even where an exporter takes its process down."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.patterns", str(pattern)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return ("fails", "timed out"), ("fails", "timed out")
    if run.returncode:
        raise SystemExit(f"{pattern} took its process down:\n{run.stderr}")
    mine, theirs = json.loads(run.stdout.splitlines()[-1])["verdicts"]
    return tuple(mine), tuple(theirs)


def judge(pattern: Pattern) -> tuple[Verdict, Verdict]:
    """What stateport makes of a pattern, and what PyTorch's exporter alone does."""
    with tempfile.TemporaryDirectory() as folder:
        mine, lifted = by_stateport(pattern, Path(folder))
        return mine, by_torch(pattern, Path(folder), lifted)


def by_stateport(pattern: Pattern, folder: Path) -> tuple[Verdict, bool]:
    """Exports with stateport, which verifies what it wrote; and whether it lifted a state."""
    try:
        result = export(
            seeded(pattern.make), pattern.example, folder / "mine.onnx", method=pattern.method
        )
    except ExportError as error:
        return ("refused", reason(error)), False
    found = tuple((state.input, state.output) for state in result.contract.states)
    if found != pattern.states:
        return ("other states", ", ".join(f"{a} -> {b}" for a, b in found)), False
    return ("right", ""), bool(result.lifted)


def by_torch(pattern: Pattern, folder: Path, lifted: bool) -> Verdict:
    """Exports as PyTorch's documentation shows it, with named dynamic axes."""
    net = seeded(pattern.make)
    net.forward = getattr(net, pattern.method)
    example = Example(net.forward, pattern.example)
    arguments = example.make(example.sizes)
    path = folder / "theirs.onnx"
    try:
        with quiet():
            torch.onnx.export(
                copy.deepcopy(net),
                (),
                path,
                # A dict at the end of args would be taken for these.
                kwargs=packed_arguments(example.named(arguments)),
                dynamic_shapes=named_axes(net, example, arguments),
                dynamo=True,
            )
    except Exception as error:  # whatever PyTorch's exporter raises
        return "fails", f"to export: {reason(error)}"
    try:
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base but this
        return "fails", f"to load: {reason(error)}"
    return judge_file(net, example, session, lifted)


def named_axes(net: nn.Module, example: Example, arguments: Arguments) -> Any:
    """The names of the axes, in the structure of the arguments; packed ones have none to name."""
    if any(isinstance(value, Padded) for value in (*arguments.args, *arguments.kwargs.values())):
        return None
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for leaf, (_, tensor) in zip(example.leaves, example.tensors(arguments), strict=True):
        shapes[tensor] = {i: axis for i, axis in enumerate(leaf.shape) if isinstance(axis, str)}
    return shapes.dynamic_shapes(net, (), example.named(arguments))


def judge_file(net: nn.Module, example: Example, session: Any, lifted: bool) -> Verdict:
    """Holds an exported file against the network, at the traced sizes and at others.

    `lifted` says that the network has states which are not among its arguments.
    """
    traced = example.sizes
    try:
        error = difference(net, example, session, traced)
    except Exception as failure:  # ONNX Runtime's exceptions share no base but this
        return "fails", f"to run: {reason(failure)}"
    if not error <= CLOSE:
        return "wrong numbers", f"by {error:.0e}"
    for axis in sorted(example.axes):
        for size in (traced[axis] + 6, 1):
            try:
                error = difference(net, example, session, {**traced, axis: size})
            except Exception:  # as above
                return f"{axis} frozen", f"at {traced[axis]}"
            if not error <= CLOSE:
                what = "wrong shape" if np.isinf(error) else "wrong numbers"
                return what, f"at {axis} {size}, without an error"
    if lifted:
        return "state not explicit", ""
    frozen = declared_frozen(net, example, session)
    return ("declared frozen", frozen) if frozen else ("right", "")


def declared_frozen(net: nn.Module, example: Example, session: Any) -> str:
    """Which output's shape in the file has a number where the size changes; or nothing."""
    arguments = example.make({axis: size + 6 for axis, size in example.sizes.items()})
    for value, result in zip(session.get_outputs(), answers_of(net, arguments), strict=True):
        for said, size in zip(value.shape, result.shape, strict=True):
            if isinstance(said, int) and said != size:
                return f"the file says {value.name}{value.shape}".replace("'", "")
    return ""


def answers_of(net: nn.Module, arguments: Arguments) -> list[NDArray[Any]]:
    """The network's own results, from a copy that keeps nothing."""
    with torch.no_grad():
        results = copy.deepcopy(net)(*arguments.args, **arguments.kwargs)
    return [leaf.numpy() for leaf in pytree.tree_leaves(results) if isinstance(leaf, torch.Tensor)]


def difference(net: nn.Module, example: Example, session: Any, sizes: Mapping[str, int]) -> float:
    """The largest difference between the file's answers and the network's, relative to those."""
    arguments = example.make(sizes, seed=1)
    arrays = [tensor.numpy() for _, tensor in example.tensors(arguments)]
    names = [value.name for value in session.get_inputs()]
    answers = session.run(None, dict(zip(names, arrays, strict=True)))
    truth = answers_of(net, arguments)
    return max(apart(a, b) for a, b in zip(answers, truth, strict=True))


def apart(answer: NDArray[Any], truth: NDArray[Any]) -> float:
    """Infinite where the shapes differ."""
    if answer.shape != truth.shape:
        return float("inf")
    return float(np.abs(answer - truth).max(initial=0.0) / max(np.abs(truth).max(initial=0.0), 1.0))


def reason(error: BaseException) -> str:
    """What the innermost error says, in one line, without places on this machine."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("- ")), lines[0] if lines else "")
    text = re.sub(r"^- |\x1b\[\d+m|\[ONNXRuntimeError\] : \d+ : \w+ : |\S*/\S+/\S*", "", said)
    text = f"{type(error).__name__}: {text}".replace("|", "/").replace("`", "'")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """PyTorch's exporter reports its progress on stdout."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(None),
        contextlib.redirect_stderr(None),
    ):
        warnings.simplefilter("ignore")
        yield


def row(pattern: Pattern, mine: Verdict, theirs: Verdict) -> str:
    """One row of the table."""
    cells = [pattern.group, pattern.name, *(": ".join(filter(None, v)) for v in (mine, theirs))]
    return f"| {' | '.join(cells)} |"


def table_of_docs() -> list[str]:
    """The rows of the table in docs/patterns.md, without its head."""
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    return [line for line in table.splitlines() if line.startswith("| ")][2:]


def page_with(lines: Sequence[str]) -> str:
    """The page with these rows, and how many of them each exporter gets right."""
    text = PAGE.read_text()
    right = [sum(cell_says_right(line, column) for line in lines) for column in (3, 4)]
    count = (
        f"Of {len(lines)} patterns, stateport gets {right[0]} right, `torch.onnx.export` alone "
        f"{right[1]} (torch {torch.__version__}, onnxruntime {ort.__version__})."
    )
    parts = [
        count,
        "",
        "| | pattern | stateport | `torch.onnx.export` alone |",
        "| --- | --- | --- | --- |",
        *lines,
    ]
    table = "\n".join(parts)
    return f"{text.partition(BEGIN)[0]}{BEGIN}\n{table}\n{END}{text.partition(END)[2]}"


def cell_says_right(line: str, column: int) -> bool:
    """Whether a verdict in a row is that all is right."""
    return line.split(" | ")[column - 1].strip(" |") == "right"


if __name__ == "__main__":
    main()
