# SPDX-License-Identifier: Apache-2.0
"""One step of a model as C source, with its state in a struct."""
