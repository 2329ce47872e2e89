"""Labs of seed 003 with uftrace and tracefs (B73, B77-B79, B81, B86, B89, B90): the commands as written there."""
import re

import pytest

from tests.conftest import need
from tests.labs.replay import Shell, directly, nested, paths
from tests.labs.test_seed_001_tracing import fields, in_order, records, with_stacks

HELLO_MMAP = r"""
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR);
    struct stat status;
    char *text;
    fstat(fd, &status);
    text = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    write(1, text, status.st_size);
    memset(text, 0, 16);
    munmap(text, status.st_size);
    return close(fd);
}
"""
TRACING = "cd /sys/kernel/debug/tracing/\n"


@pytest.fixture
def sh(boot):
    return Shell(boot(home=True))


def test_lab_b73_the_number_of_rename(sh):
    need("uftrace", "uftrace")
    text = sh("""touch reallinux
        uftrace record --force -K 5 /bin/mv reallinux rlinux
        uftrace replay -t  8us
        uftrace replay -t  8us | less
        echo ==; uftrace replay; echo ==
        ldd /bin/mv; objdump -d /lib/x86_64-linux-gnu/libc.so.6 --disassemble=rename | less
        echo $((16#52)); grep rename /usr/include/x86_64-linux-gnu/asm/unistd_64.h""")
    eight, replay, stub = text.split("==\n")
    once = paths(eight[: len(eight) // 2])                     # typed twice
    assert directly(once, "renameat2", "__x64_sys_renameat2", "do_renameat2", "vfs_rename", "ext4_rename2", "ext4_rename")
    calls = paths(replay)
    assert directly(calls, "renameat2", "__x64_sys_renameat2", "do_renameat2", "vfs_rename", "ext4_rename2", "ext4_rename")
    assert nested(calls, "do_renameat2", "vfs_rename", "d_move")
    assert re.search(r"<rename@@GLIBC_2\.2\.5>:\n(.*\n)?.*mov +\$0x52,%eax\n.*syscall", stub)
    assert stub.count(" => /") >= 4 and "\n82\n" in stub and "#define __NR_rename 82\n" in stub


def test_lab_b77_page_faults(sh):
    text = sh(TRACING + """echo 1 > events/exceptions/page_fault_user/enable
        sleep 2 & sleep 0.1; timeout -s INT 1 cat trace_pipe > /tmp/pipe & sleep 0.1; ls / > /dev/null; wait %2; cat /tmp/pipe
        echo 0 > events/enable
        echo > trace; echo ==; cat trace | grep -vc '^#'; cat /proc/$(pidof sleep)/maps; wait""")
    trace, maps = text.split("==\n")
    found = records(trace)
    assert {r["event"] for r in found} == {"page_fault_user"} and "ls" in {r["comm"] for r in found}
    assert {fields(r)["error_code"] for r in found} >= {"0x6", "0x7"}
    assert maps.startswith("0\n") and re.search(r"^[0-9a-f]+-[0-9a-f]+ r-xp .* /usr/bin/sleep$", maps, re.M)


def test_lab_b78_faults_of_the_kernel(sh):
    found = with_stacks(sh(TRACING + """echo 1 > options/stacktrace
        echo 0 > events/exceptions/page_fault_user/enable
        echo 1 > events/exceptions/page_fault_kernel/enable
        timeout -s INT 1 cat trace_pipe > /tmp/pipe & sleep 0.1; ls / > /dev/null; wait; cat /tmp/pipe"""))
    assert len(found) > 5
    for record in found:
        assert record["event"] == "page_fault_kernel" and record["stack"][:2] == ["do_page_fault", "page_fault"]
        assert re.fullmatch(r"address=0x[0-9a-f]+ ip=\w+ error_code=0x[023]", record["fields"]), record     # not from user mode
        assert fields(record)["ip"] == record["stack"][2]
    assert any(in_order(["_copy_to_user", "do_syscall_64", "entry_SYSCALL_64_after_hwframe"], r["stack"]) for r in found)


def test_lab_b77_the_stack_of_a_user_fault_begins_at_the_entry(sh):
    found = with_stacks(sh(TRACING + """echo 1 > options/stacktrace; echo 1 > events/exceptions/page_fault_user/enable
        /bin/true; cat trace"""))
    assert found and all(r["stack"] == ["do_page_fault", "page_fault"] for r in found)


def test_lab_b81_only_this_shell(sh):
    text = sh(TRACING + """echo 15566 > set_event_pid
        echo 1 > events/exceptions/page_fault_user/enable
        /bin/true; cat set_event_pid; grep -vc '^#' trace
        echo $$ > set_event_pid
        echo > trace
        timeout -s INT 1 cat trace_pipe > /tmp/pipe & sleep 0.1; /bin/true; wait; echo $$; cat /tmp/pipe
        echo 0 > events/enable
        echo > set_event_pid; cat set_event_pid
        echo > trac""", status=1)
    other, none, shell, trace = text.split("\n", 3)
    assert (other, none) == ("15566", "0")
    found = records(trace.partition("no pid")[0])
    assert found and {(r["comm"], r["pid"]) for r in found} == {("bash", shell)}


def test_lab_b86_maps_under_uftrace(sh):
    need("uftrace", "uftrace")
    text = sh("""cat /proc/self/maps; echo ==; echo $$
        uftrace record -d pid_maps.uftrace.data --force -K 30 /bin/cat /proc/self/maps > /dev/null
        cd pid_maps.uftrace.data/; echo ==
        uftrace replay; echo ==; grep show_map_vma /proc/kallsyms""")
    maps, shell, replay, symbol = text.split("==\n")
    assert 18 <= len(maps.splitlines()) <= 32 and shell.strip().isdigit()
    for name in ("/usr/bin/cat", "[heap]", "libc.so.6", "ld-linux-x86-64.so.2", "[stack]", "[vvar]", "[vdso]", "[vsyscall]"):
        assert f"{name}\n" in maps
    calls = paths(replay)
    assert directly(calls, "show_map", "show_map_vma", "show_vma_header_prefix", "seq_put_hex_ll")
    line = [path[-1] for path in calls if path[-2:-1] == ("show_vma_header_prefix",)]
    first = line[:10]                                                        # 5579db38e000-5579db390000 r--p 00000000 00:0a
    assert first == ["seq_put_hex_ll"] * 2 + ["seq_putc"] * 5 + ["seq_put_hex_ll"] * 3, first
    assert re.search(r"^ffffffff[0-9a-f]{8} [tT] show_map_vma$", symbol, re.M)


def test_lab_b89_b90_mmap_under_uftrace(sh):
    """The first touch of a mapping waits for the disk below ext4_filemap_fault; without the timer's frames, on request."""
    need("uftrace", "uftrace")
    sh.write("hello_mmap.c", HELLO_MMAP)
    text = sh("""echo 111111122222333344456 > mmap_test.txt; gcc -g -pg hello_mmap.c; sync
        echo  3 > /proc/sys/vm/drop_caches
        uftrace record -d mmap.uftrace.data -K 30 ./a.out  mmap_test.txt
        cd  mmap.uftrace.data; echo ==
        uftrace replay | grep ext4_filemap_fault; echo ==
        df -Th /root; echo ==; uftrace replay; echo ==; uftrace replay -N smp_apic_timer_interrupt@kernel""")
    output, fault, disk, replay, quiet = text.split("==\n")
    assert output == "111111122222333344456\n"
    assert re.search(r"\| +ext4_filemap_fault\(\) \{\n +(\d+\.\d+) [um]s \[ *\d+\] \| +\} /\* ext4_filemap_fault \*/", fault), fault
    assert re.search(r"^Filesystem +Type +Size +Used +Avail +Use% +Mounted on\n/dev/sda2 +ext4 .* /root$", disk, re.M)
    calls = paths(replay)
    assert nested(calls, "__do_fault", "ext4_filemap_fault", "filemap_fault")
    assert nested(calls, "handle_mm_fault", "__handle_mm_fault", "handle_pte_fault", "do_fault", "__do_fault")
    assert nested(calls, "filemap_fault", "submit_bio") and nested(calls, "filemap_fault", "schedule")
    assert not [path for path in paths(quiet) if "smp_apic_timer_interrupt" in path]
    assert len(paths(quiet)) <= len(calls)
