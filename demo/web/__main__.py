"""Builds the page into build/web, and serves it on 127.0.0.1 until it is stopped.

Run by `make web`. Any other server of static files can send the folder as well.
"""

from __future__ import annotations

import argparse
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from demo.web.build import build

_FOLDER: Final = Path("build/web")


class _Handler(SimpleHTTPRequestHandler):
    # The types that a machine knows may be wrong for these.
    extensions_map = {  # noqa: RUF012  # http.server's own is a plain dict
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *args: object) -> None:
        """Prints nothing."""


def main() -> None:
    """Builds the page, and serves it."""
    parser = argparse.ArgumentParser(prog="python -m demo.web", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 for any free one")
    parser.add_argument("--build-only", action="store_true", help="do not serve it")
    options = parser.parse_args()
    build(_FOLDER)
    print(f"The page is in {_FOLDER}.", flush=True)
    if options.build_only:
        return

    handler = partial(_Handler, directory=str(_FOLDER))
    with ThreadingHTTPServer(("127.0.0.1", options.port), handler) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        print(f"Open {address} in a browser. Ctrl-C stops the server.", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
