"""membarrier(2).

Linux: kernel/sched/membarrier.c (5.3). Same: commands and registration. Differs: nothing needs ordering,
    since all CPUs take turns on one host thread: the commands only check, but MEMBARRIER_CMD_GLOBAL, which waits for a
    grace period.
Owns: MmStruct.membarrier_state.
"""
from __future__ import annotations

from glasskernel.kernel.current import current
from glasskernel.kernel.rcu.update import synchronize_rcu
from glasskernel.lib.errno import EINVAL, EPERM, KernelError
from glasskernel.lib.syscalls import syscall

CMD_QUERY, CMD_GLOBAL, CMD_GLOBAL_EXPEDITED, CMD_REGISTER_GLOBAL_EXPEDITED = 0, 1, 2, 4
CMD_PRIVATE_EXPEDITED, CMD_REGISTER_PRIVATE_EXPEDITED = 8, 16
CMD_PRIVATE_EXPEDITED_SYNC_CORE, CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE = 32, 64
_NEEDS = {CMD_PRIVATE_EXPEDITED: CMD_REGISTER_PRIVATE_EXPEDITED,
          CMD_PRIVATE_EXPEDITED_SYNC_CORE: CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE}


@syscall
def sys_membarrier(cmd: int, flags: int) -> int:
    """membarrier(2). Errors: EINVAL, EPERM (not registered)."""
    if flags:
        raise KernelError(EINVAL)
    mm = current().mm
    assert mm is not None
    if cmd == CMD_QUERY:
        return 0x7F
    if cmd in (CMD_REGISTER_GLOBAL_EXPEDITED, CMD_REGISTER_PRIVATE_EXPEDITED,
               CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE):
        mm.membarrier_state |= cmd
    elif cmd in _NEEDS:
        if not mm.membarrier_state & _NEEDS[cmd]:
            raise KernelError(EPERM)
    elif cmd == CMD_GLOBAL:
        synchronize_rcu()
    elif cmd != CMD_GLOBAL_EXPEDITED:
        raise KernelError(EINVAL)
    return 0
