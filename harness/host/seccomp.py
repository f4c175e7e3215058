# SPDX-License-Identifier: GPL-2.0-only
"""The system calls that nothing in the sandbox may make, as a filter that bubblewrap loads.

Builds, BPF compilers, apt and QEMU need none of them: they make namespaces and mounts, look into other processes, load
code into the kernel, or reach parts of it that no namespace divides. libseccomp knows the numbers for each
architecture, and refuses the calls of the others (i386, x32) that the same kernel offers.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket

from harness.core.errors import HarnessError

LIBRARY = "libseccomp.so.2"
"""On each Debian and Ubuntu: apt needs it."""

REFUSED = (
    # mounts, roots, namespaces; unshare() and setns() have no use without a capability
    "mount",
    "umount",
    "umount2",
    "mount_setattr",
    "open_tree",
    "open_tree_attr",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "pivot_root",
    "chroot",
    "unshare",
    "setns",
    "statmount",
    "listmount",
    # other processes
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "process_mrelease",
    "pidfd_getfd",
    "kcmp",
    "migrate_pages",
    "move_pages",
    # code in the kernel, and large attack surface
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "init_module",
    "finit_module",
    "delete_module",
    "create_module",
    "query_module",
    "get_kernel_syms",
    "kexec_load",
    "kexec_file_load",
    "add_key",
    "request_key",
    "keyctl",
    "lookup_dcookie",
    "uselib",
    "ustat",
    "sysfs",
    "_sysctl",
    "nfsservctl",
    "vm86",
    "vm86old",
    "modify_ldt",
    # files by handle pass by the folders above them
    "name_to_handle_at",
    "open_by_handle_at",
    "fanotify_init",
    "fanotify_mark",
    # the whole machine
    "acct",
    "quotactl",
    "quotactl_fd",
    "swapon",
    "swapoff",
    "reboot",
    "syslog",
    "vhangup",
    "settimeofday",
    "stime",
    "clock_settime",
    "clock_settime64",
    "clock_adjtime",
    "clock_adjtime64",
    "adjtimex",
    "sethostname",
    "setdomainname",
    "iopl",
    "ioperm",
)
"""Answered with EPERM. Of mknod() only devices are refused, below: pipes are harmless."""

UNKNOWN = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")
"""Answered with ENOSYS, so that callers take the older way. A filter cannot read the flags that clone3() points to."""

NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET of include/uapi/linux/sched.h, for clone().
CLONE_NEWTIME is none of its: there the bit is the signal's."""

TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX of include/uapi/asm-generic/ioctls.h: typing for the user."""

FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""The allowed socket families. Others reach hypervisors (AF_VSOCK) or rarely reviewed parts of the kernel."""

# include/seccomp.h of libseccomp.
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_BAD_ARCH, _OPTIMIZE = 2, 8
_NE, _LT, _EQ, _GT, _MASKED = 1, 2, 4, 6, 7


class _Compare(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def _compare(argument: int, operator: int, first: int, second: int = 0) -> _Compare:
    return _Compare(argument, operator, first, second)


@functools.cache
def program() -> int:
    """An open file with the filter, one for this process. Raises HarnessError where it cannot be made."""
    try:
        library = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as error:
        raise HarnessError(f"{LIBRARY} cannot be loaded: {error}", step="apt-get install -y libseccomp2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))
    if not context:
        raise HarnessError(f"{LIBRARY} does not know this architecture", step="run on x86_64 or arm64")
    try:
        _fill(library, context)
        file = os.memfd_create("kharness-seccomp")
        _check(library.seccomp_export_bpf(context, file), "writing the filter")
        return file
    finally:
        library.seccomp_release(context)


def _fill(library: ctypes.CDLL, context: ctypes.c_void_p) -> None:
    def refuse(name: str, number: int, *comparisons: _Compare) -> None:
        call = library.seccomp_syscall_resolve_name(name.encode())
        if call == -1:  # this library is older than the call, or the architecture never had it
            return
        array = (_Compare * max(1, len(comparisons)))(*comparisons)
        _check(
            library.seccomp_rule_add_array(
                context, ctypes.c_uint32(_ERRNO | number), call, ctypes.c_uint(len(comparisons)), array
            ),
            f"the rule for {name}",
        )

    _check(library.seccomp_attr_set(context, _BAD_ARCH, ctypes.c_uint32(_ERRNO | errno.ENOSYS)), "the architecture")
    library.seccomp_attr_set(context, _OPTIMIZE, ctypes.c_uint32(2))  # a tree: an older library has but the list
    for name in REFUSED:
        refuse(name, errno.EPERM)
    for name in UNKNOWN:
        refuse(name, errno.ENOSYS)
    for flag in NAMESPACES:
        refuse("clone", errno.EPERM, _compare(0, _MASKED, flag, flag))
    for name, argument in (("mknod", 1), ("mknodat", 2)):
        for kind in (0o020000, 0o060000):  # S_IFCHR and S_IFBLK
            refuse(name, errno.EPERM, _compare(argument, _MASKED, 0o170000, kind))
    for request in TERMINAL_INPUT:
        refuse("ioctl", errno.EPERM, _compare(1, _MASKED, 0xFFFFFFFF, request))
    for family in range(max(FAMILIES) + 1):
        if family not in FAMILIES:
            refuse("socket", errno.EAFNOSUPPORT, _compare(0, _MASKED, 0xFFFFFFFF, family))
            refuse("socketpair", errno.EAFNOSUPPORT, _compare(0, _MASKED, 0xFFFFFFFF, family))
    for name in ("socket", "socketpair"):
        refuse(name, errno.EAFNOSUPPORT, _compare(0, _GT, max(FAMILIES)))


def _check(status: int, what: str) -> None:
    if status < 0:
        raise HarnessError(f"{LIBRARY} refuses {what}: {os.strerror(-status)}", step="run 'kharness doctor'")
