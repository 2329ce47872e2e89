"""#! scripts.

Linux: fs/binfmt_script.c (5.3). Same: the line ends at 255 bytes, one optional argument (the rest of the
    line), a name that is cut off is ENOEXEC, the script's path follows as an argument.
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.exec import (
    BINPRM_FLAGS_PATH_INACCESSIBLE,
    LinuxBinfmt,
    LinuxBinprm,
    bprm_change_interp,
    copy_strings_kernel,
    open_exec,
    prepare_binprm,
    register_binfmt,
    remove_arg_zero,
    search_binary_handler,
)
from glasskernel.fs.file_table import fput
from glasskernel.lib.errno import ENOENT, ENOEXEC, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@may_sleep
def load_script(bprm: LinuxBinprm) -> None:
    """Starts the interpreter that the first line names, with the script as its argument.

    Raises ENOEXEC (no script), ENOENT (the script's descriptor will be closed), what the interpreter does.
    """
    if not bprm.buf.startswith(b"#!"):
        raise KernelError(ENOEXEC)
    if bprm.interp_flags & BINPRM_FLAGS_PATH_INACCESSIBLE:
        raise KernelError(ENOENT)
    i_name, i_arg = parse_line(bprm.buf)
    fput(bprm.file)
    bprm.file = None  # type: ignore[assignment]       # __do_execve_file() must not drop it again
    remove_arg_zero(bprm)
    sizes: list[int] = []
    strings = [i_name, bprm.interp] if i_arg is None else [i_name, i_arg, bprm.interp]
    copy_strings_kernel(bprm, strings, sizes)
    bprm.arg_sizes[:0] = sizes
    bprm.argc += len(sizes)
    bprm_change_interp(bprm, i_name)
    bprm.file = open_exec(i_name)
    prepare_binprm(bprm)
    search_binary_handler(bprm)


@notrace
def parse_line(buf: bytes) -> tuple[bytes, bytes | None]:
    """(interpreter, its argument or None) of a first line. Raises ENOEXEC if there is no (whole) name."""
    line = buf[2:].split(b"\0", 1)[0]
    end = line.find(b"\n")
    if end < 0:
        # The buffer may have cut the line off: an argument may lose its end, a name may not.
        name = line.lstrip(b" \t")
        whole = len(line) < len(buf) - 2               # a NUL ends it: the file is that short
        if not name or not (whole or b" " in name or b"\t" in name):
            raise KernelError(ENOEXEC)
        line = line[: len(buf) - 3]
    else:
        line = line[:end]
    line = line.strip(b" \t")
    if not line:
        raise KernelError(ENOEXEC)
    for i, char in enumerate(line):
        if char in b" \t":
            return line[:i], line[i:].lstrip(b" \t") or None
    return line, None


script_format = LinuxBinfmt("script", load_script)


def init_script_binfmt(kernel: Kernel) -> None:
    """Registers the format. Context: boot, before ELF."""
    register_binfmt(kernel, script_format)
