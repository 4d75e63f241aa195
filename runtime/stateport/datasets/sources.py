# SPDX-License-Identifier: Apache-2.0
"""The Parquet files of a data set, and what is in them."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import FileError, InputError, first_line

_ENDING = ".parquet"


@dataclass(frozen=True)
class DataSet:
    """Parquet files of one schema, in the order of their names.

    Attributes:
        files: the files.
        rows: the number of rows of each.
        schema: the `pyarrow.Schema` of all.
    """

    files: tuple[Path, ...]
    rows: tuple[int, ...]
    schema: Any

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
    elif path.is_file():
        files = [path]
    else:
        files = sorted(map(Path, glob.glob(text)))  # noqa: PTH207  # a pattern with any folder
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
    return DataSet(tuple(files), tuple(each.num_rows for each in metadata), schema)


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
