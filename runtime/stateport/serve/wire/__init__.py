# SPDX-License-Identifier: Apache-2.0
"""The bytes of the open inference protocol: what every transport reads and writes.

Nothing in this package waits, listens or keeps anything.
"""
