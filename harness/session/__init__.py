# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plug-in: targets, the test context, planted defects, fixtures."""
