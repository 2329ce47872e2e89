"""setns(2), /proc/PID/ns, and the tools of util-linux that use them."""

UNSHARE = "unshare -u -m sh -c 'hostname inside; mount -t tmpfs x /mnt; touch /mnt/f; exec sleep 100' & P=$!; sleep 0.5; "


def test_a_program_enters_another_processs_namespaces(run):
    """nsenter(1)"""
    done = run(UNSHARE + "hostname; ls /mnt; nsenter -t $P -u -m sh -c 'hostname; ls /mnt; readlink /proc/self/ns/uts /proc/self/ns/mnt'; "
               "readlink /proc/$P/ns/uts /proc/$P/ns/mnt; hostname; nsenter -t $P -u -r hostname; kill $P")
    lines = done.stdout.decode().splitlines()
    assert lines[:3] == ["glasskernel", "inside", "f"], done
    assert lines[3:5] == lines[5:7] and lines[3] != "uts:[4026531838]" and lines[4] != "mnt:[4026531840]"
    assert lines[7:] == ["glasskernel", "inside"]


def test_a_bind_mount_keeps_a_namespace(run):
    """mount_namespaces(7): a file of nsfs that is mounted keeps its namespace when no process is in it."""
    done = run("touch /tmp/uts /tmp/mnt; unshare --uts=/tmp/uts hostname kept; nsenter --uts=/tmp/uts hostname; hostname;"
               "grep nsfs /proc/self/mountinfo | cut -d' ' -f4,5,9; umount /tmp/uts; nsenter --uts=/tmp/uts true; echo $?;"
               "mount --bind /proc/self/ns/mnt /tmp/mnt; echo $?")
    lines = done.stdout.decode().splitlines()
    assert lines[:2] == ["kept", "glasskernel"], done
    assert lines[2].startswith("uts:[40265") and lines[2].endswith("] /tmp/uts nsfs")
    assert lines[3:] == ["1", "32"] and b"Invalid argument" in done.stderr  # not one any more; a loop


def test_lsns_lists_them(run):
    """lsns(8)"""
    done = run(UNSHARE + "lsns -n -o TYPE,NPROCS,PID,COMMAND; kill $P")
    rows = [line.split(None, 3) for line in done.stdout.decode().splitlines()]
    kinds = [row[0] for row in rows]
    assert sorted(set(kinds)) == ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
    assert kinds.count("uts") == kinds.count("mnt") == 2 and kinds.count("pid") == 1
    assert [row[3] for row in rows if row[0] == "uts" and row[1] == "1"] == ["sleep 100"]


def test_what_setns_refuses(run_c):
    assert run_c(r"""
#define _GNU_SOURCE
#include <sched.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <pthread.h>
static int try(const char *path, int type) {
    int fd = open(path, O_RDONLY), result = setns(fd, type) ? errno : 0;
    close(fd);
    return result;
}
static void *thread(void *_) { return (void *)(long)try("/proc/self/ns/mnt", 0); }
int main(void) {
    void *answer;
    pthread_t t;
    printf("%d %d %d ", setns(-1, 0) ? errno : 0, try("/proc/self/stat", 0), try("/proc/self/ns/uts", CLONE_NEWNS));
    printf("%d %d %d ", try("/proc/self/ns/uts", CLONE_NEWUTS), try("/proc/self/ns/pid", 0), try("/proc/self/ns/user", 0));
    pthread_create(&t, 0, thread, 0);
    pthread_join(t, &answer);
    int fd = open("/proc/self/ns/uts", O_RDONLY);
    printf("%ld %x ", (long)answer, ioctl(fd, 0xb703));
    setuid(1000);
    printf("%d\n", setns(fd, 0) ? errno : 0);
    return 0;
}""").stdout == b"9 22 22 0 0 22 22 4000000 1\n"
