"""An engine of another distribution, as `pip install` would leave it in a folder."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

#: What `docs/engines.md` says to write, in a few lines.
MODULE = """
from stateport.engines import HostEngine, Status
import onnxruntime


class Abacus(HostEngine):
    name = "abacus"
    version = "abacus 1.0"

    def __init__(self, file):
        self.session = onnxruntime.InferenceSession(str(file.path))

    def run(self, inputs, outputs):
        answers = self.session.run(list(outputs), dict(inputs))
        return answers


def open_engine(name, file, threads, options):
    return Abacus(file)


def status(name):
    return Status(name, "abacus 1.0", None)
"""


def install(folder: Path, *, run: str = "return answers", name: str = "abacus") -> Path:
    """Writes the distribution; `run` is what it does with the `answers` of the graph."""
    module = name.replace("-", "_")
    text = MODULE.replace("abacus", name).replace(
        "        return answers\n",
        "".join(f"        {line}\n" for line in dedent(run).splitlines()),
    )
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[stateport.engines]\n{name} = {module}\n")
    return folder
