"""Which node of a file is wrong first."""
