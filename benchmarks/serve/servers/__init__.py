# SPDX-License-Identifier: Apache-2.0
"""Servers as their own documentation says that they are written."""
