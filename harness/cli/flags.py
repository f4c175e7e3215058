# SPDX-License-Identifier: GPL-2.0-only
"""Flags from the metadata of options, and options from the flags that were typed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from harness.core.options import OptionMeta, Options, Override, options_of

Command = TypeVar("Command", bound=Callable[..., None])
Kind = TypeVar("Kind")


class Verdict(typer.Exit):
    """End a command with the status of its verdict, which is valid even if the output was lost."""


def takes(verb: str, *kinds: type) -> Callable[[Command], Command]:
    """Decorate a command with the flags of `verb`: one for each option of the dataclasses `kinds` that this verb takes.

    typer reads them from the command's signature. The command gets them as ``**flags``, by the names of their fields;
    --help shows them before the command's own parameters.
    """

    def decorate(command: Command) -> Command:
        flags = [
            _parameter(verb, field, meta, get_type_hints(kind)[name])
            for kind in kinds
            for name, (field, meta) in options_of(kind).items()
            if verb in meta.verbs
        ]
        own = [
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for one in inspect.signature(command, eval_str=True).parameters.values()
            if one.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        command.__signature__ = inspect.Signature([*flags, *own])  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(verb: str, field: Field[Any], meta: OptionMeta, hint: Any) -> inspect.Parameter:
    """One option of a verb, as a parameter that typer turns into a flag."""
    other = meta.instead.get(verb, Override())
    default: Any = field.default if other.default is None else other.default
    if get_origin(hint) is tuple and Ellipsis in get_args(hint):  # the flag may be given again
        hint, default = list[get_args(hint)[0]], list(default)  # type: ignore[misc]
    flag = typer.Option(
        *filter(None, [meta.spelled]),
        help=meta.help if other.help is None else other.help,
        metavar=meta.metavar or None,
        min=meta.least,
    )
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, flag]
    )


def given(context: typer.Context, verb: str) -> dict[str, object]:
    """The options given on the command line, and those for which `verb` has a default of its own."""
    found = {}
    for name, (_, meta) in options_of(Options).items():
        typed = getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
        if verb in meta.verbs and (typed or meta.instead.get(verb, Override()).default is not None):
            found[name] = context.params[name]
    return found


def options(kind: type[Kind], flags: Mapping[str, Any], **more: Any) -> Kind:
    """A verb's own dataclass of options, from its flags; `more` are fields that are no flags."""
    own = {name: flags[name] for name in options_of(kind)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}, **more)
