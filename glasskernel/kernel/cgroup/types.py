"""struct cgroup and what belongs to it.

Linux: include/linux/cgroup-defs.h, kernel/cgroup/cgroup-internal.h (5.3). Only data; kernel/cgroup/*.py work on it.
Differs: a set's links to its groups are a list in it, one for each hierarchy (Linux: struct cgrp_cset_link between
    them); a css is counted with its group: it is freed when the group is.
Owns: nothing; everything is reached from Kernel.cgroup, which is made by the first who mounts cgroups.

How a controller is written (kernel/cgroup/pids.py is the shortest complete one):
    a state class derived from CgroupSubsysState, `@slotted`;
    a function css_alloc(parent) that makes it (parent is None: the root's);
    tables of Cftype (its files);
    one CgroupSubsys with a number from the list below, and its place in kernel/cgroup/subsys.py.
State of a task in it: `task_css(task, SSID)` of kernel/cgroup/css_set.py.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from glasskernel.kernel.locking.mutex import Mutex
from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from glasskernel.fs.kernfs import KernfsNode, KernfsRoot
    from glasskernel.fs.seq_file import SeqFile
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

# css.flags
CSS_NO_REF, CSS_ONLINE, CSS_RELEASED, CSS_VISIBLE, CSS_DYING = 1, 2, 4, 8, 16
# cgroup.flags
CGRP_NOTIFY_ON_RELEASE, CGRP_CPUSET_CLONE_CHILDREN = 1, 2
# root.flags
CGRP_ROOT_NOPREFIX, CGRP_ROOT_XATTR = 1 << 1, 1 << 2
# cft.flags
CFTYPE_ONLY_ON_ROOT, CFTYPE_NOT_ON_ROOT, CFTYPE_NS_DELEGATABLE, CFTYPE_NO_PREFIX, CFTYPE_WORLD_WRITABLE = 1, 2, 4, 8, 16
# enum cgroup_subsys_id; kernel/cgroup/subsys.py has the tables
CPUSET_CGRP_ID, CPU_CGRP_ID, CPUACCT_CGRP_ID, FREEZER_CGRP_ID, PIDS_CGRP_ID = range(5)
CGROUP_SUPER_MAGIC: Final = 0x27E0EB
CGROUP2_SUPER_MAGIC: Final = 0x63677270
INT_MAX: Final = 0x7FFF_FFFF


@slotted
class CgroupSubsysState:
    """struct cgroup_subsys_state: a controller's state of one group. Controllers derive their own from it."""

    cgroup: Cgroup = None  # type: ignore[assignment]
    ss: CgroupSubsys = None  # type: ignore[assignment]
    parent: CgroupSubsysState | None = None
    serial_nr: int = 0                          # 1, 2, ... in the order in which they were made
    flags: int = 0                              # CSS_*


@slotted
class Cgroup:
    """struct cgroup: one group. subsys: a css for each controller, by its id, of those the hierarchy has."""

    root: CgroupRoot
    parent: Cgroup | None
    level: int
    serial_nr: int
    subsys: list[CgroupSubsysState | None]
    id: int = 1                                 # the lowest that is free in its hierarchy; the root's is 1
    kn: KernfsNode = None  # type: ignore[assignment]
    flags: int = 0                              # CGRP_*
    dead: bool = False                          # removed; sets of tasks that exit may still hold it
    refcnt: int = 1                             # itself while it has its directory, children, sets (not of a root)
    children: dict[Cgroup, None] = field(default_factory=dict)
    cset_links: dict[CssSet, None] = field(default_factory=dict)
    subtree_control: int = 0                    # cgroup2: the controllers that its children have, a mask
    max_depth: int = INT_MAX                    # cgroup2: how many levels, and how many groups, may be below it
    max_descendants: int = INT_MAX
    nr_populated_csets: int = 0
    nr_populated_children: int = 0
    release_agent_work: Any = None              # kernel.workqueue.WorkStruct


@slotted
class CgroupRoot:
    """struct cgroup_root: a hierarchy. name: b"" if it has none."""

    kernel: Kernel
    hierarchy_id: int
    subsys_mask: int = 0                        # of controllers, by id
    flags: int = 0                              # CGRP_ROOT_*
    name: bytes = b""
    release_agent_path: bytes = b""
    nr_cgrps: int = 0
    cgroup_idr: dict[int, Cgroup] = field(default_factory=dict)
    dying: bool = False                         # not mounted any more; goes when the last group has
    destroy_work: Any = None                    # kernel.workqueue.WorkStruct
    kf_root: KernfsRoot = None  # type: ignore[assignment]
    cgrp: Cgroup = None  # type: ignore[assignment]


@slotted
class CssSet:
    """struct css_set: what groups a task is in. Tasks in the same groups share one.

    subsys: the css of each controller. cgrps: a group of each hierarchy, by hierarchy_id.
    """

    subsys: list[CgroupSubsysState]
    cgrps: dict[int, Cgroup]
    refcount: int = 0                           # its tasks, those that have exited and are not freed yet included
    nr_tasks: int = 0
    tasks: dict[TaskStruct, None] = field(default_factory=dict)
    dying_tasks: dict[TaskStruct, None] = field(default_factory=dict)


@slotted
class CgroupTaskset:
    """struct cgroup_taskset: tasks on their way. tasks: (task, its set before, its set then), in order."""

    ss: CgroupSubsys | None
    tasks: list[tuple[TaskStruct, CssSet, CssSet]]


@slotted(frozen=True)
class Cftype:
    """struct cftype: a file of every group. name: without the controller's prefix.

    One of read_u64(css, cft), read_s64(css, cft), seq_show(m, v) (seq_css(m), seq_cft(m) tell which), and one of
    write_u64(css, cft, value), write_s64(css, cft, value), write(of, buf) (of_css(of), of_cft(of)). They raise
    KernelError. For the files of the core itself, which belong to no controller, css is the group.
    """

    name: bytes
    private: int = 0
    flags: int = 0                              # CFTYPE_*
    mode: int = 0                               # 0: from what it can do
    read_u64: Callable[[Any, Cftype], int] | None = None
    read_s64: Callable[[Any, Cftype], int] | None = None
    seq_show: Callable[[SeqFile, Any], int | None] | None = None
    write_u64: Callable[[Any, Cftype, int], None] | None = None
    write_s64: Callable[[Any, Cftype, int], None] | None = None
    write: Callable[[KernfsNode, bytes], None] | None = None
    max_write_len: int = 4096


@slotted(frozen=True)
class CgroupSubsys:
    """struct cgroup_subsys: a controller. id: *_CGRP_ID.

    css_alloc(kernel, parent): makes the state; parent None: the root's. css_online(css), css_offline(css): with and
        without its directory; css_free(css): nobody is in it any more (any context).
    can_attach(tset): refuses by raising. cancel_attach(tset): another controller refused. attach(tset): done;
        may sleep. kernel/cgroup/migrate.py: cgroup_taskset_for_each(tset) gives the tasks.
    can_fork(task), cancel_fork(task), fork(task): a child. exit(task), release(task): the end, the zombie's end.
    bind(root_css): its hierarchy was mounted or destroyed.
    legacy_cftypes: files in cgroup v1; dfl_cftypes: in cgroup2 (None: it cannot be used there).
    """

    name: bytes
    id: int
    css_alloc: Callable[[Kernel, CgroupSubsysState | None], CgroupSubsysState]
    css_online: Callable[[Any], None] | None = None
    css_offline: Callable[[Any], None] | None = None
    css_free: Callable[[Any], None] | None = None
    can_attach: Callable[[CgroupTaskset], None] | None = None
    cancel_attach: Callable[[CgroupTaskset], None] | None = None
    attach: Callable[[CgroupTaskset], None] | None = None
    can_fork: Callable[[TaskStruct], None] | None = None
    cancel_fork: Callable[[TaskStruct], None] | None = None
    fork: Callable[[TaskStruct], None] | None = None
    exit: Callable[[TaskStruct], None] | None = None
    release: Callable[[TaskStruct], None] | None = None
    bind: Callable[[CgroupSubsysState], None] | None = None
    legacy_name: bytes = b""                    # b"": name
    legacy_cftypes: tuple[Cftype, ...] = ()
    dfl_cftypes: tuple[Cftype, ...] | None = None
    threaded: bool = False


@slotted
class CgroupState:
    """Kernel.cgroup. subsys: the controllers by id. roots: hierarchies by hierarchy_id; 0 is cgroup2's."""

    kernel: Kernel
    subsys: list[CgroupSubsys]
    cgrp_dfl_root: CgroupRoot = None  # type: ignore[assignment]
    cgrp_dfl_visible: bool = False
    init_css_set: CssSet = None  # type: ignore[assignment]
    roots: dict[int, CgroupRoot] = field(default_factory=dict)
    ss_root: list[CgroupRoot] = field(default_factory=list)          # ss->root: the hierarchy each controller is in
    css_set_table: dict[tuple[int, ...], CssSet] = field(default_factory=dict)
    next_serial: int = 0
    next_hierarchy_id: int = 1
    system_freezing_cnt: int = 0                # groups of freezer that are freezing or frozen
    cgroup_mutex: Mutex = field(default_factory=Mutex)
    # what a fork and an exit have to call: kernel/cgroup/task.py
    have_canfork_callback: list[CgroupSubsys] = field(default_factory=list)
    have_fork_callback: list[CgroupSubsys] = field(default_factory=list)
    have_exit_callback: list[CgroupSubsys] = field(default_factory=list)
    have_release_callback: list[CgroupSubsys] = field(default_factory=list)
