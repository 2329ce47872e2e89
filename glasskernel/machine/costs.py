"""What kernel work costs in virtual time, in ns: the one table of it.

User code is charged by executed blocks (machine.NS_PER_BLOCK). The figures are those of a desktop CPU, rounded. They
pace timers and slices; they do not predict anything.
"""
from __future__ import annotations

from typing import Final

SYSCALL: Final = 100           # the cheapest; arch/x86/entry/syscall_costs.py has the others
TRAP: Final = 400              # exception entry: page faults, too
INTERRUPT: Final = 800
SWITCH: Final = 1000           # of tasks, with what the caches lose
CLEAR_PAGE: Final = 200
COPY_PAGE: Final = 300
COPY_SHIFT: Final = 3          # copying to and from user memory: 2 ** 3 bytes a ns
