"""Small promises of Linux that no other file of tests is about."""


def test_what_was_written_to_tainted_stays(run):
    """Documentation/admin-guide/tainted-kernels.rst"""
    done = run("cd /proc/sys/kernel; cat tainted; echo 512 > tainted; echo 64 > tainted; cat tainted; echo 0 > tainted; cat tainted; stat -c %a tainted")
    assert done.stdout.split() == [b"0", b"576", b"576", b"644"]
    assert run("setpriv --reuid 1000 --clear-groups sh -c 'echo 1 > /proc/sys/kernel/tainted'").status != 0


def test_an_oops_taints(boot):
    from glasskernel.kernel.panic import TAINT_DIE, add_taint, print_tainted

    kernel = boot()
    assert print_tainted(kernel) == "Not tainted"
    add_taint(kernel, TAINT_DIE)
    assert print_tainted(kernel) == "Tainted: G      D          "


def test_a_task_without_an_io_context_has_no_io_class(run_c):
    """ioprio_get(2); ionice shows `none: prio 4`."""
    assert run_c("""
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <stdio.h>
#define get() (int)syscall(SYS_ioprio_get, 1, 0)
int main(void) {
    printf("%x ", get());
    syscall(SYS_ioprio_set, 1, 0, 0);                    /* makes one */
    printf("%x ", get());
    syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6);
    printf("%x ", get());
    fflush(stdout);
    if (!fork()) { printf("%x\\n", get()); fflush(stdout); _exit(0); }
    wait(0);
    return 0;
}""").stdout == b"4 0 4006 4006\n"


def test_cgroups_are_where_a_distributions_init_mounts_them(run):
    """A102: /sys/fs/cgroup/cpu is there for whoever looks, also in another mount namespace, and belongs to root."""
    done = run("setpriv --reuid 1000 --clear-groups cat /sys/fs/cgroup/cpu/cpu.cfs_period_us; stat -c '%u %a' /sys/fs/cgroup /sys/fs/cgroup/pids;"
               "readlink /sys/fs/cgroup/cpuacct; mkdir /sys/fs/cgroup/cpu/limited; echo 25000 > /sys/fs/cgroup/cpu/limited/cpu.cfs_quota_us;"
               "cat /sys/fs/cgroup/cpuacct/limited/cpu.cfs_quota_us; rmdir /sys/fs/cgroup/cpu/limited; touch /sys/fs/cgroup/x")
    assert done.stdout.decode().split() == ["100000", "0", "755", "0", "755", "cpu,cpuacct", "25000"], done
    assert done.stderr.endswith(b"Read-only file system\n")
    assert run("unshare -m cat /sys/fs/cgroup/cpu/cpu.cfs_period_us; cat /sys/fs/cgroup/cpu/cpu.shares").stdout == b"100000\n1024\n"


def test_hierarchies_of_the_users_own_stay_as_they_are(run):
    done = run("mount -t cgroup2 none /mnt; ls /sys/fs/cgroup; cat /mnt/cgroup.controllers")
    assert done.stdout == b"cpu pids\n", done                # nothing came into /sys/fs/cgroup
