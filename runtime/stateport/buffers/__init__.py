"""Buffers of an engine in which live sequences keep their states from call to call."""
