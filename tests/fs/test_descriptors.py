"""The descriptor table against a plain dict."""
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glasskernel import Kernel
from glasskernel.fs.file import __alloc_fd as alloc_fd
from glasskernel.fs.file import dup_fd, fd_install, fdget, pick_file, put_unused_fd
from glasskernel.fs.types import FMODE_PATH, O_CLOEXEC
from glasskernel.kernel.current import register
from glasskernel.kernel.task import FilesStruct
from glasskernel.lib.errno import EBADF, EMFILE, KernelError

LIMIT = 70


@pytest.fixture(scope="module")
def task():
    before = getattr(register, "task", None)
    kernel = Kernel()
    kernel.sysctl.nr_open = 1 << 20
    register.task = SimpleNamespace(files=FilesStruct(), kernel=kernel, mempolicy=None)
    yield register.task
    if before is None:
        del register.task
    else:
        register.task = before


def fake_file(mode=1):
    return SimpleNamespace(f_count=1, f_mode=mode)


steps = st.lists(st.one_of(
    st.tuples(st.just("open"), st.integers(0, LIMIT + 2), st.booleans()),
    st.tuples(st.just("reserve"), st.just(0), st.booleans()),
    st.tuples(st.just("give back"), st.integers(0, 5), st.just(False)),
    st.tuples(st.just("close"), st.integers(0, LIMIT), st.just(False))), max_size=60)


@given(steps)
def test_a_new_descriptor_is_always_the_lowest_free_one(task, operations):
    files = task.files = FilesStruct()
    open_now, reserved = {}, []
    for what, number, cloexec in operations:
        if what in ("open", "reserve"):
            free = next((n for n in range(number, LIMIT) if n not in open_now and n not in reserved), None)
            if free is None:
                with pytest.raises(KernelError) as failure:
                    alloc_fd(files, number, LIMIT, 0)
                assert failure.value.errno == EMFILE
                continue
            assert alloc_fd(files, number, LIMIT, O_CLOEXEC if cloexec else 0) == free
            assert bool(files.close_on_exec >> free & 1) == cloexec
            if what == "open":
                open_now[free] = fake_file()
                fd_install(free, open_now[free])
            else:
                reserved.append(free)
        elif what == "give back" and number < len(reserved):
            put_unused_fd(reserved.pop(number))
        elif what == "close":
            assert pick_file(files, number) is open_now.pop(number, None)
    assert {n: f for n, f in enumerate(files.fd) if f is not None} == open_now
    copy = dup_fd(files)
    assert {n: f for n, f in enumerate(copy.fd) if f is not None} == open_now
    assert all(f.f_count == 2 for f in open_now.values())
    free = next(n for n in range(LIMIT + 1) if n not in open_now)
    assert alloc_fd(copy, 0, LIMIT + 1, 0) == free          # what the parent reserved is free in the child


@pytest.mark.parametrize("number", [-1, 1, 2, 100, 1 << 31])
def test_a_descriptor_that_is_not_open_is_ebadf(task, number):
    task.files = FilesStruct([fake_file(), None, fake_file(FMODE_PATH)])
    assert fdget(0) is task.files.fd[0]
    with pytest.raises(KernelError) as failure:
        fdget(number)
    assert failure.value.errno == EBADF
