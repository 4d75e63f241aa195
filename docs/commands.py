"""The page of the command line, docs/commands.md, written from the commands themselves.

`make api` writes it; a test holds it against the commands.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from stateport.cli import cli as program

PAGE: Final = Path(__file__).with_name("commands.md")

_HEAD: Final = """\
<!-- Written by docs/commands.py from the commands: run `make api` after a change. -->

# The command line

`stateport COMMAND --help` prints what this page has. The commands {exporter} need
the exporter; all others run where PyTorch is not installed.

Exit codes: 0, all is well; 1, a check failed or the work could not be done; 2, the command was
called in a wrong way. Errors go to stderr. `--debug` shows the traceback of an error.

On a terminal, tables fit its width; columns that do not fit are named below. While a command
works, stderr shows the phases of the work. A pipe gets all columns, and neither colours nor
phases. `NO_COLOR=1` switches colours off. [Completion](completion.md) is for bash, zsh and fish.
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page, as Markdown."""
    context = program.make_context("stateport", ["doctor"])
    commands = {name: _command(context, name) for name in program.list_commands(context)}
    for name, command in [*commands.items()]:
        if not _module(command).startswith(("stateport.", "stateport_exporter.")):
            del commands[name]  # another distribution's, which is installed here by chance

    exporter = [n for n, command in commands.items() if "_exporter" in _module(command)]
    parts = [_HEAD.format(exporter=_joined(exporter)).rstrip()]
    parts.append("\n".join(_contents(commands)))
    for name, command in commands.items():
        inner = click.Context(command, info_name=name, parent=context)
        parts += [f"## {name}", *_described(command, inner)]
        if isinstance(command, click.Group):
            parts += _described_inside(command, inner)
    return "\n\n".join(parts) + "\n"


def _described_inside(group: click.Group, context: click.Context) -> Iterator[str]:
    """The commands of a group."""
    for name, command in group.commands.items():
        inner = click.Context(command, info_name=f"{context.info_name} {name}", parent=context)
        yield f"### {inner.info_name}"
        yield from _described(command, inner)


def _command(context: click.Context, name: str) -> click.Command:
    command = program.get_command(context, name)
    assert command is not None
    return command


def _module(command: click.Command) -> str:
    """The module that defines a command."""
    return "" if command.callback is None else command.callback.__module__


def _joined(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _contents(commands: dict[str, click.Command]) -> Iterator[str]:
    for name, command in commands.items():
        yield f"- [{name}](#{name}): {command.get_short_help_str(200)}"


def _described(command: click.Command, context: click.Context) -> Iterator[str]:
    """Usage, text and options of one command."""
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\nstateport {context.info_name} {usage}\n```"
    for paragraph in re.split(r"\n\s*\n", textwrap.dedent(command.help or "").strip()):
        yield _prose(" ".join(paragraph.split()))
    yield from _options(command, context)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    """A table of the options."""
    rows = []
    for parameter in command.get_params(context):
        # Older versions of click have no record of an argument, which the usage shows.
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            option, text = record
            rows.append(f"| `{_cell(option)}` | {_cell(_prose(text))} |")

    if rows:
        yield "\n".join(["| option | |", "| --- | --- |", *rows])


def _cell(text: str) -> str:
    """The text in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    """The text, in which nothing is Markdown: options, names and formulas as they are."""
    return re.sub(r"([*_<>\[\]])", r"\\\1", text)


if __name__ == "__main__":
    main()
