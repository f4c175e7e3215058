# SPDX-License-Identifier: GPL-2.0-only
"""A finding as a C program that needs nothing of kharness: from the operations in its test's replay file.

It is made only where every operation is one of :data:`STATEMENTS`; what merely watches (observers) is left out. A slab
or page allocation is made to fail by fail-nth (Documentation/fault-injection/fault-injection.rst), each of the
operation's in turn: which one it was depends on the kernel. What depends on a BPF program, on the kernel module or on
workloads of kharness cannot stand alone, and then it is said why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import yaml

from harness.core.records import Finding, Operation, Scenario
from harness.faults import types

MODULE = "/sys/kernel/debug/kharness/"
"""Files of our kernel module."""

INJECTOR = "/sys/kernel/debug/fail"
"""Knobs of the kernel's fault injection: failslab, fail_page_alloc, fail_function."""

OBSERVERS = ("alive", "fault_sites", "ledger")
"""BPF programs that watch and change nothing; of the others in bpf_progs/observers some make allocations fail."""

WATCHING = frozenset(("ping", "reset", "read", "kmsg", "left", "alive", "get", "dump", "clear", "clear-map", "thread"))
"""Verbs that change nothing of the kernel."""

SETTLING = frozenset(("settle", "idle"))

MOST = 40
"""Operations of a program that somebody will read."""

SWEEP = "sweep-ops"
STAGES = ("before", "during", "after")


@dataclass(frozen=True)
class Program:
    """The text of a program, or `why` there is none."""

    text: str = ""
    why: str = ""


class _Cannot(Exception):
    """Why no program stands alone."""


def program(finding: Finding, scenario: Scenario) -> Program:
    """The program of a finding that came in this scenario."""
    try:
        stages = _stages(finding, scenario)
        fails = _fails(finding)
        return Program(_render(finding, stages, fails))
    except _Cannot as reason:
        return Program(why=str(reason))


# --- which operations -----------------------------------------------------------------------


def _stages(finding: Finding, scenario: Scenario) -> dict[str, list[str]]:
    """The statements before, during and after what the finding came in."""
    sweep = next((one for one in scenario.operations if _swept(one, finding)), None)
    if sweep is not None:
        if sweep.args.get("thread"):
            raise _Cannot(
                f"it came in another thread, {sweep.args['thread']}, in which kharness makes allocations fail"
            )
        parts = {stage: tuple(_parsed(str(sweep.args.get(stage, "")))) for stage in STAGES}
    elif finding.fault:
        raise _Cannot("its fault was injected by a BPF program of kharness")
    else:
        parts = {"before": (), "during": scenario.sequence or scenario.operations, "after": ()}
    objects = _objects((*scenario.operations, *(one for part in parts.values() for one in part)))
    made = {stage: list(_statements(part, objects)) for stage, part in parts.items()}
    if not made["during"]:
        raise _Cannot("its test left no operation that a program could do")
    if sum(map(len, made.values())) > MOST:
        raise _Cannot(f"its test did more than {MOST} operations")
    return made


def _swept(one: Operation, finding: Finding) -> bool:
    return one.verb == SWEEP and finding.operation is not None and one.args.get("tell") == finding.operation


def _parsed(lines: str) -> Iterator[Operation]:
    """Operations from lines of the agent's protocol."""
    for line in filter(None, lines.split("\n")):
        verb, *words = line.split("\t")
        pairs = (word.partition("=") for word in words)
        yield Operation(verb, {key: unquote(value) for key, _, value in pairs})


def _objects(operations: Iterable[Operation]) -> dict[str, str]:
    """The BPF programs by the names that they were loaded as."""
    loads = (one.args for one in operations if one.verb == "load")
    return {str(args.get("name")): PurePosixPath(str(args.get("path"))).name.partition(".")[0] for args in loads}


def _statements(operations: Sequence[Operation], objects: Mapping[str, str]) -> Iterator[str]:
    for one in operations:
        if not _watches(one, objects):
            yield from _statement(one)


def _watches(one: Operation, objects: Mapping[str, str]) -> bool:
    """Whether an operation only watches, or serves what does; or arms a fault, which the program does itself."""
    if one.verb == "write" and str(one.args.get("path")).startswith((INJECTOR, "/proc/self/")):
        return True
    if one.verb in ("load", "attach", "set", "unload", "detach"):
        name = objects.get(str(one.args.get("name")), "")
        return name in OBSERVERS or name == "fault_policy"
    return one.verb in WATCHING


def _statement(one: Operation) -> Iterator[str]:
    if one.verb in SETTLING:
        yield "usleep(500000); /* for what is freed later */"
        return
    path = str(one.args.get("path", ""))
    if path.startswith(MODULE):
        raise _Cannot(f"it needs {path} of kharness's kernel module")
    make = STATEMENTS.get(one.verb)
    if make is None:
        of = path or one.args.get("prog") or one.args.get("kind") or one.args.get("name") or ""
        raise _Cannot(f"it needs {one.verb} {of}".rstrip() + " of kharness's agent")
    yield make(one.args)


def _fails(finding: Finding) -> bool:
    """Whether allocations are to fail. Raises _Cannot for those that fail-nth does not reach."""
    if not finding.fault:
        return False
    try:
        fault = yaml.safe_load(finding.fault)
    except (yaml.YAMLError, RecursionError):
        fault = None
    if not isinstance(fault, dict):
        raise _Cannot("its fault is not one that a program can inject")
    if fault.get("what") == types.FUNCTION.name:
        raise _Cannot("alloc_percpu() fails only by a BPF program and the kernel module of kharness")
    if fault.get("task", "self") != "self":
        raise _Cannot(f"the allocation that fails is one of {fault['task']}")
    return True


# --- statements -----------------------------------------------------------------------------

Args = Mapping[str, Any]


_PLAIN = frozenset(range(32, 127)) - frozenset(b'"\\?#')
"""ASCII that stands for itself in a C string: no trigraph, and nothing that a CI would act on."""


def c_string(text: str) -> str:
    """A C string literal; what is not plain as octal escapes, which take no further digit."""
    data = text.encode("utf-8", "surrogatepass")
    shown = "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03o}" for byte in data)
    return f'"{shown.replace("::", ":" + chr(92) + "072")}"'


def _number(args: Args, key: str, default: int) -> int:
    value = str(args.get(key, default))
    if not re.fullmatch(r"-?\d{1,18}", value):
        raise _Cannot(f"{key}={value} is no number")
    return int(value)


def _write(args: Args) -> str:
    if args.get("each") or args.get("mode"):
        raise _Cannot("it writes files of kharness's own")
    append = "O_APPEND" if _number(args, "append", 0) else "0"
    return f"put({c_string(str(args.get('path')))}, {c_string(str(args.get('data')))}, {append});"


def _unshare(args: Args) -> str:
    flags = {"cgroup": "NEWCGROUP", "ipc": "NEWIPC", "mnt": "NEWNS", "net": "NEWNET", "uts": "NEWUTS"}
    kind = str(args.get("kind"))
    if kind not in flags:
        raise _Cannot(f"there is no namespace {kind}")
    return f"namespace({c_string(f'/proc/self/ns/{kind}')}, CLONE_{flags[kind]});"


def _mount(args: Args) -> str:
    path, kind, data = (c_string(str(args.get(key, ""))) for key in ("path", "type", "data"))
    return f'tell("mount", mount("none", {path}, {kind}, 0, {data}));'


def _map(args: Args) -> str:
    numbers = (("type", 0), ("key", 4), ("value", 4), ("entries", 1), ("flags", 0), ("fill", 0))
    return f"map({', '.join(str(_number(args, key, default)) for key, default in numbers)});"


def _path(call: str) -> Callable[[Args], str]:
    """A call of the folder or file alone."""
    name = call.partition("(")[0]
    return lambda args: f'tell("{name}", {call.format(c_string(str(args.get("path", ""))))});'


STATEMENTS: Mapping[str, Callable[[Args], str]] = {
    "write": _write,
    "mkdir": _path("mkdir({}, 0755)"),
    "rmdir": _path("rmdir({})"),
    "umount": _path("umount2({}, 0)"),
    "mount": _mount,
    "unshare": _unshare,
    "fork": lambda args: "child();",
    "bpf-map": _map,
    "bpf-prog": lambda args: f"program({_number(args, 'type', 0)});",
}
"""Verbs of the agent as C, which does the same as vm/agent does."""

_HELPERS: Mapping[str, str] = {
    "put": """\
static void put(const char *path, const char *text, int flags)
{
	int fd = open(path, O_WRONLY | flags);

	tell(path, fd < 0 ? -1 : write(fd, text, strlen(text)));
	if (fd >= 0)
		close(fd);
}
""",
    "namespace": """\
static void namespace(const char *path, int flag)
{
	int home = open(path, O_RDONLY);

	if (home < 0 || unshare(flag))
		tell("unshare", -1);
	else
		tell("setns", setns(home, flag));
	if (home >= 0)
		close(home);
}
""",
    "child": """\
static void child(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	tell("fork", pid);
	if (pid > 0)
		waitpid(pid, NULL, 0);
}
""",
    "map": """\
static void map(int type, int key, int value, int entries, int flags, int fill)
{
	static char keys[64], values[65536];
	union bpf_attr made = {
		.map_type = type,
		.key_size = key,
		.value_size = value,
		.max_entries = entries,
		.map_flags = flags,
	};
	int fd = syscall(__NR_bpf, BPF_MAP_CREATE, &made, sizeof(made));

	tell("BPF_MAP_CREATE", fd);
	values[0] = 1;
	for (int i = 0; fd >= 0 && i < fill; i++) {
		union bpf_attr one = {
			.map_fd = fd,
			.key = (unsigned long)keys,
			.value = (unsigned long)values,
		};

		memcpy(keys, &i, sizeof(i));
		tell("BPF_MAP_UPDATE_ELEM", syscall(__NR_bpf, BPF_MAP_UPDATE_ELEM, &one, sizeof(one)));
	}
	if (fd >= 0)
		close(fd);
}
""",
    "program": """\
static void program(int type)
{
	struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr made = {
		.prog_type = type,
		.insns = (unsigned long)insns,
		.insn_cnt = 2,
		.license = (unsigned long)"GPL",
	};
	int fd = syscall(__NR_bpf, BPF_PROG_LOAD, &made, sizeof(made));

	tell("BPF_PROG_LOAD", fd);
	if (fd >= 0)
		close(fd);
}
""",
}

_INCLUDES = """\
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
"""

_TELL = """\
static void tell(const char *what, long got)
{
	if (got < 0)
		printf("  %s: %s\\n", what, strerror(errno));
}
"""

_ONCE = """\
int main(void)
{
	before();
	during();
	after();
	return 0;
}
"""

_EACH = """\
int main(void)
{
	put("/sys/kernel/debug/failslab/ignore-gfp-wait", "N", 0);
	put("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N", 0);
	put("/sys/kernel/debug/fail_page_alloc/min-order", "0", 0);
	for (int n = 1, missed = 0; missed < 3; n++) {
		int fd = open("/proc/thread-self/fail-nth", O_RDWR);
		char text[16] = "";

		if (fd < 0)
			return perror("fail-nth"), 1;
		before();
		dprintf(fd, "%d", n);
		during();
		if (pread(fd, text, sizeof(text) - 1, 0) < 0)
			return perror("fail-nth"), 1;
		if (pwrite(fd, "0", 1, 0) < 0)
			return perror("fail-nth"), 1;
		close(fd);
		after();
		missed = atoi(text) ? missed + 1 : 0;
		if (!missed)
			printf("allocation %d failed\\n", n);
	}
	return 0;
}
"""


def _render(finding: Finding, stages: Mapping[str, Sequence[str]], fails: bool) -> str:
    bodies = [
        f"static void {stage}(void)\n{{\n{''.join(f'	{one}{chr(10)}' for one in stages[stage])}}}\n"
        for stage in STAGES
    ]
    used = [text for name, text in _HELPERS.items() if f"\t{name}(" in "".join(bodies) or (fails and name == "put")]
    return "\n".join([_INCLUDES, _TELL, *used, *bodies, _EACH if fails else _ONCE])


NEEDS = "CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC and CONFIG_FAULT_INJECTION_DEBUG_FS"
"""What a program with faults needs of the kernel."""
