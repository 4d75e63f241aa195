# SPDX-License-Identifier: Apache-2.0
"""`stateport run` on a data set: Parquet files in, a Parquet file out, on from a stop."""

from __future__ import annotations

import contextlib
import glob
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from ..contract import names_of
from ..errors import StateportError
from ..model import Model, load
from .output import progress, say

#: The signs of the bar that shows how much is done.
_BAR: Final = 20


def is_data_set(text: str) -> bool:
    """Whether an input names Parquet files: one, a folder of them, or a pattern."""
    if not text.endswith(".parquet") and not Path(text).is_dir():
        return False
    return "=" not in text or bool(glob.glob(text))  # noqa: PTH207  # folders such as year=2026


def checked_output(output: Path | None, others: dict[str, object]) -> Path:
    """The file to write; refuses another one or none, and options that are for arrays.

    Raises:
        click.UsageError: with what to pass, or to leave out.
    """
    for name, value in others.items():
        if value is not None:
            raise click.UsageError(f"{name} is for arrays from .npy files. Leave it out.")
    if output is None or output.suffix != ".parquet":
        raise click.BadParameter(
            "A data set's outputs are written as a Parquet file. Pass -o OUT.parquet.",
            param_hint="--output",
        )
    return output


@dataclass(frozen=True)
class Wanted:
    """What the command line wants of a run over a data set.

    Attributes:
        text: the data set.
        output: the file to write.
        columns: texts of the form COLUMN or INPUT=COLUMN.
        chunk: the steps of a chunk; None for whole sequences.
        batch: how many sequences run together at most.
        states: whether the state after each sequence is written.
        ray: the address of a Ray cluster; None for this process.
        workers: how many workers there; None for one on each core.
    """

    text: str
    output: Path
    columns: Sequence[str]
    chunk: int | None
    batch: int
    states: bool
    ray: str | None
    workers: int | None


def run_data(arguments: Mapping[str, Any], wanted: Wanted) -> None:
    """Runs a data set, and says what became of it.

    Args:
        arguments: what `load` is called with.
        wanted: the rest.

    Raises:
        StateportError: pyarrow is not installed, or the run was stopped.
        click.UsageError: there are workers, and no Ray cluster to run them.
    """
    if wanted.workers is not None and wanted.ray is None:
        raise click.UsageError("--workers is for --ray. Pass --ray ADDRESS, or leave it out.")
    try:
        from ..datasets.columns import default_columns
        from ..datasets.job import Options, failed_path, run_data_set
        from ..datasets.sources import open_data_set
    except ImportError as error:
        raise missing(error) from error

    data = open_data_set(wanted.text)
    loaded = load(**arguments)
    names = default_columns(data.schema, loaded.contract) | _columns(wanted.columns, loaded)
    options = Options(names, wanted.chunk, wanted.batch, states=wanted.states)
    identity = _identity(arguments, loaded)
    output, count = wanted.output, 0
    try:
        with (
            _spread(arguments, options, wanted) as spread,
            progress("running") as show,
            _ctrl_c() as check_ctrl_c,
        ):

            def show_rows(done: int, total: int) -> None:
                nonlocal count
                count = done
                show(f"running: {bar(done, total)} {done:,} of {total:,} rows")
                check_ctrl_c()

            done = run_data_set(loaded, identity, data, output, options, show_rows, spread)
    except KeyboardInterrupt:
        raise StateportError(
            f"Stopped after {count:,} rows, which are kept in {output.name}.parts. Run the same "
            "command again to go on from there."
        ) from None

    before = f"; {done.before:,} rows were done before" if done.before else ""
    say(f"Wrote {output}: {done.rows - done.failed:,} of {done.rows:,} rows{before}.")
    if done.failed:
        rows = "row" if done.failed == 1 else "rows"
        say(f"{done.failed:,} {rows} failed; {failed_path(output)} says why.")
        raise SystemExit(1)


def _identity(arguments: Mapping[str, Any], model: Model) -> dict[str, object]:
    """What the answers depend on beside the data and the options, in words."""
    from ..parity.pair import digest
    from ..plan import sha256

    return {
        "model": digest(arguments["path"]),
        "engine": f"{model.engine} {model.engine_version}",
        "threads": arguments["threads"] or 1,
        "plan": arguments["plan"] and sha256(arguments["plan"]),
        "states": repr(arguments["states"]),
        "constants": repr(arguments["constants"]),
    }


@contextlib.contextmanager
def _ctrl_c() -> Iterator[Callable[[], None]]:
    """Gives a function that raises `KeyboardInterrupt` if Ctrl-C was pressed and nothing stopped.

    Python drops the exception where the signal comes inside a destructor or a callback, of which
    Ray has many.
    """
    pressed = False

    def press(*_: object) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check  # no other thread gets signals
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)


def _spread(
    arguments: Mapping[str, Any], options: Any, wanted: Wanted
) -> contextlib.AbstractContextManager[Any]:
    """Where the batches run: None for this process."""
    if wanted.ray is None:
        return contextlib.nullcontext()

    from ..ray.spread import on_ray

    here = {**arguments, "path": arguments["path"].resolve()}
    if here.get("plan") is not None:
        here["plan"] = here["plan"].resolve()
    return on_ray(wanted.ray, here, options, wanted.workers)


def bar(done: int, total: int) -> str:
    """How much is done, as a bar of signs."""
    filled = _BAR * done // max(total, 1)
    return f"[{'#' * filled}{'-' * (_BAR - filled)}]"


def missing(error: ImportError) -> Exception:
    """The error for a library that is not installed; other errors as they are."""
    library = (error.name or "").partition(".")[0]
    if library not in ("pyarrow", "filelock"):
        return error
    return StateportError(
        f"Parquet files need {library}, which is not installed here. Install the extra: pip "
        "install 'stateport[cpu,data]'."
    )


def _columns(texts: Sequence[str], model: Model) -> dict[str, str]:
    """The column of each input, from texts of the form COLUMN or INPUT=COLUMN."""
    columns: dict[str, str] = {}
    inputs = names_of(model.contract.inputs)
    for text in texts:
        name, equals, column = text.partition("=")
        if not equals:
            name, column = (inputs[0] if len(inputs) == 1 or text not in inputs else text), text
        if name in columns:
            raise click.BadParameter(
                f"The input {name!r} has two columns, {columns[name]!r} and {column!r}. Name one, "
                "as INPUT=COLUMN.",
                param_hint="--column",
            )
        columns[name] = column
    return columns


def only_data_set(inputs: Sequence[str], output: Path | None) -> str | None:
    """The data set among the inputs; None where they are arrays.

    What has no "=" is one, too, where the output is to be a Parquet file.

    Raises:
        click.BadParameter: there are both, or several data sets.
    """
    sets = [*filter(is_data_set, inputs)]
    if output is not None and output.suffix == ".parquet":
        sets = [text for text in inputs if "=" not in text or is_data_set(text)]
    if sets and len(inputs) > 1:
        raise click.BadParameter(
            f"{sets[0]!r} is a data set, and {len(inputs)} inputs are given. Pass one file, a "
            "folder of Parquet files, or a quoted pattern.",
            param_hint="--input",
        )
    return sets[0] if sets else None
