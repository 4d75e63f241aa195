# SPDX-License-Identifier: Apache-2.0
"""Whole data sets of sequences, of any lengths: in batches, from Parquet files, on from a stop."""
