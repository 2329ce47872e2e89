"""Call graphs stay as like Linux's as they are. docs/fidelity.md has all labs (`make fidelity`); these are the quick ones."""
from __future__ import annotations

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import fidelity

# lab: at least so many per cent of our calls are Linux's, and so many of Linux's are ours
REACHED = {
    "c-dup": (98, 78), "c-nanosleep": (98, 66), "c-fork": (97, 58), "c-pipe2p": (96, 56), "c-sighandler": (98, 62),
    "c-openread-cold": (96, 52), "c-rename": (98, 60), "c-writefsync": (93, 64), "c-mmap-cold": (94, 60), "c-mkdir": (93, 64),
    "write-fsync-allcpus": (91, 26), "c-udp": (95, 70),
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fidelity")


@pytest.mark.parametrize("lab", REACHED)
def test_a_lab_calls_what_linux_calls(lab, scratch):
    ours = fidelity.our_edges(lab, scratch)
    both, only_ours, only_theirs = fidelity.compare(lab, fidelity.linux_edges(lab), ours)
    forward, backward = REACHED[lab]
    assert len(both) * 100 >= forward * (len(both) + len(only_ours)), only_ours
    assert len(both) * 100 >= backward * (len(both) + len(only_theirs)), only_theirs
    names = {name for edge in ours for name in edge} - {fidelity.BASE}
    assert names <= fidelity.reference_names(), "functions that Linux has not: @notrace, or a reason in fidelity.toml"


def test_the_table_of_exceptions_is_true():
    """What the reference is said not to show, it does not trace or does not exist here; what is renamed exists there."""
    from glasskernel.kernel.kallsyms import kallsyms_table

    rules, here = fidelity.rules(), {symbol.name for symbol in kallsyms_table().symbols}
    assert not [name for name in rules["inlined"] if name not in here], "passed through, but no function of ours"
    for edge in rules["explained"]:
        caller, callee = edge.split(" > ")
        assert {caller, callee} <= here | rules["inlined"] | {"vfs_read"}, edge


def test_every_lab_has_its_capture():
    assert [name for name in fidelity.labs() if not (fidelity.DATA / "edges" / f"{name}.txt.xz").exists()] == []
