# SPDX-License-Identifier: Apache-2.0
"""Running a model through its recorded cases and judging every output, state and step."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..axes import with_known_sizes
from ..contract import ArraySpec, Contract, describe
from ..errors import EngineError, FileError, InputError, StreamingError
from ..model import Model
from ..precision import BUDGETS
from .bounds import (
    FALLBACK,
    Bound,
    Budget,
    Compared,
    Floor,
    RequestedBound,
    SignalToNoise,
    Tolerance,
    signal,
)
from .run_case import Answers, run_case
from .soundness import check_floor, check_vectors
from .vectors import Case, Vectors, most_steps, results, row_errors, rows

Array = NDArray[Any]


#: The steps from which on a case gets a curve of its errors, and the most points of that curve.
_LONG: Final = 1024
_POINTS: Final = 128

#: The budget where only the ratio is of interest: it does not depend on the budget.
_ANY_BUDGET: Final = 1.0

_SHAPE_AND_DTYPE: Final = attrgetter("shape", "dtype")


@dataclass(frozen=True)
class ErrorCurve:
    """An output's error along a case, by stretch of steps.

    For each stretch: its first step, the largest error in it, and the floor there, which is what
    PyTorch itself loses.
    """

    steps: tuple[int, ...]
    errors: tuple[float, ...]
    floors: tuple[float, ...]


@dataclass(frozen=True)
class Measurement:
    """The error of one output, or state, of one case.

    Attributes:
        case: the case's name.
        output: the output's or state output's name.
        step: the worst step, counted from 0: where the error is the largest share of its bound.
        error: the largest absolute error at that step; infinite where a number is missing, and
            None where there was nothing to compare.
        floor: what PyTorch in float32 loses up to that step.
        share: the error as a share of what is allowed there; at most 1 passes.
        snr: for reduced precision, the signal-to-noise ratio of the worst window, in decibels.
        problem: why nothing could be compared: a wrong shape or dtype, an engine that failed.
        first_off: the first step whose error is more than is allowed.
        curve: for a long case, how the error grows.
    """

    case: str
    output: str
    step: int | None = None
    error: float | None = None
    floor: float | None = None
    share: float | None = None
    problem: str | None = None
    snr: float | None = None
    first_off: int | None = None
    curve: ErrorCurve | None = None

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
class EngineReport:
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

    def __repr__(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        passed = sum(measurement.passed for measurement in self.measurements)
        answers = f"{passed} of {len(self.measurements)} answers within {self.bound}"
        return f"<stateport.EngineReport {verdict}: {self.model} on {self.engine}, {answers}>"

    @property
    def passed(self) -> bool:
        """Whether every output and state of every case is within its bound."""
        return bool(self.measurements) and all(m.passed for m in self.measurements)


def measure_model(
    model: Model,
    vectors: Vectors,
    *,
    name: str = "model",
    wanted: RequestedBound | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> EngineReport:
    """Runs every case and compares every output, state and step with PyTorch's answers.

    Args:
        model: the model, loaded into the engine to be judged.
        vectors: the answers that were recorded beside it.
        name: what the report calls the model.
        wanted: the caller's bound; by default multiples of the floor, or for reduced precision the
            signal-to-noise ratio in `BUDGETS`.
        progress: is called with each case's name before it runs.

    Raises:
        FileError: the vectors belong to another model, do not fit their contract, or hold nothing
            to compare.
    """
    report, _ = _measured(model, vectors, name, wanted, progress)
    return report


def measure_with_ratio(
    model: Model,
    vectors: Vectors,
    *,
    name: str = "model",
    wanted: RequestedBound | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[EngineReport, float | None]:
    """What `measure_model` gives, and the signal-to-noise ratio whatever the bound is.

    Returns:
        The report; and the ratio of the worst window of all outputs and cases in decibels, None
        where an output could not be compared.

    Raises:
        FileError: as for `measure_model`.
    """
    budget = Budget(_ANY_BUDGET, _signals(vectors))
    report, noise = _measured(model, vectors, name, wanted, progress, budget)
    ratios = [m.snr for m in noise if m.snr is not None]
    complete = bool(ratios) and not any(m.problem for m in noise)
    return report, min(ratios) if complete else None


def _measured(
    model: Model,
    vectors: Vectors,
    name: str,
    wanted: RequestedBound | None,
    progress: Callable[[str], None],
    budget: Budget | None = None,
) -> tuple[EngineReport, list[Measurement]]:
    """The report, and if there is a budget, the measurements by it: each case runs once."""
    if not _same_but_for_precision(vectors.contract, model):
        raise FileError(
            f"The vectors are not those of {name}: the two have different contracts. "
            "Export the model again, which writes both."
        )

    try:
        check_vectors(vectors)
        bound = bound_for(vectors, model.precision, wanted)
        if isinstance(bound, Floor):
            check_floor(vectors)
    except ValueError as error:
        raise FileError(f"The vectors of {name} prove nothing: {error}.") from error

    measurements: list[Measurement] = []
    by_budget: list[Measurement] = []
    for case in vectors.cases:
        progress(case.name)
        bounds = [bound] if budget is None else [bound, budget]
        found = list(judge_case(model, vectors, case, *bounds))
        count = len(found) // len(bounds)
        measurements += found[:count]
        by_budget += found[count:]

    report = EngineReport(
        model=name,
        engine=model.engine,
        engine_version=model.engine_version,
        truth=vectors.truth,
        bound=str(bound),
        precision=model.precision,
        steps=most_steps(vectors.cases),
        environment=environment(),
        made_with=dict(vectors.made_with),
        measurements=tuple(measurements),
    )
    return report, by_budget


def bound_for(vectors: Vectors, precision: str, wanted: RequestedBound | None) -> Bound:
    """The bound on errors: the caller's, or the default for the precision of the model.

    Raises:
        FileError: the precision is unknown.
    """
    if wanted is None:
        wanted = _default_bound(vectors, precision)
    if wanted is None:
        return Floor()
    if isinstance(wanted, SignalToNoise):
        return Budget(wanted.snr, _signals(vectors))
    return wanted


def _default_bound(vectors: Vectors, precision: str) -> RequestedBound | None:
    """The bound for a precision; None where multiples of the floor are the bound."""
    if precision in BUDGETS:
        return SignalToNoise(BUDGETS[precision])

    if precision != "float32":
        raise FileError(
            f"The file says that it computes in {precision!r}; float32, {', '.join(BUDGETS)} "
            "are known. Give a bound: --snr, or --atol and --rtol."
        )

    if vectors.truth != "float64":
        return Tolerance(*FALLBACK)
    return None


def _signals(vectors: Vectors) -> dict[str, float]:
    """By output and state output, the root mean square of the truth."""
    signals = {}
    for spec in results(vectors.contract):
        truths = [case.truth[spec.name] for case in vectors.cases]
        signals[spec.name] = signal(truths)
    return signals


def _same_but_for_precision(contract: Contract, model: Model) -> bool:
    """Whether the vectors are the model's; a float16 model may have float16 for their float32."""
    if model.contract == contract:
        return True
    if model.precision != "float16":
        return False

    theirs = model.contract.to_json().replace('"float16"', '"float32"')
    return theirs == contract.to_json()


def environment() -> dict[str, str]:
    """The Python, NumPy and platform of this process."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
    }


def judge_case(model: Model, vectors: Vectors, case: Case, *bounds: Bound) -> Iterator[Measurement]:
    """Runs one case; compares every output and state with the truth, by one bound after another."""
    specs = results(model.contract)
    try:
        answers, _ = run_case(model, case)
    except (EngineError, InputError, StreamingError) as error:
        for spec in (*specs,) * len(bounds):
            yield Measurement(case.name, spec.name, problem=str(error))
        return

    for bound in bounds:
        yield from compare(model.contract, vectors, case, answers, bound)


def compare(
    contract: Contract, vectors: Vectors, case: Case, answers: Answers, bound: Bound
) -> Iterator[Measurement]:
    """Compares all answers to a case with the truth."""
    for spec in results(contract):
        problem = _wrong_kind(spec, case, answers[spec.name])
        if problem is None:
            floor = vectors.floor[spec.name]
            yield _measure(spec, case, answers[spec.name], floor, bound)
        else:
            yield Measurement(case.name, spec.name, problem=problem)


def _wrong_kind(spec: ArraySpec, case: Case, answers: Sequence[Array]) -> str | None:
    """A sentence on a wrong dtype or shape, which are compared before any value; or None."""
    # Thousands of calls have few kinds of answers: one of each kind is compared.
    kinds = zip(map(_SHAPE_AND_DTYPE, answers), case.chunks, strict=True)
    for (_, chunk), answer in dict(zip(kinds, answers, strict=True)).items():
        sizes = {**case.sizes, "time": chunk}
        shape = with_known_sizes(spec.shape, sizes)
        if answer.dtype != np.dtype(spec.dtype) or not _fits_shape(answer, shape):
            return (
                f"{describe(answer.dtype, answer.shape)} came where "
                f"{describe(spec.dtype, shape)} was promised"
            )
    return None


def _fits_shape(answer: Array, shape: Sequence[int | str]) -> bool:
    """Whether an answer has this shape; an axis without a size, a `str`, has any."""
    if len(shape) != answer.ndim:
        return False
    pairs = zip(shape, answer.shape, strict=True)
    return all(isinstance(expected, str) or expected == size for expected, size in pairs)


def _measure(
    spec: ArraySpec,
    case: Case,
    answers: Sequence[Array],
    floor: Array,
    bound: Bound,
) -> Measurement:
    table, steps = rows(spec, case, answers)
    truth = case.truth[spec.name]
    elements = case.kept.get(spec.name)
    if elements is not None and elements[-1] < table.shape[1]:
        table = _recorded_elements(table, elements)

    if table.shape != truth.shape:
        problem = f"{table.shape} values came where {truth.shape} were recorded"
        return Measurement(case.name, spec.name, problem=problem)

    if not len(table):  # x[:, 1:] of a single step
        return Measurement(case.name, spec.name, sum(case.chunks) - 1, 0.0, None, 0.0)

    compared = Compared(spec.name, table, truth, row_errors(table, truth), floor[steps])
    shares = bound.shares(compared)
    worst = int(np.argmax(shares))
    off = np.flatnonzero(~(shares <= 1.0))  # NaN is off, too

    curve = _curve(compared, steps) if sum(case.chunks) >= _LONG else None
    return Measurement(
        case=case.name,
        output=spec.name,
        step=int(steps[worst]),
        error=float(compared.errors[worst]),
        floor=float(compared.floors[worst]),
        share=float(shares[worst]),
        snr=bound.snr(float(shares[worst])),
        first_off=int(steps[off[0]]) if len(off) else None,
        curve=curve,
    )


def _curve(compared: Compared, steps: Array) -> ErrorCurve:
    """The largest error and floor in each of at most `_POINTS` stretches of steps."""
    starts = np.linspace(0, len(steps), min(_POINTS, len(steps)), endpoint=False).astype(int)
    errors = np.maximum.reduceat(compared.errors, starts)
    floors = np.maximum.reduceat(compared.floors, starts)
    return ErrorCurve(tuple(steps[starts].tolist()), tuple(errors.tolist()), tuple(floors.tolist()))


def _recorded_elements(table: Array, elements: Array) -> Array:
    """The recorded elements of each row; all NaN in a row where only others are not finite."""
    recorded = table[:, elements]
    if table.dtype.kind == "f":
        broken = ~np.isfinite(table).all(axis=1, keepdims=True)
        looks_fine = np.isfinite(recorded).all(axis=1, keepdims=True)
        recorded = np.where(broken & looks_fine, np.nan, recorded)
    return recorded
