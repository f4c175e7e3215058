# SPDX-License-Identifier: GPL-2.0-only
"""Owns `python -m harness`."""

from harness.cli import main

main()
