# SPDX-License-Identifier: GPL-2.0-only
"""Owns what holds for every unit test: hypothesis judges what code does, not how long a busy machine takes for it."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("kharness", deadline=None)
settings.load_profile("kharness")
