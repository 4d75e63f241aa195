"""The command `stateport`: parse, one call of the library, an exit code.

Exit codes: 0 all well, 1 a check failed or the work could not be done, 2 the command was misused.
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
from . import output

_OWN: Final = ("bench", "doctor", "inspect", "run", "tune", "verify")
_EXPORTERS: Final = {
    "export": "Export a PyTorch network to ONNX with explicit state.",
    "lift": "Make the hidden states of an ONNX file explicit.",
    "quantize": "Make a model's weights 8 or 4 bits wide.",
}


class _Commands(click.Group):
    """The commands, each imported when it is called, so that `--help` and completion are quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted({*_OWN, *_EXPORTERS, *_plugins()})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name in _OWN:
            command = getattr(importlib.import_module(f".{name}", __name__), name)
        elif name in _plugins():
            command = _plugins()[name].load()
        elif name in _EXPORTERS:
            command = _missing(name)
        else:
            return None
        return _finished(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The exporter's help is known here, because loading its command takes PyTorch's seconds.
        rows = []
        for name in self.list_commands(ctx):
            command = None if name in _EXPORTERS else self.get_command(ctx, name)
            rows.append((name, command.get_short_help_str(70) if command else _EXPORTERS[name]))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _plugins() -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(group="stateport.commands")}


def _missing(name: str) -> click.Command:
    @click.command(name, help=_EXPORTERS[name], context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:  # noqa: ARG001
        raise StateportError(
            f"`stateport {name}` belongs to the exporter, which is not installed here. "
            "Install it: pip install stateport-exporter."
        )

    return command


def _finished(command: click.Command) -> click.Command:
    """Gives a command `--debug`, and keeps stdout for its own output while it runs."""
    if not any(parameter.name == "debug" for parameter in command.params):
        command.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                help="Show the traceback of an error.",
            )
        )
        if command.callback is not None:
            command.callback = output.own_stdout()(command.callback)
    return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="stateport %(version)s")
def cli() -> None:
    """Take a recurrent PyTorch network to every runtime, with its state in your hands."""


def main() -> None:
    """Runs the command line; every error is one or two lines on stderr and an exit code."""
    output.prepare_streams()
    sys.exit(output.finish(_run()))


def _run() -> int:
    try:
        code: object = cli.main(prog_name="stateport", standalone_mode=False)
    except click.ClickException as error:
        return _misused(error)
    except (KeyboardInterrupt, click.Abort) as error:
        return _failed("Stopped; nothing was written.", error)
    except StateportError as error:
        return _failed(str(error), error)
    except SystemExit as error:
        code = error.code
    except BrokenPipeError:  # click's own help, and nobody reads it
        return 0
    except OSError as error:
        return _failed(f"{in_words(error)}.", error)
    except Exception as error:  # the last line of defence: no traceback on a user's screen
        return _failed(f"{in_words(error)} (a fault of stateport; --debug shows where).", error)
    except BaseException as error:  # stateport has none of these; a network's code may
        return _failed(f"{in_words(error)} (--debug shows where).", error)
    if isinstance(code, int | None):
        return code or 0
    return _failed(str(code), None)


def _misused(error: click.ClickException) -> int:
    """As click would say it, but for what is in it."""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        help_option = error.ctx.help_option_names[0]
        hint = f"Try '{error.ctx.command_path} {help_option}' for help."
        output.say(*error.ctx.get_usage().splitlines(), hint, "", err=True)
    output.say(f"Error: {error.format_message()}", err=True)
    return error.exit_code


def _failed(message: str, error: BaseException | None) -> int:
    if error is not None and "--debug" in sys.argv:
        lines = "".join(traceback.format_exception(error)).splitlines()
        output.say(*lines, err=True)
    output.say(f"Error: {message}", err=True)
    return 1
