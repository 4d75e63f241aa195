# SPDX-License-Identifier: Apache-2.0
"""`predict`: a data set of sequences on the workers of a Ray cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ..contract import names_of
from ..datasets.rows import check_options
from ..errors import InputError
from ..picking import among, without
from .common import ModelFile, loaded, missing, sent

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy, Dataset

    from ..datasets.job import Options

#: The column with the message of each row that failed; null in all others.
ERROR: Final = "error"


def predict(
    dataset: Dataset,
    model: ModelFile,
    *,
    input: str | Mapping[str, str] | None = None,  # noqa: A002  # the word of the interface
    output: str | Mapping[str, str] | None = None,
    states_in: Mapping[str, str] | None = None,
    states_out: Mapping[str, str] | None = None,
    chunk: int | None = None,
    batch: int = 32,
    rows: int = 1024,
    workers: int | tuple[int, int] = 1,
    engine: str | None = None,
    threads: int | None = None,
) -> Dataset:
    """Runs every sequence of a data set, each from the model's first state or from its own.

    Each worker is an actor that holds the model. A worker that dies is replaced, and the rows that
    it had run again elsewhere: what comes out is the same. The rows keep their order.

    Args:
        dataset: a `ray.data.Dataset` with a sequence in each row, as lists within lists:
            `list<fixed_size_list<float>[5]>` for float32[time, 5].
        model: the model's file, which the workers have to find under the same path; or its bytes,
            which are sent to them. External weights need a path.
        input: the column of the model's input, or of each input by its name; by default the columns
            that have the inputs' names.
        output: the column for the model's output, or for each output by its name; by default the
            outputs' names. All other columns of the data set stay as they are.
        states_in: the column with the state that each sequence starts from, for each of the model's
            states, by the name of its input: {"h0": "h", "c0": "c"}. A null is the first state.
        states_out: the column for the state after each sequence, by the name of the state's output:
            {"hn": "h_last"}. It is null where the sequence cannot go on from there.
        chunk: cut longer sequences into chunks of so many steps, with the state carried; by default
            each is run in one call.
        batch: the most sequences of one length that run together. With 1, each answer is that of
            `Model` for the sequence alone, bit for bit; in batches an engine may round otherwise.
        rows: how many rows a worker gets at a time. With few, Ray's own work takes longer than the
            network's.
        workers: how many workers, or the least and the most. Each takes `threads` cores; leave some
            for reading, or the work waits for ever.
        engine: as in `load`.
        threads: as in `load`; also the cores that each worker reserves.

    Returns:
        The lazy data set with the columns of the outputs, and a column `error`: the message of a
        row that failed, whose outputs are null.

    Raises:
        InputError: an argument is of another kind, the columns or the options do not fit the model,
            or a column is there already.
        StreamingError: there is a chunk, and the network needs whole sequences.
        StateportError: as `load`, or Ray is not installed.
    """
    try:
        import ray.data  # noqa: F401

        from ..datasets.columns import check_columns, default_columns
        from ..datasets.job import Options
    except ImportError as error:
        raise missing("stateport.ray.predict", error, "cpu,ray") from error
    _check_arguments(dataset, rows)

    contract = loaded(model, engine, threads).contract
    schema = dataset.schema().base_schema  # of the first block; Ray runs it for that
    columns = _names(input, names_of(contract.inputs), "input")
    columns = columns or default_columns(schema, contract)
    columns |= _names(states_in, names_of(contract.state_inputs), "state")
    outputs = dict.fromkeys(names_of(contract.outputs), "")
    outputs |= _names(output, names_of(contract.outputs), "output")
    outputs |= _names(states_out, names_of(contract.state_outputs), "state's output")
    outputs = {name: column or name for name, column in outputs.items()}

    check_columns(schema, columns, contract)
    check_options(contract, chunk, batch)
    _check_free([*outputs.values(), ERROR], schema.names)

    options = Options(columns, chunk, batch, states=bool(states_out))
    dataset.context.execution_options.preserve_order = True
    return dataset.map_batches(
        _Worker,
        fn_constructor_args=(sent(model), options, outputs, engine, threads),
        batch_size=rows,
        batch_format="pyarrow",
        compute=_pool(workers),
        num_cpus=threads or 1,
        zero_copy_batch=True,
    )


def _check_arguments(dataset: object, rows: object) -> None:
    from ray.data import Dataset

    if not isinstance(dataset, Dataset):
        raise InputError(
            f"dataset is a {type(dataset).__name__}; a ray.data.Dataset was expected, as "
            "ray.data.read_parquet gives one."
        )
    if type(rows) is not int or rows < 1:
        raise InputError(f"rows is {rows!r}; a whole number of at least 1 was expected.")


def _check_free(names: list[str], taken: list[str]) -> None:
    """Refuses columns that are there already, or that two outputs would share."""
    for name in among(names, taken):
        raise InputError(
            f"The data set has a column {name!r} already. Name another one: output="
            "{'OUTPUT': 'COLUMN'}, or drop the column."
        )
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{count} columns would have the name {name!r}. Give each another.")


def _pool(workers: int | tuple[int, int]) -> ActorPoolStrategy:
    """So many actors.

    Raises:
        InputError: `workers` is neither a number of at least 1, nor two of them.
    """
    from ray.data import ActorPoolStrategy

    numbers = workers if isinstance(workers, tuple) else (workers, workers)
    is_right = len(numbers) == 2 and all(type(number) is int for number in numbers)
    if not is_right or not 1 <= numbers[0] <= numbers[1]:
        raise InputError(
            f"workers is {workers!r}; a number of at least 1 was expected, or the least and the "
            "most of them."
        )
    if isinstance(workers, tuple):
        return ActorPoolStrategy(min_size=workers[0], max_size=workers[1])
    return ActorPoolStrategy(size=workers)


class _Worker:
    """An actor with the model: a table goes in, and comes out with the answers."""

    def __init__(
        self,
        model: ModelFile,
        options: Options,
        outputs: Mapping[str, str],
        engine: str | None,
        threads: int | None,
    ) -> None:
        self._model = loaded(model, engine, threads)
        self._options = options
        self._outputs = {**outputs, ERROR: ERROR}

    def __call__(self, table: Any) -> Any:
        """The table with the columns of the outputs and of the errors."""
        from ..datasets.job import run_batch

        answers = run_batch(self._model, table.combine_chunks(), self._options)
        for name, column in self._outputs.items():
            table = table.append_column(column, answers[name])
        return table


def _names(given: str | Mapping[str, str] | None, known: list[str], kind: str) -> dict[str, str]:
    """The columns by the names of inputs or outputs; a single text is for the only one.

    Raises:
        InputError: a single text, and there are several; a name that the model does not have; or
            something else than texts.
    """
    if given is None:
        return {}
    if not _has_names(given):
        raise InputError(
            f"The columns of each {kind} are {given!r}; a column's name was expected, or a dict of "
            f"them, {{{known[0]!r}: 'COLUMN'}}."
        )
    if isinstance(given, str):
        if len(known) != 1:
            raise InputError(
                f"{kind} is {given!r}, and the model has the {kind}s {', '.join(known)}. Pass a "
                f"column for each: {kind}={{{known[0]!r}: {given!r}, ...}}."
            )
        return {known[0]: given}

    for name in without(given, known):
        raise InputError(f"There is no {kind} {name!r}; the model has {', '.join(known)}.")
    return dict(given)


def _has_names(given: object) -> bool:
    """Whether a value is a column's name, or has such names as its values."""
    names = given.values() if isinstance(given, Mapping) else [given]
    return all(isinstance(name, str) for name in names)
