"""What kernel probes fetch: Documentation/trace/kprobetrace.rst, as shell scripts use it."""

import re

import pytest

from tests.conftest import need


def trace_of(sh, probe, command):
    return sh(f"echo '{probe}' > kprobe_events || exit; echo 1 > events/kprobes/enable; {command}; "
              "echo 0 > events/kprobes/enable; cat trace")


def test_strings_are_read_from_user_memory(sh):
    text = trace_of(sh, "p:open do_sys_open name=+0($arg2):string user=+u0(%si):ustring first=+0($arg2):u8 c=+0($arg2):x8[4]",
                    "cat /etc/hostname >/dev/null")
    assert 'name="/etc/hostname" user="/etc/hostname" first=47 c={0x2f,0x65,0x74,0x63}' in text


def test_a_string_that_cannot_be_read_is_a_fault(sh):
    text = trace_of(sh, "p:open do_sys_open bad=+0(@0x10):string zero=@0x10:u32", "cat /etc/hostname >/dev/null")
    assert "bad=(fault) zero=0" in text


def test_a_failing_function_returns_its_errno(sh):
    text = trace_of(sh, "r:open do_sys_open $retval:s32 raw=$retval", "cat /nothing/here 2>/dev/null; cat /etc/hostname >/dev/null")
    assert "arg1=-2 raw=0xfffffffffffffffe" in text
    assert re.search(r"arg1=3 raw=0x3\n", text)


def test_objects_have_an_address_that_stays_theirs_and_fields_by_name(sh):
    text = trace_of(sh, "p:read vfs_read file=$arg1 pos=file->f_pos:u64", "cat /etc/hostname >/dev/null")
    found = re.findall(r"cat-\d+ .*: read: .* file=(0x[0-9a-f]+) pos=(\d+)", text)
    assert found and all(int(address, 16) >> 47 == 0x1FFFF for address, _ in found)
    assert found[-1][0] == found[-2][0] and found[-2][1] == "0"


def test_bit_fields_symbols_and_the_return_address(sh):
    text = trace_of(sh, "p:read vfs_read low=%dx:b4@0/32 caller=$stack0:symbol", "cat /etc/hostname >/dev/null")
    assert re.search(r"low=\d+ caller=ksys_read\+0x\w+/0x\w+", text)


def test_a_probe_may_be_defined_by_address(sh):
    text = sh("a=$(grep ' vfs_read$' /proc/kallsyms | cut -d' ' -f1); echo p:here 0x$a > kprobe_events; cat kprobe_events; "
              "echo p:there 0x${a%0}8 > kprobe_events; cat error_log")
    assert re.match(r"p:kprobes/here 0xffffffff81[0-9a-f]+\n", text)
    assert "Probe point is not an instruction boundary" in text


def test_more_calls_than_maxactive_are_missed(sh):
    text = sh("echo 'r1:wait do_wait' > kprobe_events; echo 1 > events/kprobes/enable; "
              "sh -c 'sleep 0.1; true'; echo 0 > events/kprobes/enable; cat kprobe_profile")
    name, hits, missed = text.split()
    assert name == "wait" and int(missed) > 0


@pytest.mark.parametrize(("probe", "at", "error"), [
    ("p vfs_read $nothing", 11, "Invalid $-valiable specified"),
    ("p vfs_read $retval", 11, "$retval is not available on probe"),
    ("p vfs_read x=%xx", 13, "Invalid register name"),
    ("p vfs_read x=+4(%di", 19, "Dereference brace is not closed"),
    ("p vfs_read x=+4%di", 13, "Dereference needs a brace"),
    ("p vfs_read x=+a(%di)", 13, "Invalid dereference offset"),
    ("p vfs_read x=+0($comm)", 16, "$comm can not be dereferenced"),
    ("p vfs_read x=@+8", 13, "File offset is not available with kprobe"),
    ("p vfs_read x=%di:u7", 17, "Unknown type is specified"),
    ("p vfs_read x=%di:string", 17, "String accepts only memory argument"),
    ("p vfs_read x=%di:b9@60/64", 17, "Invalid bitfield"),
    ("p vfs_read x=+0(%di):u8[99]", 24, "Array number is too big"),
    ("p vfs_read x=+0(%di):u8[2", 25, "Array is not closed"),
    ("p vfs_read x=whatever", 13, "Invalid fetch argument"),
    ("p vfs_read x=", 13, "No argument expression"),
    ("p vfs_read x=%di x=%si", 17, "This argument name is already used"),
    ("p:/a vfs_read", 2, "Group name is not specified"),
    ("p: vfs_read", 2, "Event name is not specified"),
    ("p7:a vfs_read", 1, "Maxactive is not for kprobe"),
    ("r:a vfs_read+16", 4, "Retprobe address must be an function entry"),
    ("p:a vfs_read+16", 4, "Probe point is not an instruction boundary"),
])
def test_what_is_wrong_with_a_probe(sh, probe, at, error):
    text = sh(f"echo '{probe}' > kprobe_events; cat error_log")
    assert f"trace_kprobe: error: {error}\n  Command: {probe}\n{' ' * (11 + at)}^\n" in text


def test_perf_probe_makes_lists_and_removes_probes(boot):
    """It names functions by their distance from _stext."""
    need("perf", "linux-perf")
    kernel = boot(cmdline="oops=panic")
    done = kernel.run(["/bin/bash", "-c", "perf probe -q --add 'vfs_read count=%dx:u32'; cat /sys/kernel/tracing/kprobe_events; "
                       "perf probe -l; perf probe -q -d vfs_read; cat /sys/kernel/tracing/kprobe_events"])
    assert re.fullmatch(r"p:probe/vfs_read _stext\+\d+ count=%dx:u32\n +probe:vfs_read +\(on vfs_read with count\)\n",
                        done.stdout.decode()), (done.stdout, done.stderr)


def test_trace_cmd_reads_what_a_probe_recorded(boot):
    need("trace-cmd", "trace-cmd")
    kernel = boot(cmdline="oops=panic")
    done = kernel.run(["/bin/bash", "-c", "echo 'p:op do_sys_open f=+0($arg2):string n=$arg3:x32' > /sys/kernel/tracing/kprobe_events; cd /tmp; "
                       "trace-cmd record -q -e kprobes:op sh -c 'sleep 0.2; cat /etc/hostname' >/dev/null 2>&1; trace-cmd report 2>&1"])
    assert re.search(r'cat-\d+ .* op: +\([0-9a-f]{16}\) f="/etc/hostname" n=0x\w+\n', done.stdout.decode()), done.stdout[-2000:]


def test_calls_that_never_return_do_not_use_up_maxactive(sh):
    text = sh("echo 'r2:gone do_exit' > kprobe_events; echo 'r2:read vfs_read $retval' >> kprobe_events; echo 1 > events/kprobes/enable; "
              "for i in 1 2 3 4 5 6; do /bin/true; done; echo 0 > events/kprobes/enable; cat kprobe_profile; grep -c gone: trace", 1)
    assert re.search(r"^ +gone +0 +0$", text, re.M) and re.search(r"^ +read +[1-9]\d* +0$", text, re.M) and text.endswith("\n0\n")
