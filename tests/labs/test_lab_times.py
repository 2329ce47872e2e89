"""The uftrace labs' time filters (B18, B42-B45, B73), typed as written in the seeds.

The times of the seeds contain what uftrace's own records cost on the authors' machines: a function that does nothing
lasts 3.6 us in seed 003. `trace_cost_ns` gives our records such a cost (kernel/trace/trace_clock.py); without it a trace
shows what the kernel's work costs (machine/costs.py).
"""
import pytest

from tests.conftest import need
from tests.labs.replay import Shell, directly, nested, paths

WRITE_C = r"""
#include <stdio.h>
int main(int argc, char **argv) { FILE *f = fopen(argv[1], "w"); fprintf(f, "hello\n"); fclose(f); return 0; }
"""
READ_C = r"""
#include <stdio.h>
char buffer[4096];
int main(int argc, char **argv) { FILE *f = fopen(argv[1], "r"); fread(buffer, 1, 4096, f); fclose(f); return 0; }
"""
BIG_C = r"""
#include <fcntl.h>
#include <unistd.h>
char buffer[8 << 20];
int main(int argc, char **argv) { int fd = open(argv[1], O_CREAT | O_WRONLY, 0644); return write(fd, buffer, sizeof buffer) < 0; }
"""
WRITE = ("__x64_sys_write", "ksys_write", "vfs_write", "__vfs_write", "new_sync_write", "ext4_file_write_iter",
         "__generic_file_write_iter", "generic_perform_write")
READ = ("fread", "__x64_sys_read", "ksys_read", "vfs_read", "__vfs_read", "new_sync_read", "ext4_file_read_iter",
        "generic_file_read_iter")


@pytest.fixture
def machine(boot):
    need("uftrace", "uftrace")
    return lambda cost: Shell(boot(home=True, cmdline=f"oops=panic trace_cost_ns={cost}"))


def test_labs_b18_and_b73_a_rename_lasts_longer_than_8_us(machine):
    """What ext4 does for a rename takes that long, without any cost of tracing."""
    text = machine(0)("""touch reallinux; uftrace record --force -K 5 /bin/mv reallinux reallinux-jjang
        uftrace replay -t 8us""")
    calls = paths(text)
    assert directly(calls, "renameat2", "__x64_sys_renameat2", "do_renameat2", "vfs_rename", "ext4_rename2", "ext4_rename")
    assert len(calls) == 6


def test_lab_b73_the_whole_chain_on_a_machine_as_slow_as_the_authors(machine):
    text = machine(1800)("""touch reallinux; uftrace record --force -K 5 /bin/mv reallinux rlinux
        uftrace replay -t  8us""")
    calls = paths(text)
    assert directly(calls, "renameat2", "__x64_sys_renameat2", "do_renameat2", "vfs_rename", "ext4_rename2", "ext4_rename")
    assert directly(calls, "do_renameat2", "filename_parentat") and directly(calls, "do_renameat2", "dput")
    assert [path for path in calls if path[0] == "fclose"]


@pytest.mark.patience(300)
def test_labs_b42_to_b45_reads_and_writes_of_ext4(machine):
    sh = machine(500)
    sh.write("write.c", WRITE_C)
    sh.write("read.c", READ_C)
    text = sh("""gcc -pg -g -o write write.c; gcc -pg -g -o read read.c
        uftrace record -d write.uftrace.data -K 30 ./write hello.txt
        uftrace record -d read1.uftrace.data -K 30 ./read hello.txt
        echo again >> hello.txt; sync; echo 3 > /proc/sys/vm/drop_caches
        uftrace record -d read2.uftrace.data -K 30 ./read hello.txt
        cd write.uftrace.data; uftrace replay -F fclose -t 10us; echo ==; uftrace replay -F fclose -t 20us; echo ==
        cd ../read1.uftrace.data; uftrace replay -F fread -t 30us; echo ==
        cd ../read2.uftrace.data; uftrace replay -F fread -t 31us""")
    ten, twenty, cached, missed = (paths(part) for part in text.split("==\n"))
    for calls in (ten, twenty):
        assert directly(calls, "fclose", *WRITE, "ext4_da_write_begin", "__block_write_begin", "__block_write_begin_int")
        assert directly(calls, "generic_perform_write", "ext4_da_write_end", "generic_write_end")
    assert len(twenty) < len(ten)
    assert directly(cached, *READ[:8]) and nested(cached, "generic_file_read_iter", "touch_atime")
    assert not [path for path in cached if path[-1] == "io_schedule"]
    assert directly(missed, *READ) and nested(missed, "fread", "io_schedule", "schedule")
    assert nested(missed, "fread", "read_pages", "ext4_readpages", "ext4_mpage_readpages")


def test_lab_b45_a_millisecond_is_a_big_write_to_shmem(machine):
    """One page lasts no millisecond (the seed's machine waited for something); 8 MiB do, without any cost of tracing."""
    sh = machine(0)
    sh.write("big.c", BIG_C)
    text = sh("""gcc -pg -o big big.c; uftrace record -b 8m -d big.uftrace.data -K 8 ./big /tmp/big
        cd big.uftrace.data; uftrace replay -F ksys_write@kernel -t 1ms""")
    assert directly(paths(text), "ksys_write", "vfs_write", "__vfs_write", "new_sync_write", "generic_file_write_iter",
                    "__generic_file_write_iter", "generic_perform_write")


def test_traces_cost_nothing_unless_asked(boot):
    """The default: a run is the same with and without its trace; with trace_cost_ns it is longer, by so much a record."""
    def spent(cost, traced):
        kernel = boot(cmdline=f"trace_cost_ns={cost}")
        script = "cd /sys/kernel/tracing; echo 0 > tracing_on; echo function > current_tracer; echo %d > tracing_on; " % traced
        kernel.run(["/bin/sh", "-c", script])
        before = kernel.machine.now()
        kernel.run(["/bin/cat", "/etc/hostname"])
        return kernel.machine.now() - before

    free = spent(0, True)
    assert spent(0, False) == free and spent(1000, False) == free and spent(1000, True) > 2 * free
