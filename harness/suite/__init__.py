# SPDX-License-Identifier: GPL-2.0-only
"""pytest over real guests: plugin, fixtures, canaries, the leak batch."""
