"""The catalogue: every pattern that is supported, and a network just outside each.

A row of docs/patterns.md belongs to each; `python -m benchmarks.patterns` writes it.
"""

from typing import Final

from .carried import CARRIED
from .layers import LAYERS
from .lengths import LENGTHS
from .lifting import LIFTING
from .loops import LOOPS
from .pattern import Outside, Pattern, seeded

__all__ = ["PATTERNS", "Outside", "Pattern", "seeded"]

PATTERNS: Final = (*LAYERS, *LOOPS, *LIFTING, *LENGTHS, *CARRIED)
