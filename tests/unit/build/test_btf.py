# SPDX-License-Identifier: GPL-2.0-only
"""Tests of reading what a kernel has from its BTF, as bpftool prints it."""

from __future__ import annotations

import pytest

from harness.build.btf import parse
from harness.records import HarnessError

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
[7] FUNC 'init_dsq' type_id=6 linkage=static
"""


def test_members_enumerators_and_functions() -> None:
    types, enumerators, functions = parse(TEXT)
    assert types["scx_dispatch_q"] == {"lock", "pcpu"}
    assert enumerators == {"SCX_DSQ_BYPASS": 9223372036854775811, "LOOSE": 1, "BELOW": -1}
    assert functions == {"init_dsq"}
    assert "argument" not in {name for names in types.values() for name in names}


def test_a_kernel_without_btf_is_refused() -> None:
    with pytest.raises(HarnessError, match="no BTF"):
        parse("")
