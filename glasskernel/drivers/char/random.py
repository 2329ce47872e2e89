"""Random numbers: getrandom(2), /dev/random and /dev/urandom.

Linux: drivers/char/random.c (5.3). Same: interfaces and errors. Differs: the bytes come from the machine's
    seeded generator, so the same seed gives the same numbers; it is never short of entropy, so nothing
    blocks. What is written is taken and changes nothing, which no reader can tell from mixing it in.
Owns: Kernel.random.  Do not use the guest's keys outside: with a known seed they are known.
Gaps: RNDADDENTROPY counts nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_to_user, put_user_u32
from glasskernel.fs.read_write import noop_llseek
from glasskernel.fs.types import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM, FileOperations
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import cond_resched, signal_pending
from glasskernel.lib.errno import EINVAL, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, size_t, u32

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Kiocb, PollTable
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

GRND_NONBLOCK, GRND_RANDOM = 1, 2
INPUT_POOL_BITS = 4096
RNDGETENTCNT, RNDADDTOENTCNT, RNDADDENTROPY = 0x80045200, 0x40045201, 0x40085203
RNDZAPENTCNT, RNDCLEARPOOL, RNDRESEEDCRNG = 0x5204, 0x5206, 0x5207
_CHUNK = 4096                       # a signal or another task gets its turn after so many bytes


@slotted
class RandomState:
    """Kernel.random. boot_id: 16 bytes, /proc/sys/kernel/random/boot_id. entropy_count: bits."""

    boot_id: bytes
    entropy_count: int = INPUT_POOL_BITS
    write_wakeup_threshold: int = 896
    urandom_min_reseed_secs: int = 60


@notrace
def random_init(kernel: Kernel) -> None:
    """rand_initialize()"""
    kernel.random = RandomState(kernel.machine.random_bytes(16))


def generate_random_uuid(kernel: Kernel) -> bytes:
    """16 bytes of a version 4 UUID (lib/uuid.c)."""
    raw = bytearray(kernel.machine.random_bytes(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)


def urandom_read(iocb: Kiocb, to: IovIter) -> int:
    """As many bytes as asked for, at most 32 MiB - 1; fewer when a signal comes after the first 256."""
    count = min(to.count, 0x1FFFFFF)
    machine = current().kernel.machine
    done = 0
    while done < count:
        if done > 256 and signal_pending(current()):
            break
        chunk = machine.random_bytes(min(_CHUNK, count - done))
        copied = to.copy_to_iter(chunk)
        done += copied
        if copied < len(chunk):
            break
        cond_resched()
    return done


def random_read(iocb: Kiocb, to: IovIter) -> int:
    """The same: there is always enough. One read gives at most 512 bytes, as the pool's size has it."""
    count = min(to.count, INPUT_POOL_BITS // 8)
    return to.copy_to_iter(current().kernel.machine.random_bytes(count))


def random_write(iocb: Kiocb, source: IovIter) -> int:
    """Takes everything. Errors: EFAULT."""
    done = 0
    while source.count:
        size = len(source.copy_from_iter(min(source.count, _CHUNK)))
        if size == 0:
            break
        done += size
    return done


def random_poll(file: File, table: PollTable) -> int:
    return POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM


def random_ioctl(file: File, cmd: int, arg: int) -> int:
    """Errors: EPERM without CAP_SYS_ADMIN for what changes the pool, EINVAL for an unknown request."""
    kernel = current().kernel
    if cmd == RNDGETENTCNT:
        put_user_u32(arg, kernel.random.entropy_count)
        return 0
    if cmd not in (RNDADDTOENTCNT, RNDADDENTROPY, RNDZAPENTCNT, RNDCLEARPOOL, RNDRESEEDCRNG):
        raise KernelError(EINVAL)
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    return 0


@syscall
def sys_getrandom(buf: UserPtr, count: size_t, flags: u32) -> int:
    """getrandom(2). Answers the number of bytes. Errors: EINVAL for unknown flags, EFAULT."""
    if flags & ~(GRND_NONBLOCK | GRND_RANDOM):
        raise KernelError(EINVAL)
    if flags & GRND_RANDOM:
        count = min(count, INPUT_POOL_BITS // 8)
    count = min(count, 0x1FFFFFF)
    task = current()
    machine = task.kernel.machine
    done = 0
    while done < count:
        if done > 256 and signal_pending(task):
            break
        size = min(_CHUNK, count - done)
        try:
            copy_to_user(buf + done, machine.random_bytes(size))
        except KernelError:
            if done == 0:
                raise
            break
        done += size
    return done


random_fops = FileOperations(
    llseek=noop_llseek, read_iter=random_read, write_iter=random_write, poll=random_poll,
    unlocked_ioctl=random_ioctl,
)
urandom_fops = FileOperations(
    llseek=noop_llseek, read_iter=urandom_read, write_iter=random_write, unlocked_ioctl=random_ioctl,
)
