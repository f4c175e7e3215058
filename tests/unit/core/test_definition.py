# SPDX-License-Identifier: GPL-2.0-only
"""Tests of reading vm/ARCH.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core import definition
from harness.core.errors import UsageError
from harness.core.records import MachineSpec

REAL = definition.VM_FOLDER


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of definitions of our own, holding a copy of the real x86_64."""
    (tmp_path / "x86_64.yaml").write_text((REAL / "x86_64.yaml").read_text())
    monkeypatch.setattr(definition, "VM_FOLDER", tmp_path)
    return tmp_path


def test_every_definition_is_whole_and_named_after_its_file() -> None:
    assert "x86_64" in definition.architectures()
    for arch in definition.architectures():
        read = definition.load(arch)
        assert read.arch == arch
        assert read.spec("default").arch == arch
        assert set(read.qemu.cpu) == {"tcg", "kvm"}
        for name in read.kernel.fragments:
            assert (REAL.parent / "kconfigs" / f"{name}.config").is_file(), name


def test_default_machine_of_x86_64() -> None:
    assert definition.load("x86_64").spec("default") == MachineSpec("x86_64", "default", 2, 2, 1, 1024)


def test_unknown_machine_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match="no machine 'huge' for x86_64") as raised:
        definition.load("x86_64").spec("huge")
    assert "default" in raised.value.step


def test_unknown_architecture_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match="architecture 's390'") as raised:
        definition.load("s390")
    assert "x86_64" in raised.value.step


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("possible_cpus: 2", "possible_cpus: two", "possible_cpus"),
        ("  virtio: device", "  #", "virtio"),
        ("kvm: host}", "kvm: [host]}", "cpu"),
        ("fragments: [base", "fragments: [[base]", "fragments"),
    ],
)
def test_a_malformed_field_is_named_with_its_file(folder: Path, old: str, new: str, named: str) -> None:
    file = folder / "x86_64.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(UsageError) as raised:
        definition.load("x86_64")
    assert str(file) in raised.value.what and named in raised.value.what


def test_a_file_that_is_not_yaml_is_named_with_the_line(folder: Path) -> None:
    (folder / "x86_64.yaml").write_text("arch: x86_64\nkernel: {srcarch: x86\nqemu: [\n")
    with pytest.raises(UsageError, match=r"x86_64\.yaml: not YAML: .*line 3"):
        definition.load("x86_64")


def test_an_empty_file_is_refused(folder: Path) -> None:
    (folder / "x86_64.yaml").write_text("")
    with pytest.raises(UsageError, match=r"x86_64\.yaml"):
        definition.load("x86_64")
