"""Buffers of an engine that store the states of live sequences between calls."""
