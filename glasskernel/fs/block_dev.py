"""Block device files: /dev/sda as a file with a page cache, and who has opened or claimed it.

Linux: fs/block_dev.c (5.3). Same: one inode per device number in the pseudo file system "bdev", whose page cache is
    the buffer cache; special files borrow its mapping; FMODE_EXCL claims through bd_start_claiming() and bd_holder; a
    partition's opens count on the whole disk too.
Differs: O_DIRECT that the caller waits for is one function whatever its size (__blkdev_direct_IO_simple).
Owns: kernel.vfs.blockdev_superblock, every bdev inode, BlockDevice's bd_openers, bd_holder, bd_block_size.
Invariants: bd_inode.i_mapping is empty while bd_openers is 0; inode.i_bdev of a special file holds a reference to
    bd_inode.
Lock order: bd_mutex of the whole disk, bd_mutex of a partition, i_rwsem of bd_inode.
Gaps: freezing, DAX, fallocate on devices.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from glasskernel.block.bio import bio_add_page, bio_alloc, bio_put, bio_set_dev
from glasskernel.block.blk_core import submit_bio
from glasskernel.block.blk_types import (
    BLK_STS_IOERR,
    REQ_FUA,
    REQ_OP_READ,
    REQ_OP_WRITE,
    REQ_SYNC,
    BlockDevice,
)
from glasskernel.block.genhd import disk_get_part, get_capacity, get_gendisk
from glasskernel.fs.buffer import invalidate_bh_lrus
from glasskernel.fs.buffer_head import BH_Mapped, BufferHead
from glasskernel.fs.buffer_page import (
    __set_page_dirty_buffers,
    block_is_partially_uptodate,
    block_read_full_page,
    block_write_begin,
    block_write_end,
    block_write_full_page,
    try_to_free_buffers,
)
from glasskernel.fs.fs_writeback import write_inode_now
from glasskernel.fs.inode import iget_locked, ihold, inode_from, inode_lock, inode_unlock, iput, unlock_new_inode
from glasskernel.fs.inode_wait import wait_while_inode, wake_up_inode
from glasskernel.fs.libfs import simple_statfs
from glasskernel.fs.mount import kern_mount, path_put
from glasskernel.fs.mpage import mpage_readpages
from glasskernel.fs.namei import filename_lookup
from glasskernel.fs.super import init_pseudo, sync_filesystem
from glasskernel.fs.types import (
    FMODE_EXCL,
    FMODE_NDELAY,
    FMODE_WRITE,
    I_DIRTY,
    IOCB_DSYNC,
    IOCB_WRITE,
    MNT_NODEV,
    O_EXCL,
    O_NONBLOCK,
    S_IFBLK,
    S_IFMT,
    S_SWAPFILE,
    AsyncKiocb,
    FileOperations,
    FileSystemType,
    SuperOperations,
    is_sync_kiocb,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_unlock
from glasskernel.kernel.sched.wait import WaitQueueHead, io_wait_event, wake_up_all
from glasskernel.lib.errno import (
    EACCES,
    EBUSY,
    EINVAL,
    EIO,
    EIOCBQUEUED,
    ENOSPC,
    ENOTBLK,
    ENOTTY,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    ETXTBSY,
    KernelError,
)
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import (
    __generic_file_write_iter,
    file_write_and_wait_range,
    filemap_flush,
    filemap_write_and_wait,
    generic_file_mmap,
    generic_file_read_iter,
    generic_write_sync,
)
from glasskernel.mm.iov_iter import iov_iter_alignment, iov_iter_get_pages
from glasskernel.mm.page_alloc import PG_anon, put_page
from glasskernel.mm.page_writeback import generic_writepages, set_page_dirty
from glasskernel.mm.pagemap import unlock_page
from glasskernel.mm.slab_common import kmem_cache_create
from glasskernel.mm.slab_types import SLAB_ACCOUNT, SLAB_HWCACHE_ALIGN, SLAB_MEM_SPREAD, SLAB_RECLAIM_ACCOUNT
from glasskernel.mm.slub import kmem_cache_free
from glasskernel.mm.truncate import invalidate_mapping_pages, truncate_inode_pages
from glasskernel.mm.types import AddressSpaceOperations

if TYPE_CHECKING:
    from glasskernel.block.blk_types import Bio
    from glasskernel.fs.types import Dentry, File, Inode, Kiocb, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.backing_dev import BackingDevInfo
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.types import AddressSpace, WritebackControl

BDEVFS_MAGIC = 0x62646576
BIO_MAX_PAGES = 256
SEEK_SET, SEEK_CUR, SEEK_END = 0, 1, 2


# ---- the file system "bdev" --------------------------------------------------------------------------
@notrace
def I_BDEV(inode: Inode) -> BlockDevice:
    """The device of a bdev inode."""
    bdev: BlockDevice = inode.i_bdev
    return bdev


def bdev_alloc_inode(sb: SuperBlock) -> Inode:
    """->alloc_inode(): the inode and its device."""
    inode = inode_from(sb, sb.kernel.slab.bdev_cachep)
    inode.i_bdev = BlockDevice()
    return inode


def bdev_free_inode(inode: Inode) -> None:
    """->free_inode()"""
    kmem_cache_free(inode.i_sb.kernel.slab.bdev_cachep, inode.slab_address)


def bdev_evict_inode(inode: Inode) -> None:
    """->evict_inode(): nobody knows the device any more."""
    truncate_inode_pages(inode.i_data, 0)
    invalidate_bh_lrus(inode.i_sb.kernel)


def bd_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    return init_pseudo(kernel, fs_type, BDEVFS_MAGIC, bdev_sops)


bdev_sops = SuperOperations(alloc_inode=bdev_alloc_inode, free_inode=bdev_free_inode, statfs=simple_statfs,
                            evict_inode=bdev_evict_inode)
bd_type = FileSystemType(b"bdev", bd_mount)


def bdev_cache_init(kernel: Kernel) -> None:
    """Mounts "bdev" for the kernel's own use; block special files work from now on. Context: boot."""
    kernel.slab.bdev_cachep = kmem_cache_create(
        kernel, b"bdev_cache", 784, 0, SLAB_HWCACHE_ALIGN | SLAB_RECLAIM_ACCOUNT | SLAB_MEM_SPREAD | SLAB_ACCOUNT,
        ctor=True)
    kernel.vfs.blockdev_superblock = kern_mount(kernel, bd_type).mnt_sb
    kernel.vfs.special_fops[S_IFBLK] = def_blk_fops
    kernel.vfs.bd_forget = bd_forget
    kernel.vfs.sync_blockdev = __sync_blockdev
    kernel.writeback.bdev_bdi = bdev_bdi
    kernel.writeback.iput = iput


@notrace
def bdev_bdi(inode: Inode) -> BackingDevInfo | None:
    """inode_to_bdi() of a bdev inode."""
    disk = I_BDEV(inode).bd_disk
    return disk.queue.backing_dev_info if disk is not None and disk.queue is not None else None


@notrace
def blockdev_superblock(kernel: Kernel) -> SuperBlock:
    sb = kernel.vfs.blockdev_superblock
    assert sb is not None
    return sb


def bdget(kernel: Kernel, dev: int) -> BlockDevice:
    """The device of a number, with a reference: made at the first use."""
    inode = iget_locked(blockdev_superblock(kernel), dev)
    if inode.i_state & 8:                          # I_NEW
        bdev = I_BDEV(inode)
        bdev.bd_dev = dev
        bdev.bd_inode = inode
        bdev.bd_mutex = Mutex()
        bdev.bd_block_size = 1 << inode.i_blkbits
        inode.i_mode = S_IFBLK
        inode.i_rdev = dev
        inode.i_data.a_ops = def_blk_aops
        inode.i_data.gfp_mask = 0x400CC0           # GFP_USER
        unlock_new_inode(inode)
    return I_BDEV(inode)


def bdgrab(bdev: BlockDevice) -> BlockDevice:
    """One more reference; the caller has one."""
    ihold(bdev.bd_inode)
    return bdev


@may_sleep
def bdput(bdev: BlockDevice) -> None:
    """Drops a reference."""
    iput(bdev.bd_inode)


def bd_acquire(inode: Inode) -> BlockDevice:
    """The device of a special file, with a reference; the file shows its pages from now on."""
    bdev: BlockDevice | None = inode.i_bdev
    if bdev is not None and bdev.bd_inode.i_hashed:
        return bdgrab(bdev)
    if bdev is not None:
        bd_forget(inode)
    bdev = bdget(inode.i_sb.kernel, inode.i_rdev)
    bdgrab(bdev)                                   # inode.i_bdev's own
    inode.i_bdev = bdev
    inode.i_mapping = bdev.bd_inode.i_mapping
    return bdev


@may_sleep
def bd_forget(inode: Inode) -> None:
    """A special file is going away, or stands for another device: it lets go of its bdev."""
    bdev = inode.i_bdev
    if bdev is None or inode.i_sb is inode.i_sb.kernel.vfs.blockdev_superblock:
        return
    inode.i_bdev = None
    inode.i_mapping = inode.i_data
    bdput(bdev)


# ---- sizes -----------------------------------------------------------------------------------------
def bdev_logical_block_size(bdev: BlockDevice) -> int:
    """The smallest unit the device can transfer."""
    queue = bdev.bd_disk.queue if bdev.bd_disk is not None else None
    limits = getattr(queue, "limits", None)
    return int(limits.logical_block_size) if limits is not None else 512


def bd_set_size(bdev: BlockDevice, size: int) -> None:
    bdev.bd_inode.i_size = size


def set_init_blocksize(bdev: BlockDevice) -> None:
    """The block size at the first open: as large as divides the device, up to a page."""
    bsize = bdev_logical_block_size(bdev)
    size = bdev.bd_inode.i_size
    while bsize < 4096:
        if size & bsize:
            break
        bsize <<= 1
    bdev.bd_block_size = bsize
    bdev.bd_inode.i_blkbits = bsize.bit_length() - 1


@may_sleep
def set_blocksize(bdev: BlockDevice, size: int) -> None:
    """Another block size: what is cached in the old one goes. Raises EINVAL."""
    if not 512 <= size <= 4096 or size & (size - 1) or size < bdev_logical_block_size(bdev):
        raise KernelError(EINVAL)
    if bdev.bd_block_size != size:
        sync_blockdev(bdev)
        bdev.bd_block_size = size
        bdev.bd_inode.i_blkbits = size.bit_length() - 1
        kill_bdev(bdev)


@may_sleep
def sb_set_blocksize(sb: SuperBlock, size: int) -> int:
    """The block size of a file system and its device; 0 if the device cannot."""
    try:
        set_blocksize(sb.s_bdev, size)
    except KernelError:
        return 0
    sb.s_blocksize = size
    sb.s_blocksize_bits = size.bit_length() - 1
    return size


@may_sleep
def sb_min_blocksize(sb: SuperBlock, size: int) -> int:
    """sb_set_blocksize() with at least what the device can."""
    return sb_set_blocksize(sb, max(size, bdev_logical_block_size(sb.s_bdev)))


# ---- the page cache of a device ----------------------------------------------------------------------
@may_sleep
def kill_bdev(bdev: BlockDevice) -> None:
    """Drops every page, dirty ones too."""
    mapping = bdev.bd_inode.i_mapping
    invalidate_bh_lrus(bdev.bd_inode.i_sb.kernel)
    if mapping.pages:
        truncate_inode_pages(mapping, 0)


@may_sleep
def invalidate_bdev(bdev: BlockDevice) -> None:
    """Drops clean pages nobody uses: BLKFLSBUF after fsync_bdev()."""
    mapping = bdev.bd_inode.i_mapping
    if mapping.pages:
        invalidate_bh_lrus(bdev.bd_inode.i_sb.kernel)
        invalidate_mapping_pages(mapping, 0, (1 << 52) - 1)


@may_sleep
def __sync_blockdev(bdev: BlockDevice | None, wait: int) -> None:
    """Writes a device's page cache. Raises EIO."""
    if bdev is None:
        return
    if not wait:
        filemap_flush(bdev.bd_inode.i_mapping)
    else:
        filemap_write_and_wait(bdev.bd_inode.i_mapping)


@may_sleep
def sync_blockdev(bdev: BlockDevice | None) -> None:
    """Writes a device's page cache and waits. Raises EIO."""
    __sync_blockdev(bdev, 1)


@may_sleep
def fsync_bdev(bdev: BlockDevice) -> None:
    """Writes the file system on a device, if one is mounted, and its page cache. Raises EIO."""
    sb = bdev.bd_super
    if sb is not None:
        sync_filesystem(sb)
    sync_blockdev(bdev)


def iterate_bdevs(kernel: Kernel, func: Any, arg: Any) -> None:
    """Calls func(bdev, arg) for every device that is open and has pages: sync(2)."""
    for inode in list(blockdev_superblock(kernel).s_inode_list):
        if not inode.i_mapping.pages or inode.i_state & 0x38:         # I_NEW, I_WILL_FREE, I_FREEING
            continue
        bdev = I_BDEV(inode)
        inode.i_count += 1                             # __iget()
        try:
            mutex_lock(bdev.bd_mutex)
            try:
                if bdev.bd_openers:
                    func(bdev, arg)
            finally:
                mutex_unlock(bdev.bd_mutex)
        finally:
            iput(inode)


def blkdev_get_block(inode: Inode, iblock: int, bh: BufferHead, create: int) -> None:
    """get_block_t of devices: block n is block n."""
    bh.b_bdev = I_BDEV(inode)
    bh.b_blocknr = iblock
    bh.b_state |= BH_Mapped


def blkdev_writepage(mapping: AddressSpace, index: int, pfn: int, wbc: WritebackControl) -> int:
    block_write_full_page(mapping, index, pfn, blkdev_get_block, wbc)
    return 0


def blkdev_readpage(file: File | None, mapping: AddressSpace, index: int, pfn: int) -> None:
    block_read_full_page(mapping, index, pfn, blkdev_get_block)


def blkdev_readpages(file: File | None, mapping: AddressSpace, pages: list[tuple[int, int]]) -> None:
    mpage_readpages(mapping, pages, blkdev_get_block)


@may_sleep
def blkdev_write_begin(file: File | None, mapping: AddressSpace, pos: int, length: int) -> int:
    return block_write_begin(mapping, pos, length, blkdev_get_block)


def blkdev_write_end(file: File | None, mapping: AddressSpace, pos: int, length: int, copied: int, pfn: int) -> int:
    kernel = current().kernel
    done = block_write_end(mapping, pos, length, copied, pfn)
    unlock_page(kernel, pfn)
    put_page(kernel, pfn)
    return done


@may_sleep
def blkdev_writepages(mapping: AddressSpace, wbc: WritebackControl) -> None:
    generic_writepages(mapping, wbc)


def blkdev_releasepage(pfn: int, gfp: int) -> bool:
    """->releasepage(): a mounted file system's journal may hold buffers of its device."""
    kernel = current().kernel
    mapping = kernel.mem.mapping[pfn]
    assert mapping.host is not None
    sb = I_BDEV(mapping.host).bd_super
    if sb is not None and sb.s_op.bdev_try_to_free_page is not None:
        return sb.s_op.bdev_try_to_free_page(sb, pfn, gfp)
    return try_to_free_buffers(pfn)


# ---- O_DIRECT --------------------------------------------------------------------------------------
def dio_bio_write_op(iocb: Kiocb) -> int:
    op = REQ_OP_WRITE | REQ_SYNC | 1 << 15         # REQ_IDLE
    if iocb.ki_flags & IOCB_DSYNC:
        op |= REQ_FUA
    return op


def blkdev_bio_end_io_simple(bio: Bio) -> None:
    """bi_end_io: one of the bios of a direct transfer is done. Context: softirq."""
    dio: list[Any] = bio.bi_private                # [left, first status, wait queue]
    if bio.bi_status and not dio[1]:
        dio[1] = bio.bi_status
    dio[0] -= 1
    if not dio[0]:
        wake_up_all(dio[2])


@may_sleep
def __blkdev_direct_IO_simple(iocb: Kiocb, to: IovIter, nr_pages: int) -> int:
    """Moves pages between user memory and the device, past the page cache. Raises EINVAL (alignment), EIO, EFAULT."""
    bdev = I_BDEV(iocb.ki_filp.f_mapping.host)  # type: ignore[arg-type]
    kernel = current().kernel
    pos = iocb.ki_pos
    read = not iocb.ki_flags & IOCB_WRITE
    if (pos | iov_iter_alignment(to)) & (bdev_logical_block_size(bdev) - 1):
        raise KernelError(EINVAL)
    dio: list[Any] = [1, 0, WaitQueueHead()]
    bios: list[Bio] = []
    done = 0
    plug = kernel.filemap.blk_start_plug()
    try:
        while to.count:
            pages = iov_iter_get_pages(kernel, to, BIO_MAX_PAGES, read)
            bio = bio_alloc(kernel, len(pages))
            bio_set_dev(bio, bdev)
            bio.bi_sector = (pos + done) >> 9
            bio.bi_end_io = blkdev_bio_end_io_simple
            bio.bi_private = dio
            bio.bi_opf = REQ_OP_READ if read else dio_bio_write_op(iocb)
            for pfn, offset, length in pages:
                bio_add_page(bio, pfn, length, offset)
                done += length
            if not read:
                current().write_bytes += bio.bi_size           # reads are counted by submit_bio()
            dio[0] += 1
            bios.append(bio)
            vecs = bio.bi_io_vec
            submit_bio(bio)
            bio.bi_io_vec = vecs
    finally:
        kernel.filemap.blk_finish_plug(plug)
        dio[0] -= 1
        io_wait_event(dio[2], lambda: not dio[0])
        for bio in bios:
            for pfn, _, _ in bio.bi_io_vec:
                if read:
                    kernel.mem.note_kernel_write(pfn)
                put_page(kernel, pfn)
            bio_put(bio)
    if dio[1]:
        raise KernelError(EIO)
    return done


@slotted
class BlkdevDio:
    """struct blkdev_dio: an asynchronous transfer. ref: bios under way, and the submitter."""

    iocb: AsyncKiocb
    read: bool
    size: int = 0
    ref: int = 1
    bi_status: int = 0
    pages: list[int] = field(default_factory=list)


def blkdev_bio_end_io(bio: Bio) -> None:
    """bi_end_io: one of the bios of an asynchronous transfer is done. Context: softirq."""
    dio: BlkdevDio = bio.bi_private
    if bio.bi_status and not dio.bi_status:
        dio.bi_status = bio.bi_status
    kernel = bio.kernel
    bio_put(bio)
    blkdev_dio_put(kernel, dio)


@notrace
def blkdev_dio_put(kernel: Kernel, dio: BlkdevDio) -> None:
    """The last one unpins the pages (bio_check_pages_dirty) and tells ki_complete()."""
    dio.ref -= 1
    if dio.ref:
        return
    for pfn in dio.pages:
        if dio.read:
            kernel.mem.note_kernel_write(pfn)
            if not kernel.mem.flags[pfn] & PG_anon:
                set_page_dirty(kernel, pfn)
        put_page(kernel, pfn)
    iocb = dio.iocb
    if dio.bi_status:
        iocb.ki_complete(iocb, -EIO)
        return
    iocb.ki_pos += dio.size
    iocb.ki_complete(iocb, dio.size)


@may_sleep
def __blkdev_direct_IO(iocb: Kiocb, to: IovIter, nr_pages: int) -> int:
    """As the simple one, but answers -EIOCBQUEUED. Raises EINVAL (alignment), EFAULT."""
    bdev = I_BDEV(iocb.ki_filp.f_mapping.host)  # type: ignore[arg-type]
    kernel = current().kernel
    pos = iocb.ki_pos
    assert isinstance(iocb, AsyncKiocb)
    if (pos | iov_iter_alignment(to)) & (bdev_logical_block_size(bdev) - 1):
        raise KernelError(EINVAL)
    dio = BlkdevDio(iocb, not iocb.ki_flags & IOCB_WRITE)
    plug = kernel.filemap.blk_start_plug()
    while to.count:
        try:
            pages = iov_iter_get_pages(kernel, to, nr_pages, dio.read)
        except KernelError:
            dio.bi_status = BLK_STS_IOERR          # what was submitted before counts for nothing
            break
        bio = bio_alloc(kernel, len(pages))
        bio_set_dev(bio, bdev)
        bio.bi_sector = (pos + dio.size) >> 9
        bio.bi_end_io = blkdev_bio_end_io
        bio.bi_private = dio
        bio.bi_opf = REQ_OP_READ if dio.read else dio_bio_write_op(iocb)
        for pfn, offset, length in pages:
            bio_add_page(bio, pfn, length, offset)
            dio.pages.append(pfn)
            dio.size += length
        if not dio.read:
            current().write_bytes += bio.bi_size
        dio.ref += 1
        submit_bio(bio)
    kernel.filemap.blk_finish_plug(plug)
    blkdev_dio_put(kernel, dio)
    return -EIOCBQUEUED


@may_sleep
def blkdev_direct_IO(iocb: Kiocb, to: IovIter) -> int:
    """->direct_IO() of devices."""
    if not to.count:
        return 0
    if not is_sync_kiocb(iocb):
        return __blkdev_direct_IO(iocb, to, BIO_MAX_PAGES)
    return __blkdev_direct_IO_simple(iocb, to, BIO_MAX_PAGES)


def_blk_aops = AddressSpaceOperations(
    readpage=blkdev_readpage, readpages=blkdev_readpages, writepage=blkdev_writepage,
    write_begin=blkdev_write_begin, write_end=blkdev_write_end, writepages=blkdev_writepages,
    releasepage=blkdev_releasepage, direct_IO=blkdev_direct_IO, is_partially_uptodate=block_is_partially_uptodate,
    set_page_dirty=__set_page_dirty_buffers,
)


# ---- claims ----------------------------------------------------------------------------------------
def bd_may_claim(bdev: BlockDevice, whole: BlockDevice, holder: Any) -> bool:
    """True if `holder` may have the device for itself."""
    if bdev.bd_holder is holder:
        return True
    if bdev.bd_holder is not None:
        return False
    if whole is bdev:
        return True
    return whole.bd_holder is None or whole.bd_holder is bd_may_claim


@may_sleep
def bd_prepare_to_claim(bdev: BlockDevice, whole: BlockDevice, holder: Any) -> None:
    """Waits for another claim under way. Raises EBUSY."""
    while True:
        if not bd_may_claim(bdev, whole, holder):
            raise KernelError(EBUSY)
        if whole.bd_claiming is None or whole.bd_claiming is holder:
            return
        wait_while_inode(whole.bd_inode, lambda: whole.bd_claiming is not None)


@may_sleep
def bd_start_claiming(bdev: BlockDevice, holder: Any) -> BlockDevice:
    """The first half of an exclusive open; answers the whole disk, with a reference. Raises EBUSY, ENXIO."""
    kernel = bdev.bd_inode.i_sb.kernel
    found = get_gendisk(kernel, bdev.bd_dev)
    if found is None:
        raise KernelError(ENXIO)
    disk, partno = found
    whole = bdget(kernel, disk.major << 20 | disk.first_minor) if partno else bdgrab(bdev)
    try:
        bd_prepare_to_claim(bdev, whole, holder)
    except KernelError:
        bdput(whole)
        raise
    whole.bd_claiming = holder
    return whole


def bd_clear_claiming(whole: BlockDevice, holder: Any) -> None:
    assert whole.bd_claiming is holder
    whole.bd_claiming = None
    wake_up_inode(whole.bd_inode)


def bd_finish_claiming(bdev: BlockDevice, whole: BlockDevice, holder: Any) -> None:
    """The open succeeded: the claim holds. A claimed partition keeps others from claiming the disk."""
    whole.bd_holders += 1
    if whole is not bdev:
        whole.bd_holder = bd_may_claim
        bdev.bd_holders += 1
    bdev.bd_holder = holder
    bd_clear_claiming(whole, holder)


def bd_abort_claiming(bdev: BlockDevice, whole: BlockDevice, holder: Any) -> None:
    bd_clear_claiming(whole, holder)


# ---- opening and closing -----------------------------------------------------------------------------
@may_sleep
def __blkdev_get(bdev: BlockDevice, mode: int, for_part: int) -> None:
    """Opens a device whose reference the caller gives away. Raises ENXIO, EROFS and what the driver says."""
    kernel = bdev.bd_inode.i_sb.kernel
    found = get_gendisk(kernel, bdev.bd_dev)
    if found is None:
        bdput(bdev)
        raise KernelError(ENXIO)
    disk, partno = found
    mutex_lock(bdev.bd_mutex)
    try:
        if not bdev.bd_openers:
            bdev.bd_disk = disk
            bdev.bd_contains = bdev
            bdev.bd_partno = partno
            try:
                if not partno:
                    bdev.bd_part = disk_get_part(disk, 0)
                    if disk.fops is not None and disk.fops.open is not None:
                        disk.fops.open(bdev, mode)
                    bd_set_size(bdev, get_capacity(disk) << 9)
                    set_init_blocksize(bdev)
                    if bdev.bd_invalidated:
                        rescan = getattr(kernel, "rescan_partitions", None)
                        if rescan is not None:
                            rescan(disk, bdev)
                else:
                    whole = bdget(kernel, disk.major << 20 | disk.first_minor)
                    __blkdev_get(whole, mode, 1)
                    bdev.bd_contains = whole
                    bdev.bd_part = disk_get_part(disk, partno)
                    if bdev.bd_part is None or not bdev.bd_part.nr_sects:
                        raise KernelError(ENXIO)
                    bd_set_size(bdev, bdev.bd_part.nr_sects << 9)
                    set_init_blocksize(bdev)
            except KernelError:
                whole_bdev = bdev.bd_contains
                bdev.bd_disk = None  # type: ignore[assignment]
                bdev.bd_part = None
                bdev.bd_contains = None
                if whole_bdev is not None and whole_bdev is not bdev:
                    __blkdev_put(whole_bdev, mode, 1)
                raise
        elif bdev.bd_contains is bdev:
            if disk.fops is not None and disk.fops.open is not None:
                disk.fops.open(bdev, mode)
            if bdev.bd_invalidated:
                rescan = getattr(kernel, "rescan_partitions", None)
                if rescan is not None:
                    rescan(disk, bdev)
        bdev.bd_openers += 1
        if for_part:
            bdev.bd_part_count += 1
    except KernelError:
        mutex_unlock(bdev.bd_mutex)
        bdput(bdev)
        raise
    mutex_unlock(bdev.bd_mutex)


@may_sleep
def blkdev_get(bdev: BlockDevice, mode: int, holder: Any) -> None:
    """Opens a device; with FMODE_EXCL for `holder` alone. The caller's reference goes with it. Raises EBUSY, ENXIO."""
    whole = None
    if mode & FMODE_EXCL:
        assert holder is not None
        try:
            whole = bd_start_claiming(bdev, holder)
        except KernelError:
            bdput(bdev)
            raise
    try:
        __blkdev_get(bdev, mode, 0)
    except KernelError:
        if whole is not None:
            bd_abort_claiming(bdev, whole, holder)
            bdput(whole)
        raise
    if whole is not None:
        bd_finish_claiming(bdev, whole, holder)
        bdput(whole)


@may_sleep
def __blkdev_put(bdev: BlockDevice, mode: int, for_part: int) -> None:
    """Closes a device: the last close writes and forgets its page cache."""
    if bdev.bd_openers == 1:
        with suppress(KernelError):                # nobody is left to be told
            sync_blockdev(bdev)
    victim = None
    mutex_lock(bdev.bd_mutex)
    if for_part:
        bdev.bd_part_count -= 1
    disk = bdev.bd_disk
    bdev.bd_openers -= 1
    if not bdev.bd_openers:
        assert bdev.bd_holders == 0, "a claimed device is closed for good"
        with suppress(KernelError):
            sync_blockdev(bdev)
        kill_bdev(bdev)
        if bdev.bd_inode.i_state & I_DIRTY:        # bdev_write_inode(): off the flusher's list
            write_inode_now(bdev.bd_inode, 1)
    if bdev.bd_contains is bdev:
        if disk is not None and disk.fops is not None and disk.fops.release is not None:
            disk.fops.release(disk, mode)
    if not bdev.bd_openers:
        if bdev.bd_contains is not bdev:
            victim = bdev.bd_contains
        bdev.bd_contains = None
        bdev.bd_part = None
        bdev.bd_disk = None  # type: ignore[assignment]
    mutex_unlock(bdev.bd_mutex)
    bdput(bdev)
    if victim is not None:
        __blkdev_put(victim, mode, 1)


@may_sleep
def blkdev_put(bdev: BlockDevice, mode: int) -> None:
    """Ends blkdev_get(); mode: as then."""
    if mode & FMODE_EXCL:
        whole = bdev.bd_contains
        assert whole is not None
        if whole is not bdev:
            bdev.bd_holders -= 1
        whole.bd_holders -= 1
        if not bdev.bd_holders:
            bdev.bd_holder = None
        if not whole.bd_holders:
            whole.bd_holder = None
    __blkdev_put(bdev, mode, 0)


@may_sleep
def lookup_bdev(kernel: Kernel, pathname: bytes) -> BlockDevice:
    """The device of a special file, with a reference. Raises ENOTBLK, EACCES (nodev), ENOENT ..."""
    if not pathname:
        raise KernelError(EINVAL)
    path = filename_lookup(-100, pathname, 1)      # AT_FDCWD, LOOKUP_FOLLOW
    try:
        inode = path.dentry.d_inode
        assert inode is not None
        if inode.i_mode & S_IFMT != S_IFBLK:
            raise KernelError(ENOTBLK)
        if path.mnt.mnt_flags & MNT_NODEV:
            raise KernelError(EACCES)
        return bd_acquire(inode)
    finally:
        path_put(path)


@may_sleep
def blkdev_get_by_path(kernel: Kernel, path: bytes, mode: int, holder: Any) -> BlockDevice:
    """Opens the device of a special file for the kernel. Raises what lookup_bdev() and blkdev_get() raise, EACCES."""
    bdev = lookup_bdev(kernel, path)
    blkdev_get(bdev, mode, holder)
    if mode & FMODE_WRITE and bdev_read_only(bdev):
        blkdev_put(bdev, mode)
        raise KernelError(EACCES)
    return bdev


def bdev_read_only(bdev: BlockDevice | None) -> bool:
    """True if the driver or BLKROSET made the device read-only."""
    part = bdev.bd_part if bdev is not None else None
    return bool(getattr(part, "policy", 0))


# ---- files -----------------------------------------------------------------------------------------
@may_sleep
def blkdev_open(inode: Inode, filp: File) -> None:
    """open(2) of a block special file. Raises ENXIO, EBUSY (O_EXCL)."""
    if filp.f_flags & O_NONBLOCK:
        filp.f_mode |= FMODE_NDELAY
    if filp.f_flags & O_EXCL:
        filp.f_mode |= FMODE_EXCL
    bdev = bd_acquire(inode)
    filp.f_mapping = bdev.bd_inode.i_mapping
    filp.f_wb_err = filp.f_mapping.wb_err
    blkdev_get(bdev, filp.f_mode, filp)


@may_sleep
def blkdev_close(inode: Inode, filp: File) -> None:
    """->release()"""
    assert filp.f_mapping.host is not None
    blkdev_put(I_BDEV(filp.f_mapping.host), filp.f_mode)


@notrace
def bdev_file_inode(file: File) -> Inode:
    host = file.f_mapping.host
    assert host is not None
    return host


def block_llseek(file: File, offset: int, whence: int) -> int:
    """lseek(2): up to the end of the device. Raises EINVAL."""
    bd_inode = bdev_file_inode(file)
    if whence == SEEK_CUR:
        offset += file.f_pos
    elif whence == SEEK_END:
        offset += bd_inode.i_size
    elif whence != SEEK_SET:
        raise KernelError(EINVAL)
    if not 0 <= offset <= bd_inode.i_size:
        raise KernelError(EINVAL)
    file.f_pos = offset
    return offset


@may_sleep
def blkdev_read_iter(iocb: Kiocb, to: IovIter) -> int:
    """read(2): up to the end of the device."""
    size = bdev_file_inode(iocb.ki_filp).i_size
    if iocb.ki_pos >= size:
        return 0
    left = size - iocb.ki_pos
    if to.count > left:
        to.count = left
    return generic_file_read_iter(iocb, to)


@may_sleep
def blkdev_write_iter(iocb: Kiocb, source: IovIter) -> int:
    """write(2). Raises EPERM (read-only), ETXTBSY (pages are swapped to it), ENOSPC behind the end."""
    bd_inode = bdev_file_inode(iocb.ki_filp)
    kernel = bd_inode.i_sb.kernel
    if bdev_read_only(I_BDEV(bd_inode)):
        raise KernelError(EPERM)
    if bd_inode.i_flags & S_SWAPFILE:
        raise KernelError(ETXTBSY)
    if not source.count:
        return 0
    size = bd_inode.i_size
    if iocb.ki_pos >= size:
        raise KernelError(ENOSPC)
    left = size - iocb.ki_pos
    if source.count > left:
        source.count = left
    plug = kernel.filemap.blk_start_plug()
    try:
        inode_lock(bd_inode)
        try:
            written = __generic_file_write_iter(iocb, source)
        finally:
            inode_unlock(bd_inode)
        if written > 0 and iocb.ki_flags & IOCB_DSYNC:
            generic_write_sync(iocb, written)
    finally:
        kernel.filemap.blk_finish_plug(plug)
    return written


@may_sleep
def blkdev_fsync(file: File, start: int, end: int, datasync: int) -> None:
    """fsync(2): dirty pages, then the device's write cache. Raises EIO once for each open."""
    file_write_and_wait_range(file, start, end)
    bd_inode = bdev_file_inode(file)
    try:
        bd_inode.i_sb.kernel.vfs.blkdev_issue_flush(I_BDEV(bd_inode))
    except KernelError as e:
        if e.errno != EOPNOTSUPP:
            raise


@may_sleep
def block_ioctl(file: File, cmd: int, arg: int) -> int:
    """ioctl(2) of devices. Raises ENOTTY and what the block layer says."""
    bdev = I_BDEV(bdev_file_inode(file))
    mode = file.f_mode
    if file.f_flags & O_NONBLOCK:
        mode |= FMODE_NDELAY
    else:
        mode &= ~FMODE_NDELAY
    handler = bdev.bd_inode.i_sb.kernel.vfs.blkdev_ioctl
    if handler is None:
        raise KernelError(ENOTTY)
    return int(handler(bdev, mode, cmd, arg))


def_blk_fops = FileOperations(
    open=blkdev_open, release=blkdev_close, llseek=block_llseek, iter=True, read_iter=blkdev_read_iter,
    write_iter=blkdev_write_iter, mmap=generic_file_mmap, fsync=blkdev_fsync, unlocked_ioctl=block_ioctl,
)
