# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the flags that are made of the metadata of options."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import typer

from harness.cli import main
from harness.core.options import (
    BISECT,
    CHECK,
    DOCTOR,
    IMPORT,
    MUTANTS,
    REPLAY,
    RUN,
    SHELL,
    BisectOptions,
    MutantOptions,
    Options,
    Override,
    ShellOptions,
    options_of,
)

KINDS: dict[str, tuple[type, ...]] = {
    RUN: (Options,),
    CHECK: (Options,),
    BISECT: (BisectOptions, Options),
    SHELL: (ShellOptions, Options),
    REPLAY: (Options,),
    DOCTOR: (Options,),
    IMPORT: (Options,),
    MUTANTS: (MutantOptions, Options),
}


def flags(verb: str) -> dict[str, Any]:
    """The flags of a verb by the names of their parameters."""
    command: Any = typer.main.get_command(main.app)
    for word in verb.split():
        command = command.commands[word]
    return {found.name: found for found in command.params if found.param_type_name == "option"}


@pytest.mark.parametrize("verb", KINDS)
def test_a_verb_has_the_flags_that_its_options_name(verb: str) -> None:
    found = flags(verb)
    for kind in KINDS[verb]:
        for name, (field, meta) in options_of(kind).items():
            if verb not in meta.verbs:
                continue
            flag, other = found[name], meta.instead.get(verb, Override())
            assert flag.help == (meta.help if other.help is None else other.help), name
            default = field.default if other.default is None else other.default
            assert (tuple(flag.default or ()) if isinstance(default, tuple) else flag.default) == default, name
            assert flag.opts == [meta.spelled or "--" + name.replace("_", "-")], name
            assert flag.multiple is (isinstance(default, tuple) and default == ()), name


def test_no_two_kinds_of_options_give_one_verb_the_same_flag() -> None:
    for verb, kinds in KINDS.items():
        names = [name for kind in kinds for name, (_, meta) in options_of(kind).items() if verb in meta.verbs]
        assert len(names) == len(set(names)), verb


def test_each_verb_that_an_option_names_is_there() -> None:
    for kind in (Options, BisectOptions, ShellOptions, MutantOptions):
        for name, (_, meta) in options_of(kind).items():
            assert set(meta.verbs) <= set(KINDS), name
            assert set(meta.instead) <= set(meta.verbs), name


def test_each_flag_of_run_is_an_option() -> None:
    """Else neither a plan file nor a bisection would know of it."""
    assert set(flags(RUN)) - {"print_plan", "bisect_exit", "help"} == {field.name for field in fields(Options)}


def test_a_check_takes_the_flags_of_run_but_what_the_mail_says() -> None:
    assert set(flags(RUN)) - set(flags(CHECK)) == {"patch", "head", "print_plan", "bisect_exit"}
    assert set(flags(CHECK)) <= set(flags(RUN))
