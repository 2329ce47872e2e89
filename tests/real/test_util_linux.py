"""util-linux, unmodified: lscpu, mount, findmnt, dmesg, taskset, chrt, renice, flock, setsid, unshare ..."""
import json
import re


def text(result):
    assert (result.status, result.stderr) == (0, b""), result
    return result.stdout.decode()


def test_lscpu_describes_the_machine(boot):
    """B009, A029: the labels, and counts that agree with /proc/cpuinfo."""
    out = text(boot(cpus=3).run(["/bin/sh", "-c", "lscpu; grep -c ^processor /proc/cpuinfo"], env={"LC_ALL": "C"}))
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in out.splitlines()[:-1])}
    assert fields["Architecture"] == "x86_64"
    assert fields["CPU op-mode(s)"] == "32-bit, 64-bit"
    assert fields["Byte Order"] == "Little Endian"
    assert fields["CPU(s)"] == "3" == out.splitlines()[-1]
    assert fields["On-line CPU(s) list"] == "0-2"
    threads, cores, sockets = (int(fields[k]) for k in ("Thread(s) per core", "Core(s) per socket", "Socket(s)"))
    assert threads * cores * sockets == 3
    for label in ("Vendor ID", "CPU family", "Model", "Model name", "Stepping", "BogoMIPS", "Flags"):
        assert fields[label], label
    assert "sse4_2" in fields["Flags"] and "avx" not in fields["Flags"].split()


def test_mount_and_findmnt_show_the_tree_of_mounts(run):
    out = text(run("mount; findmnt -n -o FSTYPE /proc; findmnt -J /tmp; mountpoint /sys; mountpoint -q /etc; echo $?"))
    assert re.search(r"^\w+ on / type overlay \(rw", out, re.MULTILINE)
    assert "proc on /proc type proc (rw,nosuid,nodev,noexec,relatime)" in out
    assert '"target": "/tmp"' in out
    assert out.endswith("/sys is a mountpoint\n32\n")


def test_mount_mounts_binds_moves_and_protects(run):
    script = """
        cd /tmp; mkdir a b c; mount -t tmpfs -o size=1M,mode=700 mine a && stat -fc %T a && stat -c %a a; echo hi >a/f
        mount --bind a b && cat b/f; mount -o remount,ro,bind b; touch b/g; echo $?; touch a/g && ls b; mount --move a c; ls a c
        umount b && ls b; (cd c; umount /tmp/c); echo $?; umount -l c; ls c; umount /nosuch; echo $?; mount -t xyzfs x a; echo $?"""
    result = run(["/bin/bash", "-c", script])
    assert result.stdout.decode().split() == (
        ["tmpfs", "700", "hi", "1", "f", "g", "a:", "c:", "f", "g", "32", "32", "32"]
    ), result
    assert b"Read-only file system" in result.stderr and b"target is busy" in result.stderr
    assert b"unknown filesystem type 'xyzfs'" in result.stderr


def test_a_bind_mount_inside_a_namespace_is_invisible_outside(run):
    """B63, C25: first shows SECOND inside, FIRST in another terminal."""
    script = """
        cd /tmp; echo FIRST >first; echo SECOND >second
        unshare -m sh -c 'mount -n --bind second first; cat first; echo >ready; sleep 1; cat first' &
        while [ ! -e ready ]; do sleep 0.1; done; cat first; wait; cat first"""
    assert text(run(script)).split() == ["SECOND", "FIRST", "SECOND", "FIRST"]


def test_an_ordinary_user_may_not_unshare_mounts(run):
    """A080: unshare(CLONE_NEWNS) without privilege gives EPERM."""
    result = run("unshare -m true", uid=1000, gid=1000, cwd="/tmp")
    assert (result.status, result.stderr) == (1, b"unshare: unshare failed: Operation not permitted\n")


def test_newns_the_program_of_the_lab(run_c):
    """C25: checks geteuid() is 0, forks; the child unshares its mounts and starts a shell."""
    source = """
#include "check.h"
#include <sched.h>
int main(void) {
    if (geteuid() != 0) { printf("must be root\\n"); return 1; }
    pid_t pid = fork();
    if (pid == 0) {
        if (unshare(CLONE_NEWNS)) return 2;
        execl("/bin/sh", "sh", "-c", "cd /tmp; mount -n --bind second first; cat first", NULL);
    }
    waitpid(pid, NULL, 0);
    return system("cat /tmp/first");
}"""
    wrapped = source.replace("int main(void) {", 'int main(void) { system("cd /tmp; echo FIRST >first; echo SECOND >second");', 1)
    assert run_c(wrapped).stdout == b"SECOND\nFIRST\n"
    assert run_c(source, uid=1000, gid=1000, cwd="/tmp").stdout == b"must be root\n"


def test_dmesg_prints_the_boot_log_with_times(run):
    """B003, A018, A020: [seconds] lines; Command line; Memory."""
    out = text(run("dmesg; echo ==; cat /proc/cmdline", cmdline="oops=panic quiet answer=42"))
    log, _, cmdline = out.partition("==\n")
    assert all(re.match(r"\[ *\d+\.\d{6}\] ", line) for line in log.splitlines())
    assert re.search(r"Linux version 5\.3\.0-glasskernel", log)
    assert re.search(r"Memory: \d+K/\d+K available", log)
    assert re.search(r"Command line: (.*)", log)[1] == cmdline.strip() == "oops=panic quiet answer=42"
    assert text(run("echo '<3>from user space' >/dev/kmsg; dmesg | tail -1; dmesg -c | wc -l; dmesg | wc -l")).endswith("\n0\n")


def test_taskset_pins_a_process(run):
    """B020, A119: taskset -pc 3 PID prints the current and the new list; the processor field becomes 3."""
    script = """
        (while :; do :; done) & p=$!; taskset -pc 3 $p; sleep 0.1; cut -d' ' -f39 /proc/$p/stat; taskset -p $p; kill $p
        taskset -c 1,2 grep Cpus_allowed_list /proc/self/status; taskset -c 99 true"""
    result = run(["/bin/bash", "-c", script])
    lines = result.stdout.decode().splitlines()
    assert re.fullmatch(r"pid \d+'s current affinity list: 0-3", lines[0])
    assert re.fullmatch(r"pid \d+'s new affinity list: 3", lines[1])
    assert lines[2] == "3"
    assert re.fullmatch(r"pid \d+'s current affinity mask: 8", lines[3])
    assert lines[4] == "Cpus_allowed_list:\t1-2"
    assert b"Invalid argument" in result.stderr


def test_chrt_sets_every_policy(run):
    """B040, A096."""
    script = """for o in -o0 -b0 -i0 -f50 -r1; do chrt ${o%%[0-9]*} ${o#-?} sh -c 'chrt -p $$'; done
        chrt -d --sched-runtime 1000000 --sched-period 10000000 0 true; chrt -f 100 true"""
    result = run(["/bin/bash", "-c", script])
    said = re.findall(r"policy: (\w+)\n.*priority: (\d+)", result.stdout.decode())
    assert said == [("SCHED_OTHER", "0"), ("SCHED_BATCH", "0"), ("SCHED_IDLE", "0"), ("SCHED_FIFO", "50"), ("SCHED_RR", "1")]
    assert b"failed to set pid 0's policy: Invalid argument" in result.stderr or b"unsupported priority" in result.stderr


def test_chrt_without_the_capability_is_eperm(run):
    """B042, A038: chrt: failed to set pid 0's policy: Operation not permitted."""
    result = run("chrt 19 dd if=/dev/zero of=/dev/null", uid=1000, gid=1000, cwd="/tmp")
    assert (result.status, result.stderr) == (1, b"chrt: failed to set pid 0's policy: Operation not permitted\n")


def test_renice_changes_a_running_process_and_lowering_needs_privilege(run):
    """A104."""
    out = text(run("sleep 9 & renice -n 5 -p $!; ps -o ni= -p $!; renice -n -3 $! >/dev/null; ps -o ni= -p $!; kill $!"))
    assert re.match(r"\d+ \(process ID\) old priority 0, new priority 5\n +5\n +-3\n$", out)
    result = run("renice -n -1 $$; nice -n -1 true", uid=1000, gid=1000, cwd="/tmp")
    assert result.stderr.count(b"Permission denied") == 2


def test_flock_setsid_and_friends(agree):
    agree("""
        flock lk sh -c 'flock -n lk echo got || echo busy'; flock lk echo free; (flock -x 9; echo in) 9>lk2
        setsid sh -c 'test $(ps -o sid= -p $$) -eq $$ && echo leader'; setsid -w sh -c 'exit 3'; echo $?
        getopt -o ab: -- -a -b x y; namei -m / | tail -1; rev <<<abc; logger -s --no-act hi 2>&1 | wc -l
        fallocate -l 10000 f && stat -c %s f; mcookie | wc -c; prlimit --nofile=50:60 sh -c 'ulimit -n; ulimit -Hn'
        hexdump -C <<<abc; whereis -b ls | cut -d: -f1; look --version | wc -l; script -V | wc -w""")


def test_a_new_namespace_has_another_number(run):
    out = text(run("readlink /proc/self/ns/mnt /proc/self/ns/uts; unshare -m readlink /proc/self/ns/mnt /proc/self/ns/uts"))
    mnt, uts, new_mnt, new_uts = out.split()
    assert re.fullmatch(r"mnt:\[\d{10}\]", mnt)
    assert mnt != new_mnt and uts == new_uts


def test_unshare_uts_changes_the_name_inside_only(run):
    assert text(run("unshare -u sh -c 'hostname inside; hostname'; hostname >/dev/null && uname -n")).split()[0] == "inside"


def test_findmnt_speaks_json(run):
    tree = json.loads(text(run("findmnt -J -o TARGET,FSTYPE")))
    assert tree["filesystems"][0]["target"] == "/"
