"""A syscall log in strace(1)'s own format.

Linux: no file of its own; the texts are strace 6.1's, so that every habit and script made for strace works.
Layout: tracer.py turns kernel events into lines; table.py says what each call's arguments are; kinds.py,
    structs.py, sockets.py, ioctls.py and decoders.py print one argument each; xlat.py holds the constants.
Invariants: nothing here changes guest state or the virtual clock; user memory is only read, and only
    through the callable the kernel passed in.
"""

from __future__ import annotations

from glasskernel.tools.strace.tracer import Strace

__all__ = ["Strace"]
