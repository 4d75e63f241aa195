# SPDX-License-Identifier: Apache-2.0
"""Files: bounded where they are read, whole or absent where they are written."""
