"""The cost of coming up: whole processes, from nothing to the first answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from .networks import Network

IMPORT_TORCH: Final = "import torch"
STATEPORT: Final = "stateport: import, load, first answer"
#: The rusage of a child counts what its parent had before the child was another program.
_SAY_MEMORY: Final = """
with open("/proc/self/status") as file:
    print(next(line for line in file if line.startswith("VmHWM")))
"""
NETWORK: Final = Network(64, 128, 1)


@dataclass(frozen=True)
class Process:
    """What a process took in each round, in seconds, and its largest resident memory in bytes."""

    name: str
    rounds: list[float]
    memory: int

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.rounds))


def processes(network: Network) -> Mapping[str, str]:
    """What is run, by name."""
    path, sizes = network.path, f"{network.input_size}, {network.hidden_size}, {network.layers}"
    x = f"np.zeros((1, 1, {network.input_size}), np.float32)"
    state = f"np.zeros({network.state_shape(1)}, np.float32)"
    feed = f"{{'x': {x}, 'h0': {state}, 'c0': {state}}}"
    return {
        IMPORT_TORCH: "import torch",
        "PyTorch: import, build, first answer": (
            "import torch\n"
            f"lstm = torch.nn.LSTM({sizes}, batch_first=True).eval()\n"
            f"with torch.inference_mode(): lstm(torch.zeros(1, 1, {network.input_size}))"
        ),
        "onnxruntime: import, load, first answer": (
            "import numpy as np, onnxruntime as ort\n"
            f"session = ort.InferenceSession({str(path)!r}, providers=['CPUExecutionProvider'])\n"
            f"session.run(None, {feed})"
        ),
        "openvino: import, load, first answer": (
            "import numpy as np, openvino\n"
            f"model = openvino.Core().compile_model({str(path)!r}, 'CPU')\n"
            f"model({feed})"
        ),
        "tract: import, load, first answer": (
            "import numpy as np, tract\n"
            f"model = tract.onnx().load({str(path)!r})\n"
            f"facts = '1,1,{network.input_size},f32', *['{network.layers},1,"
            f"{network.hidden_size},f32'] * 2\n"
            "for n, fact in enumerate(facts):\n"
            "    model.set_input_fact(n, fact); model.set_output_fact(n, None)\n"
            f"model.into_model().into_runnable().run([{x}, {state}, {state}])"
        ),
        "stateport: import": "import stateport",
        STATEPORT: (f"import numpy as np, stateport\nstateport.load({str(path)!r}).stream()({x})"),
        "stateport on openvino: import, load, first answer": (
            "import numpy as np, stateport\n"
            f"stateport.load({str(path)!r}, engine='openvino').stream()({x})"
        ),
    }


def measure_startup(rounds: int) -> list[Process]:
    """Runs all of them in turns."""
    programs = processes(NETWORK)
    taken: dict[str, list[float]] = {name: [] for name in programs}
    memory = dict.fromkeys(programs, 0)
    for number in range(rounds + 1):
        for name, program in programs.items():
            seconds, resident = _run(program)
            if number:  # the first one reads files that are not in memory yet
                taken[name].append(seconds)
            memory[name] = max(memory[name], resident)
    return [Process(name, taken[name], memory[name]) for name in programs]


def _run(program: str) -> tuple[float, int]:
    begin = perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program + _SAY_MEMORY],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return perf_counter() - begin, int(done.stdout.split()[-2]) * 1024
