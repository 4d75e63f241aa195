"""Verifying an engine in a separate process: the process, its client, and their protocol."""
