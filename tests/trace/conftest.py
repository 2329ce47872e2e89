"""What the tests of tracefs share."""
import pytest


@pytest.fixture
def sh(boot):
    """sh(script) -> what it printed, run by root in /sys/kernel/tracing; one kernel (sh.kernel) for all calls of a test."""
    kernel = boot(cmdline="oops=panic")

    def go(script, status=0):
        done = kernel.run(["/bin/bash", "-c", f"cd /sys/kernel/tracing\n{script}"])
        assert done.status == status, (done.stdout, done.stderr)
        return (done.stdout + done.stderr).decode()

    go.kernel = kernel
    return go
