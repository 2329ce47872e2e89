import pytest

from glasskernel import Share
from glasskernel.kernel.current import register
from tests.conftest import CACHE
from tests.pagecache.fakedisk import FakeDisk


@pytest.fixture
def disk(boot, build_c):
    """(kernel, disk): a booted kernel with a disk at device number 240:0, and compiled programs at /programs."""
    kernel = boot(shares=[Share(str(CACHE), "/programs")])
    register.task = kernel.machine.this_cpu.task
    return kernel, FakeDisk(kernel)


@pytest.fixture
def guest_c(build_c):
    """guest_c(kernel, source, *argv) -> exit status of a C program inside."""
    def go(kernel, source, *argv):
        result = kernel.run([f"/programs/{build_c(source).name}", *argv])
        assert not result.stderr, result
        return result.status

    return go
