# SPDX-License-Identifier: Apache-2.0
"""Reads recordings from files: .npz, .npy, .safetensors, or a folder of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from ...contract import Contract, names_of
from ...errors import FileError, InputError, why_not
from ...files.paths import usable_path
from ...files.reading import read_arrays, read_npy, read_npz
from ...picking import without
from ...shown import shown
from ...suggestions import did_you_mean

Array = NDArray[Any]

#: The endings of files that hold recordings.
ENDINGS: Final = (".npz", ".npy", ".safetensors")
#: The most files of one folder.
_MOST_FILES: Final = 1000
#: The most names of other files that a message shows.
_MOST_NAMES: Final = 3


@dataclass(frozen=True)
class Recording:
    """What was recorded of one sequence.

    Attributes:
        name: what reports call it: the name of its file, or of its folder.
        arrays: by the names of the contract: inputs, and perhaps first states and answers.
    """

    name: str
    arrays: Mapping[str, Array]


@dataclass(frozen=True)
class ReadRecordings:
    """All recordings of a file or a folder.

    Attributes:
        recordings: at least one, in the order of their names.
        left_out: a sentence on files of other kinds in the folder; None where there are none.
    """

    recordings: tuple[Recording, ...]
    left_out: str | None = None


def read_recordings(path: Path, contract: Contract) -> ReadRecordings:
    """The recordings in a file, or in a folder of files.

    An .npz or .safetensors file is one recording, with arrays by the names of the contract. In a
    folder, .npy files that are called like inputs (`x.npy`, `y.npy`) are one recording together.
    Where the network has a single input, .npy files of other names are one recording each.

    Raises:
        FileError: a file cannot be read, is of another kind, or holds anything but numbers; or a
            folder holds no recordings.
        InputError: a name is not among those of the contract, or an input is missing.
    """
    path = usable_path(path)
    if path.is_dir():
        return _read_folder(path, contract)

    if path.suffix == ".npy":
        name = path.stem if path.stem in _names(contract) else _only_input(path, contract)

        recording = Recording(path.name, {name: read_npy(path)})
    else:
        recording = _read_file(path)
    return ReadRecordings((_checked(recording, contract),))


def _read_folder(folder: Path, contract: Contract) -> ReadRecordings:
    files, others = _sorted_entries(folder)
    _check_count(folder, files, contract)

    recordings = [*_read_plain_arrays(folder, files, contract)]
    for file in files:
        if file.suffix != ".npy":
            recordings.append(_read_file(file))

    recordings.sort(key=lambda recording: recording.name)
    checked = tuple(_checked(recording, contract) for recording in recordings)
    return ReadRecordings(checked, _left_out(folder, others))


def _sorted_entries(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of a folder that hold recordings, and the names of all others; none is hidden."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise FileError(f"{folder} could not be read: {why_not(error)}.") from error

    files, others = [], []
    for entry in entries:
        if entry.suffix in ENDINGS and not entry.name.startswith("."):
            files.append(entry)
        elif not entry.name.startswith("."):
            others.append(entry.name)
    return files, others


def _check_count(folder: Path, files: Sequence[Path], contract: Contract) -> None:
    """Refuses a folder without recordings, or with more than are read."""
    if not files:
        kinds = ", ".join(ENDINGS)
        raise FileError(
            f"{folder} holds no recordings; files that end in {kinds} were expected. Save a "
            f"recording there: numpy.savez('{folder}/first.npz', {_inputs_as_arguments(contract)})."
        )
    if len(files) > _MOST_FILES:
        raise FileError(
            f"{folder} holds {len(files)} files; at most {_MOST_FILES} recordings were expected. "
            "Choose some of them."
        )


def _read_plain_arrays(
    folder: Path, files: Sequence[Path], contract: Contract
) -> Iterator[Recording]:
    """The recordings in the .npy files of a folder: one of all files, or one of each."""
    plain = [file for file in files if file.suffix == ".npy"]
    names = _names(contract)
    named = [file for file in plain if file.stem in names]

    if not named:
        for file in plain:
            yield Recording(file.name, {_only_input(file, contract): read_npy(file)})
        return

    for file in plain:
        if file.stem not in names:
            raise InputError(
                f"{folder} holds {named[0].name}, which is one array of a recording, and "
                f"{file.name}, which is none: the model has {', '.join(names)}."
                f"{did_you_mean(file.stem, names)} Save several recordings as .npz files."
            )
    yield Recording(folder.name, {file.stem: read_npy(file) for file in named})


def _read_file(file: Path) -> Recording:
    if file.suffix == ".npz":
        return Recording(file.name, read_npz(file))
    if file.suffix == ".safetensors":
        arrays, _ = read_arrays(file)
        return Recording(file.name, arrays)

    if not file.exists():
        raise FileError(f"{file} does not exist; a file or a folder of recordings was expected.")
    raise FileError(
        f"{file} is of an unknown kind; a file that ends in {', '.join(ENDINGS)} was expected, or "
        "a folder of such files. Save arrays with numpy.savez."
    )


def _only_input(file: Path, contract: Contract) -> str:
    """The network's only input, which a file of another name must hold."""
    if len(contract.inputs) == 1:
        return contract.inputs[0].name

    names = _names(contract)
    raise InputError(
        f"{file} is one array, and it is not known of which input: the model takes "
        f"{', '.join(names_of(contract.inputs))}.{did_you_mean(file.stem, names)} "
        f"Save all of them: numpy.savez('{file.stem}.npz', {_inputs_as_arguments(contract)})."
    )


def _checked(recording: Recording, contract: Contract) -> Recording:
    """The recording, whose names are those of the contract.

    Raises:
        InputError: a name is unknown, or an input is missing.
    """
    known = _names(contract)
    inputs = names_of(contract.inputs)
    advice = f"Save it with numpy.savez(FILE, {_inputs_as_arguments(contract)})."

    for name in without(recording.arrays, known):
        raise InputError(
            f"{recording.name} holds an array {shown(name)}; the model has the inputs "
            f"{', '.join(inputs)}{_answers_text(contract)}.{did_you_mean(name, known)} {advice}"
        )

    missing = without(inputs, recording.arrays)
    if missing:
        held = ", ".join(recording.arrays) or "nothing"
        raise InputError(
            f"{recording.name} lacks the input {missing[0]!r}; it holds {held}, and the model "
            f"takes {', '.join(inputs)}. {advice}"
        )
    return recording


def _names(contract: Contract) -> tuple[str, ...]:
    """All names that an array of a recording may have."""
    specs = (*contract.inputs, *contract.outputs, *contract.state_inputs, *contract.state_outputs)
    return tuple(names_of(specs))


def _inputs_as_arguments(contract: Contract) -> str:
    """`x=..., lengths=...`, for a call of numpy.savez."""
    return ", ".join(f"{spec.name}=..." for spec in contract.inputs)


def _answers_text(contract: Contract) -> str:
    outputs = ", ".join(names_of(contract.outputs))
    return f" and the outputs {outputs}"


def _left_out(folder: Path, others: Iterable[str]) -> str | None:
    names = [*others]
    if not names:
        return None

    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (
        f"Of {folder}, {', '.join(names[:_MOST_NAMES])}{more} "
        f"{'was' if len(names) == 1 else 'were'} not read: no recordings."
    )
