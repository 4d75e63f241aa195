"""Running a model through its recorded cases and judging every output, state and step."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import ArraySpec, Contract, describe
from ..errors import EngineError, FileError, InputError, StreamingError
from ..model import Model
from ..state import State
from .bounds import BUDGETS, FALLBACK, Bound, Budget, Floor, Tolerance, signal
from .vectors import Case, Vectors, call_inputs, results, row_errors, rows

Array = NDArray[Any]


@dataclass(frozen=True)
class Measurement:
    """How far one output, or state, of one case is from the truth.

    Attributes:
        case: the case's name.
        output: the output's or state output's name.
        step: the worst step, counted from 0: where the error is the largest share of its bound.
        error: the largest absolute error at that step; infinite where a number is missing, and
            None where there was nothing to compare.
        floor: what PyTorch in float32 loses up to that step.
        share: the error as a share of what is allowed there; at most 1 passes.
        snr: for reduced precision, decibels of the truth above the error in the worst window.
        problem: why nothing could be compared: a wrong shape or dtype, an engine that failed.
    """

    case: str
    output: str
    step: int | None = None
    error: float | None = None
    floor: float | None = None
    share: float | None = None
    problem: str | None = None
    snr: float | None = None

    @property
    def passed(self) -> bool:
        """Whether this output is within its bound. NaN is not."""
        return self.problem is None and self.share is not None and self.share <= 1.0

    @property
    def multiple(self) -> float | None:
        """The error as a multiple of the floor."""
        if self.error is None or not self.floor:
            return None
        return self.error / self.floor


@dataclass(frozen=True)
class Report:
    """The verdict on one model file on one engine."""

    model: str
    engine: str
    engine_version: str
    truth: str
    bound: str
    precision: str
    steps: int
    environment: dict[str, str]
    made_with: dict[str, str]
    measurements: tuple[Measurement, ...]

    @property
    def passed(self) -> bool:
        """Whether every output and state of every case is within its bound."""
        return bool(self.measurements) and all(m.passed for m in self.measurements)


def verify(
    model: Model,
    vectors: Vectors,
    *,
    name: str = "model",
    tolerance: Tolerance | None = None,
    snr: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Runs every case and compares every output, state and step with PyTorch's answers.

    Args:
        model: the model, loaded into the engine to be judged.
        vectors: the answers that were recorded beside it.
        name: what the report calls the model.
        tolerance: a bound of the caller's in place of multiples of the floor.
        snr: a budget of the caller's, in decibels; by default that of the model's precision, and
            for float32 multiples of the floor.
        progress: is called with each case's name before it runs.

    Raises:
        FileError: the vectors belong to another model.
    """
    if not _same_but_for_precision(vectors.contract, model):
        raise FileError(
            f"The vectors are not those of {name}: the two have different contracts. "
            "Export the model again, which writes both."
        )
    if tolerance is None and snr is None:
        snr = BUDGETS.get(model.precision)
        if snr is None and vectors.truth != "float64":
            tolerance = Tolerance(*FALLBACK)
    bound: Bound = Floor() if tolerance is None else tolerance
    if snr is not None:
        bound = Budget(snr, _signals(vectors))
    measurements: list[Measurement] = []
    for case in vectors.cases:
        progress(case.name)
        measurements.extend(_judge_case(model, vectors, case, bound))
    return Report(
        model=name,
        engine=model.engine,
        engine_version=model.engine_version,
        truth=vectors.truth,
        bound=str(bound),
        precision=model.precision,
        steps=max(sum(case.chunks) for case in vectors.cases),
        environment=environment(),
        made_with=dict(vectors.made_with),
        measurements=tuple(measurements),
    )


def _signals(vectors: Vectors) -> dict[str, float]:
    names = [spec.name for spec in results(vectors.contract)]
    return {name: signal([case.truth[name] for case in vectors.cases]) for name in names}


def _same_but_for_precision(contract: Contract, model: Model) -> bool:
    """Whether the vectors are the model's; one of float16 may have float16 where they do not."""
    theirs = model.contract.to_json()
    if model.precision == "float16":
        return theirs.replace('"float16"', '"float32"') == contract.to_json()
    return theirs == contract.to_json()


def environment() -> dict[str, str]:
    """Where the measurement was made."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
    }


def _judge_case(model: Model, vectors: Vectors, case: Case, bound: Bound) -> Iterator[Measurement]:
    specs = results(model.contract)
    try:
        answers = list(_run(model, case))
    except (EngineError, InputError, StreamingError) as error:
        for spec in specs:
            yield Measurement(case.name, spec.name, problem=str(error))
        return
    for spec in specs:
        collected = [answer[spec.name] for answer in answers]
        problem = _wrong_kind(spec, case, collected)
        if problem is None:
            yield _measure(spec, case, collected, vectors.floor[spec.name], bound)
        else:
            yield Measurement(case.name, spec.name, problem=problem)


def _run(model: Model, case: Case) -> Iterator[dict[str, Array]]:
    """Each call's outputs, and under the state outputs' names the state after it."""
    dtypes = {
        spec.name: spec.dtype for spec in (*model.contract.inputs, *model.contract.state_inputs)
    }

    def fitting(arrays: Mapping[str, Array]) -> dict[str, Array]:
        """In the model's dtypes: to round what is fed is part of what a float16 model loses."""
        return {name: array.astype(dtypes[name], copy=False) for name, array in arrays.items()}

    state = State(fitting(case.initial)) if case.initial else None
    stream = model.stream() if case.through == "stream" else None
    if stream is not None and state is not None:
        stream.restore(state)
    for recorded in call_inputs(model.contract, case):
        inputs = fitting(recorded)
        if stream is not None:
            outputs = stream.run(inputs)
            state = stream.state
        else:
            outputs, state = model.run(inputs, state)
        yield {**outputs, **{s.output: state[s.input] for s in model.contract.states}}


def _wrong_kind(spec: ArraySpec, case: Case, answers: Sequence[Array]) -> str | None:
    """What is wrong with dtype or shape, which are compared before any value."""
    for answer, chunk in zip(answers, case.chunks, strict=True):
        sizes = {**case.sizes, "time": chunk}
        shape = [sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in spec.shape]
        fits = len(shape) == answer.ndim and all(
            want == got or isinstance(want, str)
            for want, got in zip(shape, answer.shape, strict=True)
        )
        if not fits or answer.dtype != np.dtype(spec.dtype):
            return (
                f"{describe(answer.dtype, answer.shape)} came where "
                f"{describe(spec.dtype, shape)} was promised"
            )
    return None


def _measure(
    spec: ArraySpec,
    case: Case,
    answers: Sequence[Array],
    floor: Array,
    bound: Bound,
) -> Measurement:
    table, steps = rows(spec, case, answers)
    truth = case.truth[spec.name]
    if spec.name in case.kept:
        table = _kept(table, case.kept[spec.name])
    if table.shape != truth.shape:
        problem = f"{table.shape} values came where {truth.shape} were recorded"
        return Measurement(case.name, spec.name, problem=problem)
    if not len(table):  # x[:, 1:] of a single step
        return Measurement(case.name, spec.name, sum(case.chunks) - 1, 0.0, None, 0.0)
    errors, floors = row_errors(table, truth), floor[steps]
    shares = bound.shares(spec.name, table, truth, floors)
    worst = int(np.argmax(shares))
    return Measurement(
        case=case.name,
        output=spec.name,
        step=int(steps[worst]),
        error=float(errors[worst]),
        floor=float(floors[worst]),
        share=float(shares[worst]),
        snr=bound.snr(float(shares[worst])),
    )


def _kept(table: Array, kept: Array) -> Array:
    """The recorded elements of each row, and whether all the others are numbers at all."""
    part = table[:, kept]
    if table.dtype.kind == "f":
        broken = np.isnan(table).any(axis=1, keepdims=True)
        part = np.where(broken & ~np.isnan(part).any(axis=1, keepdims=True), np.nan, part)
    return part
