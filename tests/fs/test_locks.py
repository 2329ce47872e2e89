"""POSIX record locks against a table of bytes."""
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glasskernel.fs.locks import (
    F_RDLCK,
    F_UNLCK,
    F_WRLCK,
    FL_POSIX,
    FileLock,
    locks_remove_posix,
    posix_lock_inode,
    posix_locks_deadlock,
    posix_test_lock,
)
from glasskernel.kernel.current import register

SIZE = 12


def fake_inode():
    vfs = SimpleNamespace(file_locks=[], blocked_locks=[])
    return SimpleNamespace(i_flctx=None, i_sb=SimpleNamespace(kernel=SimpleNamespace(vfs=vfs)))


def request(owner, kind, start, end):
    return FileLock(SimpleNamespace(f_inode=None), owner, FL_POSIX, kind, start, end)


operations = st.lists(st.tuples(
    st.integers(0, 2), st.sampled_from([F_RDLCK, F_WRLCK, F_UNLCK]), st.integers(0, SIZE - 1), st.integers(0, SIZE - 1)))


@given(operations)
def test_ranges_split_merge_and_conflict_as_if_every_byte_were_locked_alone(steps):
    inode, owners = fake_inode(), ["a", "b", "c"]
    table = [{} for _ in range(SIZE)]                 # byte -> owner -> type
    for who, kind, one, other in steps:
        start, end = min(one, other), max(one, other)
        owner = owners[who]
        free = kind == F_UNLCK or all(
            held is owner or (kind == F_RDLCK and type == F_RDLCK)
            for byte in table[start : end + 1] for held, type in byte.items())
        assert (posix_lock_inode(inode, request(owner, kind, start, end)) is None) == free
        if free:
            for byte in table[start : end + 1]:
                byte.pop(owner, None)
                if kind != F_UNLCK:
                    byte[owner] = kind
        held = [{} for _ in range(SIZE)]
        for lock in inode.i_flctx.posix:
            for position in range(lock.start, lock.end + 1):
                assert lock.owner not in held[position], "two ranges of one owner overlap"
                held[position][lock.owner] = lock.type
        assert held == table
        for lock in inode.i_flctx.posix:              # neighbours of one owner and type are one range
            assert not any(o.owner is lock.owner and o.type == lock.type and o.start == lock.end + 1
                           for o in inode.i_flctx.posix)
        assert sorted(map(id, inode.i_sb.kernel.vfs.file_locks)) == sorted(map(id, inode.i_flctx.posix))


def test_closing_any_descriptor_drops_all_locks_of_that_process():
    inode = fake_inode()
    posix_lock_inode(inode, request("a", F_WRLCK, 0, 3))
    posix_lock_inode(inode, request("b", F_RDLCK, 5, 6))
    locks_remove_posix(SimpleNamespace(f_inode=inode), "a")
    assert [lock.owner for lock in inode.i_flctx.posix] == ["b"]
    assert posix_test_lock(inode, request("c", F_WRLCK, 0, 4)) is None
    assert posix_test_lock(inode, request("c", F_WRLCK, 0, 5)).owner == "b"


@pytest.fixture
def waiting():
    blocked = []
    before = getattr(register, "task", None)
    register.task = SimpleNamespace(kernel=SimpleNamespace(vfs=SimpleNamespace(blocked_locks=blocked)))
    yield blocked
    if before is None:
        del register.task
    else:
        register.task = before


def test_two_processes_that_wait_for_each_other_are_a_deadlock(waiting):
    held_by_a, held_by_b = request("a", F_WRLCK, 0, 0), request("b", F_WRLCK, 1, 1)
    waits = request("b", F_WRLCK, 0, 0)
    waits.blocker = held_by_a
    assert not posix_locks_deadlock(request("a", F_WRLCK, 1, 1), held_by_b)
    waiting.append(waits)
    assert posix_locks_deadlock(request("a", F_WRLCK, 1, 1), held_by_b)
    assert not posix_locks_deadlock(request("c", F_WRLCK, 1, 1), held_by_b)
