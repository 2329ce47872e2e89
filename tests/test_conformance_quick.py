"""The quick part of `make conformance`: a few modules of CPython's tests, and stressors of stress-ng."""
import pytest

from tests.conformance import cpython, stress

# None that sleeps much: the host cannot skip time.
MODULES = ["test_posix", "test_fileio", "test_fcntl", "test_mmap", "test_popen", "test_select", "test_thread", "test_openpty",
           "test_sched", "test_resource", "test_epoll", "test_asyncio.test_server"]
STRESSORS = ["access", "alarm", "brk", "clock", "dentry", "dup", "eventfd", "fault", "fcntl", "fifo", "flock", "fork", "fsize", "futex",
             "get", "itimer", "kill", "link", "lockf", "madvise", "memfd", "mlock", "msyncmany", "nice", "pipe", "poll", "procfs",
             "pthread", "rename", "sigq", "sigsegv", "splice", "timerfd", "vfork", "vm", "zombie", "epoll", "sock", "sockfd", "sockpair",
             "udp", "rawsock"]


@pytest.mark.skipif(not cpython.SUITE.exists(), reason="needs libpython3.11-testsuite (make test)")
@pytest.mark.parametrize("module", MODULES)
def test_what_passes_on_linux_passes_inside(module, tmp_path):
    tmp_path.chmod(0o777)
    expected = cpython.on_host(module)
    problems = cpython.inside(module, tmp_path / "log")
    found, ended = cpython.read_log(tmp_path / "log")
    passed, good, _reasons, bad = cpython.differences(expected, found)
    assert ended and passed and good
    assert bad == []
    assert (problems["oopses"], problems["invariants"]) == (0, [])


@pytest.mark.skipif(stress.PROGRAM is None, reason="needs stress-ng (make test)")
@pytest.mark.parametrize("name", STRESSORS)
def test_stressor_verifies_its_results(name):
    answer = stress.inside(name)
    assert (answer["status"], answer["oopses"], answer["invariants"]) == (0, 0, []), answer["why"]
