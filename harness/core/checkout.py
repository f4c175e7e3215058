# SPDX-License-Identifier: GPL-2.0-only
"""Where kharness itself is."""

from __future__ import annotations

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
"""The folder of harness/, vm/, kconfigs/, bpf_progs/ and tests/."""
