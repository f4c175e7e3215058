# SPDX-License-Identifier: GPL-2.0-only
"""How a line is broken: each operator stands for a kind of mistake that patches have been merged with.

A mutant changes one place of one function, at a line of the patch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise

from tree_sitter import Node

from harness.coverage.csource import Function, Source
from harness.mutants.grammar import Tree


@dataclass(frozen=True)
class Edit:
    """One place of a file, from `start` to `end`, becomes `new`; `words` say what that means."""

    start: int
    end: int
    new: str
    words: str


@dataclass(frozen=True)
class Mutant:
    """A broken version of one file. `line` is the line that is broken, counted from 1, and `diff` brings it about.

    `id` is the same for the same break of the same function, wherever in the file that lies. A finding is right to
    blame `function` or one of `blamed`, and one of a leak an owner: who allocates what the function frees.
    """

    id: str
    operator: str
    file: str
    function: str
    line: int
    words: str
    diff: str
    blamed: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()


CONTEXT = 3
"""Lines around a change in its diff."""

Operator = Callable[[Tree, Node], Iterator[Edit]]

FREE = re.compile(r"\w*(?:free|_put|put_|release|destroy|unregister|exit_|_exit|remove|drop)\w*")
LOCK = re.compile(r"\w*(?:lock|preempt_(?:en|dis)able|migrate_(?:en|dis)able|local_irq|local_bh)\w*")
BARRIER = re.compile(r"smp_\w+|barrier|wmb|rmb|mb|\w*_barrier|synchronize_\w+|rcu_assign_pointer|WRITE_ONCE")
TALK = re.compile(
    r"(?:pr|dev|net|trace)_\w+|printk\w*|WARN\w*|BUG\w*|lockdep_\w+|might_\w+|kcsan_\w+|kasan_\w+|\w*_debug"
)
"""Calls that only say or check something: without them nothing is broken."""

_CALL = re.compile(r"\b(\w+)\s*\(")

_ERRNO = re.compile(r"-E[A-Z]\w*")
_OTHER = {"-ENOMEM": "-EINVAL", "-EINVAL": "-ENOMEM"}
_BOUND = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}


def called(tree: Tree, node: Node) -> str:
    """The function that a statement calls and does nothing else; empty for another."""
    if node.type != "expression_statement" or not node.named_children:
        return ""
    call = node.named_children[0]
    name = call.child_by_field_name("function") if call.type == "call_expression" else None
    return tree.text(name) if name is not None and name.type == "identifier" else ""


def _without(tree: Tree, node: Node, words: str) -> Edit:
    """A statement that is gone; an empty one stays, for it may be all that an if has."""
    return Edit(tree.start(node), tree.end(node), ";", words)


def _drops(wanted: Callable[[str], bool]) -> Operator:
    """The operator that leaves out a call of a function whose name is `wanted`."""

    def drop(tree: Tree, node: Node) -> Iterator[Edit]:
        name = called(tree, node)
        if name and wanted(name):
            yield _without(tree, node, f"{name}() is not called")

    return drop


def _plain(name: str) -> bool:
    return not any(kind.fullmatch(name) for kind in (FREE, LOCK, BARRIER, TALK))


def double_free(tree: Tree, node: Node) -> Iterator[Edit]:
    """What is freed is freed again."""
    name = called(tree, node)
    if FREE.fullmatch(name):
        text = tree.text(node)
        yield Edit(tree.start(node), tree.end(node), f"{{ {text} {text} }}", f"{name}() is called twice")


def negate_check(tree: Tree, node: Node) -> Iterator[Edit]:
    """A condition is the wrong way round."""
    condition = _condition(node)
    if condition is not None and not _talks(tree, condition):
        text = tree.text(condition)
        yield Edit(tree.start(condition), tree.end(condition), f"(!{text})", f"if {text} is negated")


def drop_check(tree: Tree, node: Node) -> Iterator[Edit]:
    """A check is forgotten."""
    condition = _condition(node)
    if condition is not None and node.child_by_field_name("alternative") is None and not _talks(tree, condition):
        text = tree.text(condition)
        yield Edit(tree.start(condition), tree.end(condition), f"({text} && 0)", f"if {text} never holds")


def _condition(node: Node) -> Node | None:
    return node.child_by_field_name("condition") if node.type == "if_statement" else None


def _talks(tree: Tree, condition: Node) -> bool:
    return TALK.match(tree.text(condition).strip("( !")) is not None


def lose_error(tree: Tree, node: Node) -> Iterator[Edit]:
    """An error is not told to the caller."""
    for start, end, text in _errors(tree, node):
        yield Edit(start, end, "0", f"{text} becomes 0")
    if node.type == "return_statement" and node.named_children:
        value = node.named_children[0]
        if value.type == "identifier" and re.fullmatch(r"ret|err|error|rc", tree.text(value)):
            yield Edit(tree.start(value), tree.end(value), "0", f"return {tree.text(value)} becomes return 0")


def other_error(tree: Tree, node: Node) -> Iterator[Edit]:
    """The caller is told another error."""
    for start, end, text in _errors(tree, node):
        new = _OTHER.get(text, "-EIO")
        yield Edit(start, end, new, f"{text} becomes {new}")


def _errors(tree: Tree, node: Node) -> Iterator[tuple[int, int, str]]:
    """The error codes that a statement returns or assigns."""
    value: Node | None = None
    if node.type == "return_statement" and node.named_children:
        value = node.named_children[0]
    elif node.type == "assignment_expression":
        value = node.child_by_field_name("right")
    if value is not None and _ERRNO.fullmatch(tree.text(value)):
        yield tree.start(value), tree.end(value), tree.text(value)


def unwind_short(tree: Tree, node: Node) -> Iterator[Edit]:
    """An unwinding begins one step too late: what the first step frees stays."""
    if node.type != "goto_statement":
        return
    labels = [
        tree.text(name)
        for other in tree.nodes()
        if other.type == "labeled_statement" and (name := other.child_by_field_name("label")) is not None
    ]
    name = node.child_by_field_name("label")
    own = tree.text(name) if name is not None else ""
    if name is not None and own in labels[:-1]:
        new = labels[labels.index(own) + 1]
        yield Edit(tree.start(name), tree.end(name), new, f"goto {own} becomes goto {new}")


def off_by_one(tree: Tree, node: Node) -> Iterator[Edit]:
    """A bound is one too high or too low."""
    sign = node.child_by_field_name("operator") if node.type == "binary_expression" else None
    if sign is not None and tree.text(sign) in _BOUND:
        old = tree.text(sign)
        yield Edit(tree.start(sign), tree.end(sign), _BOUND[old], f"{old} becomes {_BOUND[old]} in {tree.text(node)}")


def swap(tree: Tree, node: Node) -> Iterator[Edit]:
    """Two statements that follow each other come in the other order."""
    if node.type != "compound_statement":
        return
    for one, other in pairwise(node.named_children):
        plain = all(part.type == "expression_statement" and not part.has_error for part in (one, other))
        calls = any(_calls(part) for part in (one, other))  # two stores without one are as good either way
        if plain and calls and not any(TALK.fullmatch(called(tree, part)) for part in (one, other)):
            between = tree.between(one, other)
            new = f"{tree.text(other)}{between}{tree.text(one)}"
            yield Edit(tree.start(one), tree.end(other), new, f"{_short(tree.text(one))} comes after its successor")


def _calls(node: Node) -> bool:
    return node.type == "call_expression" or any(_calls(child) for child in node.named_children)


def unset_field(tree: Tree, node: Node) -> Iterator[Edit]:
    """A field is left as it was."""
    if node.type != "expression_statement" or not node.named_children:
        return
    assignment = node.named_children[0]
    left = assignment.child_by_field_name("left") if assignment.type == "assignment_expression" else None
    if left is not None and left.type in ("field_expression", "subscript_expression", "pointer_expression"):
        yield _without(tree, node, f"{tree.text(left)} is not set")


OPERATORS: dict[str, Operator] = {
    "drop-call": _drops(_plain),
    "drop-free": _drops(lambda name: FREE.fullmatch(name) is not None),
    "double-free": double_free,
    "drop-lock": _drops(lambda name: LOCK.fullmatch(name) is not None and not TALK.fullmatch(name)),
    "drop-barrier": _drops(lambda name: BARRIER.fullmatch(name) is not None),
    "negate-check": negate_check,
    "drop-check": drop_check,
    "lose-error": lose_error,
    "other-error": other_error,
    "unwind-short": unwind_short,
    "off-by-one": off_by_one,
    "swap": swap,
    "unset-field": unset_field,
}


def mutants(file: str, text: str, lines: Collection[int]) -> Iterator[Mutant]:
    """Each mutant of these lines of a C file, by their order in it. What lies outside of functions has none."""
    source = Source(text)
    for function in sorted(source.functions.values(), key=lambda one: one.start):
        span = range(source.line(function.start), source.line(function.end - 1) + 1)
        if not any(line in span for line in lines):
            continue
        tree = Tree(source, function)
        seen: dict[str, int] = {}
        for node in tree.nodes():
            for name, operator in OPERATORS.items():
                for edit in operator(tree, node):
                    line = source.line(edit.start)
                    if line in lines and function.start <= edit.start < function.end:
                        yield mutant(file, source, function, name, edit, line, seen)


def mutant(
    file: str,
    source: Source,
    function: Function,
    operator: str,
    edit: Edit,
    line: int,
    seen: dict[str, int],
    blamed: Collection[str] = (),
) -> Mutant:
    """The mutant that an edit of a function is. `seen` counts equal ones of a function, which have ids of their own."""
    text = source.whole
    old = text[edit.start : edit.end]
    what = f"{file}\0{function.name}\0{operator}\0{old}\0{edit.new}"
    seen[what] = seen.get(what, 0) + 1
    digest = hashlib.sha256(f"{what}\0{seen[what]}".encode()).hexdigest()[:10]
    words = _short(" ".join(edit.words.split()))
    others = tuple(name for name in blamed if name != function.name)
    owning = owners(source, function.name)
    return Mutant(digest, operator, file, function.name, line, words, diff(file, text, edit), others, owning)


def owners(source: Source, name: str) -> tuple[str, ...]:
    """Who allocates what a function frees, itself or through functions of this file that free and that it names.

    A leak is told by its allocation: which free is missing no one can see.
    """
    freed: list[str] = []
    todo, seen = [name], {name}
    while todo:
        function = source.functions[todo.pop()]
        body = source.code[function.start : function.end]
        named = dict.fromkeys(word for word in re.findall(r"\w+", body) if FREE.fullmatch(word))
        todo += [other for other in named if other in source.functions and other not in seen]
        seen.update(todo)
        for call in _CALL.finditer(source.code, function.start, function.end):
            if FREE.fullmatch(call[1]) and call[1] not in source.functions:
                arguments = source.code[call.end() : source.closing(call.end() - 1) - 1]
                freed += re.findall(r"(\w+)(?:\[[^]]*\])*$", arguments.strip())
    taken = re.compile(rf"\b(?:{'|'.join(map(re.escape, freed)) or '(?!)'})\s*=[^;=]*alloc\w*\s*\(")
    found = [one.name for one in source.functions.values() if taken.search(source.code, one.start, one.end)]
    return tuple(other for other in found if other != name) if freed else ()


def diff(file: str, text: str, edit: Edit) -> str:
    """What `git apply` takes: one hunk with the lines around an edit."""
    first = text.count("\n", 0, edit.start)
    last = text.count("\n", 0, edit.end)
    old = text.splitlines()
    start = text.rfind("\n", 0, edit.start) + 1
    end = text.find("\n", edit.end)
    new = (text[start : edit.start] + edit.new + text[edit.end : end if end >= 0 else len(text)]).splitlines()
    above, below = old[max(0, first - CONTEXT) : first], old[last + 1 : last + 1 + CONTEXT]
    rows = [
        *(f" {row}" for row in above),
        *(f"-{row}" for row in old[first : last + 1]),
        *(f"+{row}" for row in new),
        *(f" {row}" for row in below),
    ]
    before, after = len(above) + last + 1 - first + len(below), len(above) + len(new) + len(below)
    at = first - len(above) + 1
    return "\n".join((f"--- a/{file}", f"+++ b/{file}", f"@@ -{at},{before} +{at},{after} @@", *rows)) + "\n"


def _short(text: str, most: int = 90) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
