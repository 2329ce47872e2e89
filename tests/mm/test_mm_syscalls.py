"""mprotect, mremap, madvise, mincore, mlock, msync: each as its manual page says, and in any order."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.kernel.task import RLIMIT_AS, RLIMIT_MEMLOCK
from glasskernel.lib.errno import EACCES, EAGAIN, EBUSY, EFAULT, EINVAL, ENOMEM, EPERM
from glasskernel.mm import mmap
from glasskernel.mm.madvise import sys_madvise
from glasskernel.mm.mincore import sys_mincore
from glasskernel.mm.mlock import sys_mlock, sys_mlock2, sys_mlockall, sys_munlock, sys_munlockall
from glasskernel.mm.mmap import check_mm
from glasskernel.mm.mprotect import sys_mprotect
from glasskernel.mm.mremap import MREMAP_FIXED, MREMAP_MAYMOVE, sys_mremap
from glasskernel.mm.msync import sys_msync
from glasskernel.mm.types import VM_ACCOUNT
from tests.mm.harness import PAGE, RW, Disk, errno_of, kernel_with_a_cache

ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
CAP_IPC_LOCK = 14


@pytest.fixture
def kernel():
    with kernel_with_a_cache() as kernel:
        yield kernel
        assert check_mm(kernel.task.mm) == []


@pytest.fixture
def disk(kernel):
    d = Disk(kernel, bytes(range(256)) * 64)
    d.file.f_op.fsync = lambda *args: synced.append(args[1:])
    synced = d.synced = []
    kernel.disks.append(d)
    return d


def anon(pages, prot=RW):
    return mmap.do_mmap(None, 0, pages * PAGE, prot, ANON, 0)


def areas(kernel):
    return [((v.vm_end - v.vm_start) // PAGE, v.vm_flags & 7) for v in kernel.task.mm.vmas]


# ---- mprotect ---------------------------------------------------------------------------------------
def test_rights_taken_away_are_gone_at_once_and_come_back(kernel):
    a = anon(1)
    copy_to_user(a, b"data")
    sys_mprotect(a, PAGE, mmap.PROT_READ)
    assert errno_of(copy_to_user, a, b"x") == EFAULT
    sys_mprotect(a, PAGE, 0)
    assert errno_of(copy_from_user, a, 1) == EFAULT
    sys_mprotect(a, PAGE, RW)
    assert copy_from_user(a, 4) == b"data"
    copy_to_user(a, b"more")
    assert copy_from_user(a, 4) == b"more"


def test_an_area_splits_and_merges_again(kernel):
    a = anon(4)
    sys_mprotect(a + PAGE, PAGE, mmap.PROT_READ)
    assert areas(kernel) == [(1, 3), (1, 1), (2, 3)]
    sys_mprotect(a + PAGE, PAGE, RW)
    assert areas(kernel) == [(4, 3)]


def test_a_hole_is_enomem_and_what_lies_before_it_has_changed(kernel):
    a = anon(3)
    mmap.do_munmap(kernel.task.mm, a + PAGE, PAGE)
    assert errno_of(sys_mprotect, a, 3 * PAGE, mmap.PROT_READ) == ENOMEM
    assert areas(kernel) == [(1, 1), (1, 3)]
    assert errno_of(sys_mprotect, a + 1, PAGE, RW) == EINVAL
    assert errno_of(sys_mprotect, a, PAGE, 0x80) == EINVAL
    assert sys_mprotect(a, 0, RW) == 0


def test_a_shared_mapping_of_a_file_opened_for_reading_cannot_become_writable(kernel, disk):
    disk.file.f_mode = 1
    a = disk.mmap(1, prot=mmap.PROT_READ)
    assert errno_of(sys_mprotect, a, PAGE, RW) == EACCES


def test_a_private_file_page_is_copied_after_it_became_writable(kernel, disk):
    a = disk.mmap(1, mmap.MAP_PRIVATE, mmap.PROT_READ)
    copy_from_user(a, 1)
    sys_mprotect(a, PAGE, RW)
    copy_to_user(a, b"mine")
    assert disk.read(0, 4) == bytes(range(4))


def test_the_file_hears_of_the_first_store_after_mprotect(kernel, disk):
    a = disk.mmap(1, prot=mmap.PROT_READ)
    copy_from_user(a, 1)
    sys_mprotect(a, PAGE, RW)
    assert not disk.mapping.dirty
    copy_to_user(a, b"x")
    assert list(disk.mapping.dirty) == [0]


# ---- mremap -----------------------------------------------------------------------------------------
def test_growing_in_place_and_shrinking(kernel):
    a = anon(4)
    mmap.do_munmap(kernel.task.mm, a + 2 * PAGE, 2 * PAGE)
    copy_to_user(a, b"here")
    assert sys_mremap(a, 2 * PAGE, 4 * PAGE, 0, 0) == a
    copy_to_user(a + 3 * PAGE, b"new")
    assert sys_mremap(a, 4 * PAGE, PAGE, 0, 0) == a
    assert copy_from_user(a, 4) == b"here"
    assert areas(kernel) == [(1, 3)]


def test_moving_takes_the_pages_along(kernel):
    a = anon(2)
    anon(1)                                       # lies below
    blocker = mmap.do_mmap(None, a + 2 * PAGE, PAGE, RW, ANON | mmap.MAP_FIXED, 0)
    sys_mprotect(blocker, PAGE, mmap.PROT_READ)
    copy_to_user(a + PAGE, b"moved")
    assert errno_of(sys_mremap, a, 2 * PAGE, 3 * PAGE, 0, 0) == ENOMEM
    committed = kernel.mem.vm_committed
    b = sys_mremap(a, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE, 0)
    assert b != a and copy_from_user(b + PAGE, 5) == b"moved"
    assert errno_of(copy_from_user, a, 1) == EFAULT
    assert kernel.mem.vm_committed == committed + 1


def test_fixed_replaces_what_was_there(kernel):
    a, b = anon(1), anon(8)
    copy_to_user(a, b"payload")
    assert sys_mremap(a, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, b + PAGE) == b + PAGE
    assert copy_from_user(b + PAGE, 7) == b"payload"


def test_old_length_zero_maps_a_shared_area_twice(kernel, disk):
    a = disk.mmap(2)
    b = sys_mremap(a, 0, 2 * PAGE, MREMAP_MAYMOVE, 0)
    copy_to_user(b, b"twice")
    assert copy_from_user(a, 5) == b"twice"
    assert errno_of(sys_mremap, anon(1), 0, PAGE, MREMAP_MAYMOVE, 0) == EINVAL


def test_what_mremap_refuses(kernel):
    a = anon(2)
    assert errno_of(sys_mremap, a + 1, PAGE, PAGE, 0, 0) == EINVAL
    assert errno_of(sys_mremap, a, PAGE, 0, 0, 0) == EINVAL
    assert errno_of(sys_mremap, a, PAGE, PAGE, MREMAP_FIXED, a) == EINVAL
    assert errno_of(sys_mremap, a, PAGE, PAGE, 8, 0) == EINVAL
    assert errno_of(sys_mremap, a, 2 * PAGE, 2 * PAGE, 3, a + PAGE) == EINVAL            # overlap
    assert errno_of(sys_mremap, 0x10000, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0) == EFAULT
    assert errno_of(sys_mremap, a, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE, 0) == EFAULT
    kernel.task.signal.rlim[RLIMIT_AS] = (2 * PAGE, 2 * PAGE)
    assert errno_of(sys_mremap, a, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE, 0) == ENOMEM


def test_limits_of_locked_memory_count_growth(kernel):
    a = anon(1)
    sys_mlock(a, PAGE)
    kernel.task.signal.rlim[RLIMIT_MEMLOCK] = (PAGE, PAGE)
    assert errno_of(sys_mremap, a, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0) == EAGAIN


# ---- madvise ----------------------------------------------------------------------------------------
def test_dontneed_gives_zeros_or_the_file_again(kernel, disk):
    a, f = anon(2), disk.mmap(1, mmap.MAP_PRIVATE)
    copy_to_user(a, b"x" * 5000)
    copy_to_user(f, b"copy")
    assert sys_madvise(a, 2 * PAGE, 4) == sys_madvise(f, PAGE, 4) == 0
    assert copy_from_user(a, 5000) == bytes(5000)
    assert copy_from_user(f, 4) == bytes(range(4))


def test_advice_splits_and_merges_areas(kernel):
    a = anon(3)
    sys_madvise(a + PAGE, PAGE, 10)               # DONTFORK
    assert len(areas(kernel)) == 3
    sys_madvise(a + PAGE, PAGE, 11)
    assert len(areas(kernel)) == 1


def test_what_madvise_refuses(kernel, disk):
    a = anon(3)
    assert errno_of(sys_madvise, a + 1, PAGE, 4) == EINVAL
    for unknown in (12, 13, 100, 5):
        assert errno_of(sys_madvise, a, PAGE, unknown) == EINVAL
    assert errno_of(sys_madvise, a, (1 << 64) - 1, 4) == EINVAL
    assert sys_madvise(a, 0, 4) == 0
    mmap.do_munmap(kernel.task.mm, a + PAGE, PAGE)
    copy_to_user(a + 2 * PAGE, b"x")
    assert errno_of(sys_madvise, a, 3 * PAGE, 4) == ENOMEM
    assert copy_from_user(a + 2 * PAGE, 1) == b"\0"        # the rest was done all the same
    sys_mlock(a, PAGE)
    assert errno_of(sys_madvise, a, PAGE, 4) == EINVAL
    assert errno_of(sys_madvise, disk.mmap(1), PAGE, 8) == EINVAL      # FREE of a file
    assert errno_of(sys_madvise, disk.mmap(1), PAGE, 18) == EINVAL     # WIPEONFORK of a file
    assert errno_of(sys_madvise, disk.mmap(1, mmap.MAP_PRIVATE), PAGE, 9) == EACCES


def test_willneed_reads_the_file(kernel, disk):
    a = disk.mmap(4)
    assert sys_madvise(a, 3 * PAGE, 3) == 0
    assert sorted(disk.mapping.pages) == [0, 1, 2]


# ---- mincore ----------------------------------------------------------------------------------------
def test_mincore_tells_what_is_in_memory(kernel, disk):
    vec, a, f = anon(1), anon(3), disk.mmap(4)
    copy_to_user(a + PAGE, b"x")
    assert sys_mincore(a, 3 * PAGE - 5, vec) == 0
    assert copy_from_user(vec, 4) == b"\0\1\0\0"
    disk.file.f_ra = None
    disk.read(2 * PAGE, 1)
    sys_mincore(f, 4 * PAGE, vec)
    assert copy_from_user(vec, 4) == bytes(int(i in disk.mapping.pages) for i in range(4))
    assert errno_of(sys_mincore, f + 1, PAGE, vec) == EINVAL
    assert errno_of(sys_mincore, 0x10000, PAGE, vec) == ENOMEM
    assert errno_of(sys_mincore, f, PAGE, 0x10000) == EFAULT


def test_mincore_does_not_tell_strangers_about_files(kernel, disk):
    vec = anon(1)
    disk.file.f_mode = 1
    f = disk.mmap(4, mmap.MAP_PRIVATE, mmap.PROT_READ)
    disk.inode.i_uid = 7
    sys_mincore(f, 4 * PAGE, vec)
    assert copy_from_user(vec, 4) == b"\1\1\1\1"


# ---- mlock ------------------------------------------------------------------------------------------
def test_locked_pages_are_there_at_once_and_counted(kernel):
    a = anon(4)
    mm = kernel.task.mm
    sys_mlock(a + 100, PAGE)                      # touches two pages
    assert (mm.locked_vm, mm.rss_stat[1]) == (2, 2)
    sys_mlock2(a + 2 * PAGE, 2 * PAGE, 1)         # on fault
    assert (mm.locked_vm, mm.rss_stat[1]) == (4, 2)
    sys_munlock(a, PAGE)
    assert mm.locked_vm == 3
    sys_munlockall()
    assert mm.locked_vm == 0 and len(areas(kernel)) == 1


def test_mlockall_covers_what_is_and_what_will_be(kernel):
    anon(2)
    assert sys_mlockall(3) == 0
    anon(3)
    assert kernel.task.mm.locked_vm == 5
    for wrong in (0, 4, 8):
        assert errno_of(sys_mlockall, wrong) == EINVAL
    sys_munlockall()
    assert kernel.task.mm.def_flags == 0


def test_the_limit_on_locked_memory(kernel):
    a = anon(4)
    kernel.task.signal.rlim[RLIMIT_MEMLOCK] = (2 * PAGE, 2 * PAGE)
    sys_mlock(a, 2 * PAGE)
    sys_mlock(a, 2 * PAGE)                        # what is locked does not count twice
    assert errno_of(sys_mlock, a, 3 * PAGE) == ENOMEM
    kernel.task.signal.rlim[RLIMIT_MEMLOCK] = (0, 0)
    assert errno_of(sys_mlock, a, PAGE) == EPERM
    assert errno_of(sys_mlockall, 1) == EPERM
    kernel.task.cred.cap_effective = 1 << CAP_IPC_LOCK
    sys_mlock(a, 4 * PAGE)
    assert errno_of(sys_mlock, 0x10000, PAGE) == ENOMEM


# ---- msync ------------------------------------------------------------------------------------------
def test_msync_stores_the_part_of_the_file_that_is_mapped(kernel, disk):
    a = disk.mmap(2, index=1)
    assert sys_msync(a + PAGE, 100, 4) == 0
    assert disk.synced == [(2 * PAGE, 3 * PAGE - 1, 1)]
    assert sys_msync(a, 2 * PAGE, 1) == 0         # MS_ASYNC: nothing to do
    assert sys_msync(disk.mmap(1, mmap.MAP_PRIVATE), PAGE, 4) == 0
    assert len(disk.synced) == 1


def test_what_msync_refuses(kernel, disk):
    a = disk.mmap(1)
    for flags in (5, 8):
        assert errno_of(sys_msync, a, PAGE, flags) == EINVAL
    assert errno_of(sys_msync, a + 1, PAGE, 4) == EINVAL
    assert errno_of(sys_msync, 0x10000, PAGE, 4) == ENOMEM
    sys_mlock(a, PAGE)
    assert errno_of(sys_msync, a, PAGE, 2) == EBUSY


# ---- all together -----------------------------------------------------------------------------------
pages = st.integers(0, 11)
counts = st.integers(1, 6)
steps = st.lists(st.one_of(
    st.tuples(st.just("map"), pages, counts),
    st.tuples(st.just("unmap"), pages, counts),
    st.tuples(st.just("protect"), pages, counts, st.sampled_from([0, 1, 3])),
    st.tuples(st.just("write"), pages, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("dontneed"), pages, counts),
    st.tuples(st.just("lock"), pages, counts),
    st.tuples(st.just("unlock"), pages, counts),
    st.tuples(st.just("move"), pages, counts, pages, counts),
    st.tuples(st.just("advise"), pages, counts, st.sampled_from([0, 1, 2, 10, 11])),
), max_size=25)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_any_mix_of_calls_leaves_the_pages_a_plain_table_would_have(steps):
    """The model: page number -> [rights, bytes]; what is not in it is not mapped."""
    base = 0x5000_0000_0000
    with kernel_with_a_cache(16) as kernel:
        mm = kernel.task.mm
        model = {}
        locked = set()
        for name, *args in steps:
            first = args[0]
            span = range(first, first + args[1]) if isinstance(args[1], int) else range(first, first + 1)
            at, size = base + first * PAGE, len(span) * PAGE
            whole = all(p in model for p in span)
            if name == "map":
                mmap.do_mmap(None, at, size, RW, ANON | mmap.MAP_FIXED, 0)
                model.update({p: [3, b""] for p in span})
                locked -= set(span)
            elif name == "unmap":
                mmap.do_munmap(mm, at, size)
                for p in span:
                    model.pop(p, None)
                locked -= set(span)
            elif name == "protect":
                if whole:
                    sys_mprotect(at, size, args[2])
                else:
                    assert errno_of(sys_mprotect, at, size, args[2]) == ENOMEM
                for p in span:
                    if p not in model:
                        break
                    model[p][0] = args[2]
            elif name == "write":
                if first in model and model[first][0] & 2:
                    copy_to_user(at, args[1])
                    model[first][1] = args[1] + model[first][1][len(args[1]) :]
                else:
                    assert errno_of(copy_to_user, at, args[1]) == EFAULT
            elif name == "dontneed" and not locked & set(span) and whole:
                sys_madvise(at, size, 4)
                for p in span:
                    model[p][1] = b""
            elif name == "lock" and whole and all(model[p][0] for p in span):
                sys_mlock(at, size)
                locked |= set(span)
            elif name == "unlock" and whole:
                sys_munlock(at, size)
                locked -= set(span)
            elif name == "advise" and whole:
                sys_madvise(at, size, args[2])
            elif name == "move" and whole and not locked & set(span):
                target, new = args[2], args[3]
                to = range(target, target + new)
                one = mm.vmas.first_ending_after(at).vm_end >= at + size
                if set(to) & set(span) or (not one and len(span) < new):
                    continue
                if not one:                       # more than one area cannot move
                    continue
                assert sys_mremap(at, size, new * PAGE, 3, base + target * PAGE) == base + target * PAGE
                moved = {target + i: model[first + i] for i in range(min(new, len(span)))}
                rights = model[first][0]
                moved.update({target + i: [rights, b""] for i in range(len(span), new)})
                for p in span:
                    del model[p]
                model.update(moved)
                locked -= set(to)
            assert check_mm(mm) == []
            assert mm.locked_vm == len(locked)
        for p in range(24):
            if p in model and model[p][0]:
                assert copy_from_user(base + p * PAGE, 8) == model[p][1].ljust(8, b"\0")
            else:
                assert errno_of(copy_from_user, base + p * PAGE, 8) == EFAULT
        charged = [v for v in mm.vmas if v.vm_flags & VM_ACCOUNT]
        assert kernel.mem.vm_committed == sum((v.vm_end - v.vm_start) >> 12 for v in charged)
