# SPDX-License-Identifier: GPL-2.0-only
"""Kernels, the guest image, BPF programs, symbols."""
