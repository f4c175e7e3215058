# SPDX-License-Identifier: GPL-2.0-only
"""Tests of reading registers and stacks: texts as QEMU 10 prints them, memory as kernels lay it out."""

from __future__ import annotations

import struct

import pytest

from harness.machine.registers import Return, read

X86 = """
CPU#1
RAX=0000000000000000 RBX=0000000000000001 RCX=0000000000000001 RDX=4000000000000000
RSI=ffffffffa02030fb RDI=0000000000000000 RBP=0000000000000008 RSP={sp:016x}
R8 =0000000000000000 R9 =0000000000000000 R10=0000000000000000 R11=0000000000000000
RIP={pc:016x} RFL={flags:08x} [---Z-P-] CPL={cpl} II=0 A20=1 SMM=0 HLT={halted}
CS =0010 0000000000000000 ffffffff 00a09b00 DPL=0 CS64 [-RA]
FPR0=0000000000000000 0000 FPR1=0000000000000000 0000
YMM00=0000000000000000 0000000000000000 0000000000000000 0000000000000000
"""
ARM = """
CPU#0
 PC={pc:016x} X00=0000000000000000 X01=0000000000000000
X26=0000000000000000 X27=fff000003fce3ec0 X28=ffff800080132584
X29={fp:016x} X30={link:016x}  SP=ffff80008179bbf0
PSTATE={state:08x} -ZC- EL{level}h  SVCR=00000000 --  BTYPE=0     FPCR=00000000 FPSR=00000000
Q00=3d3d3d3d3d3d3d3d:3d3d3d3d3d3d3d3d Q01=3864623837370000:676e61683d617461
"""
TEXT = 0xFFFFFFFF81000000
STACK = 0xFFA00000001B0000
ARM_TEXT, ARM_STACK = 0xFFFF800080100000, 0xFFFF800081790000


class Memory:
    """A guest's memory by address; reading what is not there gives nothing."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}

    def put(self, address: int, data: bytes) -> None:
        self.bytes |= {address + number: byte for number, byte in enumerate(data)}

    def words(self, address: int, *words: int) -> None:
        self.put(address, struct.pack(f"<{len(words)}Q", *words))

    def peek(self, address: int, size: int) -> bytes:
        found = [self.bytes.get(at) for at in range(address, address + size)]
        return bytes(byte for byte in found if byte is not None) if None not in found else b""


def call(memory: Memory, back: int, callee: int) -> None:
    """The direct call before a return address of x86."""
    memory.put(back - 5, b"\xe8" + struct.pack("<i", callee - back))


def branch(memory: Memory, back: int, callee: int) -> None:
    """The same of arm64: bl."""
    memory.put(back - 4, struct.pack("<I", 0x94000000 | ((callee - back + 4) >> 2) & 0x3FFFFFF))


@pytest.mark.parametrize(
    ("flags", "cpl", "halted", "wanted"),
    [(0x46, 0, 0, (False, True, False)), (0x246, 0, 1, (False, False, True)), (0x246, 3, 0, (True, False, False))],
)
def test_x86_tells_mode_interrupts_and_halt(flags: int, cpl: int, halted: int, wanted: tuple[bool, bool, bool]) -> None:
    cpu = read(1, X86.format(sp=STACK, pc=TEXT, flags=flags, cpl=cpl, halted=halted), Memory().peek)
    assert (cpu.index, cpu.pc, cpu.stack) == (1, TEXT, ())
    assert (cpu.user, cpu.masked, cpu.halted) == wanted
    assert "RSP=" in cpu.text and "FPR0" not in cpu.text and "YMM" not in cpu.text


def test_x86_words_of_the_stack_are_guesses_that_say_whom_they_called() -> None:
    memory, pointer = Memory(), STACK + 0x3FC0
    memory.words(pointer, 5, TEXT + 0x105, STACK + 0x3FF0, TEXT + 0x200, 0, TEXT + 0x305, 0, 0)
    call(memory, TEXT + 0x105, TEXT + 0x10)
    call(memory, TEXT + 0x305, TEXT - 0x100)
    memory.put(TEXT + 0x200 - 5, b"\x90" * 5)
    cpu = read(0, X86.format(sp=pointer, pc=TEXT, flags=0x46, cpl=0, halted=0), memory.peek)
    assert cpu.stack == (
        Return(TEXT + 0x105, sure=False, callee=TEXT + 0x10),
        Return(TEXT + 0x200, sure=False),
        Return(TEXT + 0x305, sure=False, callee=TEXT - 0x100),
    )


def test_x86_goes_on_behind_an_interrupt() -> None:
    """From the interrupt's stack to the task's, where the interrupted function stands in the saved registers."""
    memory, irq, task = Memory(), 0xFFA0000000004000, STACK + 0x3F00
    memory.words(irq - 16, 0, task)
    memory.words(task, 7, TEXT + 0x400, 0x10, 0x246, task + 0x50, 0x18, *[0] * 26)
    cpu = read(0, X86.format(sp=irq - 16, pc=TEXT, flags=0x46, cpl=0, halted=0), memory.peek)
    assert cpu.stack == (Return(TEXT + 0x401, sure=True),)


def test_arm64_frames_are_chained() -> None:
    memory = Memory()
    memory.words(ARM_STACK, ARM_STACK + 0x40, ARM_TEXT + 0x100, 0)
    memory.words(ARM_STACK + 0x40, ARM_STACK + 0x80, (ARM_TEXT + 0x200) & ~(0x7F << 48), 0)  # signed
    memory.words(ARM_STACK + 0x80, 0, 0, 1)
    branch(memory, ARM_TEXT + 0x300, ARM_TEXT - 0x1000)
    text = ARM.format(pc=ARM_TEXT, fp=ARM_STACK, link=ARM_TEXT + 0x300, state=0x614020C5, level=1)
    cpu = read(0, text, memory.peek)
    assert (cpu.pc, cpu.user, cpu.masked, cpu.halted) == (ARM_TEXT, False, True, False)
    assert cpu.stack == (
        Return(ARM_TEXT + 0x300, sure=False, callee=ARM_TEXT - 0x1000),
        Return(ARM_TEXT + 0x100, sure=True),
        Return(ARM_TEXT + 0x200, sure=True),
    )
    assert "Q00" not in cpu.text


def test_arm64_goes_on_behind_an_interrupt() -> None:
    memory, registers = Memory(), ARM_STACK + 0x100
    memory.words(ARM_STACK, registers + 296, ARM_TEXT + 0x10, 0)
    memory.words(registers, *[0] * 29, ARM_STACK + 0x300, ARM_TEXT + 0x50, 0, ARM_TEXT + 0x40, 0, 0, 0, 0)
    memory.words(registers + 296, 0, 0, 2)
    memory.words(ARM_STACK + 0x300, 0, ARM_TEXT + 0x60, 0)
    text = ARM.format(pc=ARM_TEXT, fp=ARM_STACK, link=ARM_TEXT + 0x10, state=0x61402045, level=1)
    cpu = read(0, text, memory.peek)
    assert cpu.stack == (
        Return(ARM_TEXT + 0x10, sure=True),
        Return(ARM_TEXT + 0x44, sure=True),
        Return(ARM_TEXT + 0x50, sure=False),
        Return(ARM_TEXT + 0x60, sure=True),
    )
    assert not cpu.masked


def test_frames_that_lead_in_a_circle_end() -> None:
    memory = Memory()
    memory.words(ARM_STACK, ARM_STACK, ARM_TEXT + 0x100, 0)
    text = ARM.format(pc=ARM_TEXT, fp=ARM_STACK, link=0, state=0xC5, level=1)
    assert read(0, text, memory.peek).stack == (Return(ARM_TEXT + 0x100, sure=True),)


def test_user_space_has_no_stack_of_the_kernel_s() -> None:
    memory = Memory()
    memory.words(ARM_STACK, 0, ARM_TEXT, 0)
    text = ARM.format(pc=0x400000, fp=ARM_STACK, link=0, state=0, level=0).replace("EL0h", "EL0t")
    cpu = read(0, text, memory.peek)
    assert (cpu.user, cpu.stack) == (True, ())


@pytest.mark.parametrize("text", ["", " pc       ffffffff80000000\n mstatus  0000", "PC=", "RIP=zz"])
def test_what_is_not_understood_is_kept_as_text(text: str) -> None:
    cpu = read(3, text, Memory().peek)
    assert (cpu.index, cpu.pc, cpu.stack, cpu.text) == (3, None, (), text.strip())
