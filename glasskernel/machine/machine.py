"""The machine: CPUs in turns, their clocks, the event queue, interrupt lines.

Stands for the board. One host thread runs everything: run() gives the turn to the CPU whose clock is furthest
behind, by switching to the greenlet that was running on it. A CPU keeps the turn until it halts or until, at
the border to user mode, it is QUANTUM_NS ahead of the others.
Owns: every Vcpu, the event queue, the seeded generator.
Invariants: a clock never goes back; now() is monotone over all CPUs; `turn_end_ns` of the running CPU is never
    later than the point where another CPU must get its turn.
"""
from __future__ import annotations

import heapq
import mmap
import random
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from glasskernel.machine.cpu import VECTOR_BUDGET, CpuContext, Engine

if TYPE_CHECKING:
    from glasskernel.machine.nic import Nic

NS_PER_BLOCK = 4               # how long one executed block takes in virtual time
QUANTUM_NS = 1_000_000         # how far one CPU may run ahead of another: a turn costs 0.15 ms of host time
LONGEST_TURN_NS = 4_000_000    # then the main loop looks at the host again, even if one CPU is all that runs
NEVER = 1 << 62
LEGACY_PCI_LINE = 11           # where the PIRQ router sends PCI's lines
SPIN_NS = 500                  # one look in a loop that waits for another CPU

# Interrupt vectors that the machine raises (arch/x86/include/asm/irq_vectors.h).
FIRST_EXTERNAL_VECTOR = 0x20
LOCAL_TIMER_VECTOR = 0xEC
RESCHEDULE_VECTOR = 0xFD
IRQ_WORK_VECTOR = 0xF6
CALL_FUNCTION_SINGLE_VECTOR, CALL_FUNCTION_VECTOR = 0xFB, 0xFC


class Vcpu:
    """One virtual CPU.

    timer_deadline_ns: when the local APIC timer fires; None: off. task: a slot for the operating system.
    node: the part of memory that is near.
    entry_ns: the clock when the kernel was entered last, before what the entry itself costs.
    """

    __slots__ = ("clock_ns", "entry_ns", "halted", "id", "node", "pending", "stack", "task", "timer_deadline_ns",
                 "trace_ns", "turn_end_ns")

    def __init__(self, number: int) -> None:
        self.id = number
        self.node = 0
        self.clock_ns = 0
        self.entry_ns = 0
        self.trace_ns = 0                         # the stamp of this CPU's last trace record
        self.turn_end_ns = 0
        self.halted = True
        self.timer_deadline_ns: int | None = None
        self.pending: list[int] = []              # interrupt vectors raised and not yet taken
        self.stack: greenlet | None = None        # what runs when this CPU gets the turn; None: it is in reset
        self.task: Any = None


class Machine:
    """RAM, CPUs and time. memory: bytes, a multiple of 4096. pace: "virtual" skips idle time, "realtime" waits.

    nodes: memory is that many parts of equal size, which are near to equally many of the CPUs.
    """

    def __init__(self, *, cpus: int, memory: int, seed: int, pace: str = "virtual", nodes: int = 1) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        self._ram = mmap.mmap(-1, memory, flags=flags)
        self.memory = memory
        self.ram = memoryview(self._ram)
        self.ram64 = self.ram.cast("Q")
        self.engine = Engine(self._ram, memory)
        self.cpus = [Vcpu(i) for i in range(cpus)]
        self.nodes = nodes
        self.nr_cpus = cpus                       # on the board; `cpus` are those that the operating system drives
        self.redirection: dict[int, int] = {}     # the I/O APIC: line -> number of the CPU that takes it; else 0
        self.legacy_pic = False                   # the I/O APIC is masked: PCI's lines are routed to the i8259s
        self.this_cpu = self.cpus[0]
        self.pace = pace
        self.seed = seed
        self._random = random.Random(seed)
        self._last_ns = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self.hub: greenlet = getcurrent()          # the main loop's stack
        self._stopped = False
        self._nursery = greenlet(self._start_stacks, parent=self.hub)
        self._newborn: greenlet | None = None
        self._host_fds: dict[int, Callable[[], None]] = {}
        self._host_epoch = 0.0
        self.console: Any = None                  # machine.console, plugged in by whoever builds the machine
        self.has_nic = True                       # whoever builds the machine may leave the network card out
        self._nic: Nic | None = None
        # Set by the operating system.
        self.vector: Callable[[int], None] = lambda _vector: None      # the IDT's external half
        self.on_turn: Callable[[Vcpu], None] = lambda _cpu: None       # a CPU begins its turn
        self.running = False                                           # inside run()
        self.on_run: Callable[[bool], None] | None = None              # run() begins, or ends

    # ---- time ---------------------------------------------------------------------------------------------------
    def now(self) -> int:
        """ns since power-on as the running CPU sees it; never less than any earlier answer."""
        clock = self.this_cpu.clock_ns
        if clock > self._last_ns:
            self._last_ns = clock
            return clock
        return self._last_ns

    def peek(self) -> int:
        """now() for who watches from outside: no answer that later ones have to keep to."""
        return max(self.this_cpu.clock_ns, self._last_ns)

    def charge(self, ns: int) -> None:
        """The running CPU was busy for so long, here: three quarters of it fall between two stamps of a trace, the rest
        is left for the stamps of the functions that do the work."""
        cpu = self.this_cpu
        cpu.clock_ns += ns
        ns -= ns >> 2
        cpu.entry_ns += ns
        cpu.trace_ns += ns

    @staticmethod
    def host_ns() -> int:
        """The host's clock, for the trace clock that shows it: nothing that a run does may depend on it."""
        return time.monotonic_ns()

    def random_bytes(self, size: int) -> bytes:
        """The machine's entropy: seeded, so that a run can be repeated."""
        return self._random.randbytes(size)

    # ---- user mode ----------------------------------------------------------------------------------------------
    def run_user(self, context: CpuContext, tables: int) -> int:
        """Runs user code on this CPU until a trap (the vector) or until something is due (VECTOR_BUDGET).

        tables: physical address of the top page table, as set in the context.
        """
        cpu = self.this_cpu
        if cpu.pending:
            return VECTOR_BUDGET
        limit = cpu.turn_end_ns
        deadline = cpu.timer_deadline_ns
        if deadline is not None and deadline < limit:
            limit = deadline
        blocks = (limit - cpu.clock_ns) // NS_PER_BLOCK + 1
        if blocks <= 0:
            return VECTOR_BUDGET
        engine = self.engine
        if engine.loaded_tables != tables:
            engine.flush_tlb()
            engine.loaded_tables = tables
        vector = engine.run(context, blocks)
        cpu.clock_ns += (blocks - engine.blocks_left()) * NS_PER_BLOCK
        return vector

    def user_now(self) -> int:
        """The time on the running CPU while the engine executes user code: for listeners inside it."""
        cpu = self.this_cpu
        limit = cpu.turn_end_ns
        deadline = cpu.timer_deadline_ns
        if deadline is not None and deadline < limit:
            limit = deadline
        blocks = (limit - cpu.clock_ns) // NS_PER_BLOCK + 1
        return cpu.clock_ns + (blocks - self.engine.blocks_left()) * NS_PER_BLOCK

    # ---- stacks ---------------------------------------------------------------------------------------------------
    def new_stack(self, function: Callable[[], None]) -> greenlet:
        """A stack that runs function() when it is first switched to.

        Python counts recursion from where a greenlet was started, so every one is started from the same place:
        otherwise a long line of forks would run into the limit.
        """

        def run() -> None:
            self._nursery.switch()
            function()

        stack = self._newborn = greenlet(run, parent=self.hub)
        self._nursery.switch(getcurrent())
        return stack

    def _start_stacks(self, caller: greenlet) -> None:
        while True:
            newborn, self._newborn = self._newborn, None
            assert newborn is not None
            newborn.switch()
            caller = caller.switch()

    def close(self) -> None:
        """Ends the stack that makes stacks: a suspended greenlet is never collected. Nothing can run afterwards."""
        if not self._nursery.dead:
            self._nursery.throw()
            self._ram.madvise(mmap.MADV_DONTNEED)      # the object itself lives until the garbage is collected

    # ---- turns --------------------------------------------------------------------------------------------------
    def border(self) -> None:
        """At the border to user mode: takes what is due on this CPU, and lets others catch up."""
        cpu = self.this_cpu
        self._take(cpu)
        if cpu.clock_ns >= cpu.turn_end_ns:
            self._give_turn(cpu)
            self._take(self.this_cpu)

    def catch_up(self) -> None:
        """CPUs that are behind this one run up to its time first."""
        cpu = self.this_cpu
        if self.running and any(not c.halted and c.clock_ns < cpu.clock_ns for c in self.cpus):
            self._give_turn(cpu)

    def halt(self) -> None:
        """HLT with interrupts on: returns once an interrupt was taken. Called from the CPU's idle task."""
        cpu = self.this_cpu
        if not cpu.pending:
            cpu.halted = True
            self._give_turn(cpu)
            cpu.halted = False
        self._take(cpu)

    def relax(self) -> None:
        """PAUSE in a loop that waits, interrupts off, for what other CPUs do: the one furthest behind gets its turn."""
        cpu = self.this_cpu
        behind = min((c.clock_ns for c in self.cpus if c is not cpu and not c.halted), default=0)
        cpu.clock_ns = max(cpu.clock_ns + SPIN_NS, behind + 1)
        self._give_turn(cpu)

    def park(self) -> None:
        """HLT with interrupts off, for good: nothing wakes this CPU but start()."""
        cpu = self.this_cpu
        cpu.timer_deadline_ns = None
        while True:
            cpu.pending.clear()
            cpu.halted = True
            self._give_turn(cpu)

    def start(self, cpu: Vcpu, stack: greenlet) -> None:
        """INIT and SIPI for a CPU that stands still: it begins on this stack, at the sender's time."""
        cpu.stack = stack
        cpu.pending.clear()
        self.interrupt(cpu, RESCHEDULE_VECTOR)

    def kick(self, number: int) -> None:
        """Sends the reschedule interrupt to another CPU."""
        self.interrupt(self.cpus[number], RESCHEDULE_VECTOR)

    def interrupt(self, cpu: Vcpu, vector: int) -> None:
        """Raises a vector at a CPU; a halted one wakes at the sender's time."""
        if vector not in cpu.pending:
            cpu.pending.append(vector)
        sender = self.this_cpu
        if cpu.halted:
            if cpu.stack is None:
                return                             # in reset: only start() wakes it
            cpu.halted = False
            now = self.now()
            if cpu.clock_ns < now:
                cpu.clock_ns = now
        if cpu is not sender:
            end = cpu.clock_ns + QUANTUM_NS
            if end < sender.turn_end_ns:
                sender.turn_end_ns = end

    def _take(self, cpu: Vcpu) -> None:
        """Vectors what is pending on the running CPU."""
        deadline = cpu.timer_deadline_ns
        if deadline is not None and cpu.clock_ns >= deadline:
            cpu.timer_deadline_ns = None
            self.vector(LOCAL_TIMER_VECTOR)
        while cpu.pending:
            self.vector(cpu.pending.pop(0))

    def _give_turn(self, cpu: Vcpu) -> None:
        cpu.stack = getcurrent()
        self.hub.switch()

    def run(self) -> None:
        """The main loop: returns after stop(), or when nothing can ever happen again."""
        self.hub = getcurrent()
        self._stopped = False
        if self.pace == "realtime":
            self._host_epoch = time.monotonic() - self.now() / 1e9
        self.running = True
        if self.on_run is not None:
            self.on_run(True)
        try:
            self._take_turns()
        finally:
            self.running = False
            if self.on_run is not None:
                self.on_run(False)

    def _take_turns(self) -> None:
        while not self._stopped:
            turn: Vcpu | None = None
            follower = NEVER
            for cpu in self.cpus:
                if cpu.halted:
                    if cpu.timer_deadline_ns is not None and cpu.timer_deadline_ns < follower:
                        follower = cpu.timer_deadline_ns
                elif turn is None:
                    turn = cpu
                elif cpu.clock_ns < turn.clock_ns:
                    follower = min(follower, turn.clock_ns)
                    turn = cpu
                else:
                    follower = min(follower, cpu.clock_ns)
            event = self._events[0][0] if self._events else NEVER
            if turn is None:
                if not self._idle(min(follower, event)):
                    return
                continue
            if min(event, follower) <= turn.clock_ns:
                self._advance(turn.clock_ns)       # what was due before this CPU's time comes first
                if self._stopped:
                    return
                if any(not c.halted and c.clock_ns < turn.clock_ns for c in self.cpus):
                    continue
            elif self._host_fds:
                self._poll_host(0.0)
            event = self._events[0][0] if self._events else NEVER
            end = min(follower + QUANTUM_NS, event, turn.clock_ns + LONGEST_TURN_NS)
            turn.turn_end_ns = end if end > turn.clock_ns else turn.clock_ns + QUANTUM_NS
            self.this_cpu = turn
            self.on_turn(turn)
            stack = turn.stack
            assert stack is not None
            stack.switch()

    def stop(self) -> None:
        """Power off: run() returns at the next turn. Called on any CPU."""
        self._stopped = True
        self.this_cpu.turn_end_ns = 0

    def _advance(self, until: int) -> None:
        """Runs the events and wakes the halted CPUs whose timers are due by `until`."""
        while self._events and self._events[0][0] <= until:
            when, _, action = heapq.heappop(self._events)
            if when > self._last_ns:
                self._last_ns = when
            action()
        for cpu in self.cpus:
            if cpu.halted and cpu.timer_deadline_ns is not None and cpu.timer_deadline_ns <= until:
                cpu.halted = False
                if cpu.clock_ns < cpu.timer_deadline_ns:
                    cpu.clock_ns = cpu.timer_deadline_ns

    def _idle(self, due: int) -> bool:
        """Every CPU halts: time passes until `due`. False: nothing is due and no input can come."""
        if self._host_fds and self._poll_host(0.0):
            return True
        if due == NEVER:
            if not self._host_fds:
                return False
            self._poll_host(None)
            return True
        if self.pace == "realtime":
            late = time.monotonic() - self._host_epoch - self.now() / 1e9
            if late > 0.02:                        # user code ran slower than its clock: a sleep still lasts its time
                self._host_epoch += late
            wait = self._host_epoch + due / 1e9 - time.monotonic()
            if wait > 0:
                if self._poll_host(wait):
                    return True
                if self._host_epoch + due / 1e9 > time.monotonic():
                    return True                    # a host signal came early
        self._advance(due)
        return True

    # ---- devices ------------------------------------------------------------------------------------------------
    def at(self, when_ns: int, action: Callable[[], None]) -> None:
        """A device does something at a point of time: action() runs between two turns; it may raise interrupts."""
        self._sequence += 1
        heapq.heappush(self._events, (when_ns, self._sequence, action))
        if when_ns < self.this_cpu.turn_end_ns:
            self.this_cpu.turn_end_ns = when_ns

    def leave_in_reset(self, driven: int) -> None:
        """The operating system does without the CPUs from this number on."""
        del self.cpus[driven:]

    def line_of(self, irq: int) -> int:
        """The interrupt line where an input of the I/O APIC arrives."""
        return LEGACY_PCI_LINE if self.legacy_pic and irq >= 16 else irq

    def post_irq(self, irq: int, when_ns: int | None = None) -> None:
        """Raises an interrupt line now, or at a point of time. One CPU takes it."""
        if when_ns is not None:
            self.at(when_ns, lambda: self.post_irq(irq))
            return
        if self.legacy_pic:
            irq = self.line_of(irq)
        self.interrupt(self.cpus[self.redirection.get(irq, 0)], FIRST_EXTERNAL_VECTOR + 0x10 + irq)

    @property
    def nic(self) -> Nic | None:
        """The network card, with a router at the other end of its cable; None: there is none. Made when first used."""
        if self._nic is None and self.has_nic:
            from glasskernel.machine.gateway import Gateway  # late: start-up time
            from glasskernel.machine.nic import Nic

            self._nic = Nic(self, seed=self.seed)
            self._nic.peer = Gateway(self._nic)
        return self._nic

    # ---- the host -----------------------------------------------------------------------------------------------
    def add_host_fd(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Watches a host descriptor: on_readable() runs between two turns, and may raise interrupts."""
        self._host_fds[fd] = on_readable

    def remove_host_fd(self, fd: int) -> None:
        self._host_fds.pop(fd, None)

    def _poll_host(self, timeout: float | None) -> bool:
        """Looks at the host descriptors; True if one was readable. Realtime: the clock has moved on."""
        if not self._host_fds and timeout is not None:
            if timeout:
                time.sleep(timeout)
            return False
        poller = select.poll()                         # unlike select(2), for descriptors of any number
        for fd in self._host_fds:
            poller.register(fd, select.POLLIN)
        readable = [fd for fd, _ in poller.poll(None if timeout is None else timeout * 1000)]
        if readable and self.pace == "realtime":
            host_ns = int((time.monotonic() - self._host_epoch) * 1e9)
            if host_ns > self._last_ns:
                self._last_ns = host_ns
        for fd in readable:
            action = self._host_fds.get(fd)
            if action is not None:
                action()
        return bool(readable)
