"""What must hold for a kernel between two programs: nothing leaked, nothing torn.

For tests. Each room brings its own check; this file collects them, and accounts for every frame in use.
"""
from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import HUGE, PTE_MASK
from glasskernel.block.check import check_block, frames_of_ram_disks
from glasskernel.fs.check_vfs import check_vfs, open_files
from glasskernel.kernel.process_checks import check_processes
from glasskernel.kernel.rcu.update import rcu_barrier_at_rest
from glasskernel.kernel.sched.check import check_sched
from glasskernel.mm.huge_types import HPAGE_PMD_NR
from glasskernel.mm.mmap import check_mm
from glasskernel.mm.page_alloc import check_frames
from glasskernel.mm.slub_check import check_slab, count_objects, slab_frames
from glasskernel.mm.swap import check_lru
from glasskernel.mm.swap_check import check_anon
from glasskernel.mm.vmalloc import check_vmalloc, vmalloc_frames

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import Cred
    from glasskernel.mm.types import MmStruct


def check_kernel(kernel: Kernel) -> list[str]:
    """Everything that is wrong, in words; [] for a sound kernel with no user process left but PID 1."""
    rcu_barrier_at_rest(kernel)
    wrong = check_frames(kernel)
    init = kernel.tasks[0].mm
    for mm in kernel.mm_list:
        wrong += check_mm(mm)
        if mm.mm_users != (mm is init):
            wrong.append(f"an address space with {mm.mm_users} users outlived its processes")
    wrong += check_anon(kernel)
    if kernel.hugetlb is not None:
        from glasskernel.mm.hugetlb import check_hugetlb  # imports the pool

        wrong += check_hugetlb(kernel.hugetlb)
    if kernel.thp is not None:
        from glasskernel.mm.huge_memory import check_thp

        wrong += check_thp(kernel)
    wrong += check_owners(kernel)
    wrong += check_lru(kernel)
    wrong += check_slab(kernel)
    wrong += check_slab_objects(kernel)
    wrong += check_vmalloc(kernel)
    wrong += check_sched(kernel, kernel.tasks)
    wrong += check_processes(kernel)
    if kernel.cgroup is not None:
        from glasskernel.kernel.cgroup.check import check_cgroups  # imports all controllers

        wrong += check_cgroups(kernel)
    if kernel.net is not None:
        from glasskernel.net.check import check_net  # imports the network

        wrong += check_net(kernel)
    wrong += check_vfs(kernel)
    wrong += check_creds(kernel)
    wrong += check_block(kernel)
    wrong += [f"{task!r} is left" for task in kernel.tasks[1:] if task.mm is not None or task.exit_state]
    return wrong


def check_slab_objects(kernel: Kernel) -> list[str]:
    """Every object has a slot, and every slot an object."""
    slab, vfs = kernel.slab, kernel.vfs
    tasks = [task for task in kernel.tasks if task.slab_address]
    inodes = [s for name, s in slab.caches.items() if b"inode" in name or name == b"bdev_cache"]
    wrong = [] if sum(map(count_objects, inodes)) == vfs.nr_inodes else [
        f"{sum(map(count_objects, inodes))} slots for {vfs.nr_inodes} inodes"]
    counts = [
        (slab.dentry_cache, vfs.nr_dentry), (slab.filp_cachep, vfs.nr_files), (slab.task_struct_cachep, len(tasks)),
        (slab.signal_cachep, len({task.signal for task in tasks})),
        (slab.sighand_cachep, len({task.sighand for task in tasks})),
        (slab.files_cachep, len({task.files for task in tasks if task.files and task.files.slab_address})),
        (slab.fs_cachep, len({task.fs for task in tasks if task.fs and task.fs.slab_address})),
        (slab.mm_cachep, len(kernel.mm_list)), (slab.vm_area_cachep, sum(len(mm.vmas) for mm in kernel.mm_list)),
        (slab.pid_cachep, len(kernel.pids.pids)),
        (slab.cred_jar, sum(1 for cred in used_creds(kernel) if cred.slab_address)),
    ]
    return wrong + [f"{s.name.decode()}: {count_objects(s)} slots for {count} objects" for s, count in counts
                    if count_objects(s) != count]


def check_creds(kernel: Kernel) -> list[str]:
    """A set of credentials counts the tasks and open files that use it; the idle tasks share one count."""
    return [f"credentials of user {cred.uid} count {cred.usage} users, there are {n}"
            for cred, n in used_creds(kernel).items() if cred.usage != n]


def used_creds(kernel: Kernel) -> Counter[Cred]:
    """How often each set is used."""
    used: Counter[Cred] = Counter(task.real_cred for task in kernel.tasks)
    used[kernel.pids.idle_tasks[0].real_cred] += 1
    used.update(file.f_cred for file in open_files(kernel))
    return used


def check_owners(kernel: Kernel) -> list[str]:
    """Every frame with references has an owner: page cache, page tables, mappings, the vDSO, the zero page."""
    mem = kernel.mem
    owned = {mem.zero_pfn, *kernel.vdso_pfns, *mem.mapping, *frames_of_ram_disks(kernel)}
    owned |= slab_frames(kernel) | vmalloc_frames(kernel)
    if kernel.selinux is not None and kernel.selinux.status_page is not None:
        owned.add(kernel.selinux.status_page)
    if kernel.hugetlb is not None:
        owned.update(frame for page in kernel.hugetlb.pages for frame in range(page, page + HPAGE_PMD_NR))
    if kernel.thp is not None and kernel.thp.huge_zero_page:
        owned.add(kernel.thp.huge_zero_page)
    mapped: Counter[int] = Counter()
    for mm in kernel.mm_list:
        tables, leaves = frames_of(mm)
        owned |= tables
        mapped.update(leaves)
    owned.update(mapped)
    used = [pfn for pfn, count in enumerate(mem.refcount.tolist()) if count]
    lost = [pfn for pfn in used if pfn not in owned]
    wrong = [f"frame {pfn:#x} (flags {mem.flags[pfn]:#x}, {mem.refcount[pfn]} references) has no owner" for pfn in lost]
    shared = [pfn for pfn in mem.mapping if mem.mapcount[pfn] != mapped[pfn]
              or mem.refcount[pfn] != 1 + mapped[pfn] + (pfn in mem.private)]
    wrong += [f"page cache frame {pfn:#x} has {mem.refcount[pfn]} references, {mem.mapcount[pfn]} mappings"
              for pfn in shared]
    return wrong


def frames_of(mm: MmStruct) -> tuple[set[int], list[int]]:
    """The frames of an address space's page tables, and those that it maps."""
    ram64 = mm.kernel.mem.ram64
    tables: set[int] = set()
    level = [mm.pgd]
    huge: list[int] = []
    for depth in range(4):
        tables.update(table >> 12 for table in level)
        size = 512 if depth else 256                     # the upper half is init_mm's
        entries = [entry for table in level for entry in ram64[table >> 3 : (table >> 3) + size]]
        if depth == 2:
            huge = [(entry & PTE_MASK) >> 12 for entry in entries if entry & HUGE == HUGE]
            entries = [entry for entry in entries if entry & HUGE != HUGE]
        level = [entry & PTE_MASK for entry in entries if entry & 1]
    tables.update(mm.tables[0])                          # huge pages that can be split keep a table for that
    return tables, [address >> 12 for address in level] + [pfn + i for pfn in huge for i in range(HPAGE_PMD_NR)]
