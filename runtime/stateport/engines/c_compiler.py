# SPDX-License-Identifier: Apache-2.0
"""The C compiler of this machine, for the engine `c`."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from ..errors import EngineError, EngineUnavailable, InputError, first_line
from .requirements import NotInstalledError

#: The variable that names the compiler.
VARIABLE: Final = "STATEPORT_CC"
_PROGRAMS: Final = ("cc", "gcc", "clang")
#: The seconds that a compiler may take. A step takes one second, a large network some.
_PATIENCE: Final = 600.0

#: No product and sum become one rounding, and no sum is computed in another order.
_EXACT: Final = ("-std=c99", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno")
#: Not -ffast-math: libraries that are linked with it change how their process rounds.
_FAST: Final = (
    "-std=c99",
    "-O3",
    "-fPIC",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-freciprocal-math",
)
_OF_THIS_PROCESSOR: Final = {
    "x86_64": "-march=native",
    "AMD64": "-march=native",
    "aarch64": "-mcpu=native",
    "arm64": "-mcpu=native",
}


@dataclass(frozen=True)
class Compiler:
    """A C compiler.

    Attributes:
        command: how it is called: a program and its first arguments.
        version: what it says of itself, in one line.
    """

    command: tuple[str, ...]
    version: str

    @property
    def short_version(self) -> str:
        """The program and its version: "gcc 12.2.0"."""
        numbers = re.findall(r"\d+(?:\.\d+)+", self.version)
        name = "zig cc" if "ziglang" in self.command else Path(self.command[0]).name
        return f"{name} {numbers[-1]}" if numbers else name

    def flags(self, *, fast: bool) -> tuple[str, ...]:
        """The flags, for results that do not depend on the compiler, or for the most speed."""
        native = _OF_THIS_PROCESSOR.get(platform.machine())
        flags = _FAST if fast else _EXACT
        return flags if native is None else (*flags, native)

    def compile(self, sources: Sequence[Path], target: Path, flags: Sequence[str]) -> None:
        """Makes a program of sources, or with "-shared" among the flags a library.

        Raises:
            EngineError: it cannot, with the first thing that it says.
        """
        command = [*self.command, *flags, *map(str, sources), "-o", str(target), "-lm"]
        try:
            result = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(
                f"c: {self.command[0]} does not compile: {first_line(error)}."
            ) from error
        if result.returncode:
            says = _first_error(result.stderr or result.stdout)
            raise EngineError(
                f"c: {self.command[0]} refuses the source that stateport wrote: {says}. Try "
                f"another compiler: {VARIABLE}=PROGRAM."
            )


def _first_error(text: str) -> str:
    """The first line that has an error; of what a compiler says before it, most is context."""
    for line in text.splitlines():
        if "error" in line:
            return line.strip()
    return first_line(ValueError(text))


def find_compiler(name: str, program: object) -> Compiler:
    """The compiler that an option or a variable names, the machine's own one, or Zig's.

    Args:
        name: the engine's name.
        program: the program that the caller named; None to look for one.

    Raises:
        NotInstalledError: there is none.
        EngineUnavailable: the program does not work.
        InputError: it is no name of a program.
    """
    if program is not None and not isinstance(program, str | os.PathLike):
        raise InputError(f"compiler is {program!r}; the name of a program was expected.")

    chosen = program or os.environ.get(VARIABLE)
    if chosen:
        return _asked((os.fspath(chosen),))

    for each in _PROGRAMS:
        path = shutil.which(each)
        if path is not None:
            return _asked((path,))
    if importlib.util.find_spec("ziglang") is not None:
        return _asked((sys.executable, "-m", "ziglang", "cc"))
    raise NotInstalledError(
        f"{name} needs a C compiler: none of {', '.join(_PROGRAMS)} is on the PATH. Install one, "
        f"or pip install ziglang; or name the program: {VARIABLE}=PROGRAM."
    )


@lru_cache(maxsize=8)
def _asked(command: tuple[str, ...]) -> Compiler:
    """The compiler, asked for its version, so that it is known to start."""
    try:
        result = subprocess.run(
            [*command, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineUnavailable(
            f"c: the compiler {command[0]} does not work: {first_line(error)}. {VARIABLE} names "
            "another one."
        ) from error
    return Compiler(command, first_line(ValueError(result.stdout)) or command[0])
