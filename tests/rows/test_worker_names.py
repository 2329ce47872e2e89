"""The comm of a kernel worker carries the queue that it works for: + while it works, - afterwards (wq_worker_comm)."""
from __future__ import annotations

import re

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import msleep
from glasskernel.kernel.workqueue import WorkStruct, alloc_workqueue, queue_work

LOOK = "for t in /proc/[0-9]*; do read c < $t/comm; case $c in kworker*mine*) echo $c; grep ^Name $t/status; cut -d' ' -f2 $t/stat; ps -o comm= ${t#/proc/};; esac; done"


def test_a_busy_worker_shows_its_queue_in_proc_and_ps(boot):
    kernel = boot()
    register.task = kernel.pids.idle_tasks[0]
    queue = alloc_workqueue(kernel, "mine", 0)
    queue_work(queue, WorkStruct(lambda _work: msleep(500)))
    busy = kernel.run(["sh", "-c", f"sleep 0.1; {LOOK}"]).stdout.decode().splitlines()
    assert re.fullmatch(r"kworker/\d:\d\+mine", busy[0])
    assert busy[1] == f"Name:\t{busy[0]}" and busy[2] == f"({busy[0]})"
    idle = kernel.run(["sh", "-c", f"sleep 1; {LOOK}"]).stdout.decode().splitlines()
    assert idle[0] == busy[0].replace("+", "-")
