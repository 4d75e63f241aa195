# SPDX-License-Identifier: Apache-2.0
"""Finding the first node of a file that is wrong."""
