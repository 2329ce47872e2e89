"""hugetlbfs: files whose pages are 2 MB each and come from the pool of huge pages.

Linux: fs/hugetlbfs/inode.c (5.3). Same: files are for mmap(2): they can be read, but not written; sizes in whole pages;
    what a mapping needs is reserved when it is made; options size=, min_size=, nr_inodes=, pagesize=, mode=, uid=, gid=
Differs: the areas of a file are in i_mmap as everywhere here.
Owns: the page cache of these files (mapping.pages by huge page; they are on no LRU list), kernel.hugetlb's making.
Invariants: each cached page holds one page_count. Lock order: i_rwsem, mmap_sem (->mmap() takes the first under the
    second, as in Linux).
Gaps: pagesize=1G (EINVAL), migration, seals of memfd.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.attr import inode_newsize_ok, setattr_copy, setattr_prepare
from glasskernel.fs.dcache import d_instantiate, d_make_root, dget
from glasskernel.fs.inode import (
    clear_inode,
    current_time,
    file_accessed,
    get_next_ino,
    inc_nlink,
    init_special_inode,
    inode_init_owner,
    inode_lock,
    inode_unlock,
    new_inode,
)
from glasskernel.fs.libfs import (
    noop_fsync,
    simple_dir_operations,
    simple_link,
    simple_lookup,
    simple_rename,
    simple_rmdir,
    simple_symlink_inode_operations,
    simple_unlink,
)
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.super import mount_nodev
from glasskernel.fs.types import (
    ATTR_SIZE,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    FileOperations,
    InodeOperations,
    Kstatfs,
    SuperOperations,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EINVAL, ENOMEM, ENOSPC, EOPNOTSUPP, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.huge_tables import free_pmd_range
from glasskernel.mm.huge_types import (
    HPAGE_PMD_MASK,
    HPAGE_PMD_ORDER,
    HPAGE_PMD_SHIFT,
    HPAGE_PMD_SIZE,
    HugepageSubpool,
    HugetlbState,
)
from glasskernel.mm.hugetlb import (
    alloc_huge_page,
    hugetlb_acct_memory,
    hugetlb_reserve_pages,
    hugetlb_unreserve_pages,
    hugetlb_vm_op_close,
    hugetlb_vm_op_open,
    put_huge_page,
    resv_map_alloc,
)
from glasskernel.mm.hugetlb_fault import clear_huge_page, huge_add_to_page_cache, unmap_hugepage_range
from glasskernel.mm.mmap import (
    MAP_FIXED,
    arch_get_unmapped_area,
    arch_get_unmapped_area_topdown,
    find_vma,
    vm_start_gap,
)
from glasskernel.mm.shmem import memparse
from glasskernel.mm.types import (
    AS_UNEVICTABLE,
    TASK_SIZE,
    VM_DONTEXPAND,
    VM_HUGETLB,
    VM_MAYSHARE,
    VM_SHARED,
    VM_WRITE,
    AddressSpace,
    AddressSpaceOperations,
    VmAreaStruct,
    VmOperations,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, FileSystemType, Iattr, Inode, Kiocb, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

HUGETLBFS_MAGIC = 0x958458F6
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
_ZEROS = bytes(4096)


@slotted
class HugetlbfsSbInfo:
    """struct hugetlbfs_sb_info. max_inodes, free_inodes: -1: no limit. spool: None without size= and min_size=."""

    max_inodes: int = -1
    free_inodes: int = -1
    spool: HugepageSubpool | None = None
    uid: int = 0
    gid: int = 0
    mode: int = 0o755


@notrace
def HUGETLBFS_SB(sb: SuperBlock) -> HugetlbfsSbInfo:
    info: HugetlbfsSbInfo = sb.s_fs_info
    return info


@notrace
def hugetlb_of(inode: Inode) -> HugetlbState:
    h = inode.i_sb.kernel.hugetlb
    assert h is not None
    return h


# ---- mapping ----------------------------------------------------------------------------------------------------
@may_sleep
def hugetlbfs_file_mmap(file: File, vma: VmAreaStruct) -> None:
    """->mmap(): reserves what the area may need. Raises EINVAL (offset), ENOMEM (the pool is too small)."""
    vma.vm_flags |= VM_HUGETLB | VM_DONTEXPAND
    vma.vm_ops = hugetlb_vm_ops
    if (vma.vm_pgoff << 12) & ~HPAGE_PMD_MASK:
        raise KernelError(EINVAL)
    inode = file.f_inode
    length = vma.vm_end - vma.vm_start + (vma.vm_pgoff << 12)
    inode_lock(inode)
    try:
        file_accessed(file)
        hugetlb_reserve_pages(hugetlb_of(inode), inode, vma.vm_pgoff >> HPAGE_PMD_ORDER, length >> HPAGE_PMD_SHIFT, vma,
                              vma.vm_flags)
        if vma.vm_flags & VM_WRITE and inode.i_size < length:
            inode.i_size = length
    finally:
        inode_unlock(inode)
    free_pmd_range(vma.vm_mm, vma.vm_start, vma.vm_end)


def hugetlb_vm_op_split(vma: VmAreaStruct, address: int) -> None:
    """An area is cut between two huge pages only. Raises EINVAL."""
    if address & ~HPAGE_PMD_MASK:
        raise KernelError(EINVAL)


hugetlb_vm_ops = VmOperations(open=hugetlb_vm_op_open, close=hugetlb_vm_op_close, split=hugetlb_vm_op_split)


def hugetlb_get_unmapped_area(file: File, address: int, length: int, pgoff: int, flags: int) -> int:
    """A range that begins at a multiple of 2 MB. Raises EINVAL, ENOMEM. (arch/x86/mm/hugetlbpage.c)"""
    mm = current().mm
    assert mm is not None
    if length & ~HPAGE_PMD_MASK:
        raise KernelError(EINVAL)
    if length > TASK_SIZE:
        raise KernelError(ENOMEM)
    if flags & MAP_FIXED:
        if address & ~HPAGE_PMD_MASK:
            raise KernelError(EINVAL)
        return address
    if address:
        address = address + HPAGE_PMD_SIZE - 1 & HPAGE_PMD_MASK
        vma = find_vma(mm, address)
        if address <= TASK_SIZE - length and (vma is None or address + length <= vm_start_gap(vma)):
            return address
    search = arch_get_unmapped_area if mm.mmap_legacy else arch_get_unmapped_area_topdown
    found = search(file, 0, length + HPAGE_PMD_SIZE - 4096, pgoff, flags)
    return found + HPAGE_PMD_SIZE - 1 & HPAGE_PMD_MASK


# ---- reading ----------------------------------------------------------------------------------------------------
def hugetlbfs_read_iter(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter(): what is not there reads as zeros."""
    inode = iocb.ki_filp.f_inode
    mem = inode.i_sb.kernel.mem
    done = 0
    while to.count and iocb.ki_pos < inode.i_size:
        offset = iocb.ki_pos & 4095
        count = min(4096 - offset, to.count, inode.i_size - iocb.ki_pos)
        pfn = inode.i_mapping.pages.get(iocb.ki_pos >> HPAGE_PMD_SHIFT, 0)
        if pfn:
            at = (pfn << 12) + (iocb.ki_pos & ~HPAGE_PMD_MASK)
            copied = to.copy_to_iter(mem.ram[at : at + count].tobytes())
        else:
            copied = to.copy_to_iter(_ZEROS[:count])
        iocb.ki_pos += copied
        done += copied
        if copied < count:
            break
    return done


# ---- pages come and go ------------------------------------------------------------------------------------------
@may_sleep
def remove_inode_hugepages(inode: Inode, lstart: int, lend: int | None) -> None:
    """Drops the pages of [lstart, lend) (bytes), unmapping them; lend None: to the end, with their reservations."""
    h = hugetlb_of(inode)
    mapping = inode.i_mapping
    start = lstart >> HPAGE_PMD_SHIFT
    end = None if lend is None else lend >> HPAGE_PMD_SHIFT
    freed = 0
    for index in [i for i in mapping.pages if start <= i and (end is None or i < end)]:
        pfn = mapping.pages[index]
        if h.kernel.mem.mapcount[pfn]:
            hugetlb_vmdelete_list(mapping, index << HPAGE_PMD_ORDER, index + 1 << HPAGE_PMD_ORDER)
        remove_huge_page(h, mapping, index)
        freed += 1
        if end is not None:
            hugetlb_unreserve_pages(h, inode, index, index + 1, 1)
    if end is None:
        hugetlb_unreserve_pages(h, inode, start, None, freed)


def remove_huge_page(h: HugetlbState, mapping: AddressSpace, index: int) -> None:
    """Out of the page cache."""
    put_huge_page(h, mapping.pages.pop(index))


def hugetlb_vmdelete_list(mapping: AddressSpace, start: int, end: int | None) -> None:
    """Unmaps the small pages [start, end) of a file everywhere."""
    for vma in list(mapping.i_mmap):
        pages = vma.vm_end - vma.vm_start >> 12
        low = max(start - vma.vm_pgoff, 0)
        high = pages if end is None else min(end - vma.vm_pgoff, pages)
        if low < high:
            unmap_hugepage_range(vma, vma.vm_start + (low << 12), vma.vm_start + (high << 12), 0)


@may_sleep
def hugetlbfs_evict_inode(inode: Inode) -> None:
    """->evict_inode()"""
    if inode.i_data.private is not None:
        remove_inode_hugepages(inode, 0, None)
        inode.i_data.private = None
    sbinfo = HUGETLBFS_SB(inode.i_sb)
    if sbinfo.free_inodes >= 0:
        sbinfo.free_inodes += 1
    clear_inode(inode)


@may_sleep
def hugetlb_vmtruncate(inode: Inode, offset: int) -> None:
    inode.i_size = offset
    hugetlb_vmdelete_list(inode.i_mapping, offset >> 12, None)
    remove_inode_hugepages(inode, offset, None)


@may_sleep
def hugetlbfs_punch_hole(inode: Inode, offset: int, length: int) -> None:
    """The whole huge pages of a range go."""
    start, end = offset + HPAGE_PMD_SIZE - 1 & HPAGE_PMD_MASK, offset + length & HPAGE_PMD_MASK
    if end > start:
        inode_lock(inode)
        hugetlb_vmdelete_list(inode.i_mapping, start >> 12, end >> 12)
        remove_inode_hugepages(inode, start, end)
        inode_unlock(inode)


@may_sleep
def hugetlbfs_fallocate(file: File, mode: int, offset: int, length: int) -> None:
    """->fallocate(). Raises EOPNOTSUPP, EFBIG, ENOSPC."""
    if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE):
        raise KernelError(EOPNOTSUPP)
    inode = file.f_inode
    if mode & FALLOC_FL_PUNCH_HOLE:
        hugetlbfs_punch_hole(inode, offset, length)
        return
    h = hugetlb_of(inode)
    mapping = inode.i_mapping
    mm = current().mm
    assert mm is not None
    inode_lock(inode)
    try:
        inode_newsize_ok(inode, offset + length)
        # As in Linux: an area only for alloc_huge_page(), in no tree, which has no reservation for the range.
        pseudo = VmAreaStruct(mm, 0, TASK_SIZE & HPAGE_PMD_MASK, VM_HUGETLB | VM_MAYSHARE | VM_SHARED, vm_file=file)
        for index in range(offset >> HPAGE_PMD_SHIFT, offset + length + HPAGE_PMD_SIZE - 1 >> HPAGE_PMD_SHIFT):
            if index in mapping.pages:
                continue
            pfn = alloc_huge_page(pseudo, index << HPAGE_PMD_SHIFT, False)
            if index not in mapping.pages:               # the allocation may have slept
                clear_huge_page(h.kernel, pfn)
                huge_add_to_page_cache(h, pfn, mapping, index)
            put_huge_page(h, pfn)
        if not mode & FALLOC_FL_KEEP_SIZE and offset + length > inode.i_size:
            inode.i_size = offset + length
        inode.i_ctime = current_time(inode)
    finally:
        inode_unlock(inode)


@may_sleep
def hugetlbfs_setattr(dentry: Dentry, attr: Iattr) -> None:
    """->setattr(). Raises EINVAL for a size that is not in whole pages."""
    inode = dentry.d_inode
    assert inode is not None
    setattr_prepare(dentry, attr)
    if attr.ia_valid & ATTR_SIZE:
        if attr.ia_size & ~HPAGE_PMD_MASK:
            raise KernelError(EINVAL)
        if attr.ia_size < inode.i_size:
            hugetlb_vmtruncate(inode, attr.ia_size)
        inode.i_size = attr.ia_size
    setattr_copy(inode, attr)


# ---- inodes -----------------------------------------------------------------------------------------------------
def hugetlbfs_get_inode(sb: SuperBlock, dir: Inode | None, mode: int, dev: int) -> Inode:
    """A new inode. Raises ENOSPC (nr_inodes=)."""
    sbinfo = HUGETLBFS_SB(sb)
    if sbinfo.free_inodes == 0:
        raise KernelError(ENOSPC)
    inode = new_inode(sb)
    if sbinfo.free_inodes > 0:
        sbinfo.free_inodes -= 1
    inode.i_ino = get_next_ino()
    inode_init_owner(inode, dir, mode)
    inode.i_mapping.a_ops = hugetlbfs_aops
    inode.i_mapping.unevictable = True
    inode.i_mapping.flags |= AS_UNEVICTABLE
    inode.i_blkbits = HPAGE_PMD_SHIFT
    inode.i_atime = inode.i_mtime = inode.i_ctime = current_time(inode)
    kind = mode & S_IFMT
    if kind == S_IFREG:
        inode.i_data.private = resv_map_alloc()
        inode.i_op = hugetlbfs_inode_operations
        inode.i_fop = hugetlbfs_file_operations
    elif kind == S_IFDIR:
        inode.i_op = hugetlbfs_dir_inode_operations
        inode.i_fop = simple_dir_operations
        inc_nlink(inode)
    elif kind == S_IFLNK:
        inode.i_op = simple_symlink_inode_operations
    else:
        init_special_inode(inode, inode.i_mode, dev)
    return inode


def hugetlbfs_mknod(dir: Inode, dentry: Dentry, mode: int, dev: int) -> None:
    """->mknod(). The extra reference on the dentry is the directory entry."""
    inode = hugetlbfs_get_inode(dir.i_sb, dir, mode, dev)
    dir.i_mtime = dir.i_ctime = current_time(dir)
    d_instantiate(dentry, inode)
    dget(dentry)


def hugetlbfs_mkdir(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->mkdir()"""
    hugetlbfs_mknod(dir, dentry, mode | S_IFDIR, 0)
    inc_nlink(dir)


def hugetlbfs_create(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->create()"""
    hugetlbfs_mknod(dir, dentry, mode | S_IFREG, 0)


def hugetlbfs_symlink(dir: Inode, dentry: Dentry, symname: bytes) -> None:
    """->symlink()"""
    inode = hugetlbfs_get_inode(dir.i_sb, dir, S_IFLNK | 0o777, 0)
    inode.i_link = symname
    inode.i_size = len(symname)
    d_instantiate(dentry, inode)
    dget(dentry)
    dir.i_mtime = dir.i_ctime = current_time(dir)


# ---- the file system --------------------------------------------------------------------------------------------
def hugetlbfs_statfs(dentry: Dentry) -> Kstatfs:
    """->statfs(): with size= what may be used of it; otherwise no figures."""
    sbinfo = HUGETLBFS_SB(dentry.d_sb)
    spool = sbinfo.spool
    files, free_files = max(sbinfo.max_inodes, 0), max(sbinfo.free_inodes, 0)
    blocks = free = 0
    if spool is not None and spool.max_hpages != -1:
        blocks, free = spool.max_hpages, spool.max_hpages - spool.used_hpages
    return Kstatfs(HUGETLBFS_MAGIC, HPAGE_PMD_SIZE, blocks, free, free, files, free_files, f_frsize=HPAGE_PMD_SIZE)


def hugetlbfs_show_options(dentry: Dentry) -> bytes:
    """->show_options()"""
    sbinfo = HUGETLBFS_SB(dentry.d_sb)
    spool = sbinfo.spool
    text = b",uid=%d" % sbinfo.uid if sbinfo.uid else b""
    text += b",gid=%d" % sbinfo.gid if sbinfo.gid else b""
    text += b",mode=%o" % sbinfo.mode if sbinfo.mode != 0o755 else b""
    text += b",nr_inodes=%d" % sbinfo.max_inodes if sbinfo.max_inodes != -1 else b""
    text += b",pagesize=2M"
    if spool is not None and spool.max_hpages != -1:
        text += b",size=%d" % (spool.max_hpages << HPAGE_PMD_SHIFT)
    if spool is not None and spool.min_hpages != -1:
        text += b",min_size=%d" % (spool.min_hpages << HPAGE_PMD_SHIFT)
    return text


@notrace
def parse_size(value: bytes, h: HugetlbState) -> int:
    """size= and min_size= in huge pages: bytes, or a part of the pool. Raises EINVAL."""
    number, rest = memparse(value)
    if rest == b"%":
        return (number << HPAGE_PMD_SHIFT) * h.max_huge_pages // 100 >> HPAGE_PMD_SHIFT
    if rest:
        raise KernelError(EINVAL)
    return number >> HPAGE_PMD_SHIFT


def hugetlbfs_parse_options(data: bytes, sbinfo: HugetlbfsSbInfo, h: HugetlbState) -> tuple[int, int]:
    """Fills sbinfo; (max_hpages, min_hpages), -1 where not given. Raises EINVAL."""
    max_hpages = min_hpages = -1
    for option in filter(None, data.split(b",")):
        key, _, value = option.partition(b"=")
        try:
            if key == b"size":
                max_hpages = parse_size(value, h)
            elif key == b"min_size":
                min_hpages = parse_size(value, h)
            elif key == b"nr_inodes":
                sbinfo.max_inodes = sbinfo.free_inodes = memparse(value)[0]
            elif key == b"pagesize":
                if memparse(value) != (HPAGE_PMD_SIZE, b""):
                    raise KernelError(EINVAL)
            elif key == b"mode":
                sbinfo.mode = int(value, 8) & 0o1777
            elif key == b"uid":
                sbinfo.uid = int(value)
            elif key == b"gid":
                sbinfo.gid = int(value)
            else:
                raise KernelError(EINVAL)
        except ValueError:
            raise KernelError(EINVAL) from None
    if max_hpages != -1 and min_hpages > max_hpages:
        raise KernelError(EINVAL)
    return max_hpages, min_hpages


@may_sleep
def hugepage_new_subpool(h: HugetlbState, max_hpages: int, min_hpages: int) -> HugepageSubpool:
    """What a mount may have; min_size= is reserved now. Raises ENOMEM. (mm/hugetlb.c)"""
    spool = HugepageSubpool(max_hpages, 0, min_hpages)
    if min_hpages != -1:
        hugetlb_acct_memory(h, min_hpages)
        spool.rsv_hpages = min_hpages
    return spool


def hugetlbfs_put_super(sb: SuperBlock) -> None:
    """->put_super(): no file is left; what min_size= reserved is free again."""
    spool = HUGETLBFS_SB(sb).spool
    if spool is not None and spool.min_hpages != -1 and sb.kernel.hugetlb is not None:
        hugetlb_acct_memory(sb.kernel.hugetlb, -spool.min_hpages)


@may_sleep
def hugetlbfs_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    """Fills a super block. Raises EINVAL, ENOMEM."""
    h = sb.kernel.hugetlb
    assert h is not None
    cred = current().cred
    sbinfo = HugetlbfsSbInfo(uid=cred.fsuid, gid=cred.fsgid)
    sb.s_fs_info = sbinfo
    max_hpages, min_hpages = hugetlbfs_parse_options(data, sbinfo, h)
    if max_hpages != -1 or min_hpages != -1:
        sbinfo.spool = hugepage_new_subpool(h, max_hpages, min_hpages)
    sb.s_magic = HUGETLBFS_MAGIC
    sb.s_op = hugetlbfs_ops
    root = hugetlbfs_get_inode(sb, None, S_IFDIR | sbinfo.mode, 0)
    root.i_uid, root.i_gid = sbinfo.uid, sbinfo.gid
    sb.s_root = d_make_root(root)


@may_sleep
def hugetlbfs_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """->mount()"""
    return mount_nodev(kernel, fs_type, flags, data, hugetlbfs_fill_super)


hugetlbfs_aops = AddressSpaceOperations()
hugetlbfs_file_operations = FileOperations(
    iter=True, read_iter=hugetlbfs_read_iter, mmap=hugetlbfs_file_mmap, fsync=noop_fsync,
    get_unmapped_area=hugetlb_get_unmapped_area, llseek=generic_file_llseek, fallocate=hugetlbfs_fallocate)
hugetlbfs_inode_operations = InodeOperations(setattr=hugetlbfs_setattr)
hugetlbfs_dir_inode_operations = InodeOperations(
    create=hugetlbfs_create, lookup=simple_lookup, link=simple_link, unlink=simple_unlink, symlink=hugetlbfs_symlink,
    mkdir=hugetlbfs_mkdir, rmdir=simple_rmdir, mknod=hugetlbfs_mknod, rename=simple_rename, setattr=hugetlbfs_setattr)
hugetlbfs_ops = SuperOperations(
    statfs=hugetlbfs_statfs, evict_inode=hugetlbfs_evict_inode, drop_inode=lambda _inode: True,
    put_super=hugetlbfs_put_super, show_options=hugetlbfs_show_options)
