"""What the guest programs of this directory share: one line for each check, the errno's name for a failure."""

import ctypes
import errno
import sys

libc = ctypes.CDLL(None, use_errno=True)


def t(label, function, *args, **keywords):
    """Prints `label -> result`, or the errno."""
    try:
        print(label, "->", function(*args, **keywords))
    except OSError as error:
        print(label, "-> E", errno.errorcode.get(error.errno, error.errno))
    except Exception as error:
        print(label, "-> X", type(error).__name__, error)
    sys.stdout.flush()


def sc(number, *args):
    """syscall(2): bytes are strings, ints longs."""
    words = [
        ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) if isinstance(a, int) else a for a in args
    ]
    result = libc.syscall(ctypes.c_long(number), *words)
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result
