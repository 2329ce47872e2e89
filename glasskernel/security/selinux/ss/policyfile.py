"""The bytes of a binary policy, read in order.

Linux: struct policy_file and next_entry() of security/selinux/ss/policydb.h (5.3). Same: little-endian; whoever reads
    behind the end gets EINVAL. Differs: a message about damage is printed where it is raised (bad()).
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, NoReturn

from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import slotted

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

_u32s = tuple(Struct(f"<{count}I") for count in range(9))


@slotted
class PolicyFile:
    """struct policy_file"""
    kernel: Kernel
    data: bytes
    pos: int = 0
    policyvers: int = 0

    def u32(self) -> int:
        """The next number."""
        return int(self.u32s(1)[0])

    def u32s(self, count: int) -> tuple[int, ...]:
        """The next few numbers. Raises EINVAL at the end of the file."""
        pos = self.pos
        layout = _u32s[count]
        if pos + layout.size > len(self.data):
            raise KernelError(EINVAL)
        self.pos = pos + layout.size
        return layout.unpack_from(self.data, pos)

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """The next structure. Raises EINVAL."""
        pos = self.pos
        if pos + layout.size > len(self.data):
            raise KernelError(EINVAL)
        self.pos = pos + layout.size
        return layout.unpack_from(self.data, pos)

    def string(self, length: int) -> bytes:
        """The next name (str_read()). Raises EINVAL; a name is not empty."""
        pos = self.pos
        if length == 0 or pos + length > len(self.data):
            raise KernelError(EINVAL)
        self.pos = pos + length
        return self.data[pos : pos + length].split(b"\0", 1)[0]

    def bad(self, text: str) -> NoReturn:
        """Says what is wrong with the policy. Raises EINVAL."""
        printk(self.kernel, "SELinux: " + text, 3)
        raise KernelError(EINVAL)
