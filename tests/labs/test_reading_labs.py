"""Labs that read the kernel's source (B19, B24, B74, B79) and A310's scripts. The source here is ours: `glasskernel where`
answers what `vi`, `ag` and `pwd` answer there: which file of Linux it is, and where its counterpart stands."""
import subprocess
import sys
from pathlib import Path

import glasskernel
from glasskernel.arch.x86.syscalls_64 import SYSCALL_NUMBERS
from glasskernel.kernel.kallsyms import kallsyms_table

HERE = Path(glasskernel.__file__).parent
BUDDYINFO = r"""
import re
PAGE_KB = 4
total = 0
for line in open("/proc/buddyinfo"):
    node, zone, free = re.match(r"Node (\d+), zone +(\S+) +(.*)", line).groups()
    counts = [int(n) for n in free.split()]
    print("Node %s zone %s" % (node, zone))
    for order, count in enumerate(counts):
        kb = PAGE_KB << order
        print("%3d %8d KB %8d free %10d KB" % (order, kb, count, count * kb))
        total += count * kb
print("total", total)
"""
SWAP_TEST = r"""
import os
size = 1024 * 1024 * 2
result = [os.urandom(16) * (size // 16) for x in range(%d)]
print(len(result))
"""


def where(name, *options):
    done = subprocess.run([sys.executable, "-m", "glasskernel", "where", name, *options], capture_output=True, text=True)
    assert done.returncode == 0, done
    return done.stdout


def test_lab_b24_read_the_page_fault_handler():
    """entry_64.S calls do_page_fault for a fault, that calls __do_page_fault, that do_user_addr_fault."""
    assert kallsyms_table().by_name["page_fault"].address > 0xFFFFFFFF81000000     # the entry code is code, too
    for name, callee in (("do_page_fault", "__do_page_fault("), ("__do_page_fault", "do_user_addr_fault("),
                         ("do_user_addr_fault", "handle_mm_fault(")):
        text = where(name, "--source")
        assert "Linux: arch/x86/mm/fault.c (5.3)" in text and f"def {name}(" in text and callee in text, text


def test_labs_b19_and_b74_the_way_of_a_system_call():
    assert "entry_64.S, common.c (5.3)" in where("do_syscall_64")
    assert SYSCALL_NUMBERS["rename"] == 82
    assert kallsyms_table().by_name["entry_SYSCALL_64_after_hwframe"]
    for call in ("rename", "openat", "read", "write"):
        text = where(f"__x64_sys_{call}")
        assert f"__x64_sys_{call} at 0xffffffff81" in text and "here:" in text and " fs/" in text and "(5.3)" in text
    assert "fs/namei.c (5.3)" in where("do_renameat2") and "fs/ext4/namei.c" in where("ext4_rename2")


def test_lab_b79_where_the_entry_code_lies():
    """The lab's `pwd` says arch/x86/entry: that is where ours lies, below the package."""
    file = Path(where("do_syscall_64").split("here:")[1].split(":")[0].strip())
    assert file.parent == HERE / "arch" / "x86" / "entry"


def test_a310_show_buddyinfo(boot):
    kernel = boot(memory=128 << 20)
    done = kernel.run(["/usr/bin/python3", "-c", BUDDYINFO])
    assert (done.status, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("Node 0 zone DMA") and sum(line.startswith("Node") for line in lines) == 2
    total = int(lines[-1].split()[1])
    assert 64 << 10 < total <= 128 << 10


def test_a310_the_allocating_half_of_swap_test(boot):
    """What swap_test.py does before memory ends. (Swapping itself: rows of its own.)"""
    done = boot(memory=256 << 20).run(["/usr/bin/python3", "-c", SWAP_TEST % 32])
    assert (done.status, done.stdout, done.stderr) == (0, b"32\n", b"")
