"""The host's own line discipline, and ours on a terminal without a machine, driven with the same bytes."""


import fcntl
import os
import struct
import termios
from types import SimpleNamespace

from glasskernel.drivers.tty import n_tty, types
from glasskernel.drivers.tty.n_tty_output import process_output, process_output_block
from glasskernel.mm.iov_iter import KernelIter

IFLAG, OFLAG, CFLAG, LFLAG, ISPEED, OSPEED, CC = range(7)
IUTF8 = 0o40000


class HostTty:
    """A pty of the host: type() is the keyboard, screen() what came out of the master, read() the slave.

    A worker of the host carries what was typed to the line discipline. A read that finds nothing waits for it.
    """

    def __init__(self, iflag, oflag, lflag, cc):
        self.master, self.slave = os.openpty()
        os.set_blocking(self.slave, False)
        os.set_blocking(self.master, False)
        attributes = termios.tcgetattr(self.slave)
        attributes[IFLAG], attributes[OFLAG], attributes[LFLAG] = iflag, oflag, lflag
        for index, value in enumerate(cc):
            attributes[CC][index] = bytes((value,))
        termios.tcsetattr(self.slave, termios.TCSANOW, attributes)

    def close(self):
        os.close(self.master)
        os.close(self.slave)

    def type(self, data):
        assert os.write(self.master, data) == len(data)

    def screen(self):
        seen = b""
        while True:
            try:
                seen += os.read(self.master, 65536)
            except BlockingIOError:
                return seen

    def read(self, size=4096):
        """None: nothing there."""
        try:
            return os.read(self.slave, size)
        except BlockingIOError:
            return None

    def write(self, data):
        os.write(self.slave, data)

    def available(self):
        return struct.unpack("i", fcntl.ioctl(self.slave, termios.FIONREAD, b"\0\0\0\0"))[0]


class OurTty:
    """N_TTY on a terminal that remembers what is sent to it."""

    def __init__(self, iflag, oflag, lflag, cc):
        self.sent = bytearray()
        self.room = 1 << 20
        ops = types.TtyOperations(write=self._write, write_room=lambda tty: 0 if tty.stopped else self.room)
        kernel = SimpleNamespace()
        driver = types.TtyDriver(b"fake", b"fake", 4, 0, 1, types.TTY_DRIVER_TYPE_PTY, types.PTY_TYPE_SLAVE, ops,
                                 kernel, flags=types.TTY_DRIVER_REAL_RAW)
        self.tty = tty = types.TtyStruct(kernel, driver, ops, 0, b"fake0", 0)
        tty.termios = types.Ktermios(iflag, oflag, 0o277, lflag, 0, bytes(cc) + bytes(19 - len(cc)))
        tty.port = SimpleNamespace(work=None, buf=b"")
        tty.disc_data = n_tty.NTtyData(0)              # n_tty_open() without a kernel to take memory from
        n_tty.n_tty_set_termios(tty, None)

    def _write(self, tty, data):
        if tty.stopped:
            return 0
        self.sent += data
        return len(data)

    def close(self):
        pass

    def type(self, data):
        n_tty.n_tty_receive_buf2(self.tty, data)

    def screen(self):
        n_tty.process_echoes(self.tty)
        seen = bytes(self.sent)
        self.sent.clear()
        return seen

    def read(self, size=4096):
        tty = self.tty
        if not n_tty.input_available_p(tty, False):
            return None
        buffer = bytearray(size)
        to = KernelIter(buffer)
        if tty.disc_data.icanon:
            n_tty.canon_copy_from_read_buf(tty, to)
        else:
            n_tty.copy_from_read_buf(tty, to)
        return bytes(buffer[: size - to.count])

    def write(self, data):
        left = memoryview(data)
        while left and self.tty.termios.c_oflag & types.OPOST:
            left = left[process_output_block(self.tty, left) :]
            if left:
                process_output(left[0], self.tty)
                left = left[1:]
        if left:
            self.tty.ops.write(self.tty, bytes(left))

    def available(self):
        ldata = self.tty.disc_data
        return n_tty.inq_canon(ldata) if ldata.icanon else n_tty.read_cnt(ldata)


