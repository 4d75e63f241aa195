# SPDX-License-Identifier: Apache-2.0
"""A run over a data set that may be stopped and continued.

The answers go to a folder beside the output, OUT.parquet.parts: some rows in each file, which
appears whole or not at all. At the end the parts become OUT.parquet and, for rows that failed,
OUT.failed.parquet, and the folder goes. A second run with the same files and options continues
behind the last part.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from ..contract import Contract, names_of
from ..errors import FileError, InputError, first_line, in_words
from ..files.reading import parse_json
from ..files.writing import check_place, written_atomically, written_each
from ..model import Model
from ..picking import without
from .columns import answer_columns, check_columns, rows_of
from .rows import Answer, check_options, run_rows
from .sources import DataSet

#: Gives the table of answers to each batch, in their order.
Spread = Callable[[Iterable[Any]], Iterable[Any]]
_JOB: Final = "job.json"
_LOCK: Final = "lock"
#: The column with the number of each row in the data set, from 0.
ROW: Final = "row"
_ERROR: Final = "error"


@dataclass(frozen=True)
class Options:
    """How a data set is run.

    Attributes:
        columns: by input, the name of its column; and by state's input, where there is one.
        chunk: cut longer sequences into chunks of so many steps; None for whole ones.
        batch: the most sequences that run together.
        rows: how many rows are read, run and written at a time.
        states: whether the state after each sequence is written, under the names of the states'
            outputs.
    """

    columns: Mapping[str, str]
    chunk: int | None = None
    batch: int = 32
    rows: int = 1024
    states: bool = False


@dataclass(frozen=True)
class Done:
    """What a run did: how many rows there are, how many failed, and how many were there already."""

    rows: int
    failed: int
    before: int


def failed_path(output: Path) -> Path:
    """The file for the rows that fail."""
    return output.with_suffix(".failed.parquet")


def run_data_set(
    model: Model,
    identity: Mapping[str, object],
    data: DataSet,
    output: Path,
    options: Options,
    progress: Callable[[int, int], None] = lambda *_: None,
    spread: Spread | None = None,
) -> Done:
    """Runs all rows and writes their answers, in their order.

    Args:
        model: the model.
        identity: what the answers depend on beside the data and the options, in words: the model's
            digest, the engine, the number of threads. A run continues only with the same.
        data: the sequences.
        output: the file to write.
        options: how.
        progress: is called with the number of rows that are done, and of all rows.
        spread: gives the answers to batches in the order of the batches, from elsewhere; by default
            they are computed here.

    Raises:
        FileError: a file cannot be read or written, or the folder of parts is that of another run,
            or of one that is still going on.
        InputError, StreamingError: the columns or the options do not fit the model.
    """
    check_columns(data.schema, options.columns, model.contract)
    check_options(model.contract, options.chunk, options.batch)
    _check_names(model.contract, options.states)
    check_place(output)
    for path in (output, failed_path(output)):
        data.check_apart(path)
    parts = _Parts(output, _description(identity, data, options))
    with parts.opened():
        before = done = parts.done
        total = sum(data.rows)
        progress(done, total)
        columns = [*dict.fromkeys(options.columns.values())]
        batches = data.batches(columns, options.rows, done)
        for table in (spread or _here(model, options))(batches):
            numbers = pa.array(range(done, done + len(table)), pa.int64())
            parts.write(table.append_column(ROW, numbers))
            done += len(table)
            progress(done, total)
        empty = answer_table(model.contract, [], states=options.states)
        return Done(total, parts.join(output, empty), before)


def _here(model: Model, options: Options) -> Spread:
    """Runs the model in this process."""
    return lambda batches: (run_batch(model, batch, options) for batch in batches)


def run_batch(model: Model, batch: Any, options: Options) -> Any:
    """The answers to a `pyarrow.RecordBatch`, as a table; see `answer_table`."""
    rows = rows_of(batch, options.columns, names_of(model.contract.state_inputs))
    answers = run_rows(model, rows, chunk=options.chunk, batch=options.batch)
    return answer_table(model.contract, answers, states=options.states)


def answer_table(contract: Contract, answers: list[Answer], *, states: bool) -> Any:
    """The answers as a table; rows that failed have nulls and a message."""
    columns = answer_columns(contract, answers, states=states)
    columns[_ERROR] = pa.array([answer.error for answer in answers], pa.string())
    return pa.table(columns)


def _check_names(contract: Contract, states: bool) -> None:
    """Refuses outputs with the names of the columns that are added."""
    for spec in (*contract.outputs, *(contract.state_outputs if states else ())):
        if spec.name in (ROW, _ERROR):
            raise InputError(
                f"The model has an output {spec.name!r}, and a column of that name is added. Give "
                "the output another name in the file."
            )


def _description(
    identity: Mapping[str, object], data: DataSet, options: Options
) -> dict[str, object]:
    """What must be the same for a run to be continued, in words."""
    files = []
    for path, rows in zip(data.files, data.rows, strict=True):
        status = path.stat()
        files.append([str(path.resolve()), rows, status.st_size, status.st_mtime_ns])
    return {**identity, "data": files, **asdict(options)}


class _Parts:
    """The folder of parts, each named after the number of rows before it and with it."""

    def __init__(self, output: Path, description: Mapping[str, object]) -> None:
        self._folder = output.with_name(f"{output.name}.parts")
        self._description = description
        self._lock = FileLock(self._folder / _LOCK, blocking=False)
        self.done = 0

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Makes the folder, or continues in it, and keeps other runs out of it.

        Raises:
            FileError: the folder is not that of this run, another process works in it, or parts of
                it are missing or damaged.
        """
        with contextlib.ExitStack() as stack:
            try:
                self._folder.mkdir(exist_ok=True)
                self._check_own()
                stack.enter_context(self._lock)
                self._begin_or_check()
            except Timeout:
                raise FileError(
                    f"Another run is writing its answers to {self._folder}. Wait for its end, or "
                    "write the answers to another file."
                ) from None
            except OSError as error:
                raise FileError(
                    f"{self._folder} cannot be used as a folder of parts: {in_words(error)}. Move "
                    "it, or write the answers to another file."
                ) from error

            for part in self._files():
                self.done = self._end_of(part)
            yield

    def _begin_or_check(self) -> None:
        """Writes what the run is, or compares it with what is there."""
        job = self._folder / _JOB
        if job.exists():
            self._check(job)
            return
        with written_atomically(job) as path:
            path.write_text(json.dumps(self._description), encoding="utf-8")

    def _check_own(self) -> None:
        """Refuses a folder that is there already, and is not that of a run that was stopped."""
        names = {path.name for path in self._folder.iterdir()}
        if _JOB not in names and names - {_LOCK}:
            raise FileError(
                f"{self._folder} is there already, and has no {_JOB} of a run that was stopped. "
                "Move it, or write the answers to another file."
            )

    def _end_of(self, part: Path) -> int:
        """How many rows are done with a part, which has to begin behind the one before."""
        first, _, last = part.stem.partition("-")
        if first != f"{self.done:012}":
            raise FileError(
                f"{self._folder} has no part that begins with row {self.done:,}: the next is "
                f"{part.name}. Put the missing file back, or remove the folder to begin again."
            )
        try:
            rows = pq.read_metadata(part).num_rows
        except (pa.ArrowException, OSError) as error:
            raise FileError(
                f"{part} cannot be read as Parquet: {first_line(error)}. Remove it and those "
                "behind it to go on from there, or the folder to begin again."
            ) from error
        if not last.isdecimal() or int(last) != self.done + rows:
            raise FileError(
                f"{part} has {rows:,} rows, which is not what its name says. Remove it and those "
                "behind it to go on from there, or the folder to begin again."
            )
        return int(last)

    def write(self, table: Any) -> None:
        """Writes the answers to the next rows."""
        end = self.done + table.num_rows
        with written_atomically(self._folder / f"{self.done:012}-{end:012}.parquet") as path:
            pq.write_table(table, path)
        self.done = end

    def join(self, output: Path, empty: Any) -> int:
        """Writes the output and the failed rows, and removes the parts. Returns the failures.

        Args:
            output: the file.
            empty: a table of answers without a row.
        """
        failed = 0
        empty = empty.append_column(ROW, pa.array([], pa.int64()))
        names = [ROW, *without(empty.column_names, [ROW, _ERROR])]
        failures = failed_path(output)
        with (
            written_each(output, failures) as (good_path, failed_part),
            pq.ParquetWriter(good_path, empty.select(names).schema) as good,
            pq.ParquetWriter(failed_part, empty.select([ROW, _ERROR]).schema) as bad,
        ):
            for part in self._files():
                table = pq.read_table(part)
                good.write_table(table.filter(table[_ERROR].is_null()).select(names))
                failures_here = table.filter(table[_ERROR].is_valid()).select([ROW, _ERROR])
                bad.write_table(failures_here)
                failed += failures_here.num_rows
        if not failed:
            failures.unlink()
        self._remove()
        return failed

    def _remove(self) -> None:
        """Removes the parts, and the folder if nobody has put anything else there."""
        for path in (*self._files(), self._folder / _JOB):
            path.unlink(missing_ok=True)
        self._lock.release()
        (self._folder / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*-*.parquet"))

    def _check(self, job: Path) -> None:
        """Compares this run with the one that the folder is of."""
        wanted = json.loads(json.dumps(self._description))
        try:
            found = parse_json(job.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.keys() != wanted.keys():
            raise FileError(
                f"{job} is not what this version of stateport writes. Remove {self._folder} to "
                "begin again."
            )

        for name, value in wanted.items():
            if found[name] != value:
                raise FileError(
                    f"{self._folder} is of a run with {_difference(name, found[name], value)}. Run "
                    "that one to its end, or remove the folder to begin again."
                )


def _difference(name: str, then: Any, now: Any) -> str:
    """What another run had, for messages; digests are only named."""
    if name == "model":
        return "another model"
    if name == "data":
        changed = [file[0] for file in now if file not in then]
        return (
            f"other data: {changed[0]} was not there, or was written since"
            if changed
            else ("more data")
        )
    return f"{name} {_shown(then)}, and this one is with {_shown(now)}"


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value)
