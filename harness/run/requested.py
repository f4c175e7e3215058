# SPDX-License-Identifier: GPL-2.0-only
"""The plan of a run, with the allow-lists and the fault plan that its options name."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

from harness.core import allow
from harness.core.errors import UsageError
from harness.core.options import Options
from harness.core.plan import Plan
from harness.faults import plans
from harness.run import planning
from harness.suite import loader


def plan_of(options: Options) -> Plan:
    """The plan of these options, with the files that they name read. Raises UsageError for an impossible request."""
    plan = planning.request(options, ("kharness", *sys.argv[1:]))
    plan = replace(plan, allow=allow.gather(plan.suite, options.allow, date.today()))
    if options.faults:
        suite = loader.of(plan.suite)
        if not suite.plan_tests:
            raise UsageError(f"the suite {suite.name} has no tests for --faults", step="leave --faults out")
        plan = replace(plan, faults=plans.read(Path(options.faults), suite.operations))
    return plan
