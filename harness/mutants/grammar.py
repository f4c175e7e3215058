# SPDX-License-Identifier: GPL-2.0-only
"""A C function as a syntax tree of tree-sitter-c, which knows no macros: those of the kernel that are no C are replaced
first, by something of the same length that is."""

from __future__ import annotations

import re
from collections.abc import Iterator

import tree_sitter_c
from tree_sitter import Language, Node, Parser

from harness.coverage.csource import BLANK, Function, Source

_LANGUAGE = Language(tree_sitter_c.language())

_LOOP = re.compile(r"\b(?!for\b)(?:\w*for_each\w*|scoped_\w+)\s*\(")
"""Macros that stand before a statement as for () does: include/linux/list.h, cleanup.h, cpumask.h."""

_FOR = "for(;;)"
_WORD = re.compile(
    r"\b(?:__(?:user|rcu|percpu|iomem|force|kernel|init|exit|bpf_kfunc|always_inline|weak|ref|cold|maybe_unused"
    r"|always_unused|sched|must_check|private|pure|noreturn|latent_entropy)|noinline(?:_for_stack)?|notrace|asmlinkage"
    r"|fallthrough(?=;))\b"
)
_ANNOTATION = re.compile(
    r"\b__(?:acquires|releases|must_hold|cond_acquires|cond_releases|printf|aligned|section|counted_by|free|alloc_size"
    r"|guarded_by|no_context_analysis|attribute__)\s*\("
)
"""Annotations of include/linux/compiler_types.h and compiler_attributes.h."""

_TYPE = re.compile(r"(?<=[(,])(\s*)(?:struct|union|enum|unsigned)\s+(?=\w+\s*[,)*])")
"""The name of a type as the argument of a macro (container_of())."""


class Tree:
    """One function's syntax tree. Places are characters of the source file, which tree-sitter counts as bytes: what is
    no ASCII lies in comments and literals, which are blanked."""

    def __init__(self, source: Source, function: Function) -> None:
        self._first = source.code.rfind("\n", 0, function.at) + 1
        self._whole = source.whole
        text = readable(_plain(source.whole[self._first : function.end]))
        self.root = Parser(_LANGUAGE).parse(text.encode("ascii", "replace")).root_node

    def nodes(self) -> Iterator[Node]:
        """Every node that was understood, outer ones first."""
        todo = [self.root]
        while todo:
            node = todo.pop()
            if node.type == "ERROR" or node.is_missing:
                continue
            yield node
            todo += reversed(node.children)

    def start(self, node: Node) -> int:
        """The first character of a node in the file."""
        return self._first + node.start_byte

    def end(self, node: Node) -> int:
        """One past its last character."""
        return self._first + node.end_byte

    def text(self, node: Node) -> str:
        """A node as it stands in the file."""
        return self._whole[self.start(node) : self.end(node)]

    def between(self, one: Node, other: Node) -> str:
        """What stands between two nodes."""
        return self._whole[self.end(one) : self.start(other)]


def _plain(text: str) -> str:
    """C without comments, preprocessor lines, and what literals hold; every character stays at its place."""
    return BLANK.sub(lambda found: _hidden(found[0]), text)


def _hidden(text: str) -> str:
    if text[0] in "\"'" and len(text) > 1:
        return text[0] + "x" * (len(text) - 2) + text[-1]
    return re.sub(r"[^\n]", " ", text)


def readable(code: str) -> str:
    """The code with macros replaced that are no C; every character stays at its place."""
    letters = list(code)

    def put(start: int, end: int, new: str = "") -> None:
        blank = re.sub(r"[^\n]", " ", code[start:end])
        letters[start:end] = new + blank[len(new) :]

    for found in _LOOP.finditer(code):
        end = _closing(code, found.end() - 1)
        follows = code[end:].lstrip()[:1]
        if follows not in (";", ")", ",", "") and "\n" not in code[found.start() : found.start() + len(_FOR)]:
            put(found.start(), end, _FOR)
    for pattern in (_WORD, _TYPE):
        for found in pattern.finditer(code):
            put(found.end(1) if pattern is _TYPE else found.start(), found.end())
    for found in _ANNOTATION.finditer(code):
        put(found.start(), _closing(code, found.end() - 1))
    return "".join(letters)


def _closing(code: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(code)):
        depth += {"(": 1, ")": -1}.get(code[at], 0)
        if not depth:
            return at + 1
    return len(code)
