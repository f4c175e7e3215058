# SPDX-License-Identifier: GPL-2.0-only
"""Makes things: kernels, the guest image, symbols."""
