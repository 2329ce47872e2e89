"""Character devices, devtmpfs, getrandom and the kernel's log."""

import re


def test_null_zero_and_full(run):
    result = run("wc -c < /dev/null; echo x > /dev/null; head -c 5000 /dev/zero | tr -d '\\0' | wc -c; "
                 "head -c 5000 /dev/zero | wc -c; dd if=/dev/zero of=/dev/full bs=10 count=1; "
                 "head -c 3 /dev/full | od -An -c")
    assert result.stdout.split() == [b"0", b"0", b"5000", b"\\0", b"\\0", b"\\0"]
    assert b"No space left on device" in result.stderr


def test_modes_and_numbers_of_the_nodes(run):
    names = "null zero full random urandom kmsg tty"
    text = run(f"cd /dev; stat -c '%A %t:%T %n' {names}; readlink fd stdin stdout stderr; ls -d pts shm")
    assert text.stdout.decode().splitlines() == [
        "crw-rw-rw- 1:3 null", "crw-rw-rw- 1:5 zero", "crw-rw-rw- 1:7 full", "crw-rw-rw- 1:8 random",
        "crw-rw-rw- 1:9 urandom", "crw-r--r-- 1:b kmsg", "crw-rw-rw- 5:0 tty",
        "/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts", "shm"]


def test_a_node_made_by_hand_reaches_the_driver_and_an_unknown_one_is_enxio(run):
    result = run("cd /tmp; mount -o remount,dev /tmp; mknod n c 1 3; echo x > n && cat n; mknod u c 77 1; cat u; "
                 "mknod m c 1 4; cat m")
    assert result.stderr.count(b"No such device or address") == 2
    assert b": n" not in result.stderr


def test_devtmpfs_is_the_same_wherever_it_is_mounted(run):
    result = run("mkdir /tmp/d; mount -t devtmpfs none /tmp/d; ls -i /dev/null /tmp/d/null; touch /tmp/d/new; "
                 "ls /dev/new")
    first, second, new = result.stdout.decode().splitlines()
    assert first.split()[0] == second.split()[0]
    assert new == "/dev/new"


def test_random_numbers_follow_the_seed(boot):
    def draw(seed):
        return boot(seed=seed).run(["head", "-c", "64", "/dev/urandom"]).stdout

    assert draw(1) == draw(1) != draw(2)
    assert len(set(draw(3))) > 30


def test_getrandom(run_c):
    source = r"""
    #include <errno.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/random.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    int main(void) {
        static unsigned char a[10000], b[10000];
        printf("%zd ", getrandom(a, sizeof a, 0));
        printf("%zd ", getrandom(b, 1000, GRND_RANDOM));
        printf("%d ", memcmp(a, b, 512) != 0);
        printf("%ld ", syscall(SYS_getrandom, a, 1, 8) ? (long)errno : 0);
        printf("%ld ", syscall(SYS_getrandom, (void *)8, 1, 0) ? (long)errno : 0);
        printf("%ld", syscall(SYS_getrandom, (void *)8, 0, 0));
    }"""
    assert run_c(source).stdout == b"10000 512 1 22 14 0"


def test_mmap_of_zero(run_c):
    source = r"""
    #include <fcntl.h>
    #include <stdio.h>
    #include <sys/mman.h>
    #include <sys/wait.h>
    #include <unistd.h>
    int main(void) {
        int fd = open("/dev/zero", O_RDWR);
        char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        char *s = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        p[5000] = 1;
        if (!fork()) { s[5000] = 7; p[5000] = 9; _exit(0); }
        wait(0);
        printf("%d %d %d", p[0], p[5000], s[5000]);
    }"""
    assert run_c(source).stdout == b"0 1 7"


# ---- the log --------------------------------------------------------------------------------------------------
def test_dmesg_prints_the_boot(run):
    """A018, A020: Command line in dmesg is /proc/cmdline."""
    result = run("dmesg; echo ===; cat /proc/cmdline", cmdline="quiet panic=-1")
    log, cmdline = result.stdout.decode().split("===\n")
    assert all(re.match(r"\[ *\d+\.\d{6}\] ", line) for line in log.splitlines())
    assert re.search(r"\] Linux version 5\.3\.0-glasskernel ", log)
    assert f"] Command line: {cmdline}" in log
    assert re.search(r"\] Memory: \d+K/524288K available", log)


def test_kmsg_takes_lines_and_gives_records(run):
    result = run(["bash", "-c", "echo '<3>broken' > /dev/kmsg; echo plain > /dev/kmsg; "
                  "printf 'tab\\there' > /dev/kmsg; timeout 1 cat /dev/kmsg | tail -3; dmesg | tail -2 | head -1"])
    lines = result.stdout.decode().splitlines()
    assert [re.sub(r",\d+,\d+,", ",N,T,", line) for line in lines[:3]] == [
        "11,N,T,-;broken", "12,N,T,-;plain", "12,N,T,-;tab\\x09here"]
    assert lines[3].endswith("] plain")


def test_syslog_actions(run_c):
    source = r"""
    #include <errno.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/klog.h>
    int main(void) {
        static char all[1 << 18], rest[1 << 18];
        int size = klogctl(10, 0, 0), n = klogctl(3, all, sizeof all);
        printf("%d %d ", size, n > 100);
        printf("%d ", klogctl(9, 0, 0) > 100);
        int got = 0, r;
        while (klogctl(9, 0, 0) > 0 && (r = klogctl(2, rest + got, 50)) > 0) got += r;
        printf("%d ", got == n && !memcmp(all, rest, n));
        klogctl(5, 0, 0);
        printf("%d ", klogctl(3, all, sizeof all));
        printf("%d %d", klogctl(99, 0, 0) ? errno : 0, klogctl(3, 0, 5) ? errno : 0);
    }"""
    assert run_c(source).stdout == b"262144 1 1 1 0 22 22"


def test_an_unprivileged_user_may_read_but_not_clear(run):
    result = run("dmesg | head -1 | grep -c Linux; dmesg -C; cat /proc/kmsg", uid=1000, gid=1000, cwd="/")
    assert result.stdout == b"1\n"
    assert b"Operation not permitted" in result.stderr and b"Permission denied" in result.stderr


def test_the_ring_forgets_the_oldest(boot):
    from glasskernel.kernel.printk import printk

    kernel = boot()
    for i in range(9000):
        printk(kernel, f"line {i} of many")
    assert kernel.log.size <= kernel.log.log_buf_len
    text = kernel.dmesg().splitlines()
    assert text[-1].endswith("line 8999 of many") and "Linux version" not in text[0]
