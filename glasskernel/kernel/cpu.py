"""CPUs that come and go: the states a CPU walks through, up and down, and who does which step.

Linux: kernel/cpu.c, include/linux/cpuhotplug.h (5.3). Same: one table of states; the first half of them runs on the CPU
that asks, the middle on the CPU itself with interrupts off, the rest in its cpuhp/N; a step that fails is rolled back;
`fail` makes one fail.
Differs: a callback gets (kernel, cpu), and raises. cpuhp/N threads are made by the first hotplug operation, and
the other CPUs of a boot come up without walking through the table. cpus_read_lock() has no readers: who must not see a
CPU go looks at the masks between two sleeps.
Owns: CpuhpState (kernel.cpuhp); sched.cpu_online_mask, cpu_active_mask (with sched/hotplug.py).
Invariants: st.state is CPUHP_ONLINE or CPUHP_OFFLINE unless an operation is under way; only its holder of
    cpu_add_remove_lock changes it.
Gaps: multi-instance states, suspend (freeze_secondary_cpus), cpu_hotplug_disable(), SMT control, targets between
    offline and online.
Lock order: device_hotplug_lock (drivers/base), then cpu_add_remove_lock.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.kthread import kthread_park, kthread_unpark
from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_unlock
from glasskernel.kernel.rcu.hotplug import rcu_report_dead, rcutree_migrate_callbacks
from glasskernel.kernel.sched.completion import Completion, complete, wait_for_completion
from glasskernel.kernel.sched.core import wake_up_process
from glasskernel.kernel.smp import smp_call_function_single
from glasskernel.kernel.smpboot import SmpHotplugThread, smpboot_create_threads, smpboot_register_percpu_thread
from glasskernel.kernel.stop_machine import stop_machine_cpuslocked, stop_machine_park, stop_machine_unpark
from glasskernel.kernel.time.hotplug import tick_handover_do_timer, tick_offline_cpu
from glasskernel.lib.errno import EAGAIN, EBUSY, EINVAL, EIO, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

# The states of 5.3 that somebody here uses, with the numbers that x86-64 has for them.
CPUHP_INVALID = -1
CPUHP_OFFLINE, CPUHP_CREATE_THREADS = 0, 1
CPUHP_SLUB_DEAD, CPUHP_SOFTIRQ_DEAD, CPUHP_BLOCK_SOFTIRQ_DEAD = 11, 14, 20
CPUHP_BLK_MQ_DEAD, CPUHP_FS_BUFF_DEAD = 23, 24
CPUHP_PAGE_ALLOC_DEAD, CPUHP_NET_DEV_DEAD, CPUHP_WORKQUEUE_PREP, CPUHP_HRTIMERS_PREPARE = 29, 30, 35, 37
CPUHP_RCUTREE_PREP, CPUHP_TOPOLOGY_PREPARE, CPUHP_TIMERS_PREPARE = 44, 53, 62
CPUHP_BP_PREPARE_DYN, CPUHP_BP_PREPARE_DYN_END, CPUHP_BRINGUP_CPU = 64, 84, 85
CPUHP_AP_IDLE_DEAD, CPUHP_AP_OFFLINE, CPUHP_AP_SCHED_STARTING = 86, 87, 88
CPUHP_AP_SMPCFD_DYING, CPUHP_AP_ONLINE, CPUHP_TEARDOWN_CPU, CPUHP_AP_ONLINE_IDLE = 133, 136, 137, 138
CPUHP_AP_SMPBOOT_THREADS, CPUHP_AP_PERF_ONLINE, CPUHP_AP_WORKQUEUE_ONLINE = 139, 144, 169
CPUHP_AP_ONLINE_DYN, CPUHP_AP_ONLINE_DYN_END, CPUHP_AP_ACTIVE, CPUHP_ONLINE = 171, 201, 204, 205

CpuhpCallback = Callable[["Kernel", int], None]


@slotted
class CpuhpStep:
    """struct cpuhp_step. startup, teardown: None where nothing is to do."""

    name: str
    startup: CpuhpCallback | None = None
    teardown: CpuhpCallback | None = None


@slotted
class CpuhpCpuState:
    """struct cpuhp_cpu_state. fail: the state whose callback shall fail once. result: errno or 0."""

    cpu: int
    state: int
    target: int
    fail: int = CPUHP_INVALID
    should_run: bool = False
    bringup: bool = False
    result: int = 0
    done_up: Completion = field(default_factory=Completion)
    done_down: Completion = field(default_factory=Completion)


@slotted
class SmpOps:
    """struct smp_ops: what the architecture does. cpu_up(kernel, cpu): returns when the CPU runs start_secondary().

    cpu_disable(), play_dead(): on the CPU itself; cpu_disable() returns 0 or a negative errno.
    cpu_die(kernel, cpu): the CPU stands still, and lets go of its stack.
    """

    cpu_up: CpuhpCallback
    cpu_disable: Callable[[], int]
    cpu_die: CpuhpCallback
    play_dead: Callable[[], None]


@slotted
class CpuhpState:
    """kernel.cpuhp. steps: cpuhp_hp_states, by number, ascending. crash_notes: address of all CPUs' notes; 0: none yet.

    device_hotplug_lock: of drivers/base.
    """

    smp_ops: SmpOps
    steps: dict[int, CpuhpStep]
    cpu: list[CpuhpCpuState]
    threads: list[TaskStruct | None]
    cpu_add_remove_lock: Mutex = field(default_factory=Mutex)
    device_hotplug_lock: Mutex = field(default_factory=Mutex)
    crash_notes: int = 0


@notrace
def num_online_cpus(kernel: Kernel) -> int:
    return kernel.sched.cpu_online_mask.bit_count()


@notrace
def set_cpu_online(kernel: Kernel, cpu: int, online: bool) -> None:
    sched = kernel.sched
    sched.cpu_online_mask = sched.cpu_online_mask | 1 << cpu if online else sched.cpu_online_mask & ~(1 << cpu)


# ---- steps -----------------------------------------------------------------------------------------------------
@notrace
def cpuhp_is_ap_state(state: int) -> bool:
    """True for what cpuhp/N does."""
    return state > CPUHP_BRINGUP_CPU and state != CPUHP_TEARDOWN_CPU


@notrace
def cpuhp_is_atomic_state(state: int) -> bool:
    """True for what the CPU itself does with interrupts off."""
    return CPUHP_AP_IDLE_DEAD <= state < CPUHP_AP_ONLINE


def cpuhp_invoke_callback(kernel: Kernel, cpu: int, state: int, bringup: bool) -> None:
    """Does one step of a CPU. Raises what the callback raises; EAGAIN where it shall fail."""
    hotplug = kernel.cpuhp
    step = hotplug.steps.get(state)
    callback = None if step is None else step.startup if bringup else step.teardown
    if callback is None:
        return
    st = hotplug.cpu[cpu]
    if st.fail == state:
        st.fail = CPUHP_INVALID
        raise KernelError(EAGAIN)
    probe = kernel.tp.cpuhp_enter
    if probe is not None:
        probe(cpu, st.target, state, callback)
    ret = 0
    try:
        callback(kernel, cpu)
    except KernelError as error:
        ret = -error.errno
        raise
    finally:
        probe = kernel.tp.cpuhp_exit
        if probe is not None:
            probe(cpu, st.state, state, ret)


@may_sleep
def cpuhp_up_callbacks(kernel: Kernel, cpu: int, st: CpuhpCpuState, target: int) -> None:
    """Walks up to a state; where a step fails, down again. Raises what the step raised."""
    prev_state = st.state
    while st.state < target:
        st.state += 1
        try:
            cpuhp_invoke_callback(kernel, cpu, st.state, True)
        except KernelError:
            st.target = prev_state
            undo_cpu_up(kernel, cpu, st)
            raise


def undo_cpu_up(kernel: Kernel, cpu: int, st: CpuhpCpuState) -> None:
    st.state -= 1
    while st.state > st.target:
        cpuhp_invoke_callback(kernel, cpu, st.state, False)
        st.state -= 1


@may_sleep
def cpuhp_down_callbacks(kernel: Kernel, cpu: int, st: CpuhpCpuState, target: int) -> None:
    """Walks down to a state; where a step fails, up again. Raises what the step raised."""
    prev_state = st.state
    while st.state > target:
        try:
            cpuhp_invoke_callback(kernel, cpu, st.state, False)
        except KernelError:
            st.target = prev_state
            if st.state < prev_state:
                undo_cpu_down(kernel, cpu, st)
            raise
        st.state -= 1


def undo_cpu_down(kernel: Kernel, cpu: int, st: CpuhpCpuState) -> None:
    st.state += 1
    while st.state < st.target:
        cpuhp_invoke_callback(kernel, cpu, st.state, True)
        st.state += 1


# ---- cpuhp/N ---------------------------------------------------------------------------------------------------
@notrace
def cpuhp_set_state(st: CpuhpCpuState, target: int) -> int:
    """A new target. Returns the state that the CPU is in."""
    st.target = target
    st.bringup = st.state < target
    return st.state


@notrace
def cpuhp_reset_state(st: CpuhpCpuState, prev_state: int) -> None:
    """Back to where it came from: the step that failed is not undone itself."""
    st.state += -1 if st.bringup else 1
    st.target = prev_state
    st.bringup = not st.bringup


@notrace
def wait_for_ap_thread(st: CpuhpCpuState, bringup: bool) -> None:
    wait_for_completion(st.done_up if bringup else st.done_down)


@notrace
def complete_ap_thread(st: CpuhpCpuState, bringup: bool) -> None:
    complete(st.done_up if bringup else st.done_down)


def __cpuhp_kick_ap(kernel: Kernel, st: CpuhpCpuState) -> None:
    """Lets cpuhp/N walk to st.target, and waits for it."""
    if st.state == st.target:
        return
    st.result = 0
    st.should_run = True
    thread = kernel.cpuhp.threads[st.cpu]
    assert thread is not None
    wake_up_process(thread)
    wait_for_ap_thread(st, st.bringup)


def cpuhp_kick_ap(kernel: Kernel, st: CpuhpCpuState, target: int) -> None:
    """The same; where a step fails, back again. Raises what the step raised."""
    prev_state = cpuhp_set_state(st, target)
    __cpuhp_kick_ap(kernel, st)
    if st.result:
        errno = st.result
        cpuhp_reset_state(st, prev_state)
        __cpuhp_kick_ap(kernel, st)
        raise KernelError(errno)


def cpuhp_kick_ap_work(kernel: Kernel, cpu: int) -> None:
    st = kernel.cpuhp.cpu[cpu]
    prev_state = st.state
    probe = kernel.tp.cpuhp_enter
    if probe is not None:
        probe(cpu, st.target, prev_state, cpuhp_kick_ap_work)
    ret = 0
    try:
        cpuhp_kick_ap(kernel, st, st.target)
    except KernelError as error:
        ret = -error.errno
        raise
    finally:
        probe = kernel.tp.cpuhp_exit
        if probe is not None:
            probe(cpu, st.state, prev_state, ret)


def cpuhp_should_run(cpu: int) -> int:
    return int(register.task.kernel.cpuhp.cpu[cpu].should_run)


def cpuhp_thread_fun(cpu: int) -> None:
    """One step, in cpuhp/N."""
    kernel = register.task.kernel
    st = kernel.cpuhp.cpu[cpu]
    if not st.should_run:
        return
    bringup = st.bringup
    if bringup:
        st.state += 1
        state = st.state
        st.should_run = st.state < st.target
    else:
        state = st.state
        st.state -= 1
        st.should_run = st.state > st.target
    assert cpuhp_is_ap_state(state)
    try:
        cpuhp_invoke_callback(kernel, cpu, state, bringup)
    except KernelError as error:
        st.result = error.errno
        st.should_run = False
    if not st.should_run:
        complete_ap_thread(st, bringup)


cpuhp_threads = SmpHotplugThread(
    store=lambda kernel: kernel.cpuhp.threads, thread_should_run=cpuhp_should_run, thread_fn=cpuhp_thread_fun,
    thread_comm="cpuhp/%u", selfparking=True,
)


# ---- down ------------------------------------------------------------------------------------------------------
def take_cpu_down(arg: object) -> int:
    """On the CPU that goes, while all others spin: its last steps. Returns 0, or a negative errno: it cannot go."""
    kernel = register.task.kernel
    cpu = register.task.cpu
    hotplug = kernel.cpuhp
    st = hotplug.cpu[cpu]
    target = max(st.target, CPUHP_AP_OFFLINE)
    err = hotplug.smp_ops.cpu_disable()            # __cpu_disable()
    if err:
        return err
    st.state -= 1                                  # CPUHP_TEARDOWN_CPU itself runs elsewhere
    while st.state > target:
        cpuhp_invoke_callback(kernel, cpu, st.state, False)
        st.state -= 1
    tick_handover_do_timer(kernel, cpu)
    tick_offline_cpu(kernel, cpu)
    stop_machine_park(kernel, cpu)
    return 0


@may_sleep
def takedown_cpu(kernel: Kernel, cpu: int) -> None:
    """Stops the machine, lets the CPU leave, and waits until it is gone. Context: another CPU."""
    hotplug = kernel.cpuhp
    st = hotplug.cpu[cpu]
    thread = hotplug.threads[cpu]
    assert thread is not None
    kthread_park(thread)
    err = stop_machine_cpuslocked(take_cpu_down, None, 1 << cpu)
    if err:
        kthread_unpark(thread)
        raise KernelError(-err)
    assert not kernel.sched.cpu_online_mask >> cpu & 1
    wait_for_ap_thread(st, False)
    assert st.state == CPUHP_AP_IDLE_DEAD
    hotplug.smp_ops.cpu_die(kernel, cpu)           # __cpu_die()
    rcutree_migrate_callbacks(kernel, cpu)


def cpuhp_complete_idle_dead(st: CpuhpCpuState) -> None:
    complete_ap_thread(st, False)


def cpuhp_report_idle_dead() -> None:
    """The idle task of a CPU that is off line: nobody runs there any more."""
    task = register.task
    kernel = task.kernel
    st = kernel.cpuhp.cpu[task.cpu]
    assert st.state == CPUHP_AP_OFFLINE
    rcu_report_dead(kernel, task.cpu)
    st.state = CPUHP_AP_IDLE_DEAD
    online = kernel.sched.cpu_online_mask
    smp_call_function_single((online & -online).bit_length() - 1, cpuhp_complete_idle_dead, st)


@may_sleep
def _cpu_down(kernel: Kernel, cpu: int, target: int) -> None:
    """Raises EBUSY (the last one), EINVAL (no such CPU), what a step raises."""
    cpuhp_threads_init(kernel)
    if num_online_cpus(kernel) == 1:
        raise KernelError(EBUSY)
    if not kernel.sched.cpu_possible_mask >> cpu & 1:
        raise KernelError(EINVAL)
    st = kernel.cpuhp.cpu[cpu]
    prev_state = cpuhp_set_state(st, target)
    if st.state > CPUHP_TEARDOWN_CPU:
        st.target = max(target, CPUHP_TEARDOWN_CPU)
        cpuhp_kick_ap_work(kernel, cpu)
        st.target = target
    try:
        cpuhp_down_callbacks(kernel, cpu, st, target)
    except KernelError:
        if st.state == CPUHP_TEARDOWN_CPU and st.state < prev_state:
            cpuhp_reset_state(st, prev_state)
            __cpuhp_kick_ap(kernel, st)
        raise


@may_sleep
def do_cpu_down(kernel: Kernel, cpu: int, target: int) -> None:
    hotplug = kernel.cpuhp
    mutex_lock(hotplug.cpu_add_remove_lock)        # cpu_maps_update_begin()
    try:
        _cpu_down(kernel, cpu, target)
    finally:
        mutex_unlock(hotplug.cpu_add_remove_lock)


@may_sleep
def cpu_down(kernel: Kernel, cpu: int) -> None:
    """Takes a CPU off line. Raises EBUSY, EINVAL, what a step raises. Context: task."""
    do_cpu_down(kernel, cpu, CPUHP_OFFLINE)


# ---- up --------------------------------------------------------------------------------------------------------
def notify_cpu_starting(kernel: Kernel, cpu: int) -> None:
    """On the CPU that comes, interrupts off: its first steps."""
    st = kernel.cpuhp.cpu[cpu]
    target = min(st.target, CPUHP_AP_ONLINE)
    while st.state < target:
        st.state += 1
        cpuhp_invoke_callback(kernel, cpu, st.state, True)


def cpuhp_online_idle(kernel: Kernel, cpu: int) -> None:
    """The CPU's idle task begins: the rest is its cpuhp/N's."""
    st = kernel.cpuhp.cpu[cpu]
    stop_machine_unpark(kernel, cpu)
    st.state = CPUHP_AP_ONLINE_IDLE
    complete_ap_thread(st, True)


@may_sleep
def bringup_cpu(kernel: Kernel, cpu: int) -> None:
    """Starts the CPU, and lets its cpuhp/N go on. Raises EIO, what a step raises."""
    kernel.cpuhp.smp_ops.cpu_up(kernel, cpu)       # __cpu_up()
    bringup_wait_for_ap(kernel, cpu)


@may_sleep
def bringup_wait_for_ap(kernel: Kernel, cpu: int) -> None:
    st = kernel.cpuhp.cpu[cpu]
    wait_for_ap_thread(st, True)
    if not kernel.sched.cpu_online_mask >> cpu & 1:
        raise KernelError(EIO)
    thread = kernel.cpuhp.threads[cpu]
    assert thread is not None
    kthread_unpark(thread)
    if st.target > CPUHP_AP_ONLINE_IDLE:
        cpuhp_kick_ap(kernel, st, st.target)


@may_sleep
def _cpu_up(kernel: Kernel, cpu: int, target: int) -> None:
    """Raises EINVAL (no such CPU), what a step raises."""
    cpuhp_threads_init(kernel)
    if not kernel.sched.cpu_possible_mask >> cpu & 1:
        raise KernelError(EINVAL)
    st = kernel.cpuhp.cpu[cpu]
    if st.state >= target:
        return
    cpuhp_set_state(st, target)
    if st.state > CPUHP_BRINGUP_CPU:
        cpuhp_kick_ap_work(kernel, cpu)
    cpuhp_up_callbacks(kernel, cpu, st, min(target, CPUHP_BRINGUP_CPU))


@may_sleep
def do_cpu_up(kernel: Kernel, cpu: int, target: int) -> None:
    hotplug = kernel.cpuhp
    mutex_lock(hotplug.cpu_add_remove_lock)
    try:
        _cpu_up(kernel, cpu, target)
    finally:
        mutex_unlock(hotplug.cpu_add_remove_lock)


@may_sleep
def cpu_up(kernel: Kernel, cpu: int) -> None:
    """Brings a CPU on line. Raises EINVAL, EAGAIN, ENOMEM. Context: task."""
    do_cpu_up(kernel, cpu, CPUHP_ONLINE)


# ---- the table ---------------------------------------------------------------------------------------------------
@notrace
def cpuhp_setup_state_nocalls(hotplug: CpuhpState, state: int, name: str, startup: CpuhpCallback | None,
                              teardown: CpuhpCallback | None) -> None:
    """Adds a step. A state of the *_DYN ranges: the next free one of the range."""
    ranges = {CPUHP_BP_PREPARE_DYN: CPUHP_BP_PREPARE_DYN_END, CPUHP_AP_ONLINE_DYN: CPUHP_AP_ONLINE_DYN_END}
    end = ranges.get(state, state)
    while state in hotplug.steps:
        assert state < end, f"{name}: the state is taken"
        state += 1
    hotplug.steps[state] = CpuhpStep(name, startup, teardown)
    hotplug.steps = dict(sorted(hotplug.steps.items()))


@may_sleep
def cpuhp_threads_init(kernel: Kernel) -> None:
    """cpuhp/N of the CPUs that are there. Raises EAGAIN, ENOMEM. Locks: cpu_add_remove_lock held."""
    if cpuhp_threads not in kernel.sched.hotplug_threads:
        smpboot_register_percpu_thread(kernel, cpuhp_threads)


@notrace
def boot_cpu_state(kernel: Kernel, smp_ops: SmpOps) -> CpuhpState:
    """The table with the steps of this file; the CPUs are where the boot has left them."""
    online = kernel.sched.cpu_online_mask
    states = [CPUHP_ONLINE if online >> vcpu.id & 1 else CPUHP_OFFLINE for vcpu in kernel.machine.cpus]
    steps = {
        CPUHP_OFFLINE: CpuhpStep("offline"),
        CPUHP_CREATE_THREADS: CpuhpStep("threads:prepare", smpboot_create_threads),
        CPUHP_BRINGUP_CPU: CpuhpStep("cpu:bringup", bringup_cpu),
        CPUHP_AP_IDLE_DEAD: CpuhpStep("idle:dead"),
        CPUHP_AP_OFFLINE: CpuhpStep("ap:offline"),
        CPUHP_AP_ONLINE: CpuhpStep("ap:online"),
        CPUHP_TEARDOWN_CPU: CpuhpStep("cpu:teardown", None, takedown_cpu),
        CPUHP_ONLINE: CpuhpStep("online"),
    }
    cpus = [CpuhpCpuState(cpu, state, state if cpu else CPUHP_OFFLINE) for cpu, state in enumerate(states)]
    return CpuhpState(smp_ops, steps, cpus, [None] * len(states))
