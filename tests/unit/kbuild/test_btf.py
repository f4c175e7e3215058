# SPDX-License-Identifier: GPL-2.0-only
"""Tests of reading what a kernel has from its BTF, as bpftool prints it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import HarnessError
from harness.kbuild.btf import Btf, parse

TEXT = """[1] INT 'int' size=4 bits_offset=0 nr_bits=32 encoding=SIGNED
[2] STRUCT 'scx_dispatch_q' size=104 vlen=2
\t'lock' type_id=1 bits_offset=0
\t'pcpu' type_id=1 bits_offset=32
[3] UNION '(anon)' size=4 vlen=1
\t'inner' type_id=1 bits_offset=0
[4] ENUM64 'scx_dsq_id_flags' encoding=UNSIGNED size=8 vlen=1
\t'SCX_DSQ_BYPASS' val=9223372036854775811ULL
[5] ENUM '(anon)' encoding=UNSIGNED size=4 vlen=1
\t'LOOSE' val=1
\t'BELOW' val=-1
[6] FUNC_PROTO '(anon)' ret_type_id=0 vlen=1
\t'argument' type_id=1
[7] STRUCT 'scx_rq' size=112 vlen=1
\t'local_dsq' type_id=2 bits_offset=64
[8] FUNC 'init_dsq' type_id=6 linkage=static
"""


def test_members_enumerators_and_functions() -> None:
    read = parse(TEXT)
    assert set(read.members["scx_dispatch_q"]) == {"lock", "pcpu"}
    assert read.enumerators == {"SCX_DSQ_BYPASS": 9223372036854775811, "LOOSE": 1, "BELOW": -1}
    assert read.functions == {"init_dsq"}
    assert "argument" not in {name for names in read.members.values() for name in names}


def test_a_member_of_members_lies_at_the_sum_of_their_offsets(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").touch()
    printed = SimpleNamespace(run=lambda *_, **__: SimpleNamespace(stdout=TEXT))
    btf = Btf(tmp_path / "vmlinux", cast(Any, printed))
    assert btf.offset("scx_rq", "local_dsq", "pcpu") == 64 // 8 + 32 // 8
    assert btf.offset("scx_rq", "local_dsq") == 8
    assert btf.offset("scx_rq", "other") is None
    assert btf.offset("scx_rq", "local_dsq", "pcpu", "deeper") is None
    assert btf.offset("nothing", "local_dsq") is None


def test_a_kernel_without_btf_is_refused() -> None:
    with pytest.raises(HarnessError, match="no BTF"):
        parse("")
