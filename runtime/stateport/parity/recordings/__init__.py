# SPDX-License-Identifier: Apache-2.0
"""Data that people recorded: read from files, checked against a contract, and made into cases."""
