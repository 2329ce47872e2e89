import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.kthread import kthread_run
from glasskernel.kernel.sched.core import msleep
from glasskernel.kernel.workqueue import WorkStruct, queue_work
from glasskernel.machine.disk import Disk


@pytest.fixture
def sh(boot):
    """sh(disks, script, **options) -> (stdout, kernel): a line of shell on a kernel with these disks. It must succeed."""

    def run(disks, script, **options):
        kernel = boot(disks=disks, **options)
        result = kernel.run(["/bin/sh", "-ec", script])
        assert result.status == 0, result
        return result.stdout.decode(), kernel

    return run


@pytest.fixture
def in_kernel():
    """in_kernel(kernel, *functions): runs them as kernel threads, all at once, until the last one has returned."""

    def run(kernel, *functions):
        register.task = kernel.machine.this_cpu.task
        left, errors = [len(functions)], []

        def thread(function):
            try:
                function()
            except BaseException as error:
                errors.append(error)
            finally:
                left[0] -= 1
            return 0

        def starter(_work):
            for number, function in enumerate(functions):
                kthread_run(thread, function, f"test/{number}")
            while left[0]:
                msleep(20)
            kernel.machine.stop()

        queue_work(kernel.workqueues.system_unbound_wq, WorkStruct(starter))
        kernel.machine.run()
        assert not errors, errors[0]
        assert not left[0], "the threads wait for ever"

    return run


@pytest.fixture
def memory_disk():
    """memory_disk(megabytes, **options) -> Disk"""
    return lambda megabytes=16, **options: Disk(size=megabytes << 20, **options)
