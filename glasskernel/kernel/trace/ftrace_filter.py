"""The files of tracefs that name functions and tasks: set_ftrace_filter and its like.

Linux: kernel/trace/ftrace.c (5.3), trace_get_user() of trace.c. Same: one word of a write at a time, a last word
    without a space waits for the close; globs, `!`, numbers of available_filter_functions, `name:command:parameter`,
    `*:mod:NAME`; O_TRUNC empties, without it words are added; nothing changes before the close.
Owns: FtraceInstance, one for each trace array that was asked for (FtraceState.instances). Gaps: nothing is a module, so
    `:mod:` matches nothing and is kept for a module to come.
Context: task.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from glasskernel.fs.seq_file import SeqFile, SeqOperations, seq_lseek, seq_open, seq_puts, seq_read, seq_release
from glasskernel.fs.types import FMODE_READ, FMODE_WRITE, O_TRUNC, FileOperations
from glasskernel.kernel.kallsyms import kallsyms_table
from glasskernel.kernel.trace.ftrace import FtraceHash, FtraceOps, FtraceState, ftrace_init
from glasskernel.kernel.tracepoint import tracepoint_probe_register, tracepoint_probe_unregister
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.iov_iter import IovIter

FTRACE_BUFF_MAX = 128 + 1 + 32                    # KSYM_SYMBOL_LEN + 4, about
FTRACE_ITER_FILTER, FTRACE_ITER_NOTRACE, FTRACE_ITER_ENABLED = 1 << 0, 1 << 1, 1 << 5
_SPACE = b" \t\n\v\f\r"

# A command of set_ftrace_filter: (instance, hash, function pattern, command, parameter, whether it is the filter file).
FuncCommand = Callable[["FtraceInstance", FtraceHash, str, str, "str | None", bool], None]


@slotted
class TraceParser:
    """struct trace_parser: a word that may come in several writes."""

    size: int = FTRACE_BUFF_MAX
    buffer: bytearray = field(default_factory=bytearray)
    cont: bool = False                            # the word is not over

    @notrace
    def get_user(self, source: IovIter) -> int:
        """trace_get_user(): takes spaces and one word; answers how many bytes. Errors: EINVAL, it is too long."""
        text = source.copy_from_iter(min(source.count, 4096))
        at = 0
        if not self.cont:
            self.buffer.clear()
            while at < len(text) and text[at] in _SPACE:
                at += 1
            if at == len(text) or not text[at]:
                return len(text[:at + 1])
        while at < len(text) and text[at] not in _SPACE and text[at]:
            if len(self.buffer) >= self.size - 1:
                raise KernelError(EINVAL)
            self.buffer.append(text[at])
            at += 1
        self.cont = at == len(text)
        return min(at + 1, len(text))

    @notrace
    def take(self) -> str:
        """The word, which is forgotten."""
        word = self.buffer.decode(errors="replace")
        self.buffer.clear()
        self.cont = False
        return word


@slotted
class FtraceInstance:
    """What a trace array (tr) has of ftrace. function_pids: None means every task."""

    tr: Any
    state: FtraceState
    ops: FtraceOps
    function_pids: dict[int, None] | None = None
    probes: list[Any] = field(default_factory=list)              # ftrace_probes.FtraceFuncProbe
    mod_trace: list[tuple[str, str]] = field(default_factory=list)
    follows_fork: bool = False

    @notrace
    def on_fork(self, parent: TaskStruct, child: TaskStruct) -> None:
        """trace_filter_add_remove_task() for a new task."""
        if self.function_pids is not None and parent.pid in self.function_pids:
            self.function_pids[child.pid] = None

    @notrace
    def on_exit(self, task: TaskStruct) -> None:
        if self.function_pids is not None:
            self.function_pids.pop(task.pid, None)


@notrace
def ftrace_instance(tr: Any) -> FtraceInstance:
    """The instance of a trace array, made at first use. The top one's hashes are the graph tracer's, too."""
    state = ftrace_init(tr.kernel)
    found: FtraceInstance | None = state.instances.get(tr)
    if found is None:
        ops = state.global_ops if tr is tr.kernel.tracing.global_trace else FtraceOps(state.global_ops.func)
        found = state.instances[tr] = FtraceInstance(tr, state, ops)
    return found


# ---- matching -----------------------------------------------------------------------------------------------------
def ftrace_match(name: str, pattern: str) -> bool:
    """A name against a glob."""
    return fnmatchcase(name, pattern) if any(c in pattern for c in "*?[") else name == pattern


@notrace
def matching(state: FtraceState, pattern: str) -> FtraceHash:
    """The functions that a word names: a glob, or a line number of available_filter_functions."""
    if pattern.isdigit():
        index = int(pattern) - 1
        return {state.records[index].ip: None} if 0 <= index < len(state.records) else {}
    return {record.ip: None for record in state.records if ftrace_match(record.symbol.name, pattern)}


def ftrace_match_records(state: FtraceState, functions: FtraceHash, pattern: str) -> int:
    """Adds what a word names to a hash; with `!` before it, takes it out. Answers how many matched."""
    clear = pattern.startswith("!")
    found = matching(state, pattern[1:] if clear else pattern)
    for ip in found:
        if clear:
            functions.pop(ip, None)
        else:
            functions[ip] = None
    return len(found)


def ftrace_mod_callback(instance: FtraceInstance, functions: FtraceHash, func: str, cmd: str, module: str | None,
                        enable: bool) -> None:
    """`func:mod:NAME`: no function is a module's, so this is kept for when one is loaded."""
    if not module:
        raise KernelError(EINVAL)
    entry = (func.removeprefix("!"), module)
    if func.startswith("!"):
        if entry in instance.mod_trace:
            instance.mod_trace.remove(entry)
    elif entry not in instance.mod_trace:
        instance.mod_trace.append(entry)


def ftrace_process_regex(instance: FtraceInstance, functions: FtraceHash, word: str, enable: bool) -> None:
    """One word of set_ftrace_filter or set_ftrace_notrace. Errors: EINVAL, nothing matches, or no such command."""
    func, colon, rest = word.partition(":")
    if not colon:
        if not ftrace_match_records(instance.state, functions, func):
            raise KernelError(EINVAL)
        return
    command, colon, parameter = rest.partition(":")
    if command == "mod":
        ftrace_mod_callback(instance, functions, func, command, parameter if colon else None, enable)
        return
    handler = instance.state.commands.get(command)
    if handler is None:
        raise KernelError(EINVAL)
    handler(instance, functions, func, command, parameter if colon else None, enable)


# ---- files of lines -----------------------------------------------------------------------------------------------
@slotted
class FtraceIterator:
    """struct ftrace_iterator: an open file. functions: what will hold after the close. lines: what is read."""

    instance: FtraceInstance
    flags: int
    parser: TraceParser
    functions: FtraceHash = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def t_start(m: SeqFile) -> Any:
    return m.private.lines[m.index] if m.index < len(m.private.lines) else None


def t_next(m: SeqFile, v: Any) -> Any:
    m.index += 1
    return t_start(m)


def t_show(m: SeqFile, v: Any) -> int | None:
    seq_puts(m, v.encode(errors="replace") + b"\n")
    return None


show_ftrace_seq_ops = SeqOperations(t_start, t_next, t_show)


@notrace
def names(functions: FtraceHash) -> list[str]:
    """The names of functions in the order of addresses."""
    by_address = {s.address: s.name for s in kallsyms_table().symbols}
    return [by_address[ip] for ip in sorted(functions)]


@notrace
def open_lines(inode: Inode, file: File, iterator: Any) -> None:
    if file.f_mode & FMODE_READ:
        seq_open(file, show_ftrace_seq_ops).private = iterator
    else:
        file.private_data = iterator


@notrace
def iterator_of(file: File) -> Any:
    data = file.private_data
    return data.private if isinstance(data, SeqFile) else data


def ftrace_avail_open(inode: Inode, file: File) -> None:
    """available_filter_functions"""
    instance = ftrace_instance(inode.i_private)
    open_lines(inode, file, FtraceIterator(instance, 0, TraceParser(),
                                           lines=[r.symbol.name for r in instance.state.records]))


def ftrace_enabled_open(inode: Inode, file: File) -> None:
    """enabled_functions: who is hooked, and by how many."""
    instance = ftrace_instance(inode.i_private)
    lines = []
    for record in instance.state.records:
        users = [ops.func.__name__ for ops in record.ops] + (["ftrace_graph_func"] if record.graph else [])
        if users:
            arrows = "".join(f" ->{name}" for name in users)
            lines.append(f"{record.symbol.name} ({len(users)})    {arrows}")
    open_lines(inode, file, FtraceIterator(instance, FTRACE_ITER_ENABLED, TraceParser(), lines=lines))


def ftrace_regex_open(inode: Inode, file: File, flag: int) -> None:
    """set_ftrace_filter, set_ftrace_notrace"""
    instance = ftrace_instance(inode.i_private)
    filtering = flag == FTRACE_ITER_FILTER
    current = instance.ops.filter_hash if filtering else instance.ops.notrace_hash
    iterator = FtraceIterator(instance, flag, TraceParser())
    if file.f_mode & FMODE_WRITE:
        iterator.functions = {} if file.f_flags & O_TRUNC else dict(current)
        if file.f_flags & O_TRUNC:
            instance.mod_trace.clear()
    if file.f_mode & FMODE_READ:
        shown = iterator.functions if file.f_mode & FMODE_WRITE else current
        iterator.lines = names(shown) or [
            "#### all functions enabled ####" if filtering else "#### no functions disabled ####"]
        if filtering:
            iterator.lines += [line for probe in instance.probes for line in probe.lines()]
            iterator.lines += [f"{func}:mod:{module}" for func, module in instance.mod_trace]
    open_lines(inode, file, iterator)


def ftrace_filter_open(inode: Inode, file: File) -> None:
    ftrace_regex_open(inode, file, FTRACE_ITER_FILTER)


def ftrace_notrace_open(inode: Inode, file: File) -> None:
    ftrace_regex_open(inode, file, FTRACE_ITER_NOTRACE)


def ftrace_regex_write(iocb: Kiocb, source: IovIter) -> int:
    """Takes one word. Errors: EINVAL."""
    if not source.count:
        return 0
    iterator: FtraceIterator = iterator_of(iocb.ki_filp)
    read = iterator.parser.get_user(source)
    if iterator.parser.buffer and not iterator.parser.cont:
        ftrace_process_regex(iterator.instance, iterator.functions, iterator.parser.take(),
                             bool(iterator.flags & FTRACE_ITER_FILTER))
    iocb.ki_pos += read
    return read


def ftrace_regex_release(inode: Inode, file: File) -> None:
    """The close: now it holds."""
    iterator: FtraceIterator = iterator_of(file)
    instance = iterator.instance
    if file.f_mode & FMODE_WRITE:
        filtering = bool(iterator.flags & FTRACE_ITER_FILTER)
        if iterator.parser.buffer:
            with suppress(KernelError):            # a close cannot tell
                ftrace_process_regex(instance, iterator.functions, iterator.parser.take(), filtering)
        ftrace_hash_move(instance.ops.filter_hash if filtering else instance.ops.notrace_hash, iterator.functions)
        instance.state.update()
    seq_release(inode, file)


def ftrace_hash_move(target: FtraceHash, source: FtraceHash) -> None:
    """The hash holds what another one does."""
    target.clear()
    target.update(source)


ftrace_avail_fops = FileOperations(open=ftrace_avail_open, read_iter=seq_read, llseek=seq_lseek, release=seq_release)
ftrace_enabled_fops = FileOperations(open=ftrace_enabled_open, read_iter=seq_read, llseek=seq_lseek,
                                     release=seq_release)
ftrace_filter_fops = FileOperations(open=ftrace_filter_open, read_iter=seq_read, write_iter=ftrace_regex_write,
                                    llseek=seq_lseek, release=ftrace_regex_release)
ftrace_notrace_fops = FileOperations(open=ftrace_notrace_open, read_iter=seq_read, write_iter=ftrace_regex_write,
                                     llseek=seq_lseek, release=ftrace_regex_release)


# ---- set_graph_function, set_graph_notrace ------------------------------------------------------------------------
@slotted
class FtraceGraphData:
    """struct ftrace_graph_data"""

    state: FtraceState
    target: FtraceHash
    parser: TraceParser
    functions: FtraceHash = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def ftrace_graph_set_hash(state: FtraceState, functions: FtraceHash, word: str) -> None:
    """One word. Errors: EINVAL, nothing was added or taken out."""
    if word.startswith("!"):
        gone = [ip for ip in matching(state, word[1:]) if ip in functions]
        for ip in gone:
            del functions[ip]
        if not gone:
            raise KernelError(EINVAL)
        return
    found = matching(state, word)
    if not found:
        raise KernelError(EINVAL)
    functions.update(found)


@notrace
def _graph_open(inode: Inode, file: File, target: FtraceHash, empty: str) -> None:
    state = ftrace_init(inode.i_private.kernel)
    data = FtraceGraphData(state, target, TraceParser())
    if file.f_mode & FMODE_WRITE and not file.f_flags & O_TRUNC:
        data.functions = dict(target)
    if file.f_mode & FMODE_READ:
        data.lines = names(data.functions if file.f_mode & FMODE_WRITE else target) or [empty]
    open_lines(inode, file, data)


def ftrace_graph_open(inode: Inode, file: File) -> None:
    state = ftrace_init(inode.i_private.kernel)
    _graph_open(inode, file, state.graph_functions, "#### all functions enabled ####")


def ftrace_graph_notrace_open(inode: Inode, file: File) -> None:
    state = ftrace_init(inode.i_private.kernel)
    _graph_open(inode, file, state.graph_notrace_functions, "#### no functions disabled ####")


def ftrace_graph_write(iocb: Kiocb, source: IovIter) -> int:
    """Takes one word. Errors: EINVAL."""
    if not source.count:
        return 0
    data: FtraceGraphData = iterator_of(iocb.ki_filp)
    read = data.parser.get_user(source)
    if data.parser.buffer and not data.parser.cont:
        ftrace_graph_set_hash(data.state, data.functions, data.parser.take())
    iocb.ki_pos += read
    return read


def ftrace_graph_release(inode: Inode, file: File) -> None:
    data: FtraceGraphData = iterator_of(file)
    if file.f_mode & FMODE_WRITE:
        if data.parser.buffer:
            with suppress(KernelError):
                ftrace_graph_set_hash(data.state, data.functions, data.parser.take())
        ftrace_hash_move(data.target, data.functions)
    seq_release(inode, file)


ftrace_graph_fops = FileOperations(open=ftrace_graph_open, read_iter=seq_read, write_iter=ftrace_graph_write,
                                   llseek=seq_lseek, release=ftrace_graph_release)
ftrace_graph_notrace_fops = FileOperations(open=ftrace_graph_notrace_open, read_iter=seq_read,
                                           write_iter=ftrace_graph_write, llseek=seq_lseek,
                                           release=ftrace_graph_release)


# ---- set_ftrace_pid ------------------------------------------------------------------------------------------------
@slotted
class PidLines:
    """An open set_ftrace_pid."""

    instance: FtraceInstance
    parser: TraceParser
    lines: list[str] = field(default_factory=list)


def ftrace_pid_open(inode: Inode, file: File) -> None:
    """set_ftrace_pid. O_TRUNC: every task again."""
    instance = ftrace_instance(inode.i_private)
    if file.f_mode & FMODE_WRITE and file.f_flags & O_TRUNC:
        ftrace_pid_reset(instance)
    pids = instance.function_pids
    lines = ["no pid"] if pids is None else [str(pid) for pid in sorted(pids)]
    open_lines(inode, file, PidLines(instance, TraceParser(), lines))


def ftrace_pid_reset(instance: FtraceInstance) -> None:
    instance.function_pids = None


def ftrace_pid_write(iocb: Kiocb, source: IovIter) -> int:
    """Adds the pids of a write. Errors: EINVAL, one is no number."""
    data: PidLines = iterator_of(iocb.ki_filp)
    if not source.count:
        return 0
    written = source.count
    text = source.copy_from_iter(source.count)
    pids = dict(data.instance.function_pids or {})
    for word in text.replace(b"\0", b" ").split():
        if not word.isdigit() or int(word) >= 1 << 22:
            raise KernelError(EINVAL)
        pids[int(word)] = None
    data.instance.function_pids = pids or None
    iocb.ki_pos += written
    return written


ftrace_pid_fops = FileOperations(open=ftrace_pid_open, read_iter=seq_read, write_iter=ftrace_pid_write,
                                 llseek=seq_lseek, release=seq_release)


@notrace
def ftrace_ignores_task(instance: FtraceInstance, pid: int) -> bool:
    """ftrace_trace_task(): whether set_ftrace_pid leaves a task out."""
    pids = instance.function_pids
    return pids is not None and pid not in pids


def ftrace_pid_follow_fork(tr: Any, enable: bool) -> None:
    """options/function-fork: children of the tasks of set_ftrace_pid are traced, too; who exits leaves the list."""
    instance = ftrace_instance(tr)
    if instance.follows_fork == enable:
        return
    instance.follows_fork = enable
    change = tracepoint_probe_register if enable else tracepoint_probe_unregister
    change(tr.kernel, "sched_process_fork", instance.on_fork)
    change(tr.kernel, "sched_process_exit", instance.on_exit)
