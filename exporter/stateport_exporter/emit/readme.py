# SPDX-License-Identifier: Apache-2.0
"""The README beside the C source, for those who build the firmware."""

from __future__ import annotations

from stateport import __version__

from .cost import Cost
from .fixed_step import FixedStep
from .model_source import Interface, Port
from .step_source import StepSource


def readme(
    interface: Interface, step: FixedStep, source: StepSource, cost: Cost, *, has_test: bool
) -> str:
    """The text of `README.md`."""
    name = interface.name
    inputs = [port.array.name for port in interface.inputs]
    outputs = [port.array.name for port in interface.outputs]
    return f"""\
# {name}: a network in C

Written by `stateport emit c` (stateport {__version__}). The files need a C99 compiler and `math.h`;
they allocate nothing, print nothing and keep nothing outside of the struct that you give them.

| file | what it is |
| --- | --- |
| `{name}.h` | sizes, the struct with the state, three functions |
| `{name}.c` | the weights and the code |
{_test_row(name) if has_test else ""}
## Use

```c
#include "{name}.h"

static {name}_state state; /* one for each live sequence */
{chr(10).join(_declaration(port, name) for port in (*interface.inputs, *interface.outputs))}

{name}_reset(&state);
for (;;) {{
    /* fill {" and ".join(inputs) or "nothing"} */
    {name}_step(&state, {", ".join([*inputs, *outputs])});
    /* use {" and ".join(outputs)} */
}}
```

`{name}_run` makes many steps in one call. Streams do not know of one another: give each a
struct, and call from any thread or interrupt that has the stack for it.

| array | type and shape of one step |
| --- | --- |
{chr(10).join(_array_row(port, "input") for port in interface.inputs)}
{chr(10).join(_array_row(port, "output") for port in interface.outputs)}
{chr(10).join(_array_row(port, "state") for port in interface.states)}

A step takes {step.batch} row{"s" if step.batch > 1 else ""} of a batch{_time(step)}.

## What it needs

| | |
| --- | --- |
| constants (flash) | {cost.constants:,} bytes |
| state (RAM, for each sequence) | {cost.state:,} bytes |
| local arrays (stack, during a step) | {cost.scratch:,} bytes, and what the compiler adds |
| multiplications of a step | {cost.multiplications:,} |

A 32-bit processor without a floating-point unit computes `float` in software, some fifty times
slower.

## Build

    cc -std=c99 -O3 -c {name}.c

The code has no warnings under `-Wall -Wextra -Wpedantic -Wconversion`. `-O3` matters: it is what
computes several columns of a matrix at once. Keep to IEEE arithmetic: `-ffast-math` may change the
answers.
{_test_text(name) if has_test else _no_test_text(name)}
Indices that the network looks up (`Gather`) are not checked: give it only those that it knows.

## Licence

The weights are yours. The code around them is stateport's, under Apache-2.0.{_generated(source)}
"""


def _test_row(name: str) -> str:
    return (
        f"| `{name}_test.c` | recorded inputs and PyTorch's answers; returns 0, or says the first "
        "difference |\n"
    )


def _test_text(name: str) -> str:
    return f"""
Before anything else, run the test on the target, with the flags of your firmware:

    cc -std=c99 -O3 {name}.c {name}_test.c -lm -o {name}_test && ./{name}_test

With `{name.upper()}_TEST_QUIET` defined it needs no stdio; look at what `main` returns.
"""


def _no_test_text(name: str) -> str:
    return f"""
There is no test: no answers were recorded beside the model. `stateport export` records them; copy
`{name}.vectors.safetensors` beside the model and write the source again.
"""


def _declaration(port: Port, name: str) -> str:
    array = port.array
    return f"static {array.ctype} {array.name}[{name.upper()}_{port.macro}];"


def _array_row(port: Port, kind: str) -> str:
    dims = "".join(f"[{size}]" for size in port.array.dims)
    return f"| {kind} `{port.array.name}` | `{port.array.ctype}{dims}` |"


def _time(step: FixedStep) -> str:
    if step.time == 1:
        return ""
    return f" and {step.time} entries along time: the network takes so many at a time"


def _generated(source: StepSource) -> str:
    if not source.generated:
        return ""
    return (
        f"\nThe functions of {', '.join(source.generated)} were written by emx-onnx-cgen "
        "(https://github.com/emmtrix/emx-onnx-cgen), under Apache-2.0 too."
    )
