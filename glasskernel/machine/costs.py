"""What kernel work costs in virtual time, in ns: the one table of it.

User code is charged by executed blocks (machine.NS_PER_BLOCK). The figures of calls are chosen after those of a real
Linux: 6.18 on an AMD EPYC (2 CPUs of a busy virtual machine), ext4 on a virtio disk, benchmarks/programs/call_times.c.
It measures each call in a loop, where the CPU's caches know everything (the median), and as the first of a fresh
process, as mv and touch make it (the least). A second figure behind that: the median of the same call in a dynamically
linked program, by a program that was not kept. Ours are mostly between these, in us:

    call                 in a loop    the first   here      call                     in a loop    the first   here
    getppid                    0.2    0.4 - 2.8    0.2      rename (ext4)                  5.7   10.7 - 19     16
    stat                       0.9    2.0 - 3.2    1.5      creat (ext4)              93 - 323     21 - 90     20
    open                       1.3    2.5 - 3.3    2.5      unlink (ext4)                  6.2    9.0 - 20     23
    close                      0.6    1.1 - 1.3    0.6      link (ext4)                    4.0   10.2 - 12.5   11
    read 4 KiB (ext4)          0.6    1.6 - 4.5  1.5-5      write, new page (ext4)         2.8    8.8 - 13.6    8
    fault, new page            1.5    2.4            1      write 1 MiB (shmem)                   260         310
    vfork, execve               54     75 - 120     75      fork (900 pages)               73     69 - 88      76

fork(2) and clone(2) are charged with 15, a thread's share, and a copy of the address space with its areas and pages
(20 and 900 there).
creat's loop was that slow because its directory and disk were filled by others meanwhile (a quieter loop: 9 to 14).
Only the sum of a call was measured: how it is shared out among the functions of a file system is a guess that makes
these sums. They pace timers and slices, and give traces their durations; they predict nothing.
"""
from __future__ import annotations

from typing import Final

SYSCALL: Final = 170           # the cheapest; arch/x86/entry/syscall_costs.py has the others
TRAP: Final = 700              # exception entry: page faults, too
INTERRUPT: Final = 800
SWITCH: Final = 1000           # of tasks, with what the caches lose
CLEAR_PAGE: Final = 300
COPY_PAGE: Final = 300
COPY_SHIFT: Final = 3          # copying to and from user memory: 2 ** 3 bytes a ns
CACHE_PAGE: Final = 500        # a new page in a page cache
FORK_AREA: Final = 1000        # fork(2) copies one
FORK_PAGE: Final = 45          # fork(2) copies a page's entry
# Reclaim: guesses. It must take time, so that devices and RCU callbacks get on meanwhile.
SCAN_PAGE: Final = 200         # looks at a page
SCAN_OBJECT: Final = 200       # at an object of a shrinker
SCAN_NODE: Final = 5000        # one round, for the lists and shrinkers that have nothing
# ext4 and jbd2
JOURNAL_HANDLE: Final = 1600   # start and stop
JOURNAL_ACCESS: Final = 700    # a buffer becomes part of a transaction, and dirty
INODE_UPDATE: Final = 1200      # into its table block, with its checksum
DIR_SEARCH: Final = 800        # of one block
DIR_CHECKSUM: Final = 900      # of one block
NEW_INODE: Final = 5000        # group, bitmap, fields
DELAYED_BLOCK: Final = 3000    # reservation, extent status
READ_PAGE: Final = 250         # mapping a page, and into a bio
# The network's softirq, a packet: guesses (a CPU of a PC moves about a million small packets a second)
PACKET_RECEIVE: Final = 1000   # from the poll through its protocol
PACKET_XMIT: Final = 400       # into a device's ring
