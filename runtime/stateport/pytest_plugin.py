# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin that compares a model with PyTorch's recorded answers.

It comes with stateport, and pytest loads it by itself::

    def test_my_model(parity):
        parity("build/lstm.onnx")

If an error is too large, the test fails with the output, the step and the error. A marker names the
engines to check::

    @pytest.mark.parity("ort-cpu", "openvino:precision=bfloat16", require=True)
    def test_my_model(parity):
        parity("build/lstm.onnx")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Final

import pytest

# Everything else is imported where it is used, because pytest loads this module in every project
# where stateport is installed.
if TYPE_CHECKING:
    from .parity.matrix import Matrix

_MARKER: Final = (
    "parity(*engines, require=False): the engines on which the fixture `parity` checks a model, "
    'such as "ort-cpu" or "openvino:precision=bfloat16". With require=True, an engine that is not '
    "installed fails the test."
)
_NOT_RUN: Final = "stateport not run"
_REMARK: Final = "stateport remark"


class Parity:
    """The value of the fixture `parity`, which is called with a model's file."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def __call__(
        self,
        model: str | PathLike[str],
        *,
        engines: str | Sequence[str] | None = None,
        engine: str | Sequence[str] | None = None,
        vectors: str | PathLike[str] | None = None,
        data: str | PathLike[str] | None = None,
        atol: float | None = None,
        rtol: float | None = None,
        snr: float | None = None,
    ) -> Matrix:
        """Fails the test if the model does not give PyTorch's answers.

        Each engine runs in a separate process. With several engines, each also continues the
        sequences of every other one from the saved state.

        Args:
            model: an ONNX file that `stateport export` wrote. A relative path starts from the
                working directory.
            engines: an engine such as "openvino:precision=bfloat16", a list of engines, or "all",
                in place of those of the marker.
            engine: another word for `engines`.
            vectors: the file with the recorded answers; by default the one beside the model.
            data: inputs that you recorded, in place of the vectors: a file or a folder, as
                `stateport.verify` takes it.
            atol: an absolute bound on errors, in place of a multiple of PyTorch's own float32
                error.
            rtol: a relative bound, in the same way.
            snr: the lowest signal-to-noise ratio in decibels, in the same way.

        Returns:
            The verdict, and what was measured on each engine.
        """
        from .errors import StateportError
        from .parity.verify import verify

        if engines is not None and engine is not None:
            pytest.fail("engines and engine are one argument; give one of them.", pytrace=False)

        marked_engines, require = _read_marker(self._item)
        try:
            matrix = verify(
                model,
                engines=engines or engine or marked_engines or None,
                vectors=vectors,
                data=data,
                atol=atol,
                rtol=rtol,
                snr=snr,
            )
        except StateportError as error:
            # `from None`, which pytest.fail lacks, leaves out the errors that led to this one.
            raise pytest.fail.Exception(str(error), pytrace=False) from None

        self._judge(matrix, require=require)
        return matrix

    def _judge(self, matrix: Matrix, *, require: bool) -> None:
        """Fails or skips the test, or notes what the summary has to mention."""
        missing = []
        for row in matrix.rows:
            if not row.available:
                missing.append(f"{row.choice}: {row.problem}")

        if len(missing) == len(matrix.rows) and not require:
            pytest.skip(_lines(missing))

        failures = list(_failures(matrix, require=require))
        if failures:
            # The summary of pytest shows the first of these lines.
            pytest.fail(_lines(f"{matrix.model}{failure}" for failure in failures), pytrace=False)

        for line in missing:
            self._note(_NOT_RUN, line)
        for remark in matrix.remarks:
            self._note(_REMARK, remark)

    def _note(self, title: str, text: str) -> None:
        # JUnit files show user properties, and xdist passes them on to its controller.
        self._item.user_properties.append((title, _lines([text])))


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Parity:
    """Compares a model with PyTorch's recorded answers: `parity("build/lstm.onnx")`.

    The marker `parity` names the engines to check; without a marker it is `ort-cpu`.
    """
    return Parity(request.node)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker `parity`."""
    config.addinivalue_line("markers", _MARKER)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists what passing tests noted: engines that were not run, and remarks on vectors."""
    for title in (_NOT_RUN, _REMARK):
        notes = list(_notes(terminalreporter, title))
        if notes:
            terminalreporter.section(title)
            terminalreporter.write(f"{_lines(notes)}\n")


def _notes(terminalreporter: pytest.TerminalReporter, title: str) -> Iterator[str]:
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == title:
                yield f"{report.nodeid}: {text}"


def _lines(texts: Iterable[str]) -> str:
    """The texts as lines, with text from files made harmless."""
    from .printable import printable

    return "\n".join(map(printable, texts))


def _read_marker(item: pytest.Item) -> tuple[tuple[Any, ...], bool]:
    """The engines that the marker names, and whether all of them must be installed."""
    mark = item.get_closest_marker("parity")
    if mark is None:
        return (), False

    unknown = mark.kwargs.keys() - {"require"}
    if unknown or not all(isinstance(name, str) for name in mark.args):
        pytest.fail(f"The marker is {_MARKER}", pytrace=False)
    return mark.args, bool(mark.kwargs.get("require", False))


def _failures(matrix: Matrix, *, require: bool) -> Iterator[str]:
    """Why engines failed, and streams that were carried from one engine to another.

    If all engines fail alike, that comes first. With `require`, also which engines are not
    installed.
    """
    from .parity.reports.alike import common_fault
    from .parity.reports.wording import reason

    fault = common_fault(matrix)
    if fault is not None:
        yield f": {fault}"

    for row in matrix.rows:
        if row.status in ("failed", "error"):
            yield f" on {row.choice}: {reason(row)}"

    for carried in matrix.carried:
        if carried.status != "passed":
            yield f", {carried.source} to {carried.target}: {reason(carried)}"

    if require:
        for row in matrix.rows:
            if not row.available:
                yield f" on {row.choice}: {row.problem}"
