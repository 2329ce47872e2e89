"""BPF programs at functions, tracepoints and sockets (labs B38, B60, B62)."""
from __future__ import annotations

import pytest

TRACING = "mount -t debugfs none /sys/kernel/debug 2>/dev/null\n"


def test_tracex1_prints_packets_of_lo(bpf_shell):
    """a kprobe at __netif_receive_skb_core that reads the packet and its device with bpf_probe_read()"""
    result = bpf_shell(TRACING + "/bpf/attach /bpf/tracex1.o ping -c2 -i0.01 127.0.0.1 >/dev/null\n"
                       "grep -o 'skb [0-9a-f]* len .*' /sys/kernel/debug/tracing/trace")
    lines = result.stdout.decode().splitlines()
    assert len(lines) == 4, (lines, result.stderr.decode())
    assert all(line.endswith(" len 84") for line in lines)


def test_tracex3_measures_disk_requests(bpf_shell):
    """the time between two functions, by the request's address"""
    result = bpf_shell(TRACING + "/bpf/attach /bpf/tracex3.o sh -c 'echo x > /root/f; sync /root/f'", home=True)
    rows = [line.split() for line in result.stdout.decode().splitlines()]
    assert rows and {row[0] for row in rows} == {"latencies"}, result.stderr.decode()
    assert sum(int(row[2]) for row in rows) > 0


def test_programs_count_in_maps(bpf_shell):
    """kprobe, kretprobe (the answer is there: EEXIST is 17), tracepoint, raw tracepoint"""
    result = bpf_shell(TRACING + "/bpf/attach /bpf/counts.o sh -c 'mkdir /tmp/one; mkdir -m 700 /tmp/one' 2>/dev/null")
    counts = {int(line.split()[1]): int(line.split()[2]) for line in result.stdout.decode().splitlines()}
    assert counts[0] == 1
    assert counts[1] == 2
    assert counts[2] == 17
    assert counts[3] == 2
    assert counts[4] == 0o777 + 0o700
    assert counts[5] >= 3


@pytest.mark.patience(120)
def test_clang_compiles_for_bpf_and_readelf_knows_it(bpf_programs, host):
    shown = host(["readelf", "-h", str(bpf_programs / "xdp_drop.o")]).stdout.decode()
    assert "Linux BPF" in shown


def test_a_socket_gets_what_its_program_keeps(bpf_shell):
    """SO_ATTACH_BPF, SO_DETACH_BPF: "a" to "f" are sent, odd ones arrive; without the program an even one does"""
    result = bpf_shell("/bpf/attach_socket /bpf/filter.o")
    assert (result.status, result.stdout) == (0, b"ace 3\n1\n"), result.stderr.decode()


def test_records_and_stacks_reach_user_space(bpf_shell):
    """bpf_perf_event_output(), bpf_get_stackid(), bpf_get_current_comm()"""
    result = bpf_shell(TRACING + "/bpf/attach_events /bpf/events.o 'mkdir /tmp/one'")
    assert result.status == 0, result.stderr.decode()
    assert set(result.stdout.decode().splitlines()) == {
        "mkdir 0 /tmp/one", "stack vfs_mkdir do_mkdirat __x64_sys_mkdir"}


def test_loading_a_program_calls_vmalloc(bpf_shell):
    """lab B38: `p:vmalloc vmalloc` with stack traces, while programs are loaded"""
    result = bpf_shell(TRACING + "cd /sys/kernel/debug/tracing\necho 'p:vmalloc vmalloc' > kprobe_events\n"
                       "echo 1 > events/kprobes/vmalloc/enable; echo 1 > options/stacktrace\n"
                       "/bpf/attach /bpf/counts.o true >/dev/null; grep -A8 'vmalloc: (vmalloc' trace | head -9")
    assert [line.removeprefix(" => ") for line in result.stdout.decode().splitlines()[2:]] == [
        "vmalloc", "bpf_prog_calc_tag", "bpf_check", "bpf_prog_load", "__x64_sys_bpf", "do_syscall_64",
        "entry_SYSCALL_64_after_hwframe"]


def test_samples_and_user_functions_run_programs(bpf_shell):
    """PERF_EVENT: each sample of a clock (nothing in the kernel here); a uprobe with its argument: 1 + 2 + 3 + 4"""
    result = bpf_shell("/bpf/attach_samples /bpf/samples.o")
    user, kernel, periods, argument = map(int, result.stdout.split())
    assert (result.status, argument) == (0, 10), result.stderr.decode()
    assert user > 10
    assert periods == 100_000 * (user + kernel)
