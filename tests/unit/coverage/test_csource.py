# SPDX-License-Identifier: GPL-2.0-only
"""Tests of reading C source: functions, the arms of their if statements, calls; on toys that nobody compiles."""

from __future__ import annotations

import textwrap

import pytest

from harness.coverage.csource import Arm, Source


def source(text: str) -> Source:
    return Source(textwrap.dedent(text))


def arms(text: str, name: str = "f") -> list[tuple[str, str, bool]]:
    """Condition, statement and otherwise of each arm of a function."""
    found = source(text)
    return [
        (arm.condition, found.shown(arm.start, arm.end), arm.otherwise) for arm in found.arms(found.functions[name])
    ]


def test_functions_and_what_is_none() -> None:
    found = source(
        """\
        #define MACRO(x) do { if (x) { } } while (0)
        struct s { int (*op)(int); };
        static const struct s table[] = { { .op = first }, };
        DEFINE_CLASS(ext) = { .x = 1 };
        enum { A, B };
        static int first(int a,
                         int b)
        {
            struct { int x; } y = { 1 };
            return MACRO(a);
        }
        void locked(struct s *s) __acquires(&s->lock) __releases(rcu)
        {
        }
        static __printf(2, 0) int printed(char c, ...)
        {
            return '{' + '"' + "}}" [0]; /* } */ // }
        }
        static void __init late(void) { }
        typeof(int (*)(void)) declared(void);
        """
    )
    assert list(found.functions) == ["first", "locked", "printed", "late"]
    first = found.functions["first"]
    assert (found.line(first.at), found.line(first.start), found.line(first.end - 1)) == (6, 8, 11)
    assert first.head == "static int first(int a, int b)"
    assert "__init" in found.functions["late"].head
    assert found.line(found.functions["printed"].end - 1) == 18


def test_of_two_definitions_the_one_with_a_body() -> None:
    found = source(
        """\
        #ifdef CONFIG_X
        static int f(void)
        {
            return g();
        }
        #else
        static int f(void) { return 0; }
        #endif
        """
    )
    assert found.line(found.functions["f"].start) == 3


def test_arms() -> None:
    assert arms(
        """\
        int f(int a)
        {
            if (a) return 1;
            if (a &&
                (b || "if (c)"))
                for (;;) {
                    x();
                }
            else if (a < 0) {
                y(); /* if (d) z(); */
            } else
                z((struct s){ 1, 2 });
            return 0;
        }
        int g(int a) { if (a) return 1; }
        """
    ) == [
        ("a", "return 1;", False),
        ("a && (b || )", "for (;;) { x(); }", False),
        ("a < 0", "{ y(); }", False),
        ("a < 0", "z((struct s){ 1, 2 });", True),
    ]


def test_nested_arms_are_arms_too() -> None:
    assert [
        (condition, otherwise) for condition, _, otherwise in arms("int f(void)\n{ if (a) if (b) c(); else d(); }")
    ] == [("a", False), ("b", False), ("b", True)]


@pytest.mark.parametrize("text", ["int f(void)\n{ if (a", "int f(void)\n{ if (a) {", "int f(void)\n{ if (a) b("])
def test_an_end_that_never_comes(text: str) -> None:
    found = Source(text)
    for arm in found.arms(found.functions["f"]):
        assert isinstance(arm, Arm) and arm.end <= len(text)


def test_calls() -> None:
    found = source(
        """\
        static int init(int a);
        static int init(int a) { return a; }
        int f(void)
        {
            int ret = init(1), reinit(2); /* init(3) */
            s.init = init;
            BUG_ON(init (4));
            return init(5);
        }
        """
    )
    calls = list(found.calls(found.functions["f"], "init"))
    assert [found.line(at) for at in calls] == [5, 7, 8]
    assert [found.statement_before(at) for at in calls] == ["int ret =", "BUG_ON(", "return"]
