"""tmpfs and shared memory: files whose page cache is the storage.

Linux: mm/shmem.c (5.3). Same: size=, nr_blocks=, nr_inodes=, mode=, uid=, gid= options, ENOSPC, holes, SEEK_HOLE,
fallocate with holes, rename flags, seals, shared anonymous memory, O_TMPFILE.
Differs: a page that exists is up to date and needs no lock for reading; swapping is in mm/shmem_swap.py.
Owns: ShmemInodeInfo (inode.i_private), ShmemSbInfo (sb.s_fs_info), the pages of their mappings.
Invariants: used_blocks is the number of pages, cached and swapped, of a limited file system, i_blocks of a file
    eight times its own; every positive dentry has one extra reference, which is its directory entry.
Gaps: huge=, mpol= (accepted, ignored), user.* attributes (EOPNOTSUPP, as in 5.3), overcommit accounting.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.attr import inode_newsize_ok, setattr_copy, setattr_prepare
from glasskernel.fs.dcache import d_alloc as d_alloc_child
from glasskernel.fs.dcache import d_instantiate, d_make_root, d_rehash, d_tmpfile, dget, dput
from glasskernel.fs.file_table import alloc_file_pseudo
from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.inode import (
    clear_nlink,
    current_time,
    drop_nlink,
    file_accessed,
    get_next_ino,
    inc_nlink,
    init_special_inode,
    inode_from,
    inode_init_owner,
    inode_lock,
    inode_unlock,
    iput,
    new_inode,
)
from glasskernel.fs.libfs import (
    noop_fsync,
    simple_dir_operations,
    simple_empty,
    simple_get_link,
    simple_lookup,
)
from glasskernel.fs.mount import kern_mount
from glasskernel.fs.read_write import SEEK_DATA, SEEK_HOLE, generic_file_llseek_size
from glasskernel.fs.super import kill_litter_super, mount_nodev
from glasskernel.fs.types import (
    ATTR_SIZE,
    FS_USERNS_MOUNT,
    O_RDWR,
    S_IFCHR,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    SB_KERNMOUNT,
    SB_NOUSER,
    FileOperations,
    FileSystemType,
    InodeOperations,
    Kstatfs,
    SuperOperations,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.errno import (
    EBUSY,
    EEXIST,
    EFBIG,
    EINVAL,
    ENAMETOOLONG,
    ENODATA,
    ENOMEM,
    ENOSPC,
    ENOTEMPTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    KernelError,
)
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import CLEAR_PAGE
from glasskernel.mm.filemap import (
    filemap_map_pages,
    generic_file_write_iter,
)
from glasskernel.mm.mempolicy import mpol_set_shared_policy, mpol_shared_policy_lookup
from glasskernel.mm.page_alloc import (
    GFP_HIGHUSER_MOVABLE,
    PAGE_SIZE,
    ZERO_PAGE,
    PG_uptodate,
    alloc_page,
    alloc_pages_vma,
    put_page,
)
from glasskernel.mm.page_writeback import __set_page_dirty_no_writeback
from glasskernel.mm.pagemap import add_to_page_cache_lru, lock_page, set_page_dirty, unlock_page, zero_user_segment
from glasskernel.mm.slab_common import kmem_cache_create
from glasskernel.mm.slab_types import SLAB_ACCOUNT
from glasskernel.mm.slub import kmem_cache_free
from glasskernel.mm.truncate import truncate_inode_pages_range, truncate_pagecache, truncate_pagecache_range
from glasskernel.mm.types import (
    AOP_WRITEPAGE_ACTIVATE,
    VM_FAULT_MAJOR,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_MAYWRITE,
    VM_SHARED,
    VM_WRITE,
    AddressSpaceOperations,
    VmAreaStruct,
    VmOperations,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Iattr, Inode, Kiocb, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.mempolicy import Mempolicy, SharedPolicy
    from glasskernel.mm.types import AddressSpace, VmFault, WritebackControl

TMPFS_MAGIC = 0x01021994
BOGO_DIRENT_SIZE = 20
SGP_READ, SGP_CACHE, SGP_WRITE, SGP_FALLOC = range(4)
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE = 1, 2, 4, 8, 16
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
XATTR_CREATE, XATTR_REPLACE = 1, 2


@slotted
class ShmemInodeInfo:
    """struct shmem_inode_info. Most files have no swapped pages."""

    seals: int = F_SEAL_SEAL
    swapped: dict[int, int] = field(default_factory=dict)        # by index: the swap entry
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    policy: SharedPolicy | None = None                           # what mbind(2) set for whoever maps it


@slotted
class ShmemSbInfo:
    """struct shmem_sb_info. Sizes in pages; 0: no limit."""

    max_blocks: int = 0
    used_blocks: int = 0
    max_inodes: int = 0
    free_inodes: int = 0
    mode: int = 0o1777
    uid: int = 0
    gid: int = 0


@notrace
def SHMEM_I(inode: Inode) -> ShmemInodeInfo:
    """The shmem part of an inode."""
    info: ShmemInodeInfo = inode.i_private
    return info


@notrace
def SHMEM_SB(sb: SuperBlock) -> ShmemSbInfo:
    """The shmem part of a super block."""
    info: ShmemSbInfo = sb.s_fs_info
    return info


# ---- accounting --------------------------------------------------------------------------------------------
def shmem_inode_acct_block(inode: Inode, pages: int) -> None:
    """Counts pages that a file gets. Raises ENOSPC."""
    sbinfo = SHMEM_SB(inode.i_sb)
    if sbinfo.max_blocks:
        if sbinfo.used_blocks + pages > sbinfo.max_blocks:
            raise KernelError(ENOSPC)
        sbinfo.used_blocks += pages
    inode.i_blocks += pages * 8


def shmem_recalc_inode(inode: Inode) -> None:
    """After pages went: what the file and the file system use."""
    blocks = (len(inode.i_mapping.pages) + len(SHMEM_I(inode).swapped)) * 8
    freed = (inode.i_blocks - blocks) // 8
    if freed:
        inode.i_blocks = blocks
        sbinfo = SHMEM_SB(inode.i_sb)
        if sbinfo.max_blocks:
            sbinfo.used_blocks -= freed


def shmem_reserve_inode(sb: SuperBlock) -> None:
    """Counts one more inode. Raises ENOSPC."""
    sbinfo = SHMEM_SB(sb)
    if sbinfo.max_inodes:
        if not sbinfo.free_inodes:
            raise KernelError(ENOSPC)
        sbinfo.free_inodes -= 1


@notrace
def shmem_free_inode(sb: SuperBlock) -> None:
    """One inode less."""
    sbinfo = SHMEM_SB(sb)
    if sbinfo.max_inodes:
        sbinfo.free_inodes += 1


# ---- pages -------------------------------------------------------------------------------------------------
@may_sleep
def shmem_getpage_gfp(inode: Inode, index: int, sgp: int, gfp: int) -> int:
    """The frame of page `index`, up to date, with a reference; 0 for a hole under SGP_READ.

    SGP_READ and SGP_CACHE stop at i_size (EINVAL). Raises EFBIG, ENOSPC, ENOMEM.
    """
    mapping = inode.i_mapping
    kernel = inode.i_sb.kernel
    mem = kernel.mem
    pfn = mapping.pages.get(index, 0)
    if sgp <= SGP_CACHE and index << 12 >= inode.i_size:
        raise KernelError(EINVAL)
    if pfn:
        mem.refcount[pfn] += 1
        return pfn
    if index in SHMEM_I(inode).swapped:
        swap = kernel.swap
        assert swap is not None
        return swap.shmem_swapin_page(inode, index, gfp) or shmem_getpage_gfp(inode, index, sgp, gfp)
    if sgp == SGP_READ:
        return 0
    if index > (1 << 51):
        raise KernelError(EFBIG)
    pfn = shmem_alloc_and_acct_page(inode, gfp, index)
    if not add_to_page_cache_lru(kernel, pfn, mapping, index):     # alloc_page() slept and somebody was faster
        put_page(kernel, pfn)
        shmem_recalc_inode(inode)
        return shmem_getpage_gfp(inode, index, sgp, gfp)
    mem.flags[pfn] |= PG_uptodate
    unlock_page(kernel, pfn)
    return pfn


@notrace
@may_sleep
def shmem_alloc_and_acct_page(inode: Inode, gfp: int, index: int) -> int:
    """A zeroed frame that is counted. Raises ENOSPC, ENOMEM."""
    shmem_inode_acct_block(inode, 1)
    try:
        return shmem_alloc_page(inode, gfp, index)
    except KernelError:
        shmem_recalc_inode(inode)
        raise


@may_sleep
def shmem_alloc_page(inode: Inode, gfp: int, index: int) -> int:
    """A zeroed frame, from where the object's policy says. Raises ENOMEM."""
    kernel = inode.i_sb.kernel
    shared = SHMEM_I(inode).policy
    policy = mpol_shared_policy_lookup(shared, index) if shared is not None else None
    if policy is None:
        pfn = alloc_page(kernel, gfp)
    else:                                                          # shmem_pseudo_vma_init(): only for its policy
        pvma = VmAreaStruct(None, 0, PAGE_SIZE, 0,  # type: ignore[arg-type]
                            vm_pgoff=index + inode.i_ino, vm_policy=policy)
        pfn = alloc_pages_vma(kernel, gfp, 0, pvma, 0)
    mem = kernel.mem
    mem.note_kernel_write(pfn)
    kernel.machine.charge(CLEAR_PAGE)
    mem.ram[pfn << 12 : (pfn + 1) << 12] = ZERO_PAGE
    return pfn


@notrace
@may_sleep
def shmem_getpage(inode: Inode, index: int, sgp: int) -> int:
    """shmem_getpage_gfp() with the usual kind of memory."""
    return shmem_getpage_gfp(inode, index, sgp, GFP_HIGHUSER_MOVABLE)


@may_sleep
def shmem_write_begin(file: File | None, mapping: AddressSpace, pos: int, length: int) -> int:
    """->write_begin(). Raises EPERM (sealed), ENOSPC."""
    inode = mapping.host
    assert inode is not None
    seals = SHMEM_I(inode).seals
    if seals & (F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
        if seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
            raise KernelError(EPERM)
        if pos + length > inode.i_size:
            raise KernelError(EPERM)
    pfn = shmem_getpage(inode, pos >> 12, SGP_WRITE)
    lock_page(inode.i_sb.kernel, pfn)
    return pfn


def shmem_write_end(file: File | None, mapping: AddressSpace, pos: int, length: int, copied: int, pfn: int) -> int:
    """->write_end()."""
    inode = mapping.host
    assert inode is not None
    if pos + copied > inode.i_size:
        inode.i_size = pos + copied
    kernel = inode.i_sb.kernel
    set_page_dirty(kernel, pfn)
    unlock_page(kernel, pfn)
    put_page(kernel, pfn)
    return copied


@may_sleep
def shmem_writepage(mapping: AddressSpace, index: int, pfn: int, wbc: WritebackControl) -> int:
    """->writepage(): to a swap area, if reclaim wants it and there is room; else the page stays, dirty."""
    kernel = current().kernel
    swap = kernel.swap
    if (swap is not None and swap.total_swap_pages and wbc.for_reclaim
            and swap.shmem_swap_page_out(kernel, mapping, index, pfn, wbc)):
        return 0
    set_page_dirty(kernel, pfn)
    if wbc.for_reclaim:
        return AOP_WRITEPAGE_ACTIVATE
    unlock_page(kernel, pfn)
    return 0


def shmem_readpage(file: File | None, mapping: AddressSpace, index: int, pfn: int) -> None:
    """Only reached by who reads ahead into a hole: zeros."""
    kernel = current().kernel
    zero_user_segment(kernel, pfn, 0, 4096)
    kernel.mem.flags[pfn] |= PG_uptodate
    unlock_page(kernel, pfn)


@may_sleep
def shmem_file_read_iter(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter(): page by page; holes are zeros and stay holes."""
    file = iocb.ki_filp
    inode = file.f_inode
    kernel = inode.i_sb.kernel
    ram = kernel.mem.ram
    pos = iocb.ki_pos
    done = 0
    try:
        while to.count:
            size = inode.i_size - pos
            if size <= 0:
                break
            offset = pos & 0xFFF
            size = min(size, 4096 - offset, to.count)
            pfn = shmem_getpage(inode, pos >> 12, SGP_READ)
            if pfn:
                start = (pfn << 12) + offset
                try:
                    copied = to.copy_to_iter(ram[start : start + size])
                finally:
                    put_page(kernel, pfn)
            else:
                copied = to.zero(size)
            pos += copied
            done += copied
            if copied < size:
                break
    except KernelError as error:
        if not done and error.errno != EINVAL:
            raise
    iocb.ki_pos = pos
    file_accessed(file)
    return done


@may_sleep
def shmem_fault(vma: VmAreaStruct, vmf: VmFault) -> int:
    """->fault(): the page, made if it is missing; SIGBUS behind the end and without space."""
    file = vma.vm_file
    assert file is not None
    swapped = vmf.pgoff in SHMEM_I(file.f_inode).swapped
    try:
        vmf.pfn = shmem_getpage_gfp(file.f_inode, vmf.pgoff, SGP_CACHE, GFP_HIGHUSER_MOVABLE)
    except KernelError as error:
        return VM_FAULT_OOM if error.errno == ENOMEM else VM_FAULT_SIGBUS
    return VM_FAULT_MAJOR if swapped else 0


def shmem_set_policy(vma: VmAreaStruct, policy: Mempolicy | None) -> None:
    """->set_policy()"""
    info = shmem_info_of(vma)
    if info.policy is None:
        info.policy = []
    mpol_set_shared_policy(info.policy, vma, policy)


def shmem_get_policy(vma: VmAreaStruct, address: int) -> Mempolicy | None:
    """->get_policy()"""
    shared = shmem_info_of(vma).policy
    if shared is None:
        return None
    return mpol_shared_policy_lookup(shared, vma.vm_pgoff + (address - vma.vm_start >> 12))


@notrace
def shmem_info_of(vma: VmAreaStruct) -> ShmemInodeInfo:
    """That of the object which an area maps."""
    assert vma.vm_file is not None and vma.vm_file.f_mapping.host is not None
    return SHMEM_I(vma.vm_file.f_mapping.host)


shmem_vm_ops = VmOperations(fault=shmem_fault, map_pages=filemap_map_pages, set_policy=shmem_set_policy,
                            get_policy=shmem_get_policy)


def shmem_mmap(file: File, vma: VmAreaStruct) -> None:
    """->mmap(). Raises EPERM for a writable shared area of a sealed file."""
    seals = SHMEM_I(file.f_inode).seals
    if seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) and vma.vm_flags & VM_SHARED:
        if vma.vm_flags & VM_WRITE:
            raise KernelError(EPERM)
        vma.vm_flags &= ~VM_MAYWRITE
    file_accessed(file)
    vma.vm_ops = shmem_vm_ops


@may_sleep
def shmem_undo_range(inode: Inode, lstart: int, lend: int) -> None:
    """Drops the pages of bytes lstart..lend (inclusive; -1: to the end); the ends are zeroed."""
    if SHMEM_I(inode).swapped:
        undo_swapped(inode, lstart, lend)
    truncate_inode_pages_range(inode.i_mapping, lstart, lend)
    shmem_recalc_inode(inode)


@notrace
@may_sleep
def undo_swapped(inode: Inode, lstart: int, lend: int) -> None:
    """The swapped pages of bytes lstart..lend are dropped; those at the ends come back, to be zeroed in part."""
    kernel = inode.i_sb.kernel
    assert kernel.swap is not None
    for edge in (lstart, lend + 1):
        if edge & 0xFFF and edge >> 12 in SHMEM_I(inode).swapped:
            put_page(kernel, shmem_getpage(inode, edge >> 12, SGP_WRITE))
    kernel.swap.shmem_free_swap(inode, (lstart + 4095) >> 12, 1 << 52 if lend == -1 else (lend + 1) >> 12)


@may_sleep
def shmem_truncate_range(inode: Inode, lstart: int, lend: int) -> None:
    """shmem_undo_range() that is a change of the file."""
    shmem_undo_range(inode, lstart, lend)
    inode.i_ctime = inode.i_mtime = current_time(inode)


def shmem_file_llseek(file: File, offset: int, whence: int) -> int:
    """->llseek() that knows holes. Raises ENXIO behind the end."""
    inode = file.f_inode
    maxbytes = inode.i_sb.s_maxbytes
    if whence != SEEK_DATA and whence != SEEK_HOLE:
        return generic_file_llseek_size(file, offset, whence, maxbytes, inode.i_size)
    inode_lock(inode)
    try:
        if not 0 <= offset < inode.i_size:
            raise KernelError(ENXIO)
        pages = {**inode.i_mapping.pages, **SHMEM_I(inode).swapped}
        index, end = offset >> 12, (inode.i_size + 4095) >> 12
        want = whence == SEEK_DATA
        if want:
            behind = [i for i in pages if i >= index]
            index = min(behind) if behind else end
        else:
            while index < end and index in pages:
                index += 1
        new = index << 12
        if new > offset:
            if new < inode.i_size:
                offset = new
            elif want:
                raise KernelError(ENXIO)
            else:
                offset = inode.i_size
        file.f_pos = offset
        return offset
    finally:
        inode_unlock(inode)


@may_sleep
def shmem_fallocate(file: File, mode: int, offset: int, length: int) -> None:
    """->fallocate(). Raises EOPNOTSUPP, EFBIG (RLIMIT_FSIZE: with SIGXFSZ), EPERM (sealed), ENOSPC."""
    inode = file.f_inode
    if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE):
        raise KernelError(EOPNOTSUPP)
    info = SHMEM_I(inode)
    inode_lock(inode)
    try:
        if mode & FALLOC_FL_PUNCH_HOLE:
            if info.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
                raise KernelError(EPERM)
            truncate_pagecache_range(inode, offset, offset + length - 1)
            shmem_truncate_range(inode, offset, offset + length - 1)
            return
        end_pos = offset + length
        inode_newsize_ok(inode, end_pos)         # RLIMIT_FSIZE counts even with FALLOC_FL_KEEP_SIZE
        if info.seals & F_SEAL_GROW and end_pos > inode.i_size:
            raise KernelError(EPERM)
        start, end = offset >> 12, (end_pos + 4095) >> 12
        sbinfo = SHMEM_SB(inode.i_sb)
        if sbinfo.max_blocks and end - start > sbinfo.max_blocks:
            raise KernelError(ENOSPC)
        kernel = inode.i_sb.kernel
        made = []
        try:
            for index in range(start, end):
                fresh = index not in inode.i_mapping.pages and index not in info.swapped
                pfn = shmem_getpage(inode, index, SGP_FALLOC)
                set_page_dirty(kernel, pfn)              # or reclaim would just drop the zeros
                put_page(kernel, pfn)
                if fresh:
                    made.append(index)
                cond_resched()
        except KernelError:
            for index in made:
                shmem_undo_range(inode, index << 12, (index << 12) + 4095)
            raise
        if not mode & FALLOC_FL_KEEP_SIZE and end_pos > inode.i_size:
            inode.i_size = end_pos
        inode.i_ctime = current_time(inode)
    finally:
        inode_unlock(inode)


@may_sleep
def shmem_setattr(dentry: Dentry, attr: Iattr) -> None:
    """->setattr(). Raises EPERM for a size that a seal forbids."""
    inode = dentry.d_inode
    assert inode is not None
    setattr_prepare(dentry, attr)
    if inode.i_mode & S_IFMT == S_IFREG and attr.ia_valid & ATTR_SIZE:
        oldsize, newsize = inode.i_size, attr.ia_size
        info = SHMEM_I(inode)
        seals = info.seals
        if (newsize < oldsize and seals & F_SEAL_SHRINK) or (newsize > oldsize and seals & F_SEAL_GROW):
            raise KernelError(EPERM)
        if newsize != oldsize:
            inode.i_size = newsize
            inode.i_ctime = inode.i_mtime = current_time(inode)
        if newsize <= oldsize:
            if info.swapped:
                undo_swapped(inode, newsize, -1)
            truncate_pagecache(inode, newsize)
            shmem_recalc_inode(inode)
    setattr_copy(inode, attr)


@may_sleep
def shmem_evict_inode(inode: Inode) -> None:
    """->evict_inode()."""
    info = inode.i_private
    if info is not None:
        if inode.i_mapping.pages or info.swapped:
            shmem_undo_range(inode, 0, -1)
        shmem_free_inode(inode.i_sb)


# ---- seals -------------------------------------------------------------------------------------------------
def shmem_get_seals(inode: Inode) -> int:
    """fcntl(F_GET_SEALS)."""
    return SHMEM_I(inode).seals


def shmem_add_seals(inode: Inode, seals: int) -> None:
    """fcntl(F_ADD_SEALS). Raises EINVAL, EPERM (sealed), EBUSY (mapped writable)."""
    if seals & ~0x1F:
        raise KernelError(EINVAL)
    inode_lock(inode)
    try:
        info = SHMEM_I(inode)
        if info.seals & F_SEAL_SEAL:
            raise KernelError(EPERM)
        if seals & F_SEAL_WRITE and not info.seals & F_SEAL_WRITE:
            for vma in inode.i_mapping.i_mmap:
                if vma.vm_flags & VM_SHARED and vma.vm_flags & VM_MAYWRITE:
                    raise KernelError(EBUSY)
        info.seals |= seals
    finally:
        inode_unlock(inode)


# ---- inodes and names --------------------------------------------------------------------------------------
def shmem_alloc_inode(sb: SuperBlock) -> Inode:
    """->alloc_inode()"""
    inode = inode_from(sb, sb.kernel.slab.shmem_inode_cachep)
    inode.i_private = ShmemInodeInfo()
    return inode


def shmem_free_in_core_inode(inode: Inode) -> None:
    """->free_inode()"""
    kmem_cache_free(inode.i_sb.kernel.slab.shmem_inode_cachep, inode.slab_address)


def shmem_get_inode(sb: SuperBlock, dir: Inode | None, mode: int, dev: int) -> Inode:
    """A new inode. Raises ENOSPC (nr_inodes)."""
    shmem_reserve_inode(sb)
    inode = new_inode(sb)
    inode.i_ino = get_next_ino()
    inode_init_owner(inode, dir, mode)
    inode.i_atime = inode.i_mtime = inode.i_ctime = current_time(inode)
    inode.i_mapping.unevictable = True
    kind = mode & S_IFMT
    if kind == S_IFREG:
        inode.i_mapping.a_ops = shmem_aops
        inode.i_op = shmem_inode_operations
        inode.i_fop = shmem_file_operations
    elif kind == S_IFDIR:
        inc_nlink(inode)
        inode.i_size = 2 * BOGO_DIRENT_SIZE
        inode.i_op = shmem_dir_inode_operations
        inode.i_fop = simple_dir_operations
    elif kind == S_IFLNK:
        inode.i_op = shmem_symlink_inode_operations
    else:
        inode.i_op = shmem_special_inode_operations
        init_special_inode(inode, inode.i_mode, dev)
    return inode


@notrace
def _touch_dir(dir: Inode, size: int) -> None:
    dir.i_size += size
    dir.i_ctime = dir.i_mtime = current_time(dir)


def shmem_mknod(dir: Inode, dentry: Dentry, mode: int, dev: int) -> None:
    """->mknod()."""
    inode = shmem_get_inode(dir.i_sb, dir, mode, dev)
    shmem_init_security(inode, dir, dentry.d_name)
    _touch_dir(dir, BOGO_DIRENT_SIZE)
    d_instantiate(dentry, inode)
    dget(dentry)


def shmem_tmpfile(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->tmpfile()."""
    inode = shmem_get_inode(dir.i_sb, dir, mode, 0)
    shmem_init_security(inode, dir, None)
    d_tmpfile(dentry, inode)


def shmem_mkdir(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->mkdir()."""
    shmem_mknod(dir, dentry, mode | S_IFDIR, 0)
    inc_nlink(dir)


def shmem_create(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->create()."""
    shmem_mknod(dir, dentry, mode | S_IFREG, 0)


def shmem_link(old_dentry: Dentry, dir: Inode, dentry: Dentry) -> None:
    """->link()."""
    inode = old_dentry.d_inode
    assert inode is not None
    if inode.i_nlink:
        shmem_reserve_inode(inode.i_sb)
    _touch_dir(dir, BOGO_DIRENT_SIZE)
    inode.i_ctime = dir.i_ctime
    inc_nlink(inode)
    inode.i_count += 1
    dget(dentry)
    d_instantiate(dentry, inode)


@may_sleep
def shmem_unlink(dir: Inode, dentry: Dentry) -> None:
    """->unlink()."""
    inode = dentry.d_inode
    assert inode is not None
    if inode.i_nlink > 1 and inode.i_mode & S_IFMT != S_IFDIR:
        shmem_free_inode(inode.i_sb)
    _touch_dir(dir, -BOGO_DIRENT_SIZE)
    inode.i_ctime = dir.i_ctime
    drop_nlink(inode)
    dput(dentry)


@may_sleep
def shmem_rmdir(dir: Inode, dentry: Dentry) -> None:
    """->rmdir(). Raises ENOTEMPTY."""
    if not simple_empty(dentry):
        raise KernelError(ENOTEMPTY)
    assert dentry.d_inode is not None
    drop_nlink(dentry.d_inode)
    drop_nlink(dir)
    shmem_unlink(dir, dentry)


def shmem_exchange(old_dir: Inode, old_dentry: Dentry, new_dir: Inode, new_dentry: Dentry) -> None:
    """RENAME_EXCHANGE."""
    old, new = old_dentry.d_inode, new_dentry.d_inode
    assert old is not None and new is not None
    old_is_dir, new_is_dir = old.i_mode & S_IFMT == S_IFDIR, new.i_mode & S_IFMT == S_IFDIR
    if old_dir is not new_dir and old_is_dir != new_is_dir:
        if old_is_dir:
            drop_nlink(old_dir)
            inc_nlink(new_dir)
        else:
            drop_nlink(new_dir)
            inc_nlink(old_dir)
    now = current_time(old_dir)
    for inode in (old_dir, new_dir):
        inode.i_ctime = inode.i_mtime = now
    old.i_ctime = new.i_ctime = now


def shmem_whiteout(old_dir: Inode, old_dentry: Dentry) -> None:
    """RENAME_WHITEOUT: a whiteout takes the place of the old name."""
    whiteout = d_alloc_child(old_dentry.d_parent, old_dentry.d_name)
    try:
        shmem_mknod(old_dir, whiteout, S_IFCHR | 0, 0)
        old_dentry.d_hashed = False            # the moved dentry is rehashed by d_move()
        d_rehash(whiteout)
    finally:
        dput(whiteout)


@may_sleep
def shmem_rename2(old_dir: Inode, old_dentry: Dentry, new_dir: Inode, new_dentry: Dentry, flags: int) -> None:
    """->rename(). Raises EINVAL, ENOTEMPTY, ENOSPC."""
    inode = old_dentry.d_inode
    assert inode is not None
    they_are_dirs = inode.i_mode & S_IFMT == S_IFDIR
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        raise KernelError(EINVAL)
    if flags & RENAME_EXCHANGE:
        shmem_exchange(old_dir, old_dentry, new_dir, new_dentry)
        return
    if not simple_empty(new_dentry):
        raise KernelError(ENOTEMPTY)
    if flags & RENAME_WHITEOUT:
        shmem_whiteout(old_dir, old_dentry)
    if new_dentry.d_inode is not None:
        target = new_dentry.d_inode
        shmem_unlink(new_dir, new_dentry)
        if they_are_dirs:
            drop_nlink(target)
            drop_nlink(old_dir)
    elif they_are_dirs:
        drop_nlink(old_dir)
        inc_nlink(new_dir)
    old_dir.i_size -= BOGO_DIRENT_SIZE
    new_dir.i_size += BOGO_DIRENT_SIZE
    now = current_time(old_dir)
    old_dir.i_ctime = old_dir.i_mtime = new_dir.i_ctime = new_dir.i_mtime = inode.i_ctime = now


def shmem_symlink(dir: Inode, dentry: Dentry, symname: bytes) -> None:
    """->symlink(). Raises ENAMETOOLONG, ENOSPC."""
    if len(symname) >= 4096:
        raise KernelError(ENAMETOOLONG)
    inode = shmem_get_inode(dir.i_sb, dir, S_IFLNK | 0o777, 0)
    shmem_init_security(inode, dir, dentry.d_name)
    inode.i_size = len(symname)
    inode.i_link = symname
    _touch_dir(dir, BOGO_DIRENT_SIZE)
    d_instantiate(dentry, inode)
    dget(dentry)


# ---- extended attributes -----------------------------------------------------------------------------------
@notrace
def _check_xattr_name(name: bytes) -> None:
    if not name.startswith((b"trusted.", b"security.")):
        raise KernelError(EOPNOTSUPP)


@notrace
def shmem_init_security(inode: Inode, dir: Inode, name: bytes | None) -> None:
    """The security module's attributes of a new inode, which goes if there are none to be had. Raises EINVAL."""
    lsm = inode.i_sb.kernel.lsm
    if lsm is None:
        return
    try:
        initxattrs = lsm.security_inode_init_security(inode, dir, name)
    except KernelError:
        iput(inode)
        raise
    for suffix, value in initxattrs:
        SHMEM_I(inode).xattrs[b"security." + suffix] = value


def shmem_xattr_handler_get(inode: Inode, name: bytes) -> bytes:
    """->getxattr(). Raises EOPNOTSUPP, ENODATA."""
    _check_xattr_name(name)
    value = SHMEM_I(inode).xattrs.get(name)
    if value is None:
        raise KernelError(ENODATA)
    return value


def shmem_xattr_handler_set(inode: Inode, name: bytes, value: bytes | None, flags: int) -> None:
    """->setxattr(); None removes. Raises EOPNOTSUPP, EEXIST, ENODATA."""
    _check_xattr_name(name)
    xattrs = SHMEM_I(inode).xattrs
    if name in xattrs:
        if flags & XATTR_CREATE:
            raise KernelError(EEXIST)
    elif flags & XATTR_REPLACE or value is None:
        raise KernelError(ENODATA)
    if value is None:
        del xattrs[name]
    else:
        xattrs[name] = value
    inode.i_ctime = current_time(inode)


def shmem_listxattr(dentry: Dentry) -> list[bytes]:
    """->listxattr()."""
    assert dentry.d_inode is not None
    return list(SHMEM_I(dentry.d_inode).xattrs)


# ---- the file system ---------------------------------------------------------------------------------------
def memparse(text: bytes) -> tuple[int, bytes]:
    """(number, rest) of a size with a suffix k, m, g, t. Raises EINVAL."""
    digits = 0
    while digits < len(text) and text[digits : digits + 1].isdigit():
        digits += 1
    if not digits:
        raise KernelError(EINVAL)
    value = int(text[:digits])
    rest = text[digits:]
    shift = {b"k": 10, b"m": 20, b"g": 30, b"t": 40}.get(rest[:1].lower())
    return (value << shift, rest[1:]) if shift is not None else (value, rest)


def shmem_parse_options(data: bytes, sbinfo: ShmemSbInfo, totalram_pages: int) -> None:
    """Reads mount options. Raises EINVAL."""
    for option in data.split(b","):
        if not option:
            continue
        key, _, value = option.partition(b"=")
        try:
            if key == b"size":
                size, rest = memparse(value)
                if rest == b"%":
                    size = size * totalram_pages * 4096 // 100
                    rest = b""
                if rest:
                    raise KernelError(EINVAL)
                sbinfo.max_blocks = (size + 4095) >> 12
            elif key == b"nr_blocks":
                sbinfo.max_blocks = memparse(value)[0]
            elif key == b"nr_inodes":
                wanted = memparse(value)[0]
                used = sbinfo.max_inodes - sbinfo.free_inodes
                if wanted and wanted < used:
                    raise KernelError(EINVAL)
                sbinfo.max_inodes, sbinfo.free_inodes = wanted, wanted - used if wanted else 0
            elif key == b"mode":
                sbinfo.mode = int(value, 8) & 0o7777
            elif key == b"uid":
                sbinfo.uid = int(value)
            elif key == b"gid":
                sbinfo.gid = int(value)
            elif key not in (b"huge", b"mpol", b"inode64", b"inode32", b"noswap"):
                raise KernelError(EINVAL)
        except ValueError:
            raise KernelError(EINVAL) from None


@notrace
def shmem_default_max_blocks(kernel: Kernel) -> int:
    """Half of memory."""
    return kernel.mem.totalram_pages // 2


def shmem_remount_fs(sb: SuperBlock, flags: int, data: bytes) -> int:
    """->remount_fs(). Raises EINVAL for limits below what is used."""
    old = SHMEM_SB(sb)
    new = ShmemSbInfo(old.max_blocks, old.used_blocks, old.max_inodes, old.free_inodes, old.mode, old.uid, old.gid)
    shmem_parse_options(data, new, sb.kernel.mem.totalram_pages)
    if (new.max_blocks and new.max_blocks < old.used_blocks) or (new.max_blocks and not old.max_blocks):
        raise KernelError(EINVAL)
    sb.s_fs_info = new
    return flags


def shmem_show_options(dentry: Dentry) -> bytes:
    """->show_options()."""
    sb = dentry.d_sb
    sbinfo = SHMEM_SB(sb)
    default = shmem_default_max_blocks(sb.kernel)
    text = b""
    if sbinfo.max_blocks != default:
        text += b",size=%dk" % (sbinfo.max_blocks << 2)
    if sbinfo.max_inodes != default:
        text += b",nr_inodes=%d" % sbinfo.max_inodes
    if sbinfo.mode != 0o1777:
        text += b",mode=%03o" % sbinfo.mode
    if sbinfo.uid:
        text += b",uid=%d" % sbinfo.uid
    if sbinfo.gid:
        text += b",gid=%d" % sbinfo.gid
    return text


def shmem_statfs(dentry: Dentry) -> Kstatfs:
    """->statfs()."""
    sbinfo = SHMEM_SB(dentry.d_sb)
    free = sbinfo.max_blocks - sbinfo.used_blocks if sbinfo.max_blocks else 0
    return Kstatfs(TMPFS_MAGIC, 4096, sbinfo.max_blocks, free, free, sbinfo.max_inodes, sbinfo.free_inodes)


def shmem_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    """Fills a super block. Limits of the kernel's own mount: none. Raises EINVAL."""
    kernel = sb.kernel
    sbinfo = ShmemSbInfo()
    if not sb.s_flags & SB_KERNMOUNT:
        sbinfo.max_blocks = shmem_default_max_blocks(kernel)
        sbinfo.max_inodes = sbinfo.free_inodes = min(kernel.mem.totalram_pages // 2, kernel.mem.totalram_pages)
        shmem_parse_options(data, sbinfo, kernel.mem.totalram_pages)
    else:
        sb.s_flags |= SB_NOUSER
    sb.s_fs_info = sbinfo
    sb.s_magic = TMPFS_MAGIC
    sb.s_op = shmem_ops
    inode = shmem_get_inode(sb, None, S_IFDIR | sbinfo.mode, 0)
    inode.i_uid, inode.i_gid = sbinfo.uid, sbinfo.gid
    sb.s_root = d_make_root(inode)


def shmem_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """->mount()."""
    return mount_nodev(kernel, fs_type, flags, data, shmem_fill_super)


shmem_aops = AddressSpaceOperations(
    readpage=shmem_readpage, writepage=shmem_writepage, set_page_dirty=__set_page_dirty_no_writeback,
    write_begin=shmem_write_begin, write_end=shmem_write_end)
shmem_file_operations = FileOperations(
    llseek=shmem_file_llseek, iter=True, read_iter=shmem_file_read_iter, write_iter=generic_file_write_iter,
    mmap=shmem_mmap, fsync=noop_fsync, fallocate=shmem_fallocate)
shmem_inode_operations = InodeOperations(
    setattr=shmem_setattr, listxattr=shmem_listxattr, getxattr=shmem_xattr_handler_get,
    setxattr=shmem_xattr_handler_set)
shmem_special_inode_operations = InodeOperations(
    listxattr=shmem_listxattr, getxattr=shmem_xattr_handler_get, setxattr=shmem_xattr_handler_set)
shmem_symlink_inode_operations = InodeOperations(
    get_link=simple_get_link, listxattr=shmem_listxattr, getxattr=shmem_xattr_handler_get,
    setxattr=shmem_xattr_handler_set)
shmem_dir_inode_operations = InodeOperations(
    create=shmem_create, lookup=simple_lookup, link=shmem_link, unlink=shmem_unlink, symlink=shmem_symlink,
    mkdir=shmem_mkdir, rmdir=shmem_rmdir, mknod=shmem_mknod, rename=shmem_rename2, tmpfile=shmem_tmpfile,
    listxattr=shmem_listxattr, getxattr=shmem_xattr_handler_get, setxattr=shmem_xattr_handler_set)
shmem_ops = SuperOperations(
    alloc_inode=shmem_alloc_inode, free_inode=shmem_free_in_core_inode, statfs=shmem_statfs,
    evict_inode=shmem_evict_inode, drop_inode=lambda _inode: True,
    show_options=shmem_show_options, remount_fs=shmem_remount_fs)
shmem_fs_type = FileSystemType(b"tmpfs", shmem_mount, kill_litter_super, FS_USERNS_MOUNT)


# ---- memory without a name ---------------------------------------------------------------------------------
def __shmem_file_setup(kernel: Kernel, name: bytes, size: int) -> File:
    """An unlinked file of the kernel's own tmpfs, open for reading and writing. Raises EINVAL, ENFILE, ENOSPC."""
    if not 0 <= size <= (1 << 63) - 1:
        raise KernelError(EINVAL)
    mnt = kernel.vfs.shm_mnt
    inode = shmem_get_inode(mnt.mnt_sb, None, S_IFREG | 0o777, 0)
    inode.i_size = size
    clear_nlink(inode)
    try:
        return alloc_file_pseudo(inode, mnt, name, O_RDWR, shmem_file_operations)
    except KernelError:
        iput(inode)
        raise


def shmem_file_setup(kernel: Kernel, name: bytes, size: int, flags: int) -> File:
    """A file for shared memory; shown as "/name (deleted)". flags: VM_NORESERVE and the like."""
    return __shmem_file_setup(kernel, name, size)


shmem_kernel_file_setup = shmem_file_setup


def shmem_zero_setup(vma: VmAreaStruct) -> None:
    """Backs a shared anonymous area, or one of /dev/zero, with memory: sets vm_file (a new reference) and vm_ops."""
    kernel = vma.vm_mm.kernel
    file = shmem_kernel_file_setup(kernel, b"dev/zero", vma.vm_end - vma.vm_start, vma.vm_flags)
    old = vma.vm_file
    vma.vm_file = file
    vma.vm_ops = shmem_vm_ops
    if old is not None:
        kernel.fput(old)


@notrace
def shmem_init_inodecache(kernel: Kernel) -> None:
    kernel.slab.shmem_inode_cachep = kmem_cache_create(kernel, b"shmem_inode_cache", 704, 0, SLAB_ACCOUNT, ctor=True)


def shmem_init(kernel: Kernel) -> None:
    """Registers tmpfs and mounts the kernel's own. Context: boot."""
    shmem_init_inodecache(kernel)
    register_filesystem(kernel, shmem_fs_type)
    kernel.vfs.shm_mnt = kern_mount(kernel, shmem_fs_type)
