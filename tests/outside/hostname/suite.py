# SPDX-License-Identifier: GPL-2.0-only
"""What the engine must know of the host name: one function, one log rule, one oracle, one defect that proves it."""

from __future__ import annotations

from harness.core.records import Evidence, Finding
from harness.guest.guest import Guest
from harness.oracles.registry import TestEnd
from harness.oracles.splat.frames import signature
from harness.session.session import Target
from harness.suite.interface import CodeUnderTest, Defect, Oracle, Suite, rule
from hostname.knob import KNOB, boots_name

RULE = rule("host name", r"^utsname: .+ is lost$", brief=True)


def left_over(guest: Guest, target: Target) -> list[Finding]:
    """A name that is not the one the kernel was booted with."""
    name, wanted = guest.read(KNOB).strip(), boots_name(target)
    title = f"the host name is {name!r} and was {wanted!r}"
    found = Finding("host name", "left over", title, signature("host name", "left over", ()))
    return [found] if name != wanted else []


def judge(test: TestEnd) -> None:
    """A test that changes the host name must put it back."""
    test.findings += left_over(test.guest, test.target)
    test.evidence.append(Evidence("host name"))


def plant(guest: Guest, target: Target) -> dict[str, bool]:
    """A name that nobody puts back."""
    guest.write(KNOB, "planted")
    return {"host name": bool(left_over(guest, target))}


SUITE = Suite(
    name="hostname",
    code=CodeUnderTest("kernel/utsname_sysctl.o", ("proc_do_uts_string",)),
    kconfig=("kernel.config",),
    bpf="bpf",
    rules=(RULE,),
    oracles=(Oracle("host name", judge, defects=(Defect("renamed", ("host name",), plant),)),),
)
