# SPDX-License-Identifier: Apache-2.0
"""What the graph of a file without a contract shows about feeding it in chunks."""
