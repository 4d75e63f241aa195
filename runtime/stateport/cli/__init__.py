# SPDX-License-Identifier: Apache-2.0
"""The command `stateport`: each command parses its options, calls the library once, and exits.

Exit codes: 0 for success, 1 where a check or the work failed, 2 where the command line is wrong.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from importlib.metadata import entry_points
from typing import Any, Final

import click

from .. import __version__
from ..errors import StateportError, in_words
from ..suggestions import did_you_mean
from . import output

_OWN: Final = ("bench", "deploy", "doctor", "inspect", "run", "serve", "tune", "verify")
#: The exporter's commands and their help, which is needed before the exporter is imported.
_EXPORTERS: Final = {
    "contract": "Write a contract into a copy of an ONNX file with explicit states.",
    "emit": "Write a model's step as source code for devices.",
    "export": "Export a PyTorch network to ONNX with explicit state.",
    "lift": "Turn the hidden states of an ONNX file into inputs and outputs.",
    "quantize": "Quantize a model's weights to 8 or 4 bits.",
}


class _Commands(click.Group):
    """The commands. Each is imported when called, so that `--help` and completion are fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted({*_OWN, *_EXPORTERS, *_plugins()})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name in _OWN:
            command = getattr(importlib.import_module(f".{name}", __name__), name)
        elif name in _plugins():
            command = _plugins()[name].load()
        elif name in _EXPORTERS:
            command = _not_installed(name)
        else:
            return None

        return _with_debug_option(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command; a misspelled one is answered with the one that was meant."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            commands = self.list_commands(ctx)
            ctx.fail(
                f"There is no command {name!r}; there are {', '.join(commands)}."
                f"{did_you_mean(name, commands)}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            # Loading a command of the exporter imports PyTorch, which takes seconds.
            command = None if name in _EXPORTERS else self.get_command(ctx, name)
            help_text = command.get_short_help_str(70) if command else _EXPORTERS[name]
            rows.append((name, help_text))

        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _plugins() -> dict[str, Any]:
    """The entry points of commands that other distributions add, by name."""
    return {entry.name: entry for entry in entry_points(group="stateport.commands")}


def _not_installed(name: str) -> click.Command:
    """A command of the exporter, where that is not installed: it says how to install it."""

    @click.command(name, help=_EXPORTERS[name], context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:  # noqa: ARG001
        raise StateportError(
            f"`stateport {name}` is part of the exporter, which is not installed here. "
            "Install it: pip install stateport-exporter."
        )

    return command


def _with_debug_option(command: click.Command) -> click.Command:
    """Adds `--debug` to a command, and keeps stdout for the command's own output while it runs.

    Of a group, each of its commands gets the option.
    """
    if any(parameter.name == "debug" for parameter in command.params):
        return command  # a second call for the same command

    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _with_debug_option(inner)
        return command

    command.params.append(
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            help="Print the traceback of an error.",
        )
    )
    if command.callback is not None:
        command.callback = output.own_stdout()(command.callback)
    return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="stateport %(version)s")
def cli() -> None:
    """Export recurrent PyTorch networks to ONNX, verify them, and run them without PyTorch."""


def main() -> None:
    """Runs the command line. An error becomes one or two lines on stderr and an exit code."""
    output.prepare_streams()
    sys.exit(output.finish(_run_command()))


def _run_command() -> int:
    """Runs the command that `sys.argv` names, and returns its exit code."""
    try:
        code: object = cli.main(prog_name="stateport", standalone_mode=False)
    except click.ClickException as error:
        return _report_misuse(error)
    except StateportError as error:
        return _report_error(str(error), error)
    except SystemExit as error:
        code = error.code
    except BrokenPipeError:  # nobody reads click's own help any more
        return 0
    except BaseException as error:  # the last line of defence: no traceback on a user's screen
        return _report_error(_describe_unexpected(error), error)

    if isinstance(code, int | None):
        return code or 0
    return _report_error(str(code), None)


def _describe_unexpected(error: BaseException) -> str:
    """The message for an error that stateport did not raise on purpose."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "Stopped; nothing was written."
    if isinstance(error, OSError):
        return f"{in_words(error)}."
    if isinstance(error, Exception):
        return f"{in_words(error)} (this is a bug in stateport; --debug prints the traceback)."

    # stateport raises none of the rest, but the code of a user's network may.
    return f"{in_words(error)} (--debug prints the traceback)."


def _report_misuse(error: click.ClickException) -> int:
    """Prints an error of click as click does, but with text from outside made harmless."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        output.say(*error.format_message().splitlines(), err=True)
        return error.exit_code

    if isinstance(error, click.UsageError) and error.ctx is not None:
        help_option = error.ctx.help_option_names[0]
        hint = f"Try '{error.ctx.command_path} {help_option}' for help."
        output.say(*error.ctx.get_usage().splitlines(), hint, "", err=True)

    output.say(f"Error: {error.format_message()}", err=True)
    return error.exit_code


def _report_error(message: str, error: BaseException | None) -> int:
    """Prints an error, with `--debug` its traceback too; returns the exit code."""
    if error is not None and "--debug" in sys.argv:
        lines = "".join(traceback.format_exception(error)).splitlines()
        output.say(*lines, err=True)

    output.say(f"Error: {message}", err=True)
    return 1
