"""Kernel threads on a machine whose network is up."""
import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.kthread import kthread_run
from glasskernel.kernel.workqueue import WorkStruct, queue_work


@pytest.fixture
def in_thread(boot):
    """in_thread(function, **machine): runs function(kernel, net) as a thread of such a machine, which it answers."""

    def run(function, **machine):
        kernel = boot(**machine)
        errors = []

        def thread(_data):
            from glasskernel.net.init import start_network

            try:
                function(kernel, start_network(kernel).init_net)
            except BaseException as error:
                errors.append(error)
            kernel.machine.stop()
            return 0

        register.task = kernel.machine.this_cpu.task
        queue_work(kernel.workqueues.system_unbound_wq, WorkStruct(lambda _work: kthread_run(thread, None, "test") and None))
        kernel.machine.run()
        if errors:
            raise errors[0]
        return kernel

    return run
