"""A kernel of memory and page cache only: no processes, no VFS. Disk is a file system of one file."""
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

from glasskernel.fs.types import S_IFREG, File, Inode, Kiocb
from glasskernel.kernel.current import register
from glasskernel.kernel.rcu.rcu import RcuData
from glasskernel.kernel.sysctl import Sysctl
from glasskernel.kernel.task import RLIM_INFINITY, Cred, TaskStruct
from glasskernel.kernel.tracepoint import Tracepoints
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.machine.machine import Machine
from glasskernel.mm import filemap, memory, mmap, page_alloc, page_alloc_slow
from glasskernel.mm.iov_iter import KernelIter
from glasskernel.mm.page_alloc import NR_FILE_DIRTY, NR_FILE_PAGES, PG_dirty, PG_uptodate, put_page
from glasskernel.mm.page_writeback import end_page_writeback, set_page_writeback
from glasskernel.mm.pagemap import add_to_page_cache_lru, pagecache_init, unlock_page
from glasskernel.mm.slab_common import kmem_cache_create, kmem_cache_init
from glasskernel.mm.slub_check import check_slab, count_objects
from glasskernel.mm.types import VM_WRITE, AddressSpace, AddressSpaceOperations

PAGE = 4096
# A class would mangle the name.
set_page_dirty_nobuffers = vars(filemap)["__set_page_dirty_nobuffers"]
RW = mmap.PROT_READ | mmap.PROT_WRITE


class Disk:
    """A file system of one file: `data` is what is stored, `reads` which pages were asked for, in order."""

    def __init__(self, kernel, data=b"", readpages=True):
        self.kernel = kernel
        self.data = bytearray(data)
        self.reads = []
        self.bad = set()                          # pages that cannot be read
        self.inode = Inode(SimpleNamespace(kernel=kernel, s_maxbytes=(1 << 63) - 1, s_bdi=None, s_flags=0), 1, S_IFREG)
        self.inode.i_size = len(data)
        self.ops = AddressSpaceOperations(
            readpage=self.readpage, readpages=self.readpages if readpages else None,
            write_begin=self.write_begin, write_end=self.write_end, writepage=self.writepage,
            set_page_dirty=set_page_dirty_nobuffers)
        self.mapping = self.inode.i_mapping = AddressSpace(self.inode, self.ops)
        fops = SimpleNamespace(mmap=filemap.generic_file_mmap, get_unmapped_area=None)
        path = SimpleNamespace(mnt=None, dentry=None)
        self.file = File(path, self.inode, fops, 0, 3, Cred(), f_mapping=self.mapping)

    def fill(self, index, pfn):
        self.reads.append(index)
        if index in self.bad:
            raise KernelError(EIO)
        page = self.data[index * PAGE : (index + 1) * PAGE]
        self.kernel.mem.ram[pfn << 12 : (pfn + 1) << 12] = bytes(page).ljust(PAGE, b"\0")

    def readpage(self, file, mapping, index, pfn):
        try:
            self.fill(index, pfn)
            self.kernel.mem.flags[pfn] |= PG_uptodate
        finally:
            unlock_page(self.kernel, pfn)

    def readpages(self, file, mapping, pages):
        for index, pfn in pages:
            if add_to_page_cache_lru(self.kernel, pfn, mapping, index):
                with suppress(KernelError):
                    self.readpage(file, mapping, index, pfn)
            put_page(self.kernel, pfn)

    def write_begin(self, file, mapping, pos, length):
        pfn = filemap.grab_cache_page_write_begin(mapping, pos >> 12)
        flags = self.kernel.mem.flags
        if not flags[pfn] & PG_uptodate and length != PAGE:
            if pos & ~0xFFF < self.inode.i_size:
                self.fill(pos >> 12, pfn)
            else:
                filemap.zero_user_segment(self.kernel, pfn, 0, PAGE)
            flags[pfn] |= PG_uptodate
        return pfn

    def write_end(self, file, mapping, pos, length, copied, pfn):
        self.kernel.mem.flags[pfn] |= PG_uptodate
        if pos + copied > self.inode.i_size:
            self.inode.i_size = pos + copied
        filemap.set_page_dirty(self.kernel, pfn)
        unlock_page(self.kernel, pfn)
        put_page(self.kernel, pfn)
        return copied

    def writepage(self, mapping, index, pfn, wbc):
        set_page_writeback(self.kernel, pfn)
        end = min(self.inode.i_size, (index + 1) * PAGE)
        size = end - index * PAGE
        if size > 0:
            if len(self.data) < end:
                self.data.extend(bytes(end - len(self.data)))
            self.data[index * PAGE : end] = self.kernel.mem.ram[pfn << 12 : (pfn << 12) + size]
        unlock_page(self.kernel, pfn)
        end_page_writeback(self.kernel, pfn)
        return 0

    # ---- what programs do
    def read(self, pos, size):
        buffer = bytearray(size)
        done = filemap.generic_file_read_iter(Kiocb(self.file, pos), KernelIter(buffer))
        return bytes(buffer[:done])

    def write(self, pos, data):
        return filemap.generic_file_write_iter(Kiocb(self.file, pos), KernelIter(data))

    def truncate(self, size):
        filemap.truncate_setsize(self.inode, size)
        if size < len(self.data):
            del self.data[size:]

    def mmap(self, pages, flags=mmap.MAP_SHARED, prot=RW, index=0):
        return mmap.do_mmap(self.file, 0, pages * PAGE, prot, flags, index)


def idt_page_fault(address, error_code):
    mm = register.task.mm
    vma = mmap.find_vma(mm, address)
    if vma is None or vma.vm_start > address or (error_code & 2 and not vma.vm_flags & VM_WRITE):
        return False
    return not memory.handle_mm_fault(vma, address, 1 if error_code & 2 else 0) & 0x43


@contextmanager
def kernel_with_a_cache(megabytes=32):
    machine = Machine(cpus=1, memory=megabytes << 20, seed=0)
    kernel = SimpleNamespace(machine=machine, lsm=None, sysctl=Sysctl(), mm_list={}, idt_page_fault=idt_page_fault,
                             mmap_listeners=(), uprobes=None, perf=None)
    kernel.tp = Tracepoints()
    kernel.rcu = SimpleNamespace(data=[RcuData(0, None, 1)])
    kernel.perf = kernel.uprobes = None
    kernel.mmap_listeners = []
    kernel.swap = kernel.thp = kernel.hugetlb = None
    kernel.vmalloc = SimpleNamespace(pgd=0)
    kernel.vfs = SimpleNamespace(blockdev_superblock=None)
    kernel.fput = lambda file: setattr(file, "f_count", file.f_count - 1)
    kernel.alloc_pages_slowpath = vars(page_alloc_slow)["__alloc_pages_slowpath"]
    kernel.wakeup_flusher_threads = lambda reason: None
    kernel.out_of_memory = lambda gfp, order, nodemask: False
    page_alloc.mem_init(kernel)
    pagecache_init(kernel)
    task = TaskStruct(kernel, 1, 1, b"test")
    task.cred = task.real_cred = Cred()
    task.signal = SimpleNamespace(rlim=[(RLIM_INFINITY, RLIM_INFINITY)] * 16, oom_mm=None)
    register.task = kernel.task = task
    kmem_cache_init(kernel)
    kernel.slab.mm_cachep = kmem_cache_create(kernel, b"mm_struct", 1040)
    kernel.slab.vm_area_cachep = kmem_cache_create(kernel, b"vm_area_struct", 200)
    task.mm = mmap.mm_alloc(kernel)
    task.mm.mmap_base = 0x7FFF_0000_0000
    kernel.disks = []
    yield kernel
    mem = kernel.mem
    for disk in kernel.disks:                     # the counters say what is there, and everything comes back
        cached = disk.mapping.pages
        assert all(mem.mapping[pfn] is disk.mapping and mem.index[pfn] == i for i, pfn in cached.items())
        assert set(disk.mapping.dirty) == {i for i, pfn in cached.items() if mem.flags[pfn] & PG_dirty}
    assert mem.vm_stat[NR_FILE_PAGES] == sum(len(d.mapping.pages) for d in kernel.disks) == len(mem.mapping)
    assert mem.vm_stat[NR_FILE_DIRTY] == sum(len(d.mapping.dirty) for d in kernel.disks)
    mmap.mmput(task.mm)
    for disk in kernel.disks:
        disk.truncate(0)
    assert check_slab(kernel) == []
    assert count_objects(kernel.slab.mm_cachep) == count_objects(kernel.slab.vm_area_cachep) == 0
    slabs = {page.pfn for page in kernel.slab.pages.values()}
    assert sum(mem.refcount) == 1 + len(slabs)    # the zero page
    assert sum(mem.mapcount) == 0


def errno_of(call, *args):
    with pytest.raises(KernelError) as caught:
        call(*args)
    return caught.value.errno
