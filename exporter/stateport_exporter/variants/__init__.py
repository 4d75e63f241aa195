# SPDX-License-Identifier: Apache-2.0
"""Other forms of a model's file."""
