"""The README's pictures: `python docs/pictures.py` draws them into docs/pictures/.

- `overview-*.svg`: from the PyTorch module to the file with its states, and to the engines;
- `verify-*.svg`: the table of `stateport verify`, from a real run on the reference network;
- `report-*.png`: the HTML report of such a run on every engine that is installed, in a browser.

Each exists twice, for light and for dark pages. The report needs Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from models.lstm import reference
from stateport import verify
from stateport.parity.reports import text, write
from stateport_exporter import export  # a script, no part of the runtime

FOLDER: Final = Path(__file__).with_name("pictures")
#: What Chromium is called on PATH.
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
#: The part of the report that is photographed, in pixels.
_SCREEN: Final = (1160, 985)
_COLUMNS: Final = 100


@dataclass(frozen=True)
class Theme:
    """The colours of one version of a picture, as `#rrggbb`."""

    name: str
    ground: str
    raised: str
    edge: str
    ink: str
    quiet: str
    state: str
    good: str
    bad: str


THEMES: Final = (
    Theme(
        name="light",
        ground="#ffffff",
        raised="#f5f6f8",
        edge="#c3c9d3",
        ink="#1b1f27",
        quiet="#59606d",
        state="#b4500a",
        good="#14713a",
        bad="#8f1a14",
    ),
    Theme(
        name="dark",
        ground="#14171c",
        raised="#1d2128",
        edge="#4a515e",
        ink="#e4e7ec",
        quiet="#a3abb8",
        state="#ffa763",
        good="#7fd69a",
        bad="#ffb8b0",
    ),
)


def main() -> None:
    """Draws all pictures, or only those that need no browser."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pictures go")
    parser.add_argument("--no-browser", action="store_true", help="leave the HTML report out")
    options = parser.parse_args()

    pictures = options.folder.absolute()
    pictures.mkdir(parents=True, exist_ok=True)
    # The report shows the path of the model as it is given.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        model = Path("lstm.onnx")
        module = reference()
        export(module, module.example_inputs, model, opset=20)
        draw(model, pictures)
        if not options.no_browser:
            photograph(model, pictures)


def draw(model: Path, folder: Path) -> None:
    """Draws the SVG files, the table from a run of `verify` on the model."""
    for theme in THEMES:
        (folder / f"overview-{theme.name}.svg").write_text(overview(theme), encoding="utf-8")
        table = verify_table(model, theme)
        (folder / f"verify-{theme.name}.svg").write_text(table, encoding="utf-8")


# The overview


def overview(theme: Theme) -> str:
    """The module, the file whose states go out and in again, and the engines, as SVG."""
    parts = "\n".join([*_module(), *_file(), *_engines(), *_verdict()])
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 330" role="img">
<title>A PyTorch module is exported to one ONNX file. Its states leave each call and enter the \
next one. Several engines run the file, and each is verified against PyTorch.</title>
<style>
text {{ font: 15px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: {theme.ink}; }}
.title {{ font-size: 17px; font-weight: 600; }}
.quiet {{ font-size: 14px; fill: {theme.quiet}; }}
.code {{ font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }}
.state {{ fill: {theme.state}; }}
.good {{ fill: {theme.good}; }}
.middle {{ text-anchor: middle; }}
.box {{ fill: {theme.raised}; stroke: {theme.edge}; }}
.node {{ fill: {theme.ground}; stroke: {theme.ink}; stroke-width: 1.5; }}
.way {{ fill: none; stroke: {theme.ink}; stroke-width: 2; }}
.loop {{ fill: none; stroke: {theme.state}; stroke-width: 2.5; }}
.check {{ fill: none; stroke: {theme.good}; stroke-width: 2; stroke-dasharray: 6 4; }}
</style>
<defs>
{_arrow_head("ink", theme.ink)}
{_arrow_head("state", theme.state)}
{_arrow_head("good", theme.good)}
</defs>
<rect width="960" height="330" rx="8" fill="{theme.ground}"/>
{parts}
</svg>
"""


def _module() -> Iterator[str]:
    yield _box(20, 40, 236, 200)
    yield _text(38, 70, "PyTorch module", "title")
    code = ("def forward(self, x, h0, c0):", "  y, (hn, cn) = self.lstm(", "    x, (h0, c0))")
    for number, line in enumerate((*code, "  return y, hn, cn")):
        yield _text(38, 106 + 24 * number, line, "code", size=11.5)
    yield _text(38, 218, "a hidden state is made explicit", "quiet", size=12.5)
    yield _arrow("M 258 150 H 346", "way", "ink")
    yield _text(301, 138, "export", "middle")


def _file() -> Iterator[str]:
    yield _box(354, 40, 296, 200)
    yield _text(372, 70, "model.onnx", "title")
    yield _text(632, 70, "one file", "quiet", size=12.5, anchor="end")
    yield '<rect class="node" x="452" y="95" width="100" height="60" rx="6"/>'
    yield _text(502, 130, "LSTM", "middle")
    yield _arrow("M 398 113 H 446", "way", "ink")
    yield _text(382, 118, "x", "code")
    yield _arrow("M 553 113 H 600", "way", "ink")
    yield _text(608, 118, "y", "code")
    # Out on the right, below the operator, and in again on the left.
    yield _arrow("M 553 138 H 572 Q 592 138 592 158 V 172 Q 592 192 572 192 H 432", "loop", None)
    yield _arrow("M 434 192 Q 412 192 412 172 V 158 Q 412 138 432 138 H 444", "loop", "state")
    yield _text(598, 160, "hn, cn", "code state", size=12.5)
    yield _text(406, 160, "h0, c0", "code state", size=12.5, anchor="end")
    yield _text(502, 218, "the state leaves a call and enters the next", "state middle", size=12.5)


def _engines() -> Iterator[str]:
    yield _arrow("M 652 150 H 728", "way", "ink")
    yield _text(690, 138, "run", "middle")
    yield _box(736, 40, 204, 200)
    yield _text(754, 70, "Engines", "title")
    yield _text(922, 70, "no PyTorch", "quiet", size=12.5, anchor="end")
    names = ("ONNX Runtime, CPU", "ONNX Runtime, CUDA", "OpenVINO", "tract", "onnx's reference")
    for number, name in enumerate(names):
        yield (
            f'<rect class="node" x="754" y="{84 + 29 * number}" width="168" height="24" rx="12"/>'
        )
        yield _text(838, 101 + 29 * number, name, "middle", size=13)


def _verdict() -> Iterator[str]:
    yield _arrow("M 838 242 V 268 Q 838 284 822 284 H 154 Q 138 284 138 268 V 248", "check", "good")
    said = "verify: every output, state and step against PyTorch in float64, over 2,048 calls"
    yield _text(488, 308, said, "good middle")


def _box(x: int, y: int, width: int, height: int) -> str:
    return f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'


def _text(
    x: int, y: int, said: str, classes: str, *, size: float | None = None, anchor: str | None = None
) -> str:
    style = "" if size is None else f"font-size: {size}px;"
    style += "" if anchor is None else f"text-anchor: {anchor};"
    styled = f' style="{style}"' if style else ""
    space = ' xml:space="preserve"' if said != said.strip() else ""
    return f'<text x="{x}" y="{y}" class="{classes}"{styled}{space}>{escape(said)}</text>'


def _arrow(path: str, classes: str, head: str | None) -> str:
    end = "" if head is None else f' marker-end="url(#head-{head})"'
    return f'<path class="{classes}" d="{path}"{end}/>'


def _arrow_head(name: str, colour: str) -> str:
    return (
        f'<marker id="head-{name}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="10"'
        f' markerHeight="10" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M 0 0 L 8 4 L 0 8 z" fill="{colour}"/></marker>'
    )


# The table of `verify`

#: rich's own form without its frame of a window, and without a font from elsewhere.
_TERMINAL: Final = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" \
xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
}}
.{unique_id}-title {{ display: none; }}
{styles}
</style>
<defs>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def verify_table(model: Path, theme: Theme) -> str:
    """The table that `stateport verify` prints for the model, as SVG."""
    (row,) = verify(model).rows
    if row.report is None:
        raise SystemExit(f"{model} was not verified: {row.problem}")
    if not row.report.passed:
        raise SystemExit(f"{model} does not pass: {text.summary(row.report)[-1]}")
    console = Console(record=True, file=io.StringIO(), width=_COLUMNS, force_terminal=True)
    console.print("[dim]$[/] stateport verify lstm.onnx", highlight=False)
    table = text.table(row.report)
    table.title = ""
    console.print(table, highlight=False)
    console.print(*text.summary(row.report), sep="\n", highlight=False)
    terminal = TerminalTheme(
        _rgb(theme.raised),
        _rgb(theme.ink),
        [_rgb(c) for c in (theme.ground, theme.bad, theme.good, *[theme.ink] * 5)],
    )
    drawn = console.export_svg(
        title="", theme=terminal, code_format=_TERMINAL, unique_id="verify", font_aspect_ratio=0.602
    )
    return _without_window(drawn)


def _without_window(drawn: str) -> str:
    """The table without the three buttons of a window, and without an empty title."""
    drawn = re.sub(r'<g transform="translate\(26,22\)">.*?</g>', "", drawn, flags=re.DOTALL)
    return "".join(f"{line.rstrip()}\n" for line in drawn.splitlines() if line.strip())


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


# The HTML report


def photograph(model: Path, folder: Path) -> None:
    """Takes a picture of the report of the model on every engine that is installed."""
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    if not found:
        raise SystemExit("The picture of the report needs Chromium; --no-browser leaves it out.")
    page = model.with_name("parity.html")
    write(verify(model, engines="all"), page)
    for theme in THEMES:
        _screenshot(found[0], page, folder / f"report-{theme.name}.png", dark=theme.name == "dark")


def _screenshot(browser: str, page: Path, picture: Path, *, dark: bool) -> None:
    width, height = _SCREEN
    # 0 is dark and 1 is light: blink::mojom::PreferredColorScheme.
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", scheme]
    command += [f"--window-size={width},{height}", f"--screenshot={picture}"]
    command.append(page.absolute().as_uri())
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0 or not picture.exists():
        sys.exit(f"Chromium took no picture of {page}: {ran.stderr}")


if __name__ == "__main__":
    main()
