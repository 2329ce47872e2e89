"""Kernel functions that can be traced: their addresses, hooks at their entry, returns, stacks."""
from __future__ import annotations

from collections import Counter

import pytest

from glasskernel.kernel.current import register
from glasskernel.kernel.kallsyms import (
    kallsyms_lookup,
    kallsyms_lookup_name,
    kallsyms_table,
    sprint_symbol,
    sprint_symbol_no_offset,
)
from glasskernel.kernel.trace.fgraph import FgraphOps, register_ftrace_graph, unregister_ftrace_graph
from glasskernel.kernel.trace.ftrace import (
    FtraceOps,
    ftrace_init,
    ftrace_set_filter_ip,
    register_ftrace_function,
    unregister_ftrace_function,
)
from glasskernel.kernel.trace.stacktrace import stack_trace_save, stack_trace_save_tsk, walk_frames
from glasskernel.lib.errno import KernelError


# ---- symbols --------------------------------------------------------------------------------------------------------
def test_every_function_has_an_address_of_its_own(boot):
    table = kallsyms_table()
    assert table.addresses == sorted(set(table.addresses))
    kernel = boot()
    address = kallsyms_lookup_name(kernel, "vfs_read")
    assert kallsyms_lookup(kernel, address)[:2] == ("vfs_read", 0)
    name, offset, size = kallsyms_lookup(kernel, address + 0x10)
    assert (name, offset) == ("vfs_read", 0x10) and size > 0x10
    assert sprint_symbol(kernel, address + 0x10) == f"vfs_read+0x10/{size:#x}"
    assert sprint_symbol(kernel, 0x1234) == "0x1234" == sprint_symbol_no_offset(kernel, 0x1234)
    assert kallsyms_lookup_name(kernel, "no_such_function") == 0


@pytest.mark.parametrize("name", ["__x64_sys_read", "__x64_sys_newuname", "__x64_sys_getpid", "do_syscall_64", "schedule",
                                  "handle_mm_fault", "_copy_to_user", "yield"])
def test_names_are_linux_s(name):
    assert name in kallsyms_table().by_name


@pytest.mark.parametrize("name", ["sys_read", "cond_resched", "check_sched", "alloc_page"])
def test_helpers_and_macros_are_no_functions(name):
    assert name not in kallsyms_table().by_name


def test_proc_kallsyms_tells_root_the_addresses_and_others_zeros(boot):
    """5.3: kallsyms_show_value()"""
    kernel = boot()
    shown = kernel.run(["/bin/cat", "/proc/kallsyms"]).stdout.decode().splitlines()
    assert f"{kallsyms_lookup_name(kernel, 'vfs_read'):016x} T vfs_read" in shown
    assert shown == sorted(shown) and shown[0].endswith(" T _stext")
    others = kernel.run(["/bin/cat", "/proc/kallsyms"], uid=1000, gid=1000, cwd="/").stdout.decode().splitlines()
    assert [line.split()[2] for line in others] == [line.split()[2] for line in shown]
    assert {line.split()[0] for line in others} == {"0" * 16}


# ---- hooks ----------------------------------------------------------------------------------------------------------
def watch(kernel, names, action):
    """Hooks functions by name; action(name, parent) at each call."""
    def func(ip, parent_ip, ops, frame):
        action(sprint_symbol_no_offset(kernel, ip), sprint_symbol_no_offset(kernel, parent_ip) if parent_ip else None)

    ops = FtraceOps(func)
    ftrace_init(kernel)
    for name in names:
        ftrace_set_filter_ip(kernel, ops, kallsyms_lookup_name(kernel, name), 0, 0)
    register_ftrace_function(kernel, ops)
    return ops


def test_only_functions_of_the_filter_are_hooked(boot):
    kernel = boot()
    calls = Counter()
    ops = watch(kernel, ["vfs_read", "do_syscall_64"], lambda name, parent: calls.update([(name, parent)]))
    kernel.run(["/bin/cat", "/etc/hostname"])
    assert calls["do_syscall_64", "entry_SYSCALL_64_after_hwframe"] > 20
    assert calls["vfs_read", "ksys_read"] >= 2
    assert {name for name, _ in calls} == {"vfs_read", "do_syscall_64"}
    unregister_ftrace_function(kernel, ops)
    before = calls.total()
    kernel.run(["/bin/cat", "/etc/hostname"])
    assert calls.total() == before
    with pytest.raises(KernelError):
        unregister_ftrace_function(kernel, ops)


def test_the_interpreter_is_only_told_while_the_machine_runs(boot):
    import sys

    kernel = boot()
    before = sys.getprofile()
    inside = []
    ops = watch(kernel, ["vfs_read"], lambda *_: inside.append(True))
    assert sys.getprofile() is before
    kernel.run(["/bin/cat", "/etc/hostname"])
    assert inside and sys.getprofile() is before
    unregister_ftrace_function(kernel, ops)


def test_two_kernels_in_one_process_do_not_see_each_other(boot):
    one, other = boot(), boot()
    calls = Counter()
    watch(one, ["vfs_read"], lambda *_: calls.update(["one"]))
    other.run(["/bin/cat", "/etc/hostname"])
    assert not calls
    watch(other, ["vfs_read"], lambda *_: calls.update(["other"]))
    one.run(["/bin/cat", "/etc/hostname"])
    assert calls["one"] and not calls["other"]


def test_tracing_does_not_change_the_run(boot):
    """DESIGN 4: observing must not change the run."""
    command = ["/bin/sh", "-c", "ls -l /etc | sort | tail -3; sleep 0.01; cat /proc/uptime"]
    plain = boot()
    expected = (plain.run(command).stdout, plain.now_ns)
    traced = boot()
    calls = Counter()
    register_ftrace_function(traced, FtraceOps(lambda ip, parent, ops, frame: calls.update([ip])))
    edges = graph(traced)
    assert (traced.run(command).stdout, traced.now_ns) == expected
    assert calls.total() > 1000 and sum(edges.values()) > 1000


# ---- returns --------------------------------------------------------------------------------------------------------
def graph(kernel, ends=None):
    """Counts (caller, callee) from now on; ends(ret) at each return."""
    ftrace_init(kernel)
    names = {s.address: s.name for s in kallsyms_table().symbols}
    edges = Counter()

    def entry(trace):
        calls = register.task.ret_stack.calls
        edges[names[calls[-2].func] if len(calls) > 1 else None, names[trace.func]] += 1
        return True

    register_ftrace_graph(kernel, FgraphOps(entry, ends or (lambda trace: None)))
    return edges


def test_calls_are_nested_as_in_linux(boot):
    kernel = boot()
    edges = graph(kernel)
    kernel.run(["/bin/sh", "-c", "cat /etc/hostname; mv /tmp/x /tmp/y"])
    for caller, callee in (("do_syscall_64", "__x64_sys_read"), ("__x64_sys_read", "ksys_read"), ("ksys_read", "vfs_read"),
                           ("vfs_read", "__vfs_read"), ("do_page_fault", "__do_page_fault"),
                           ("handle_mm_fault", "__handle_mm_fault"), ("_do_fork", "copy_process")):
        assert edges[caller, callee], (caller, callee)


def test_a_function_left_by_an_error_returns_too(boot):
    kernel = boot()
    depth, wrong = Counter(), []

    def ends(trace):
        depth[trace.func] += 1
        if trace.rettime < trace.calltime:
            wrong.append(trace)

    edges = graph(kernel, ends)
    kernel.run(["/bin/cat", "/no/such/file"])
    calls = Counter()
    for (_, callee), number in edges.items():
        calls[callee] += number
    path = kallsyms_lookup_name(kernel, "link_path_walk")
    assert depth[path] == calls["link_path_walk"] > 0 and not wrong
    for task in kernel.tasks:
        if task.ret_stack is not None:
            assert task.ret_stack.curr_ret_depth < 20


def test_one_graph_tracer_at_a_time(boot):
    """register_ftrace_graph(): EBUSY"""
    kernel = boot()
    ftrace_init(kernel)
    gops = FgraphOps(lambda trace: True, lambda trace: None)
    register_ftrace_graph(kernel, gops)
    with pytest.raises(KernelError):
        register_ftrace_graph(kernel, FgraphOps(lambda trace: True, lambda trace: None))
    unregister_ftrace_graph(kernel, gops)
    register_ftrace_graph(kernel, gops)


# ---- stacks ---------------------------------------------------------------------------------------------------------
def test_a_kernel_stack_ends_in_the_entry_code(boot):
    kernel = boot()
    stacks = []

    def func(ip, parent_ip, ops, frame):
        stacks.append([sprint_symbol_no_offset(kernel, address) for address in walk_frames(frame)])

    ops = FtraceOps(func)
    ftrace_init(kernel)
    for name in ("vfs_read", "handle_mm_fault", "scheduler_tick", "kthread"):
        ftrace_set_filter_ip(kernel, ops, kallsyms_lookup_name(kernel, name), 0, 0)
    register_ftrace_function(kernel, ops)
    kernel.run(["/bin/sh", "-c", "cat /etc/hostname; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])
    assert ["vfs_read", "ksys_read", "__x64_sys_read", "do_syscall_64", "entry_SYSCALL_64_after_hwframe"] in stacks
    assert any(stack[0] == "handle_mm_fault" and stack[-2:] == ["do_page_fault", "page_fault"] for stack in stacks)
    assert any(stack[0] == "scheduler_tick" and "smp_apic_timer_interrupt" in stack and "apic_timer_interrupt" in stack
               for stack in stacks)


def test_the_stack_of_a_sleeping_task_can_be_read(boot):
    kernel = boot()
    worker = next(task for task in kernel.tasks if task.comm == b"kthreadd")
    stack = [sprint_symbol_no_offset(kernel, address) for address in stack_trace_save_tsk(worker)]
    assert stack[-2:] == ["kthreadd", "ret_from_fork"] and "__schedule" in stack and "schedule" in stack, stack
    assert stack_trace_save(kernel) == []
