# SPDX-License-Identifier: Apache-2.0
"""A model's file as C source for devices. Without PyTorch."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final

from stateport.contract import PRECISION_KEY
from stateport.engines.c_compiler import Compiler, find_compiler
from stateport.errors import EngineError, FileError, first_line, why_not
from stateport.files.writing import written_together
from stateport.model_file.onnx_outline import OnnxFile, read
from stateport.model_file.read_contract import read_contract
from stateport.parity.pair import remarks
from stateport.parity.vectors import Vectors, vectors_path

from .emit.comparison import comparison_source
from .emit.cost import Cost
from .emit.fixed_step import FixedStep, fixed_step
from .emit.model_source import header, interface_of, source, state_bytes
from .emit.readme import readme
from .emit.recorded import RecordedCase, recorded_cases
from .emit.step_source import step_source
from .emit.translation import translate
from .errors import CheckError, ExportError

#: The seconds that the test may take; it needs milliseconds.
_PATIENCE: Final = 120.0
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


@dataclass(frozen=True)
class EmitResult:
    """What `emit_c` wrote.

    Attributes:
        folder: the folder with the files.
        files: their names.
        constants: bytes of weights, which may be in flash.
        state: bytes of the state of one live sequence.
        scratch: bytes of local arrays during a step, without what the compiler adds.
        multiplications: multiplications of numbers in a step.
        tested: whether the test was compiled and passed here; None where there is no test, or no
            compiler.
        remarks: what is to be known beside it.
    """

    folder: Path
    files: tuple[str, ...]
    constants: int
    state: int
    scratch: int
    multiplications: int
    tested: bool | None
    remarks: tuple[str, ...] = ()


def emit_c(
    model: str | PathLike[str],
    folder: str | PathLike[str],
    *,
    batch: int = 1,
    name: str = "model",
    check: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> EmitResult:
    """Writes one step of a model as C99 source, with the state in a struct.

    The files are NAME.h, NAME.c and README.md, and NAME_test.c if answers are recorded beside the
    model. They appear together, or none does. Files of these names are replaced.

    Args:
        model: a model's file with a contract, whose network can be fed in chunks.
        folder: the folder to write into. It is made if it is not there; its parent has to be.
        batch: the rows of a batch in each step.
        name: what the files and all names in C begin with.
        check: whether the test is compiled and run before the files appear, where there is a C
            compiler.
        progress: is called with a text before each part of the work.

    Raises:
        FileError: a file cannot be read or written.
        ContractError: the model has no contract.
        ExportError: the network has no step of a fixed size, or an operator in it has no form in C;
            emx-onnx-cgen is not installed; an argument is wrong; or the source fails its test.
    """
    model, folder = Path(model), Path(folder)
    _check_arguments(batch, name)
    file = read(model)
    step = fixed_step(model, read_contract(file), batch, name)

    progress("writing C")
    texts, cost, notes = _texts(file, step, name)
    tested = None
    if check and f"{name}_test.c" in texts:
        progress("compiling and running the test")
        tested = _test(texts, name)

    _write(texts, folder, name)
    return EmitResult(
        folder,
        tuple(texts),
        cost.constants,
        cost.state,
        cost.scratch,
        cost.multiplications,
        tested,
        notes,
    )


def _check_arguments(batch: object, name: object) -> None:
    if type(batch) is not int or not 1 <= batch <= 1 << 16:
        raise ExportError(f"batch is {batch!r}; a whole number from 1 to 65536 was expected.")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ExportError(
            f"name is {name!r}; a name in C was expected: letters, digits and _, a letter first."
        )


def _texts(
    file: OnnxFile, step: FixedStep, name: str
) -> tuple[dict[str, str], Cost, tuple[str, ...]]:
    """The text of each file by its name, what a step needs, and remarks."""
    interface = interface_of(step, name)
    code = step_source(translate(step.model))
    cost = Cost(
        code.constant_bytes, state_bytes(interface), code.scratch_bytes, code.multiplications
    )
    texts = {
        f"{name}.h": header(interface, step),
        f"{name}.c": source(interface, code, file.initial),
    }
    cases, notes = _cases(file, step)
    if cases:
        texts[f"{name}_test.c"] = comparison_source(interface, cases)
    texts["README.md"] = readme(interface, step, code, cost, has_test=bool(cases))
    return texts, cost, notes


def _cases(file: OnnxFile, step: FixedStep) -> tuple[list[RecordedCase], tuple[str, ...]]:
    """The recorded cases for the test, and remarks."""
    path = vectors_path(file.path)
    if not path.is_file():
        note = (
            f"There are no recorded answers {path}, so that no test was written. "
            "`stateport export` records them; copy them beside the model."
        )
        return [], (note,)
    vectors = Vectors.load(path)
    cases = recorded_cases(vectors, step, file.metadata.get(PRECISION_KEY))
    notes = remarks(file.path, vectors)
    if not cases:
        notes = (*notes, f"No answers in {path} are for single steps; no test was written.")
    return cases, tuple(notes)


def _test(texts: dict[str, str], name: str) -> bool | None:
    """Compiles and runs the test in a temporary folder; None where there is no compiler.

    Raises:
        CheckError: the source does not compile, or does not give the answers.
    """
    try:
        compiler = find_compiler("c", None)
    except EngineError:
        return None

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for file, text in texts.items():
            (place / file).write_text(text, encoding="utf-8")
        says = _run_test(compiler, place, name)
    if says is None:
        return True
    raise CheckError(
        f"The source does not give PyTorch's answers, so it was not written: {says}. Please report "
        "this file. To write the source anyway, pass check=False."
    )


def _run_test(compiler: Compiler, folder: Path, name: str) -> str | None:
    """What is wrong; None if the test passes."""
    program = folder / "test"
    try:
        sources = (folder / f"{name}.c", folder / f"{name}_test.c")
        compiler.compile(sources, program, ("-std=c99", "-O2"))
        result = subprocess.run(
            [str(program)], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (EngineError, OSError, subprocess.TimeoutExpired) as error:
        return first_line(error).removesuffix(".")
    if result.returncode == 0:
        return None
    return result.stdout.strip() or f"the test ended with exit code {result.returncode}"


def _write(texts: dict[str, str], folder: Path, name: str) -> None:
    is_new = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(
            f"The folder {folder} cannot be made: {why_not(error)}. Give another name."
        ) from error
    try:
        with written_together(folder / f"{name}.h") as place:
            for file, text in texts.items():
                (place / file).write_text(text, encoding="utf-8")
    except BaseException:
        if is_new:
            _remove(folder)
        raise


def _remove(folder: Path) -> None:
    """Removes the folder that was made, if nothing is in it."""
    try:
        folder.rmdir()
    except OSError:
        return
