"""The objects of the virtual file system and the operation tables between them.

Linux: include/linux/fs.h, dcache.h, mount.h, path.h, poll.h. Only data and defaults; fs/*.py works on them.
Tables hold module-level functions, so that traces show Linux's names. Call sites never test for a missing
entry: a default raises the errno Linux answers (the few entries that Linux tests for are `None`-able and say so).
Every name on disk, in a path or in a directory is `bytes`.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.locking.spinlock import SpinLock
from glasskernel.lib.errno import EACCES, EINVAL, ENODEV, ENOTDIR, ENOTTY, EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.wait import WaitQueueHead
    from glasskernel.kernel.task import Cred
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.types import AddressSpace, VmAreaStruct, WritebackControl

S_IFMT, S_IFSOCK, S_IFLNK, S_IFREG, S_IFBLK = 0o170000, 0o140000, 0o120000, 0o100000, 0o060000
S_IFDIR, S_IFCHR, S_IFIFO = 0o040000, 0o020000, 0o010000
S_ISUID, S_ISGID, S_ISVTX = 0o4000, 0o2000, 0o1000
S_IXUSR, S_IXGRP, S_IXOTH, S_IRWXUGO, S_IALLUGO, S_IXUGO = 0o100, 0o010, 0o001, 0o777, 0o7777, 0o111
DT_UNKNOWN, DT_FIFO, DT_CHR, DT_DIR, DT_BLK, DT_REG, DT_LNK, DT_SOCK = 0, 1, 2, 4, 6, 8, 10, 12

O_ACCMODE, O_RDONLY, O_WRONLY, O_RDWR = 0o3, 0, 1, 2
O_CREAT, O_EXCL, O_NOCTTY, O_TRUNC, O_APPEND, O_NONBLOCK = 0o100, 0o200, 0o400, 0o1000, 0o2000, 0o4000
O_DSYNC, FASYNC, O_DIRECT, O_LARGEFILE, O_DIRECTORY = 0o10000, 0o20000, 0o40000, 0o100000, 0o200000
O_NOFOLLOW, O_NOATIME, O_CLOEXEC, O_SYNC, O_PATH = 0o400000, 0o1000000, 0o2000000, 0o4010000, 0o10000000
O_TMPFILE = 0o20000000 | O_DIRECTORY

FMODE_READ, FMODE_WRITE, FMODE_LSEEK, FMODE_PREAD, FMODE_PWRITE, FMODE_EXEC = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
FMODE_EXCL = 0x80
FMODE_NDELAY, FMODE_NOCMTIME, FMODE_PATH, FMODE_ATOMIC_POS, FMODE_WRITER = 0x40, 0x800, 0x4000, 0x8000, 0x10000
FMODE_CAN_READ, FMODE_CAN_WRITE, FMODE_OPENED = 0x20000, 0x40000, 0x80000
FMODE_CREATED, FMODE_STREAM = 0x100000, 0x200000
MAY_EXEC, MAY_WRITE, MAY_READ, MAY_APPEND, MAY_ACCESS, MAY_OPEN, MAY_CHDIR, MAY_NOT_BLOCK = 1, 2, 4, 8, 16, 32, 64, 128

# inode.flags
S_SYNC, S_NOATIME, S_APPEND, S_IMMUTABLE, S_DEAD, S_NOCMTIME, S_SWAPFILE = 1, 2, 4, 8, 16, 128, 256
# inode.i_state
I_DIRTY_SYNC, I_DIRTY_DATASYNC, I_DIRTY_PAGES = 1, 2, 4
I_NEW, I_WILL_FREE, I_FREEING, I_CLEAR, I_SYNC, I_REFERENCED = 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
I_LINKABLE, I_DIRTY_TIME, I_DIRTY_TIME_EXPIRED, I_CREATING = 1 << 10, 1 << 11, 1 << 12, 1 << 15
I_DIRTY_INODE = I_DIRTY_SYNC | I_DIRTY_DATASYNC
I_DIRTY = I_DIRTY_INODE | I_DIRTY_PAGES
I_DIRTY_ALL = I_DIRTY | I_DIRTY_TIME
# super_block.flags and mount flags (include/uapi/linux/mount.h)
SB_RDONLY, SB_NOSUID, SB_NODEV, SB_NOEXEC, SB_SYNCHRONOUS, SB_MANDLOCK, SB_DIRSYNC = 1, 2, 4, 8, 16, 64, 128
SB_NOATIME, SB_NODIRATIME, SB_SILENT, SB_POSIXACL = 1 << 10, 1 << 11, 1 << 15, 1 << 16
SB_KERNMOUNT, SB_I_VERSION, SB_LAZYTIME, SB_BORN, SB_ACTIVE = 1 << 22, 1 << 23, 1 << 25, 1 << 29, 1 << 30
SB_NOUSER = 1 << 31
MNT_NOSUID, MNT_NODEV, MNT_NOEXEC, MNT_NOATIME, MNT_NODIRATIME, MNT_RELATIME, MNT_READONLY = 1, 2, 4, 8, 16, 32, 64
MNT_SHRINKABLE, MNT_SHARED, MNT_UNBINDABLE, MNT_INTERNAL = 0x100, 0x1000, 0x2000, 0x4000
MNT_LOCKED, MNT_DOOMED, MNT_SYNC_UMOUNT, MNT_UMOUNT = 0x800000, 0x1000000, 0x2000000, 0x8000000
MNT_ON_DEMAND = 0x40000000                 # ours: fs/mount_on_demand.py
# dentry.d_flags
DCACHE_DISCONNECTED, DCACHE_CANT_MOUNT, DCACHE_DENTRY_KILLED, DCACHE_MOUNTED = 0x20, 0x100, 0x8000, 0x10000
DCACHE_NEED_AUTOMOUNT, DCACHE_NORCU = 0x20000, 0x40000000
DCACHE_MANAGED_DENTRY = DCACHE_MOUNTED | DCACHE_NEED_AUTOMOUNT
# file_system_type.fs_flags
FS_REQUIRES_DEV, FS_BINARY_MOUNTDATA, FS_USERNS_MOUNT, FS_RENAME_DOES_D_MOVE = 1, 2, 8, 32768

POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
POLLRDNORM, POLLRDBAND, POLLWRNORM, POLLWRBAND, POLLMSG, POLLRDHUP = 0x40, 0x80, 0x100, 0x200, 0x400, 0x2000
DEFAULT_POLLMASK = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM


@notrace
def MKDEV(major: int, minor: int) -> int:
    """A dev_t as the kernel keeps it (include/linux/kdev_t.h); stat(2) encodes it with new_encode_dev()."""
    return major << 20 | minor


@notrace
def MAJOR(dev: int) -> int:
    return dev >> 20


@notrace
def MINOR(dev: int) -> int:
    return dev & 0xFFFFF


@slotted
class Path:
    """struct path: a dentry seen through a mount. Compare with `a.mnt is b.mnt and a.dentry is b.dentry`."""

    mnt: Mount
    dentry: Dentry

    def __repr__(self) -> str:
        return f"<path {self.mnt!r} {self.dentry!r}>"


@slotted
class PollTable:
    """poll_table. queue: called as queue(file, wait_queue) by poll_wait(); None: only ask, do not wait."""

    queue: Callable[[File, WaitQueueHead], None] | None = None
    key: int = ~0                      # events that the caller asks for


@slotted
class Inode:
    """struct inode. Times are ns since the Epoch. i_size in bytes; i_blocks in 512-byte units."""

    i_sb: SuperBlock
    i_ino: int
    i_mode: int = 0
    i_uid: int = 0
    i_gid: int = 0
    i_nlink: int = 1
    i_rdev: int = 0
    i_size: int = 0
    i_blocks: int = 0
    i_blkbits: int = 12
    i_atime: int = 0
    i_mtime: int = 0
    i_ctime: int = 0
    i_version: int = 0
    i_generation: int = 0
    i_flags: int = 0
    i_op: InodeOperations = None  # type: ignore[assignment]
    i_fop: FileOperations = None  # type: ignore[assignment]
    i_mapping: AddressSpace = None  # type: ignore[assignment]      # page cache: i_data, or that of the block device
    i_data: AddressSpace = None  # type: ignore[assignment]         # the inode's own page cache, set by new_inode()
    i_count: int = 1                   # references: dentries and in-kernel holders; iput() at 0 evicts
    i_writecount: int = 0              # > 0: open for writing; < 0: being executed (ETXTBSY)
    i_link: bytes | None = None        # a symlink's text, when it is at hand
    i_pipe: Any = None                 # fs.pipe.Pipe
    i_cdev: Any = None
    i_bdev: Any = None                 # block.blk_types.BlockDevice, while a block special file is or was open
    i_flctx: Any = None                # fs.locks
    i_rwsem: Any = None                # kernel.locking.rwsem.RwSemaphore, made by the first inode_lock()
    i_state: int = 0                   # I_*
    i_dentry: list[Dentry] = field(default_factory=list)            # aliases: the dentries that name this inode
    i_hashed: bool = False             # in i_sb.s_inodes: iget_locked() finds it
    i_wb_list: Any = None              # the list of mm.backing_dev.BdiWriteback that has this inode; None: clean
    dirtied_when: int = 0              # jiffies of the first dirtying
    dirtied_time_when: int = 0         # of I_DIRTY_TIME
    i_dio_count: int = 0               # direct I/O under way
    i_fsnotify_mask: int = 0           # IN_* that somebody watches; 0: fsnotify() returns at once
    i_fsnotify_marks: Any = None       # list of fs.notify marks
    i_private: Any = None              # the file system's own
    i_security: Any = None             # the security module's, like the other *_security
    slab_address: int = 0              # the slot of its cache, like the next ones: mm/slub.py

    def __repr__(self) -> str:
        return f"<inode {self.i_sb.s_type.name.decode()}:{self.i_ino} {self.i_mode:o}>"


@slotted
class Dentry:
    """struct dentry. A negative dentry has d_inode None. children: by name, the hash of this parent.

    d_count: references (open files, mounts, children's use of their parent). dput() at 0 leaves it cached.
    """

    d_name: bytes
    d_parent: Dentry = None  # type: ignore[assignment]             # itself for a root
    d_inode: Inode | None = None
    d_sb: SuperBlock = None  # type: ignore[assignment]
    d_op: DentryOperations = None  # type: ignore[assignment]
    d_count: int = 1
    d_flags: int = 0
    d_subdirs: dict[bytes, Dentry] = field(default_factory=dict)
    d_hashed: bool = True              # False: unhashed (deleted or never linked): "(deleted)" in /proc
    d_fsdata: Any = None
    slab_address: int = 0

    def __repr__(self) -> str:
        return f"<dentry {self.d_name!r} {self.d_inode!r}>"


@slotted
class SuperBlock:
    """struct super_block. kernel: everything hangs off one. s_dev: MKDEV(0, n) for file systems without a device."""

    kernel: Kernel
    s_type: FileSystemType
    s_dev: int = 0
    s_op: SuperOperations = None  # type: ignore[assignment]
    s_root: Dentry = None  # type: ignore[assignment]
    s_flags: int = 0
    s_blocksize: int = 4096
    s_blocksize_bits: int = 12
    s_bdev: Any = None                 # block.blk_types.BlockDevice
    s_inodes_wb: dict[Inode, None] = field(default_factory=dict)    # inodes with pages on their way to the device
    s_bdi: Any = None                  # mm.backing_dev.BackingDevInfo; None: noop_backing_dev_info, nothing is written
    s_mode: int = 0                    # FMODE_* of the open block device
    s_uuid: bytes = bytes(16)
    s_magic: int = 0
    s_maxbytes: int = (1 << 63) - 1
    s_max_links: int = 0               # 0: the file system checks itself (EMLINK)
    s_time_gran: int = 1
    s_id: bytes = b""
    s_d_op: DentryOperations | None = None
    s_inodes: dict[int, Inode] = field(default_factory=dict)        # inode cache: i_ino -> inode
    s_next_ino: int = 1                # get_next_ino() for file systems without numbers of their own
    s_fs_info: Any = None
    s_inode_list: dict[Inode, None] = field(default_factory=dict)   # every inode of new_inode(), in order
    s_active: int = 1                  # mounts and kernel holders; deactivate_super() at 0 kills it
    s_rename_mutex: Any = None         # s_vfs_rename_mutex, made by the first lock_rename() of two directories
    s_umount: Any = None
    s_subtype: bytes = b""
    s_writers: int = 0                 # files open for writing (remount read-only asks)
    s_shrink: Any = None               # mm.vmscan.Shrinker: its unused dentries and inodes
    s_dio_done_wq: Any = None          # ends of asynchronous direct I/O that sleep; made by the first
    s_security: Any = None

    def __repr__(self) -> str:
        return f"<super_block {self.s_type.name.decode()} {self.s_dev >> 20}:{self.s_dev & 0xFFFFF}>"


@slotted
class Mount:
    """struct mount and its vfsmount. mnt_mountpoint lies in mnt_parent; the namespace root's parent is itself."""

    mnt_sb: SuperBlock
    mnt_root: Dentry
    mnt_id: int
    mnt_devname: bytes = b"none"
    mnt_parent: Mount = None  # type: ignore[assignment]
    mnt_mountpoint: Dentry = None  # type: ignore[assignment]
    mnt_flags: int = 0                 # MNT_*
    mnt_ns: Any = None                 # kernel.nsproxy.MntNamespace; None once detached
    mnt_children: list[Mount] = field(default_factory=list)
    mnt_group_id: int = 0              # "shared:N" peer group; 0 = private
    mnt_master: Mount | None = None
    mnt_pin: Callable[[Mount], None] | None = None         # told when the mount goes (struct fs_pin)
    mnt_count: int = 1                 # references: files, fs_structs, walks; the tree itself holds one
    mnt_writers: int = 0               # mnt_want_write() minus mnt_drop_write()

    def __repr__(self) -> str:
        return f"<mount {self.mnt_id} {self.mnt_sb.s_type.name.decode()}>"


NSFS_MAGIC = 0x6E736673


@slotted
class MntNamespace:
    """struct mnt_namespace. mounts: id -> mount, in the order /proc/PID/mountinfo shows them."""

    kernel: Kernel
    root: Mount = None  # type: ignore[assignment]
    mounts: dict[int, Mount] = field(default_factory=dict)
    event: int = 0                     # poll(2) on /proc/PID/mounts
    poll: WaitQueueHead | None = None
    count: int = 1
    inum: int = 0                      # the inode number of /proc/PID/ns/mnt
    seq: int = 0
    user_ns: Any = None


@slotted
class UtsNamespace:
    """struct uts_namespace: what uname(2) says."""

    sysname: bytes = b"Linux"
    nodename: bytes = b"glasskernel"
    release: bytes = b"5.3.0-glasskernel"
    version: bytes = b"#1 SMP Sun Sep 15 20:00:00 UTC 2019"
    machine: bytes = b"x86_64"
    domainname: bytes = b"(none)"
    inum: int = 4026531838
    count: int = 1
    user_ns: Any = None


@slotted
class Nsproxy:
    """struct nsproxy: the namespaces of a task. Shared until one of them changes. kernel/nsproxy.py works on it.

    Here because the boot task gets its own together with the root file system.
    """

    uts_ns: UtsNamespace
    mnt_ns: MntNamespace
    count: int = 1
    ipc_ns: Any = None
    pid_ns: Any = None
    net_ns: Any = None
    cgroup_ns: Any = None
    time_ns: Any = None


@slotted
class VfsState:
    """What the VFS keeps for one kernel (kernel.vfs). Made by fs.namespace.vfs_caches_init()."""

    kernel: Kernel
    file_systems: dict[bytes, FileSystemType] = field(default_factory=dict)     # in the order of registration
    super_blocks: dict[SuperBlock, None] = field(default_factory=dict)
    mounts: dict[int, Mount] = field(default_factory=dict)          # every mount by mnt_id, kern_mount()s too
    mount_hash: dict[tuple[Mount, Dentry], Mount] = field(default_factory=dict)  # (parent, mountpoint) -> topmost
    mount_groups: dict[int, None] = field(default_factory=dict)     # peer group ids in use
    sync_blockdev: Any = None          # fs.block_dev.__sync_blockdev(bdev, wait)
    blkdev_issue_flush: Any = None     # block.blk_core.blkdev_issue_flush(bdev)
    blkdev_issue_zeroout: Any = None   # (bdev, sector, nr_sects)
    blkdev_issue_discard: Any = None   # (bdev, sector, nr_sects)
    blkdev_ioctl: Any = None           # block.ioctl.blkdev_ioctl(bdev, mode, cmd, arg)
    bd_forget: Any = None              # fs.block_dev.bd_forget(inode)
    blockdev_superblock: SuperBlock | None = None                   # fs.block_dev: the super block of bdev inodes
    anon_devs: dict[int, None] = field(default_factory=dict)        # minors of MKDEV(0, n) in use
    on_demand: Any = None              # fs.mount_on_demand.OnDemand: a mount that waits for its first visitor
    mount_now: Any = None              # fs.mount_on_demand.mount_now(mnt)
    init_mnt_ns: MntNamespace = None  # type: ignore[assignment]
    rename_lock: SpinLock = field(default_factory=SpinLock)         # while a dentry moves
    last_ns_inum: int = 0xF0000100     # proc_alloc_inum(): above the initial namespaces' numbers
    last_ino: int = 0                  # get_next_ino()
    nr_files: int = 0                  # /proc/sys/fs/file-nr
    max_files: int = 0                 # /proc/sys/fs/file-max; files_init() sets it from memory
    nr_inodes: int = 0                 # /proc/sys/fs/inode-nr
    nr_dentry: int = 0                 # /proc/sys/fs/dentry-state
    pipe_max_size: int = 1048576       # /proc/sys/fs/pipe-max-size
    protected_symlinks: int = 1        # /proc/sys/fs/protected_*: as Debian sets them
    protected_hardlinks: int = 1
    special_fops: dict[int, FileOperations] = field(default_factory=dict)       # S_IFCHR, S_IFBLK, S_IFIFO -> fops
    pipe_mnt: Mount = None  # type: ignore[assignment]
    anon_inode_mnt: Mount = None  # type: ignore[assignment]
    anon_inode_inode: Inode = None  # type: ignore[assignment]
    shm_mnt: Mount = None  # type: ignore[assignment]
    file_locks: list[Any] = field(default_factory=list)             # fs.locks.FileLock, for /proc/locks
    blocked_locks: list[Any] = field(default_factory=list)          # POSIX requests that wait
    detach_mounts: Callable[[Dentry], None] | None = None           # fs.namespace.__detach_mounts()
    nr_marks: int = 0                  # fsnotify marks: while 0, nobody listens
    dir_notify_enable: int = 1         # /proc/sys/fs/dir-notify-enable
    dnotify_flush: Callable[[File, Any], None] | None = None        # set by the first F_NOTIFY
    fsnotify_cookie: int = 0
    inotify_user_instances: dict[int, int] = field(default_factory=dict)        # uid -> inotify instances
    pipe_user_pages: dict[int, int] = field(default_factory=dict)   # uid -> pages of pipe buffers


@slotted
class File:
    """struct file: one open. Shared by dup() and fork(); fput() at 0 releases it."""

    f_path: Path
    f_inode: Inode
    f_op: FileOperations
    f_flags: int                       # O_*
    f_mode: int                        # FMODE_*
    f_cred: Cred
    f_pos: int = 0
    f_count: int = 1
    f_mapping: AddressSpace = None  # type: ignore[assignment]      # inode.i_mapping, or the real file's (overlayfs)
    f_ra: Any = None                   # readahead state
    f_owner: tuple[int, int, int] = (0, 0, 0)                       # F_SETOWN: (type, pid, signal)
    f_ep_links: list[Any] = field(default_factory=list)             # epitems that watch this file
    private_data: Any = None
    f_pos_lock: Any = None             # kernel.locking.mutex.Mutex, made by the first __fdget_pos() that shares
    f_wb_err: int = 0
    f_security: Any = None             # None: no security module, reads and writes need not ask
    slab_address: int = 0

    def __repr__(self) -> str:
        return f"<file {self.f_path.dentry!r} flags {self.f_flags:o}>"


IOCB_EVENTFD, IOCB_APPEND, IOCB_DIRECT, IOCB_DSYNC, IOCB_SYNC, IOCB_WRITE, IOCB_NOWAIT = 1, 2, 4, 16, 32, 64, 128


@slotted
class Kiocb:
    """struct kiocb: one read or write under way."""

    ki_filp: File
    ki_pos: int
    ki_flags: int = 0                  # IOCB_*


@slotted
class AsyncKiocb(Kiocb):
    """struct kiocb with a ki_complete(iocb, res): the file may answer -EIOCBQUEUED, and call it later."""

    ki_complete: Callable[[Any, int], None] = lambda _iocb, _res: None
    private: Any = None                # what ki_complete wants to find (container_of)


@notrace
def is_sync_kiocb(iocb: Kiocb) -> bool:
    """True if the caller waits for the end."""
    return type(iocb) is Kiocb


# ---- defaults: what the VFS answers where a table has no entry ---------------------------------------------
@notrace
def _einval(*_args: Any) -> Any:
    raise KernelError(EINVAL)


@notrace
def _enodev(*_args: Any) -> Any:
    raise KernelError(ENODEV)


@notrace
def _eperm(*_args: Any) -> Any:
    raise KernelError(EPERM)


@notrace
def _eacces(*_args: Any) -> Any:
    raise KernelError(EACCES)


@notrace
def _eopnotsupp(*_args: Any) -> Any:
    raise KernelError(EOPNOTSUPP)


@notrace
def _enotdir(*_args: Any) -> Any:
    raise KernelError(ENOTDIR)


@notrace
def _enotty(*_args: Any) -> Any:
    raise KernelError(ENOTTY)


@notrace
def _default_poll(_file: File, _pt: PollTable) -> int:
    return DEFAULT_POLLMASK


@notrace
def _nothing(*_args: Any) -> Any:
    return None


@slotted(frozen=True)
class FileOperations:
    """struct file_operations. Called with no lock held; may sleep. Functions answer counts or None and raise.

    llseek(file, offset, whence) -> new position            default: generic (fs/read_write.py default_llseek)
    read_iter(iocb, to) -> int           fills at most to.count bytes from iocb.ki_pos and moves it; 0 at the end
    write_iter(iocb, from) -> int        takes at most from.count bytes and moves iocb.ki_pos
    iterate(file, ctx)                   directory: ctx.emit(name, ino, d_type) until it answers False; moves ctx.pos
    poll(file, poll_table) -> mask       POLL* bits; registers with poll_wait(file, wait_queue, poll_table)
    unlocked_ioctl(file, cmd, arg) -> int
    mmap(file, vma)                      sets vma.vm_ops; default ENODEV
    open(inode, file)                    after f_op is set; may replace file.f_op, set private_data
    flush(file)                          at every close(2) of a descriptor
    release(inode, file)                 when the last reference goes
    fsync(file, start, end, datasync)
    fallocate(file, mode, offset, len)
    splice_read(file, pos, pipe, len, nonblock) -> (count, new position); None: through a copy
    iter                                 Linux has the iterators here; otherwise it has ->read() and ->write()
    """

    llseek: Callable[[File, int, int], int] | None = None
    read_iter: Callable[[Kiocb, IovIter], int] = _einval
    write_iter: Callable[[Kiocb, IovIter], int] = _einval
    iter: bool = False
    iterate: Callable[[File, DirContext], None] = _enotdir
    poll: Callable[[File, PollTable], int] = _default_poll
    unlocked_ioctl: Callable[[File, int, int], int] = _enotty
    mmap: Callable[[File, VmAreaStruct], None] = _enodev
    open: Callable[[Inode, File], None] = _nothing
    flush: Callable[[File], None] = _nothing
    release: Callable[[Inode, File], None] = _nothing
    fsync: Callable[[File, int, int, int], None] = _einval
    fallocate: Callable[[File, int, int, int], None] = _eopnotsupp
    show_fdinfo: Callable[[File], bytes] | None = None
    fasync: Callable[[int, File, int], None] | None = None           # None: FASYNC is recorded, no SIGIO is sent
    get_unmapped_area: Callable[[File, int, int, int, int], int] | None = None
    splice_read: Callable[[File, int, Any, int, bool], tuple[int, int]] | None = None


@slotted
class DirContext:
    """struct dir_context. emit(name, ino, d_type) -> False: buffer full, stop without moving pos."""

    emit: Callable[[bytes, int, int], bool]
    pos: int = 0                       # 0 is ".", 1 is ".." where dir_emit_dots() is used


@slotted(frozen=True)
class InodeOperations:
    """struct inode_operations. `dir` arguments are directory inodes, held by the caller's i_rwsem.

    lookup(dir, dentry): fills dentry with d_add()/d_splice_alias(); a miss leaves it negative. Answers None, or
        the alias that d_splice_alias() found for a directory; may raise ENOENT (procfs: nothing is cached).
    get_link(dentry, inode) -> bytes; None in the table: not a symlink. A magic link answers a Path that it does
        not take references for.
    permission(inode, mask): raises EACCES; None: generic_permission().
    getattr(path_dentry, inode) -> Kstat; None: generic_fillattr().
    setattr(dentry, iattr): None: simple_setattr().
    """

    lookup: Callable[[Inode, Dentry], Dentry | None] = _enotdir
    create: Callable[[Inode, Dentry, int], None] = _eacces                   # mode includes S_IFREG
    link: Callable[[Dentry, Inode, Dentry], None] = _eperm                   # old_dentry, dir, new_dentry
    unlink: Callable[[Inode, Dentry], None] = _eperm
    symlink: Callable[[Inode, Dentry, bytes], None] = _eperm
    mkdir: Callable[[Inode, Dentry, int], None] = _eperm
    rmdir: Callable[[Inode, Dentry], None] = _eperm
    mknod: Callable[[Inode, Dentry, int, int], None] = _eperm                # mode, dev
    rename: Callable[[Inode, Dentry, Inode, Dentry, int], None] = _eperm     # old_dir, old, new_dir, new, flags
    tmpfile: Callable[[Inode, Dentry, int], None] | None = None              # None: EOPNOTSUPP
    get_link: Callable[[Dentry | None, Inode], bytes | Path] | None = None   # a Path: a magic link of /proc
    readlink: Callable[[Dentry], bytes] | None = None      # magic links: the text that readlink(2) shows
    permission: Callable[[Inode, int], None] | None = None
    getattr: Callable[[Dentry, Inode], Kstat] | None = None
    setattr: Callable[[Dentry, Iattr], None] | None = None
    update_time: Callable[[Inode, int, int], None] | None = None             # (inode, ns, S_ATIME|...)
    listxattr: Callable[[Dentry], list[bytes]] | None = None
    getxattr: Callable[[Inode, bytes], bytes] | None = None                  # None: EOPNOTSUPP
    setxattr: Callable[[Inode, bytes, bytes | None, int], None] | None = None
    fiemap: Callable[[Inode, Any, int, int], None] | None = None             # (inode, info, start, length)


@slotted(frozen=True)
class DentryOperations:
    """struct dentry_operations. d_revalidate(dentry) -> False: forget it and look up again (procfs)."""

    d_revalidate: Callable[[Dentry], bool] | None = None
    d_delete: Callable[[Dentry], bool] | None = None       # True: do not keep it cached at d_count 0
    d_dname: Callable[[Dentry], bytes] | None = None       # anonymous names: b"pipe:[12]"
    d_iput: Callable[[Dentry, Inode], None] | None = None  # None: iput()
    d_release: Callable[[Dentry], None] | None = None
    d_automount: Callable[[Path], Mount | None] | None = None     # mounts there, answers what; DCACHE_NEED_AUTOMOUNT


@slotted(frozen=True)
class SuperOperations:
    """struct super_operations. statfs(dentry) -> Kstatfs. evict_inode(inode): at i_count 0 and no use left."""

    statfs: Callable[[Dentry], Kstatfs]
    alloc_inode: Callable[[SuperBlock], Inode] | None = None                 # from the file system's own cache
    free_inode: Callable[[Inode], None] | None = None
    evict_inode: Callable[[Inode], None] = _nothing
    put_super: Callable[[SuperBlock], None] = _nothing
    sync_fs: Callable[[SuperBlock, int], None] = _nothing
    write_inode: Callable[[Inode, WritebackControl], None] | None = None     # stores the inode itself; may raise
    dirty_inode: Callable[[Inode, int], None] | None = None                  # (inode, I_DIRTY_*): it got dirty
    bdev_try_to_free_page: Callable[[SuperBlock, int, int], bool] | None = None          # (sb, pfn, gfp)
    freeze_fs: Callable[[SuperBlock], None] | None = None
    unfreeze_fs: Callable[[SuperBlock], None] | None = None
    show_options: Callable[[Dentry], bytes] = lambda _d: b""
    drop_inode: Callable[[Inode], bool] | None = None      # None: generic (evict when i_nlink is 0)
    remount_fs: Callable[[SuperBlock, int, bytes], int] | None = None        # (sb, SB_* flags, data) -> flags
    show_devname: Callable[[Dentry], bytes] | None = None
    show_path: Callable[[Dentry], bytes] | None = None     # mountinfo's root field, when it is not the dentry's path
    umount_begin: Callable[[SuperBlock], None] | None = None


@slotted(frozen=True)
class FileSystemType:
    """struct file_system_type. mount(kernel, fs_type, flags, dev_name, data) -> root dentry of a SuperBlock."""

    name: bytes
    mount: Callable[[Kernel, FileSystemType, int, bytes, bytes], Dentry]
    kill_sb: Callable[[SuperBlock], None] = _nothing
    fs_flags: int = 0                  # FS_REQUIRES_DEV = 1

    def __repr__(self) -> str:
        return f"<file_system_type {self.name.decode()}>"


@slotted
class Kstat:
    """struct kstat: what stat(2) and statx(2) are made of. Times in ns; btime 0: not known."""

    dev: int
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime: int
    mtime: int
    ctime: int
    btime: int = 0
    blksize: int = 4096
    blocks: int = 0


@slotted
class Kstatfs:
    """struct kstatfs. Sizes in blocks of f_bsize bytes."""

    f_type: int
    f_bsize: int = 4096
    f_blocks: int = 0
    f_bfree: int = 0
    f_bavail: int = 0
    f_files: int = 0
    f_ffree: int = 0
    f_fsid: int = 0
    f_namelen: int = 255
    f_frsize: int = 4096
    f_flags: int = 0


ATTR_MODE, ATTR_UID, ATTR_GID, ATTR_SIZE, ATTR_ATIME, ATTR_MTIME, ATTR_CTIME = 1, 2, 4, 8, 16, 32, 64
ATTR_ATIME_SET, ATTR_MTIME_SET, ATTR_FORCE, ATTR_KILL_SUID, ATTR_KILL_SGID, ATTR_FILE, ATTR_OPEN = (
    128, 256, 512, 2048, 4096, 8192, 32768)
ATTR_TIMES_SET, ATTR_TOUCH = 65536, 131072


@slotted
class Iattr:
    """struct iattr: what notify_change() is asked to change; ia_valid says which fields count."""

    ia_valid: int
    ia_mode: int = 0
    ia_uid: int = 0
    ia_gid: int = 0
    ia_size: int = 0
    ia_atime: int = 0
    ia_mtime: int = 0
    ia_ctime: int = 0
    ia_file: File | None = None
