"""What must hold for a kernel between two programs: nothing leaked, nothing torn.

For tests. Each room brings its own check; this file only collects them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.process_checks import check_processes
from glasskernel.mm.mmap import check_mm
from glasskernel.mm.page_alloc import check_frames

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def check_kernel(kernel: Kernel) -> list[str]:
    """Everything that is wrong, in words; [] for a sound kernel."""
    wrong = check_frames(kernel) + check_processes(kernel)
    for mm in kernel.mm_list:
        wrong += check_mm(mm)
        lazy = sum(rq.curr.mm is None and rq.curr.active_mm is mm for rq in kernel.sched.rqs)
        if mm.mm_users or mm.mm_count != lazy:   # an idle CPU keeps what it last had loaded (active_mm)
            wrong.append("an address space outlived its processes")
    return wrong
