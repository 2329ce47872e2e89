"""Terminals: constants, layouts and the objects that the files of drivers/tty share.

Linux: include/uapi/asm-generic/{termbits.h,termios.h,ioctls.h}, include/linux/{tty.h,tty_driver.h,tty_ldisc.h}.
Same: names, bits, layouts. Differs: file mode, locks: see tty_io.py.
Owns: nothing; TtyState (kernel.tty) is made by tty_io.tty_init().
Invariants: tty.link.link is tty for both ends of a pty; tty.pgrp and tty.session are both None or both set while
    tty is somebody's controlling terminal.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace, u8, u16, u32
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from glasskernel.drivers.base.core import Class
    from glasskernel.drivers.tty.tty_port import TtyPort
    from glasskernel.fs.fcntl_signal import FasyncStruct
    from glasskernel.fs.types import File, FileOperations, PollTable
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.locking.mutex import Mutex
    from glasskernel.kernel.pid import Pid
    from glasskernel.mm.iov_iter import IovIter

# c_cc[]
(VINTR, VQUIT, VERASE, VKILL, VEOF, VTIME, VMIN, VSWTC, VSTART, VSTOP, VSUSP, VEOL, VREPRINT, VDISCARD, VWERASE,
 VLNEXT, VEOL2) = range(17)
NCCS: Final = 19
DISABLED_CHAR: Final = 0       # _POSIX_VDISABLE

# c_iflag
IGNBRK, BRKINT, IGNPAR, PARMRK, INPCK, ISTRIP, INLCR, IGNCR, ICRNL, IUCLC, IXON, IXANY, IXOFF, IMAXBEL, IUTF8 = (
    0o1, 0o2, 0o4, 0o10, 0o20, 0o40, 0o100, 0o200, 0o400, 0o1000, 0o2000, 0o4000, 0o10000, 0o20000, 0o40000)
# c_oflag
OPOST, OLCUC, ONLCR, OCRNL, ONOCR, ONLRET, OFILL, OFDEL = 0o1, 0o2, 0o4, 0o10, 0o20, 0o40, 0o100, 0o200
TABDLY, XTABS = 0o14000, 0o14000
# c_cflag
CBAUD, CSIZE, CS5, CS6, CS7, CS8 = 0o10017, 0o60, 0, 0o20, 0o40, 0o60
CSTOPB, CREAD, PARENB, PARODD, HUPCL, CLOCAL = 0o100, 0o200, 0o400, 0o1000, 0o2000, 0o4000
CBAUDEX, BOTHER, CIBAUD, CMSPAR, CRTSCTS = 0o10000, 0o10000, 0o2003600000, 0o10000000000, 0o20000000000
B0, B38400, IBSHIFT = 0, 0o17, 16
# c_lflag
ISIG, ICANON, XCASE, ECHO, ECHOE, ECHOK, ECHONL, NOFLSH, TOSTOP = (
    0o1, 0o2, 0o4, 0o10, 0o20, 0o40, 0o100, 0o200, 0o400)
ECHOCTL, ECHOPRT, ECHOKE, FLUSHO, PENDIN, IEXTEN, EXTPROC = (
    0o1000, 0o2000, 0o4000, 0o10000, 0o40000, 0o100000, 0o200000)

BAUD_TABLE: Final = (0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600,
                     115200, 230400, 460800, 500000, 576000, 921600, 1000000, 1152000, 1500000, 2000000, 2500000,
                     3000000, 3500000, 4000000)

# ioctls
TCGETS, TCSETS, TCSETSW, TCSETSF, TCGETA, TCSETA, TCSETAW, TCSETAF = range(0x5401, 0x5409)
TCSBRK, TCXONC, TCFLSH, TIOCEXCL, TIOCNXCL, TIOCSCTTY, TIOCGPGRP, TIOCSPGRP = range(0x5409, 0x5411)
TIOCOUTQ, TIOCSTI, TIOCGWINSZ, TIOCSWINSZ, TIOCMGET, TIOCMBIS, TIOCMBIC, TIOCMSET = range(0x5411, 0x5419)
TIOCGSOFTCAR, TIOCSSOFTCAR, FIONREAD, TIOCLINUX, TIOCCONS, TIOCGSERIAL, TIOCSSERIAL = range(0x5419, 0x5420)
TIOCPKT, FIONBIO, TIOCNOTTY, TIOCSETD, TIOCGETD, TCSBRKP = 0x5420, 0x5421, 0x5422, 0x5423, 0x5424, 0x5425
TIOCSBRK, TIOCCBRK, TIOCGSID = 0x5427, 0x5428, 0x5429
TCGETS2, TCSETS2, TCSETSW2, TCSETSF2 = 0x802C542A, 0x402C542B, 0x402C542C, 0x402C542D
TIOCGPTN, TIOCSPTLCK, TIOCGDEV, TIOCSIG, TIOCVHANGUP = 0x80045430, 0x40045431, 0x80045432, 0x40045436, 0x5437
TIOCGPKT, TIOCGPTLCK, TIOCGEXCL, TIOCGPTPEER = 0x80045438, 0x80045439, 0x80045440, 0x5441
FIOASYNC, TIOCGLCKTRMIOS, TIOCSLCKTRMIOS, FIOQSIZE = 0x5452, 0x5456, 0x5457, 0x5460
TIOCINQ: Final = FIONREAD

TIOCPKT_DATA, TIOCPKT_FLUSHREAD, TIOCPKT_FLUSHWRITE, TIOCPKT_STOP, TIOCPKT_START = 0, 1, 2, 4, 8
TIOCPKT_NOSTOP, TIOCPKT_DOSTOP, TIOCPKT_IOCTL = 16, 32, 64
TCOOFF, TCOON, TCIOFF, TCION = range(4)
TCIFLUSH, TCOFLUSH, TCIOFLUSH = range(3)

N_TTY: Final = 0

# tty_driver.type, .subtype, .flags
TTY_DRIVER_TYPE_SYSTEM, TTY_DRIVER_TYPE_CONSOLE, TTY_DRIVER_TYPE_SERIAL, TTY_DRIVER_TYPE_PTY = 1, 2, 3, 4
SYSTEM_TYPE_TTY, SYSTEM_TYPE_CONSOLE, SYSTEM_TYPE_SYSCONS, SYSTEM_TYPE_SYSPTMX = 1, 2, 3, 4
PTY_TYPE_MASTER, PTY_TYPE_SLAVE = 1, 2
TTY_DRIVER_INSTALLED, TTY_DRIVER_RESET_TERMIOS, TTY_DRIVER_REAL_RAW, TTY_DRIVER_DYNAMIC_DEV = 1, 2, 4, 8
TTY_DRIVER_DEVPTS_MEM: Final = 0x10

# tty.flags
TTY_THROTTLED, TTY_IO_ERROR, TTY_OTHER_CLOSED, TTY_EXCLUSIVE = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TTY_DO_WRITE_WAKEUP, TTY_PTY_LOCK, TTY_NO_WRITE_SPLIT, TTY_HUPPED, TTY_HUPPING = (
    1 << 5, 1 << 16, 1 << 17, 1 << 18, 1 << 19)
# tty.flow_change
TTY_THROTTLE_SAFE, TTY_UNTHROTTLE_SAFE = 1, 2
# flags of received characters
TTY_NORMAL, TTY_BREAK, TTY_FRAME, TTY_PARITY, TTY_OVERRUN = range(5)

TTY_MAJOR, TTYAUX_MAJOR, UNIX98_PTY_MASTER_MAJOR, UNIX98_PTY_SLAVE_MAJOR, HVC_MAJOR = 4, 5, 128, 136, 229
N_TTY_BUF_SIZE: Final = 4096

# C's "INIT_C_CC": ^C ^\ DEL ^U ^D 0 1 0 ^Q ^S ^Z 0 ^R ^O ^W ^V 0
INIT_C_CC: Final = b"\3\34\177\25\4\0\1\0\21\23\32\0\22\17\27\26\0\0\0"


@uapi("include/uapi/asm-generic/termbits.h", size=36)
class Termios(Layout):
    """struct termios, as TCGETS knows it"""

    c_iflag: u32
    c_oflag: u32
    c_cflag: u32
    c_lflag: u32
    c_line: u8
    c_cc: Annotated[bytes, "char[19]"]


@uapi("include/uapi/asm-generic/termbits.h", size=44)
class Termios2(Layout):
    """struct termios2"""

    c_iflag: u32
    c_oflag: u32
    c_cflag: u32
    c_lflag: u32
    c_line: u8
    c_cc: Annotated[bytes, "char[19]"]
    c_ispeed: u32
    c_ospeed: u32


@uapi("include/uapi/asm-generic/termios.h", size=18)
class Termio(Layout):
    """struct termio, of System V"""

    c_iflag: u16
    c_oflag: u16
    c_cflag: u16
    c_lflag: u16
    c_line: u8
    c_cc: Annotated[bytes, "char[8]"]
    pad0: u8


@uapi("include/uapi/asm-generic/termios.h", size=8)
class Winsize(Layout):
    """struct winsize"""

    ws_row: u16
    ws_col: u16
    ws_xpixel: u16
    ws_ypixel: u16


@notrace
def winsize(rows: int, cols: int) -> Winsize:
    """A size in characters; in pixels unknown."""
    return Winsize(ws_row=rows, ws_col=cols, ws_xpixel=0, ws_ypixel=0)


@slotted
class Ktermios:
    """struct ktermios. Replaced as a whole, never changed in place, once it is some tty's termios."""

    c_iflag: int = ICRNL | IXON
    c_oflag: int = OPOST | ONLCR
    c_cflag: int = B38400 | CS8 | CREAD | HUPCL
    c_lflag: int = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN
    c_line: int = N_TTY
    c_cc: bytes = INIT_C_CC
    c_ispeed: int = 38400
    c_ospeed: int = 38400

    @notrace
    def copy(self) -> Ktermios:
        return Ktermios(self.c_iflag, self.c_oflag, self.c_cflag, self.c_lflag, self.c_line, self.c_cc,
                        self.c_ispeed, self.c_ospeed)


@notrace
def tty_std_termios() -> Ktermios:
    """What a terminal begins with (drivers/tty/tty_io.c: tty_std_termios)."""
    return Ktermios()


@notrace
def _nothing(*_args: Any) -> Any:
    return None


@slotted(frozen=True)
class TtyOperations:
    """struct tty_operations. Where Linux tests for a missing entry it may be None.

    write(tty, data) -> how many bytes the driver took, 0: try again after tty_wakeup(). write_room(tty) -> int.
    ioctl(tty, cmd, arg) -> int, or None: not a request of this driver (ENOIOCTLCMD).
    """

    write: Callable[[TtyStruct, bytes], int]
    write_room: Callable[[TtyStruct], int]
    lookup: Callable[[TtyDriver, File | None, int], TtyStruct | None] | None = None
    install: Callable[[TtyDriver, TtyStruct], None] | None = None
    remove: Callable[[TtyDriver, TtyStruct], None] | None = None
    open: Callable[[TtyStruct, File], None] = _nothing
    close: Callable[[TtyStruct, File], None] = _nothing
    shutdown: Callable[[TtyStruct], None] | None = None
    cleanup: Callable[[TtyStruct], None] | None = None
    flush_chars: Callable[[TtyStruct], None] | None = None
    chars_in_buffer: Callable[[TtyStruct], int] | None = None
    ioctl: Callable[[TtyStruct, int, int], int | None] | None = None
    set_termios: Callable[[TtyStruct, Ktermios], None] | None = None
    throttle: Callable[[TtyStruct], None] | None = None
    unthrottle: Callable[[TtyStruct], None] | None = None
    stop: Callable[[TtyStruct], None] | None = None
    start: Callable[[TtyStruct], None] | None = None
    hangup: Callable[[TtyStruct], None] | None = None
    flush_buffer: Callable[[TtyStruct], None] | None = None
    resize: Callable[[TtyStruct, Winsize], None] | None = None
    show_fdinfo: Callable[[TtyStruct], bytes] | None = None
    claim: Callable[[TtyStruct], None] | None = None       # not in Linux: somebody wants to read (see console.py)


@slotted
class TtyDriver:
    """struct tty_driver: one kind of terminal. ttys[index] and termios[index] are kept where lookup is None.

    driver_name: as /proc/tty/drivers shows it; name: of its devices ("hvc", "pts"); devt of a device: major,
    minor_start + index.
    """

    driver_name: bytes
    name: bytes
    major: int
    minor_start: int
    num: int
    type: int
    subtype: int
    ops: TtyOperations
    kernel: Kernel
    flags: int = 0
    name_base: int = 0
    init_termios: Ktermios = field(default_factory=Ktermios)
    other: TtyDriver | None = None
    ttys: dict[int, TtyStruct] = field(default_factory=dict)
    termios: dict[int, Ktermios] = field(default_factory=dict)


@slotted(frozen=True)
class TtyLdiscOps:
    """struct tty_ldisc_ops. receive_buf2(tty, data): may take less than all of it; answers how many bytes."""

    num: int
    name: bytes
    open: Callable[[TtyStruct], None]
    close: Callable[[TtyStruct], None]
    flush_buffer: Callable[[TtyStruct], None]
    read: Callable[[TtyStruct, File, IovIter], int]
    write: Callable[[TtyStruct, File | None, bytes], int]
    ioctl: Callable[[TtyStruct, File, int, int], int]
    set_termios: Callable[[TtyStruct, Ktermios | None], None]
    poll: Callable[[TtyStruct, File, PollTable], int]
    receive_buf: Callable[[TtyStruct, bytes], int]
    receive_buf2: Callable[[TtyStruct, bytes], int]
    write_wakeup: Callable[[TtyStruct], None] | None = None


@slotted
class TtyStruct:
    """struct tty_struct: one terminal, as long as a file or a session holds it.

    devt: its device number, for /proc/PID/stat. kref: files, sessions' signal.tty, the pty's other end.
    """

    kernel: Kernel
    driver: TtyDriver
    ops: TtyOperations
    index: int
    name: bytes
    devt: int
    kref: int = 1
    ldisc: TtyLdiscOps | None = None
    disc_data: Any = None                      # n_tty.NTtyData
    termios: Ktermios = field(default_factory=Ktermios)
    termios_locked: Ktermios = field(default_factory=lambda: Ktermios(0, 0, 0, 0, 0, bytes(NCCS), 0, 0))
    winsize: Winsize = field(default_factory=lambda: winsize(0, 0))
    port: TtyPort = None  # type: ignore[assignment]               # set by ops.install
    link: TtyStruct | None = None              # a pty's other end
    driver_data: Any = None                    # the driver's own
    count: int = 0                             # open files
    tty_files: list[File] = field(default_factory=list)
    flags: int = 0                             # TTY_*
    closing: bool = False
    # jobs
    pgrp: Pid | None = None                    # foreground process group
    session: Pid | None = None
    # flow control
    stopped: bool = False                      # by ^S or TCOOFF
    flow_stopped: bool = False                 # by TCOOFF only
    flow_change: int = 0
    packet: bool = False                       # TIOCPKT, on the master
    ctrl_status: int = 0                       # what the master's packet read will tell
    receive_room: int = 0
    fasync: list[FasyncStruct] = field(default_factory=list)       # who wants SIGIO
    # sleepers
    write_wait: WaitQueueHead = field(default_factory=WaitQueueHead)
    read_wait: WaitQueueHead = field(default_factory=WaitQueueHead)
    # held across sleeps:
    atomic_write_lock: Mutex = None  # type: ignore[assignment]     # one write(2) at a time

    def __repr__(self) -> str:
        return f"<tty {self.name.decode()}>"


@slotted
class TtyFilePrivate:
    """struct tty_file_private: file.private_data. tty is None once it is released."""

    tty: TtyStruct
    file: File


@slotted
class TtyState:
    """kernel.tty: the terminals of one kernel.

    drivers: in the order of registration. ldiscs: by number. console: /dev/console's driver and index.
    program: the process group that host signals go to while the console has no foreground group; set by
    whoever starts the first program.
    """

    kernel: Kernel
    drivers: list[TtyDriver] = field(default_factory=list)
    ldiscs: dict[int, TtyLdiscOps] = field(default_factory=dict)
    console: tuple[TtyDriver, int] | None = None
    ptm_driver: TtyDriver = None  # type: ignore[assignment]
    pts_driver: TtyDriver = None  # type: ignore[assignment]
    tty_class: Class = None  # type: ignore[assignment]
    redirect: File | None = None               # TIOCCONS
    tty_fops: FileOperations = None  # type: ignore[assignment]         # tables of tty_io.py
    console_fops: FileOperations = None  # type: ignore[assignment]
    hung_up_tty_fops: FileOperations = None  # type: ignore[assignment]
    program: Pid | None = None
    hvc: Any = None                            # drivers.tty.console.HvcStruct
    hoststdio_mnt: Any = None                  # drivers.char.hoststdio: where its files live


# ---- tests on a termios: Linux's I_ICRNL(tty) and friends ------------------------------------------------------
@notrace
def L_ICANON(tty: TtyStruct) -> int:
    return tty.termios.c_lflag & ICANON


@notrace
def L_ECHO(tty: TtyStruct) -> int:
    return tty.termios.c_lflag & ECHO


@notrace
def I_IXON(tty: TtyStruct) -> int:
    return tty.termios.c_iflag & IXON


@notrace
def O_OPOST(tty: TtyStruct) -> int:
    return tty.termios.c_oflag & OPOST


@notrace
def tty_io_error(tty: TtyStruct) -> bool:
    return bool(tty.flags & TTY_IO_ERROR)


@notrace
def tty_io_nonblock(_tty: TtyStruct, file: File) -> bool:
    """O_NONBLOCK, or a hangup under way (Linux lets no reader sleep then)."""
    return bool(file.f_flags & 0o4000)
