"""A pytest plugin that holds a model's file against PyTorch's recorded answers.

It comes with stateport; nothing has to be switched on::

    def test_my_model(parity):
        parity("build/lstm.onnx")

The test fails with the output that is off, the step and how far. The marker names engines::

    @pytest.mark.parity("ort-cpu", "openvino:precision=bfloat16", require=True)
    def test_my_model(parity):
        parity("build/lstm.onnx")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Final

import pytest

# All else is imported on use: pytest loads this in every project where stateport is installed.
if TYPE_CHECKING:
    from .parity.matrix import Matrix

_MARKER: Final = (
    "parity(*engines, require=False): the engines that the fixture `parity` checks a model on, as "
    '"ort-cpu" or "openvino:precision=bfloat16"; with require=True, one that is not installed '
    "fails the test."
)
_NOT_RUN: Final = "stateport not run"
_REMARK: Final = "stateport remark"


class Parity:
    """What the fixture `parity` gives: call it with a model's file."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def __call__(
        self,
        model: str | PathLike[str],
        *,
        engine: str | Sequence[str] | None = None,
        vectors: str | PathLike[str] | None = None,
        atol: float | None = None,
        rtol: float | None = None,
        snr: float | None = None,
    ) -> Matrix:
        """Fails the test where the model does not give PyTorch's answers.

        Each engine runs in a process of its own; with several, a stream is carried from each to
        each as well. A relative path is relative to the working directory.

        Args:
            model: an ONNX file that `stateport export` wrote.
            engine: an engine, or several, or "all", in place of the marker's, such as
                "openvino:precision=bfloat16".
            vectors: the recorded answers; by default those beside the model.
            atol: an absolute bound, in place of multiples of what PyTorch itself loses.
            rtol: a relative bound, likewise.
            snr: decibels of the truth above the error, likewise.

        Returns:
            What was measured, engine by engine.
        """
        from .errors import StateportError
        from .parity.verify import verify

        marked, require = _marked(self._item)
        try:
            matrix = verify(
                model,
                engines=engine or marked or None,
                vectors=vectors,
                atol=atol,
                rtol=rtol,
                snr=snr,
            )
        except StateportError as error:
            # As pytest.fail raises it, but without the errors that led there.
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        self._judge(matrix, require=require)
        return matrix

    def _judge(self, matrix: Matrix, *, require: bool) -> None:
        missing = [f"{row.choice}: {row.problem}" for row in matrix.rows if not row.available]
        if len(missing) == len(matrix.rows) and not require:
            pytest.skip(_lines(missing))
        lines = [*_failures(matrix), *(f" on {line}" for line in missing if require)]
        if lines:
            # pytest's own summary shows the first line.
            pytest.fail(_lines(f"{matrix.model}{line}" for line in lines), pytrace=False)
        # In JUnit files these are properties of the test, and they reach xdist's controller.
        notes = [*((_NOT_RUN, m) for m in missing), *((_REMARK, r) for r in matrix.remarks)]
        self._item.user_properties.extend((name, _lines([text])) for name, text in notes)


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Parity:
    """Checks a model's file against PyTorch's recorded answers: `parity("build/lstm.onnx")`.

    The marker `parity` names the engines; without it, `ort-cpu`.
    """
    return Parity(request.node)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker `parity`."""
    config.addinivalue_line("markers", _MARKER)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists the engines that tests which passed did without, and vectors of another file."""
    for title in (_NOT_RUN, _REMARK):
        lines = [
            f"{report.nodeid}: {text}"
            for report in terminalreporter.getreports("passed")
            for name, text in report.user_properties
            if name == title
        ]
        if lines:
            terminalreporter.section(title)
            terminalreporter.write(f"{_lines(lines)}\n")


def _lines(texts: Iterable[str]) -> str:
    """A line for each text; what came from a file is harmless in it."""
    from .printable import printable

    return "\n".join(map(printable, texts))


def _marked(item: pytest.Item) -> tuple[tuple[Any, ...], bool]:
    """The engines that the marker names, and whether all must be there."""
    mark = item.get_closest_marker("parity")
    if mark is None:
        return (), False
    unknown = mark.kwargs.keys() - {"require"}
    if unknown or not all(isinstance(name, str) for name in mark.args):
        pytest.fail(f"The marker is {_MARKER}", pytrace=False)
    return mark.args, bool(mark.kwargs.get("require", False))


def _failures(matrix: Matrix) -> Iterator[str]:
    """What is off in each engine, and in each stream carried from one to another."""
    from .parity.reports.wording import reason

    for row in matrix.rows:
        if row.status in ("failed", "error"):
            yield f" on {row.choice}: {reason(row)}"
    for carried in matrix.carried:
        if carried.status != "passed":
            yield f", {carried.source} to {carried.target}: {reason(carried)}"
