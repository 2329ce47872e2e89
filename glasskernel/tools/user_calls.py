"""Calls of user functions, seen by the CPU: no -pg, no recompilation, no stop of the program.

The engine tells when a block begins at the start of a function (known by its ELF symbol) or at an address that one of
them will return to. What was called by whom is the order of the stack pointers: a frame is over once the stack pointer
is above the place of its return address, be it by a return, a longjmp or an exception; or once that place holds
another address.

Invariants: looking changes nothing: registers and memory are read, never written; the blocks, and so the clock, are the
same.  Gaps: functions without a symbol; inlined functions; a stack that is switched to a higher address by the
program itself ends the frames of the other.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.machine.cpu import RAX, RSP
from glasskernel.mm.memory import follow_page
from glasskernel.mm.types import VM_EXEC
from glasskernel.tools.symbols import Symbol, SymbolTable, read_inode, read_symbols

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode, Path
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.types import MmStruct, VmAreaStruct

# listener(task, time_ns, function): time is virtual, since boot
Listener = Callable[["TaskStruct", int, Symbol], None]


# A longjmp comes back where one of these returns: they have to be watched, wanted or not.
_SETJMP = frozenset(("setjmp", "_setjmp", "sigsetjmp", "__sigsetjmp"))


def path_text(path: Path) -> str:
    """Where a file is, seen from the root of all mounts: there may be no current task to ask for its root."""
    names: list[bytes] = []
    mnt, dentry = path.mnt, path.dentry
    while True:
        if dentry is not mnt.mnt_root:
            names.append(dentry.d_name)
            dentry = dentry.d_parent
        elif mnt.mnt_parent is not mnt:
            mnt, dentry = mnt.mnt_parent, mnt.mnt_mountpoint
        else:
            return "/" + os.fsdecode(b"/".join(reversed(names)))


@dataclass(slots=True, eq=False)
class _Frame:
    function: Symbol
    stack_pointer: int              # where its return address lies
    return_address: int
    told: bool


@dataclass(slots=True, eq=False)
class _Thread:
    mm: MmStruct
    frames: list[_Frame]


class UserCalls:
    """Tells `entry` and `leave` of the calls of every program of a kernel, from now until stop().

    wanted(symbol): which functions; None: all.
    """

    def __init__(
        self, kernel: Kernel, entry: Listener, leave: Listener, wanted: Callable[[Symbol], bool] | None = None
    ) -> None:
        self._kernel = kernel
        self._engine = kernel.machine.engine
        self._entry, self._leave, self._wanted = entry, leave, wanted
        self._tables: dict[Inode, SymbolTable] = {}
        self._layouts: dict[tuple[object, ...], dict[int, Symbol]] = {}
        self._entries: dict[MmStruct, dict[int, Symbol]] = {}
        self._threads: dict[TaskStruct, _Thread] = {}
        kernel.mmap_listeners.append(self._mapped)
        for mm in kernel.mm_list:
            self._functions(mm)
        self._engine.watch_blocks(self._block)

    def stop(self) -> None:
        """No more; what is still running is told to leave."""
        self._engine.watch_blocks(None)
        self._kernel.mmap_listeners.remove(self._mapped)
        for task, thread in self._threads.items():
            self._unwind(task, thread, 1 << 64, self._kernel.now_ns)

    def table_of(self, inode: Inode, path: str) -> SymbolTable:
        """The symbols of a mapped file."""
        table = self._tables.get(inode)
        if table is None:
            table = self._tables[inode] = read_symbols(read_inode(inode), path)
        return table

    def _mapped(self, vma: VmAreaStruct) -> None:
        """A file was mapped to be executed: its functions are watched before any of it runs."""
        self._entries.pop(vma.vm_mm, None)
        self._functions(vma.vm_mm)

    def _functions(self, mm: MmStruct) -> dict[int, Symbol]:
        """Address -> function. Programs that are laid out alike share one dict."""
        entries = self._entries.get(mm)
        if entries is None:
            code = [vma for vma in mm.vmas if vma.vm_file is not None and vma.vm_flags & VM_EXEC]
            layout = tuple(
                part for vma in code if vma.vm_file is not None
                for part in (vma.vm_start, vma.vm_end, vma.vm_pgoff, vma.vm_file.f_mapping.host))
            entries = self._layouts.get(layout)
            if entries is None:
                entries = self._layouts[layout] = {}
                for vma in code:
                    self._add(entries, vma)
            self._entries[mm] = entries
        return entries

    def _add(self, entries: dict[int, Symbol], vma: VmAreaStruct) -> None:
        assert vma.vm_file is not None
        inode = vma.vm_file.f_mapping.host
        if inode is None:
            return
        table = self.table_of(inode, path_text(vma.vm_file.f_path))
        bias = table.bias(vma.vm_start, vma.vm_pgoff << 12)
        if bias is None:
            return
        for symbol in table.functions:
            address = symbol.value + bias
            wanted = symbol.resolver or symbol.name in _SETJMP or self._wanted is None or self._wanted(symbol)
            if wanted and vma.vm_start <= address < vma.vm_end:
                entries[address] = symbol
                self._engine.watch(address)

    def _block(self, address: int) -> None:
        """A block begins that may be the first of a function, or what follows a call. Called by the engine."""
        task = register.task
        mm = task.mm
        if mm is None:
            return
        engine = self._engine
        stack_pointer = engine.register(RSP)
        thread = self._threads.get(task)
        if thread is None or thread.mm is not mm:
            thread = self._threads[task] = _Thread(mm, [])
        frames = thread.frames
        if frames and frames[-1].stack_pointer < stack_pointer:
            self._unwind(task, thread, stack_pointer, self._kernel.machine.user_now())
        entries = self._functions(mm)
        function = entries.get(address)
        if function is None:
            return
        frame = follow_page(mm, stack_pointer)
        if frame is None or stack_pointer & 7:
            return
        return_address = self._kernel.mem.ram64[(frame << 12 | stack_pointer & 0xFFF) >> 3]
        now_ns = self._kernel.machine.user_now()
        if frames and frames[-1].stack_pointer == stack_pointer:
            if frames[-1].return_address != return_address:
                self._unwind(task, thread, stack_pointer + 1, now_ns)
            elif frames[-1].function is function:
                return                                   # a loop around the whole function
        engine.watch(return_address)
        told = not function.resolver and (self._wanted is None or self._wanted(function))
        frames.append(_Frame(function, stack_pointer, return_address, told))
        if told:
            self._entry(task, now_ns, function)

    def _unwind(self, task: TaskStruct, thread: _Thread, stack_pointer: int, now_ns: int) -> None:
        """Every frame below the stack pointer is over."""
        frames = thread.frames
        while frames and frames[-1].stack_pointer < stack_pointer:
            frame = frames.pop()
            if frame.told:
                self._leave(task, now_ns, frame.function)
            elif frame.function.resolver and stack_pointer < 1 << 64:
                self._resolved(thread.mm, frame.function)

    def _resolved(self, mm: MmStruct, resolver: Symbol) -> None:
        """An indirect function has just been asked for: what it answered bears its name from now on."""
        address = self._engine.register(RAX)
        function = Symbol(resolver.name, address, 0, resolver.file)
        if self._wanted is None or self._wanted(function):
            self._functions(mm)[address] = function
            self._engine.watch(address)
