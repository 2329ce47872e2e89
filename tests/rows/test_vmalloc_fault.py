"""init_mm's page tables are the master of all others, and what a process's lack is copied when it is used. (A173, A199)"""
import re

import pytest

from glasskernel.arch.x86.pgtable import PTE_MASK, PTE_PRESENT
from glasskernel.fs.proc.generic import proc_create_single_data
from glasskernel.fs.proc.internal import filled_proc
from glasskernel.fs.seq_file import seq_puts
from glasskernel.kernel.current import current
from glasskernel.mm import vmalloc as room
from glasskernel.mm.page_alloc import GFP_KERNEL
from glasskernel.mm.vmalloc import (
    NUMA_NO_NODE,
    PAGE_KERNEL,
    VMALLOC_END,
    VMALLOC_START,
    return_address,
    vfree,
    vmalloc_to_page,
)

vmalloc_node_range = vars(room)["__vmalloc_node_range"]       # a class would mangle the name
FAR = VMALLOC_START + (1 << 40)                      # the third entry of the top table: nothing was ever there
FAR_INDEX = FAR >> 39 & 511
HERE = VMALLOC_START >> 39 & 511


class Far:
    """/proc/far: the first read maps a page far away; each says which entries the reader's top table has."""

    def __init__(self, kernel):
        self.kernel, self.address, self.seen = kernel, 0, []
        filled_proc(kernel)
        proc_create_single_data(kernel, b"far", 0o444, None, self.show)

    def show(self, m, v):
        kernel = self.kernel
        if not self.address:
            self.address = vmalloc_node_range(
                kernel, 8192, 1, FAR, VMALLOC_END, GFP_KERNEL, PAGE_KERNEL, 0, NUMA_NO_NODE, return_address())
            for page, value in ((0, b"\x11" * 4096), (1, b"\x22" * 4096)):
                pfn = vmalloc_to_page(kernel, self.address + page * 4096)
                kernel.mem.ram[pfn << 12 : (pfn + 1) << 12] = value
        self.seen.append(self.entry())
        seq_puts(m, b"%d\n" % self.seen[-1])

    def entry(self):
        return self.kernel.mem.ram64[(current().mm.pgd >> 3) + FAR_INDEX]


@pytest.fixture
def far(boot):
    kernel = boot()
    far = Far(kernel)
    yield far
    if far.address:
        vfree(kernel, far.address)


def test_a_new_process_has_the_kernels_half_of_init_mm(boot):
    """pgd_ctor()"""
    kernel = boot()
    seen = []
    filled_proc(kernel)
    proc_create_single_data(kernel, b"look", 0o444, None, lambda m, v: seen.append(
        kernel.mem.ram64[(current().mm.pgd >> 3) + 256 : (current().mm.pgd >> 3) + 512].tolist()))
    kernel.run(["/bin/sh", "-c", "cat /proc/look; read x < /proc/look; (read x < /proc/look)"])
    master = kernel.mem.ram64[(kernel.vmalloc.pgd >> 3) + 256 : (kernel.vmalloc.pgd >> 3) + 512].tolist()
    assert seen == [master] * 3 and master[HERE - 256] & PTE_PRESENT


def test_the_first_use_in_a_process_faults_and_copies_the_entry(far):
    """vmalloc_fault(): a probe reads kernel memory that was mapped after the process began."""
    kernel = far.kernel
    out = kernel.run(["/bin/sh", "-c", f"""
        mount -t tracefs none /sys/kernel/tracing 2> /dev/null; cd /sys/kernel/tracing
        echo 'p:look do_sys_open first=@{FAR:#x}:u32 across=@{FAR + 4094:#x}:u32 none=@{FAR + 8192 + 4096:#x}:u32' > kprobe_events
        read x < /proc/far; echo $x
        echo 1 > events/exceptions/page_fault_kernel/enable; echo 1 > events/kprobes/enable
        read y < /proc/far; read y < /proc/far; echo $y; sh -c 'read z < /proc/far; echo $z'
        echo 0 > events/kprobes/enable; cat trace"""]).stdout.decode()
    before, after, child = [int(line) for line in out.split("\n")[:3]]
    master = kernel.mem.ram64[(kernel.vmalloc.pgd >> 3) + FAR_INDEX]
    assert before == 0 and after == child == master and master & PTE_PRESENT and master & PTE_MASK
    values = re.findall(r"look: .*first=(\S+) across=(\S+) none=(\S+)", out)
    assert values and set(values) == {(str(0x11111111), str(0x22221111), "0")}, out
    faults = re.findall(r"page_fault_kernel: address=0x([0-9a-f]+).*error_code=0x(\d+)", out)
    first = [fault for fault in faults if int(fault[0], 16) == FAR]
    assert first == [(f"{FAR:x}", "0")], out                 # once, though many reads: the child got a copy at fork


def test_what_is_mapped_nowhere_cannot_be_read(far):
    from glasskernel.arch.x86.uaccess import kernel_page

    kernel, answers = far.kernel, []
    proc_create_single_data(kernel, b"ask", 0o444, None, lambda m, v: answers.extend(
        [kernel_page(FAR + (1 << 39)), kernel_page(VMALLOC_END - 4096), kernel_page(far.address)]))
    kernel.run(["/bin/sh", "-c", "read x < /proc/far; read x < /proc/ask"])
    assert answers == [None, None, vmalloc_to_page(kernel, FAR) << 12]


def test_user_code_gets_nothing_of_it(run_c):
    assert run_c("""
    #include "check.h"
    static siginfo_t info;
    static void handler(int n, siginfo_t *i, void *c) { printf("%d %d\\n", i->si_code == SEGV_MAPERR, !i->si_addr || 1); _exit(7); }
    int main(void)
    {
        struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
        sigaction(SIGSEGV, &sa, NULL);
        return *(volatile char *)0xffffc90000000000UL + info.si_code;
    }""").status == 7
