"""Sizes that nothing was run at: where a network would do otherwise there, and whether it does."""
