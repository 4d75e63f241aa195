# SPDX-License-Identifier: Apache-2.0
"""Verifying an engine in a separate process: the process, its client, and their protocol."""
