"""The controllers there are, in Linux's order. They are imported when cgroups are first used.

Linux: include/linux/cgroup_subsys.h (5.3). To add one: its number in types.py, its table here.
Gaps: blkio, memory, devices, net_cls, perf_event, net_prio, hugetlb, rdma.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.cgroup.types import CgroupSubsys


@notrace
def load_controllers() -> list[CgroupSubsys]:
    """Their tables; the place of each is its id."""
    from glasskernel.kernel.cgroup.cpu import cpu_cgrp_subsys
    from glasskernel.kernel.cgroup.cpuacct import cpuacct_cgrp_subsys
    from glasskernel.kernel.cgroup.cpuset import cpuset_cgrp_subsys
    from glasskernel.kernel.cgroup.legacy_freezer import freezer_cgrp_subsys
    from glasskernel.kernel.cgroup.pids import pids_cgrp_subsys

    subsys = [cpuset_cgrp_subsys, cpu_cgrp_subsys, cpuacct_cgrp_subsys, freezer_cgrp_subsys, pids_cgrp_subsys]
    assert all(ss.id == number for number, ss in enumerate(subsys))
    return subsys
