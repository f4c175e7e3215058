# SPDX-License-Identifier: GPL-2.0-only
"""Reading a CPU's registers as QEMU prints them, and the stack that they point to.

Formats read from QEMU 10's target/i386/cpu-dump.c (x86_cpu_dump_state) and target/arm/cpu.c (aarch64_cpu_dump_state);
which of them it is shows in the text. Bits of flags: IF is 0x200 of RFLAGS, I is 0x80 of PSTATE.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

Peek = Callable[[int, int], bytes]
"""So many bytes of the guest's virtual memory from an address on, as one CPU sees it. Empty where nothing is mapped."""

STACK_BYTES = 16 << 10
"""THREAD_SIZE of a kernel without KASAN (arch/{x86,arm64}/include): a stack ends at the latest at such a boundary."""

MOST_TEXT = 1 << 16
"""Characters of what QEMU prints of one CPU; with all its vector registers it is a sixth of that."""

MOST_FRAMES = 48
MOST_WORDS = 96
NEAR = 1 << 31
"""Bytes from the program counter within which the kernel's and its modules' text lies (x86's code model)."""

_X86 = re.compile(r"\bRIP=([0-9a-f]{16}) RFL=([0-9a-f]{8}) \[\S{1,20}\] CPL=(\d) (?:\S{1,20} ){0,8}HLT=(\d)")
_X86_SP = re.compile(r"\bRSP=([0-9a-f]{16})")
_ARM = re.compile(r"\bPC=([0-9a-f]{16})\b")
_ARM_NAMED = r"\b{}=([0-9a-f]{{16}})"
_ARM_STATE = re.compile(r"\bPSTATE=([0-9a-f]{8}) \S+ (?:NS |S )?EL(\d)")
_CALL, _CALL_BYTES = 0xE8, 5
"""call rel32 (Intel SDM, volume 2)."""

_BL = 0x94
"""bl imm26, in the upper six bits of the last byte (Arm ARM, C6.2)."""

_KERNEL_CS, _KERNEL_DS = 0x10, 0x18
"""arch/x86/include/asm/segment.h."""

_KERNEL_HALF = 0xFF
"""The uppermost byte of its addresses, with four levels of page tables and with five."""

_SAVED_REGISTERS = 2
"""FRAME_META_TYPE_PT_REGS of a frame record without addresses (arch/arm64/include/asm/stacktrace/frame.h)."""

_RECORD_IN_REGISTERS = 296
"""Bytes of struct pt_regs before its frame record: x0 to x30, sp, pc first (arch/arm64/include/asm/ptrace.h, 7.2)."""


@dataclass(frozen=True)
class Return:
    """A word of a stack that may be a return address.

    `sure` where the frames are chained; else it is a guess, and `callee` the function that was called there, if the
    instruction before the address is a direct call.
    """

    address: int
    sure: bool
    callee: int | None = None


@dataclass(frozen=True)
class Cpu:
    """The state of one CPU: `pc` is an address; `user` means that it ran user space, `masked` that interrupts were off,
    `halted` that it waited for one. `stack` is innermost first. `text` is QEMU's output; a CPU whose text is not
    understood has no `pc`."""

    index: int
    pc: int | None
    user: bool
    masked: bool
    halted: bool
    stack: tuple[Return, ...] = ()
    text: str = ""


def read(index: int, text: str, peek: Peek) -> Cpu:
    """One CPU from the answer to ``info registers``; its stack is read only where it runs the kernel."""
    text = text[:MOST_TEXT]
    lines = "\n".join(line for line in text.splitlines() if not re.match(r"\s*(?:FPR|[XYQ]MM\d|Q\d\d|FCW|P\d\d)", line))
    if (x86 := _X86.search(text)) is not None:
        return _x86(index, lines.strip(), x86, peek)
    if (arm := _ARM.search(text)) is not None and (state := _ARM_STATE.search(text)) is not None:
        return _arm64(index, lines.strip(), int(arm[1], 16), state, peek)
    return Cpu(index, None, user=False, masked=False, halted=False, text=lines.strip())


def _x86(index: int, text: str, found: re.Match[str], peek: Peek) -> Cpu:
    pc, flags = int(found[1], 16), int(found[2], 16)
    user, halted = found[3] == "3", found[4] == "1"
    pointer = _X86_SP.search(text)
    stack = _scanned(pc, int(pointer[1], 16), peek) if pointer and not user and not halted else ()
    return Cpu(index, pc, user, masked=not flags & 0x200, halted=halted, stack=stack, text=text)


def _arm64(index: int, text: str, pc: int, state: re.Match[str], peek: Peek) -> Cpu:
    """One CPU of arm64. QEMU does not print whether it waits for an interrupt: its frames show the idle loop."""
    user = state[2] == "0"

    def named(name: str) -> int:
        found = re.search(_ARM_NAMED.format(name), text)
        return int(found[1], 16) if found else 0

    stack = _chained(named("X29"), named("X30"), peek) if not user else ()
    return Cpu(index, pc, user, masked=bool(int(state[1], 16) & 0x80), halted=False, stack=stack, text=text)


def _plain(address: int) -> int:
    """A kernel address without the pointer authentication code in its upper bits."""
    return address | 0xFFFF << 48


def _chained(frame: int, link: int, peek: Peek) -> tuple[Return, ...]:
    """The stack by its frame records: each holds the caller's record and the return address (AAPCS64).

    The link register comes first: a leaf function's return address is nowhere else. In other functions it is stale, or
    equal to the one in their own record; it is then left out. Across an interrupt the interrupted function is read from
    the saved registers.
    """
    out: list[Return] = []
    seen: set[int] = set()
    while frame and frame not in seen and len(out) < MOST_FRAMES:
        seen.add(frame)
        record = peek(frame, 24)
        if len(record) < 24:
            break
        at, (frame, back, kind) = frame, struct.unpack("<QQQ", record)
        if back:
            out.append(Return(_plain(back), sure=True))
        elif kind == _SAVED_REGISTERS:
            saved = peek(at - _RECORD_IN_REGISTERS, _RECORD_IN_REGISTERS)
            if len(saved) < _RECORD_IN_REGISTERS:
                break
            frame, before, pc = (struct.unpack_from("<Q", saved, 8 * number)[0] for number in (29, 30, 32))
            out.append(Return(pc + 4, sure=True))
            out.append(_branch(before, peek))
        else:
            break
    leaf = _branch(link, peek)
    return (leaf, *out) if link and (not out or out[0].address != leaf.address) else tuple(out)


def _branch(link: int, peek: Peek) -> Return:
    """A link register, with the function that the instruction before the address calls, which shows if it is stale."""
    address = _plain(link)
    word = peek(address - 4, 4)
    if len(word) < 4 or word[3] & 0xFC != _BL:
        return Return(address, sure=False)
    distance = (int.from_bytes(word, "little") & 0x3FFFFFF) << 2
    distance -= (distance & 1 << 27) << 1
    return Return(address, sure=False, callee=address - 4 + distance)


def _scanned(pc: int, pointer: int, peek: Peek) -> tuple[Return, ...]:
    """Every word of the stack that could be a return address, as there are no frame records (ORC is not in the stack).

    Registers that an interrupt saved are recognised by their segments. An interrupt's stack has the task's stack
    pointer in its last word (call_on_stack() in arch/x86/include/asm/irq_stack.h), where the scan continues.
    """
    out: list[Return] = []
    for _ in range(2):
        memory = peek(pointer, STACK_BYTES - pointer % STACK_BYTES)
        words = [word for (word,) in struct.iter_unpack("<Q", memory[: len(memory) & ~7])]
        for number, word in enumerate(words):
            if abs(word - pc) >= NEAR or pointer <= word < pointer + STACK_BYTES:
                continue
            if words[number + 1 : number + 2] == [_KERNEL_CS] and words[number + 4 : number + 5] == [_KERNEL_DS]:
                out.append(Return(word + 1, sure=True))
            else:
                out.append(Return(word, sure=False, callee=_called(word, peek)))
        last = words[-1] if words else 0
        if last % 8 or last >> 56 != _KERNEL_HALF or last // STACK_BYTES == pointer // STACK_BYTES:
            break
        pointer = last
    return tuple(out[:MOST_WORDS])


def _called(address: int, peek: Peek) -> int | None:
    """The function that the instruction before `address` calls, if it is a direct call."""
    before = peek(address - _CALL_BYTES, _CALL_BYTES)
    if len(before) < _CALL_BYTES or before[0] != _CALL:
        return None
    distance: int = struct.unpack("<i", before[1:])[0]
    return (address + distance) % (1 << 64)
