# SPDX-License-Identifier: Apache-2.0
"""The Parquet files of a data set, and what is in them."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import FileError, InputError, first_line

_ENDING = ".parquet"
#: The ending of the folder with the answers of a run that was stopped.
PARTS = f"{_ENDING}.parts"


@dataclass(frozen=True)
class DataSet:
    """Parquet files of one schema, in the order of their names.

    Attributes:
        text: what names them: a file, a folder, or a pattern.
        files: the files.
        rows: the number of rows of each.
        schema: the `pyarrow.Schema` of all.
    """

    text: str
    files: tuple[Path, ...]
    rows: tuple[int, ...]
    schema: Any

    def check_apart(self, output: Path) -> None:
        """Refuses to write one of the files, or one that would be read with them the next time.

        Raises:
            FileError: with what to do.
        """
        target = output.resolve()
        if target in {file.resolve() for file in self.files}:
            raise FileError(
                f"{output} is read as data, so it is not written. Write the answers to another "
                "file."
            )
        if self._would_name(output):
            raise FileError(
                f"{output} would be one of the files that {self.text} names, and be read as data "
                "the next time. Write the answers elsewhere."
            )

    def _would_name(self, output: Path) -> bool:
        """Whether the text would name a file if it were there."""
        named = Path(self.text)
        if named.is_dir():
            return output.suffix == _ENDING and output.resolve().parent == named.resolve()
        if "**" in self.text:
            return fnmatch.fnmatchcase(str(output.absolute()), str(named.absolute()))
        parts, patterns = output.absolute().parts, named.absolute().parts
        return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))

    def batches(self, columns: Sequence[str], size: int, start: int) -> Iterator[Any]:
        """The rows from `start` on, as `pyarrow.RecordBatch`es of at most `size` rows.

        Every batch begins at a multiple of `size` in its file, wherever the reading begins.

        Raises:
            FileError: a file cannot be read.
        """
        before = 0
        for path, rows in zip(self.files, self.rows, strict=True):
            if before + rows > start:
                skipped = max(start - before, 0)
                yield from _read(path, columns, size, skipped)
            before += rows


def open_data_set(text: str) -> DataSet:
    """Finds the files that a text names: a file, a folder, or a pattern such as a*.parquet.

    Raises:
        FileError: there is no such file, or one is not Parquet.
        InputError: the files have different columns.
    """
    path = Path(text)
    if path.is_dir():
        files = sorted(path.glob(f"*{_ENDING}"))
        if not files:
            raise FileError(
                f"The folder {text} has no file that ends in {_ENDING}; at least one was expected."
            )
    elif path.is_file():
        files = [path]
    else:
        found = map(Path, glob.glob(text))  # noqa: PTH207  # a pattern with any folder
        files = sorted(path for path in found if not path.parent.name.endswith(PARTS))
    if not files:
        raise FileError(
            f"There is no file {text}; a Parquet file, a folder of them or a pattern was expected."
        )

    metadata = [*map(_metadata, files)]
    schema = metadata[0].schema.to_arrow_schema()
    for file, each in zip(files, metadata, strict=True):
        if not each.schema.to_arrow_schema().equals(schema):
            raise InputError(
                f"{file} has other columns than {files[0]}; files with the same columns were "
                "expected. Run them by themselves."
            )
    return DataSet(text, tuple(files), tuple(each.num_rows for each in metadata), schema)


def _metadata(path: Path) -> Any:
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _read(path: Path, columns: Sequence[str], size: int, skipped: int) -> Iterator[Any]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size, columns=[*columns]):
                if skipped >= batch.num_rows:
                    skipped -= batch.num_rows
                    continue
                yield batch.slice(skipped)
                skipped = 0
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FileError:
    return FileError(f"{path} cannot be read as Parquet: {first_line(error)}.")
