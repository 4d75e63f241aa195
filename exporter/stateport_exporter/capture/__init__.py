# SPDX-License-Identifier: Apache-2.0
"""From a module to a graph, each recurrent layer kept whole."""
