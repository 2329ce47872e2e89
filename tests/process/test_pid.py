"""pid numbers: credentials(7), and what /proc/sys/kernel/pid_max promises."""
import pytest

from glasskernel.kernel.pid import (
    PIDTYPE_PGID,
    PIDTYPE_PID,
    PIDTYPE_SID,
    PIDTYPE_TGID,
    alloc_pid,
    change_pid,
    detach_pid,
    find_ge_pid,
    free_pid,
    pid_task,
    transfer_pid,
)
from glasskernel.lib.errno import EAGAIN, KernelError
from tests.process.fakes import FakeKernel


def test_numbers_grow_one_by_one():
    k = FakeKernel()
    assert [alloc_pid(k).nr for _ in range(3)] == [1, 2, 3]


def test_a_freed_number_is_not_used_again_at_once():
    k = FakeKernel()
    first = alloc_pid(k)
    free_pid(k, first)
    assert alloc_pid(k).nr == 2


def test_numbers_wrap_at_pid_max_and_start_above_the_reserved_ones():
    k = FakeKernel()
    k.pids.pid_max = 310
    k.pids.last_pid = 308
    assert [alloc_pid(k).nr for _ in range(3)] == [309, 300, 301]


def test_used_numbers_are_skipped_after_the_wrap():
    k = FakeKernel()
    k.pids.pid_max = 310
    k.pids.last_pid = 299
    taken = [alloc_pid(k) for _ in range(10)]
    assert [p.nr for p in taken] == list(range(300, 310))
    with pytest.raises(KernelError) as full:
        alloc_pid(k)
    assert full.value.errno == EAGAIN
    free_pid(k, taken[4])
    assert alloc_pid(k).nr == 304


def test_a_number_stays_in_use_while_a_group_carries_it():
    """fork(2): the pid does not match the ID of any existing process group or session."""
    k = FakeKernel()
    shell = k.process()
    job = k.process(shell)
    change_pid(job, PIDTYPE_PGID, job.thread_pid)
    member = k.process(job)                      # in job's group
    for pid_type in (PIDTYPE_PID, PIDTYPE_TGID, PIDTYPE_PGID, PIDTYPE_SID):
        detach_pid(job, pid_type)
    assert job.pid in k.pids.pids
    assert pid_task(k.pids.pids[job.pid], PIDTYPE_PID) is None
    assert pid_task(k.pids.pids[job.pid], PIDTYPE_PGID) is member
    detach_pid(member, PIDTYPE_PGID)
    assert job.pid not in k.pids.pids


def test_find_ge_pid_walks_in_order():
    k = FakeKernel()
    a, b = k.process(), k.process()
    assert find_ge_pid(1, k) is a.thread_pid
    assert find_ge_pid(a.pid + 1, k) is b.thread_pid
    assert find_ge_pid(b.pid + 1, k) is None


def test_transfer_keeps_the_place_in_the_list():
    k = FakeKernel()
    leader = k.process()
    second = k.process(leader)
    thread = k.thread(leader)
    transfer_pid(leader, thread, PIDTYPE_PGID)
    assert list(leader.signal.pgrp.tasks[PIDTYPE_PGID]) == [thread, second]
