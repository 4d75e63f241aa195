# SPDX-License-Identifier: Apache-2.0
"""Buffers of an engine that store the states of live sequences between calls."""
