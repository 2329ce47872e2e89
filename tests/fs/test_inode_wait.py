"""Two tasks and one inode: who comes second waits until the first has read it, given it up or freed it."""

from __future__ import annotations

from glasskernel.fs.inode import (
    iget_failed,
    iget_locked,
    inode_dio_begin,
    inode_dio_end,
    inode_dio_wait,
    iput,
    unlock_new_inode,
)
from glasskernel.fs.inode_wait import wake_up_inode
from glasskernel.fs.types import I_NEW
from glasskernel.kernel.current import register
from glasskernel.kernel.kthread import kthread_run
from glasskernel.kernel.sched.core import schedule_timeout_interruptible
from glasskernel.kernel.workqueue import WorkStruct, schedule_work

INO = 1 << 40                                       # of no file


def run_threads(kernel, *bodies):
    """Runs kernel threads, one after the other at the start, while a program sleeps."""

    def start(_work):
        for number, body in enumerate(bodies):
            kthread_run(body, None, f"inode{number}")

    register.task = kernel.pids.idle_tasks[0]
    schedule_work(WorkStruct(start))
    assert kernel.run(["sleep", "0.5"]).status == 0


def tmpfs(kernel):
    return kernel.vfs.shm_mnt.mnt_sb


def test_the_second_waits_until_the_inode_has_been_read(boot):
    kernel = boot(cpus=2)
    seen = []

    def first(_arg):
        inode = iget_locked(tmpfs(kernel), INO)
        assert inode.i_state & I_NEW
        schedule_timeout_interruptible(10)
        seen.append("read")
        unlock_new_inode(inode)
        iput(inode)
        return 0

    def second(_arg):
        schedule_timeout_interruptible(3)
        inode = iget_locked(tmpfs(kernel), INO)
        seen.append("found")
        assert not inode.i_state & I_NEW
        inode.i_nlink = 0
        iput(inode)
        return 0

    run_threads(kernel, first, second)
    assert seen == ["read", "found"]


def test_the_second_reads_it_itself_when_the_first_gives_up(boot):
    kernel = boot(cpus=2)
    seen = []

    def first(_arg):
        inode = iget_locked(tmpfs(kernel), INO)
        schedule_timeout_interruptible(10)
        seen.append("failed")
        iget_failed(inode)
        return 0

    def second(_arg):
        schedule_timeout_interruptible(3)
        inode = iget_locked(tmpfs(kernel), INO)
        seen.append(bool(inode.i_state & I_NEW))
        iget_failed(inode)
        return 0

    run_threads(kernel, first, second)
    assert seen == ["failed", True]


def test_a_wakeup_for_another_reason_does_not_lose_the_one_that_is_waited_for(boot):
    kernel = boot(cpus=2)
    seen = []
    inodes = []

    def direct(_arg):
        inode = iget_locked(tmpfs(kernel), INO)
        unlock_new_inode(inode)
        inodes.append(inode)
        inode_dio_begin(inode)
        schedule_timeout_interruptible(10)
        wake_up_inode(inode)                        # as the end of its write-back would
        schedule_timeout_interruptible(10)
        seen.append("end")
        inode_dio_end(inode)
        return 0

    def waiter(_arg):
        schedule_timeout_interruptible(3)
        inode_dio_wait(inodes[0])
        seen.append("waited")
        inodes[0].i_nlink = 0
        iput(inodes[0])
        return 0

    run_threads(kernel, direct, waiter)
    assert seen == ["end", "waited"]
