"""/sys/fs/selinux, by SELinux's own tools (libselinux, policycoreutils) inside."""
from __future__ import annotations

import pytest

from glasskernel import Share
from tests.selinux.policies import policy

ON = "security=selinux oops=panic"
RULES = """(boolean share true) (boolean lock false) (booleanif lock (true (allow user_t secret_t (file (read)))))
(allow user_t file_t (file (read write))) (auditallow user_t file_t (file (write)))
(dontaudit user_t secret_t (file (getattr))) (typetransition user_t file_t file secret_t)
(typetransition user_t file_t dir "my files" prog_exec_t) (typemember user_t file_t dir secret_t)
(typechange user_t file_t chr_file prog_exec_t) (policycap open_perms)
(mlsvalidatetrans file (or (eq l1 l2) (eq t3 kernel_t))) (allow kernel_t user_t (process (transition)))
(roleallow system_r user_r) (genfscon selinuxfs /booleans/lock (system_u object_r secret_t ((s0) (s0))))
"""
LOAD = "dd if=/given/policy of=/sys/fs/selinux/load bs=1M status=none && "


@pytest.fixture
def selinux(boot, tmp_path):
    """selinux(script, extra="") -> Result: the script after the policy was loaded; selinux.kernel is the machine."""

    def go(script, extra=RULES, load=LOAD, **options):
        (tmp_path / "policy").write_bytes(policy(extra, **options))
        go.kernel = boot(cmdline=ON, shares=[Share(str(tmp_path), "/given")])
        result = go.kernel.run(["/bin/sh", "-c", load + script])
        assert result.stderr == b""
        return result.stdout.decode().replace("\0", "\n")

    return go


def test_a_machine_without_selinux_has_no_selinuxfs(run):
    result = run("grep selinux /proc/filesystems /proc/mounts; ls /sys/fs; getenforce")
    assert b"selinux" not in result.stdout.lower()
    assert b"Disabled" in result.stdout


def test_before_a_policy_is_loaded(selinux):
    text = selinux("getenforce; cd /sys/fs/selinux; cat policyvers mls initial_contexts/kernel; ls class booleans; echo;"
                   "grep selinux /proc/filesystems /proc/mounts; cat policy 2>&1; mount -t selinuxfs x /mnt; ls /mnt/null;"
                   "umount /mnt", load="")
    assert text == ("Permissive\n310kernel\nbooleans:\n\nclass:\n\n"
                    "/proc/filesystems:nodev\tselinuxfs\n"
                    "/proc/mounts:selinuxfs /sys/fs/selinux selinuxfs rw,nosuid,noexec,relatime 0 0\n"
                    "cat: policy: Invalid argument\n/mnt/null\n")


def test_files_have_the_modes_of_linux(selinux):
    text = selinux("cd /sys/fs/selinux; stat -c '%A %h %n' * avc/* | sort -k3; stat -c '%t,%T' null; echo hello > null; cat null")
    assert text.splitlines() == [
        "-rw-rw-rw- 1 access", "dr-xr-xr-x 2 avc", "-r--r--r-- 1 avc/cache_stats", "-rw-r--r-- 1 avc/cache_threshold",
        "-r--r--r-- 1 avc/hash_stats", "dr-xr-xr-x 2 booleans", "-rw-r--r-- 1 checkreqprot", "dr-xr-xr-x 94 class",
        "--w------- 1 commit_pending_bools", "-rw-rw-rw- 1 context", "-rw-rw-rw- 1 create", "-r--r--r-- 1 deny_unknown",
        "-rw-r--r-- 1 enforce", "dr-xr-xr-x 2 initial_contexts", "-rw------- 1 load", "-rw-rw-rw- 1 member",
        "-r--r--r-- 1 mls", "crw-rw-rw- 1 null", "-r--r--r-- 1 policy", "dr-xr-xr-x 2 policy_capabilities",
        "-r--r--r-- 1 policyvers", "-r--r--r-- 1 reject_unknown", "-rw-rw-rw- 1 relabel", "-r--r--r-- 1 status",
        "-rw-rw-rw- 1 user", "--w--w--w- 1 validatetrans", "1,3"]


def test_loading_a_policy_is_logged_and_its_classes_show(selinux):
    text = selinux("cd /sys/fs/selinux; cmp policy /given/policy && echo same; cat mls deny_unknown reject_unknown; echo;"
                   "cat class/file/index class/file/perms/execute_no_trans class/dir/perms/read; echo; ls class/fd/perms;"
                   "cat initial_contexts/kernel; cat policy_capabilities/open_perms policy_capabilities/cgroup_seclabel; echo;"
                   "ls class | wc -l; dd if=/given/policy of=load bs=1M status=none; ls class | wc -l")
    assert text == "same\n110\n7212\nuse\nsystem_u:system_r:kernel_t:s0\n10\n92\n92\n"
    log = selinux.kernel.dmesg()
    assert log.count("audit: type=1403") == 2
    assert "auid=4294967295 ses=4294967295 lsm=selinux res=1" in log
    assert "SELinux:  policy capability open_perms=1" in log


def test_a_policy_is_loaded_in_one_write_or_not_at_all(selinux):
    text = selinux("cd /sys/fs/selinux; dd if=/given/policy of=load bs=4k status=none 2>&1;"
                   "echo nonsense > load; echo $?; getenforce; ls class | wc -l", load="exec 2>&1;")
    assert text == ("dd: error writing 'load': Invalid argument\n/bin/sh: 1: echo: echo: I/O error\n1\nPermissive\n0\n")
    assert "SELinux: failed to load policy" in selinux.kernel.dmesg()


def test_load_policy_finds_the_policy_of_the_configuration(selinux):
    """load_policy(8): at boot (-i) it also sets the mode that /etc/selinux/config wants"""
    text = selinux("mkdir -p /etc/selinux/test/policy; cp /given/policy /etc/selinux/test/policy/policy.31;"
                   "printf 'SELINUX=enforcing\nSELINUXTYPE=test\n' > /etc/selinux/config; load_policy; getenforce;"
                   "load_policy -i; sestatus | sed 's/  */ /g' | head -6", load="")
    assert text == ("Permissive\nSELinux status: enabled\nSELinuxfs mount: /sys/fs/selinux\n"
                    "SELinux root directory: /etc/selinux\nLoaded policy name: test\nCurrent mode: enforcing\n"
                    "Mode from config file: enforcing\n")
    assert selinux.kernel.dmesg().count("audit: type=1403") == 2


def test_enforcing_and_permissive(selinux):
    """setenforce(8), sestatus(8)"""
    text = selinux("setenforce 1; getenforce; setenforce Enforcing; cat /sys/fs/selinux/enforce; setenforce 0; getenforce;"
                   "echo x > /sys/fs/selinux/enforce || true; sestatus | tail -6", load="exec 2>&1;" + LOAD)
    assert text == ("Enforcing\n1Permissive\n/bin/sh: 1: echo: echo: I/O error\n"
                    "Mode from config file:          permissive\n"
                    "Policy MLS status:              enabled\n"
                    "Policy deny_unknown status:     denied\n"
                    "Memory protection checking:     actual (secure)\n"
                    "Max kernel policy version:      31\n".replace("Mode from", "Current mode:                   permissive\nMode from"))
    log = selinux.kernel.dmesg()
    assert "enforcing=1 old_enforcing=0 auid=4294967295 ses=4294967295 enabled=1 old-enabled=1 lsm=selinux res=1" in log
    assert log.count("audit: type=1404") == 2


def test_booleans(selinux):
    """getsebool(8), setsebool(8), togglesebool(8)"""
    text = selinux("getsebool -a; setsebool lock on; getsebool lock; cat /sys/fs/selinux/booleans/lock; echo;"
                   "echo 0 > /sys/fs/selinux/booleans/lock; cat /sys/fs/selinux/booleans/lock; echo;"
                   "echo 1 > /sys/fs/selinux/commit_pending_bools; cat /sys/fs/selinux/booleans/lock; echo; togglesebool share;"
                   "cd /sys/fs/selinux/booleans; stat -c '%C %n' *")
    assert text == ("lock --> off\nshare --> on\nlock --> on\n1 1\n1 0\n0 0\nshare: inactive\n"
                    "system_u:object_r:secret_t:s0 lock\nsystem_u:system_r:kernel_t:s0 share\n")
    assert "SELinux: no sid found, defaulting to security isid for /booleans/share" in selinux.kernel.dmesg()
    assert "audit: type=1405" in selinux.kernel.dmesg()


def test_questions_about_contexts(selinux):
    """compute_av(8), compute_create(8), compute_member(8), compute_relabel(8)"""
    user, file = "user_u:user_r:user_t:s0", "system_u:object_r:file_t:s0"
    text = selinux(f"compute_av {user} {file} file; compute_create {user} {file} file; compute_member {user} {file} dir;"
                   f"compute_relabel {user} {file} chr_file; compute_av {user} system_u:object_r:secret_t:s0 fd")
    assert text == ("allowed= { read write }\nauditallow= { write }\nuser_u:object_r:secret_t:s0\n"
                    "system_u:object_r:secret_t:s0\nuser_u:object_r:prog_exec_t:s0\nallowed= null\n")


def test_the_text_of_questions(selinux):
    """One write asks, reads give the answer; another write to the same open file is EBUSY."""
    user, file = "user_u:user_r:user_t:s0", "system_u:object_r:file_t:s0"

    def ask(name, question):
        return f"exec 3<>{name}; printf '%s' '{question}' >&3; cat <&3; echo; exec 3>&-;"

    text = selinux("cd /sys/fs/selinux;" + ask("context", "system_u:object_r:file_t:lowest:c0,c1,c2") +
                   ask("access", f"{user} {file} 7") + ask("create", f"{user} {file} 8 my+files") +
                   ask("create", f"{user} {file} 8 my%20files") + ask("user", "system_u:system_r:kernel_t:s0 user_u") +
                   "exec 3<>context; printf kernel >&3 || true; printf kernel >&3 || true",
                   load="exec 2>&1;" + LOAD)
    assert text == ("system_u:object_r:file_t:s0:c0.c2\n\n6 ffffffff 4 ffffffff 1 0\nuser_u:object_r:prog_exec_t:s0\n\n"
                    "user_u:object_r:prog_exec_t:s0\n\n2\nuser_u:user_r:user_t:s0\n"
                    "user_u:user_r:prog_t:s0\n\n"
                    "/bin/sh: 1: printf: printf: I/O error\n/bin/sh: 1: printf: printf: I/O error\n")


def test_validatetrans(selinux):
    """validatetrans(8): EPERM where a rule forbids it"""
    old, new = "system_u:object_r:file_t:s0", "system_u:object_r:file_t:s1"
    text = selinux(f"validatetrans {old} {new} file system_u:system_r:kernel_t:s0;"
                   f"validatetrans {old} {new} file user_u:user_r:user_t:s0;"
                   f"validatetrans {old} {old} file user_u:user_r:user_t:s0", load="exec 2>&1;" + LOAD)
    assert text == ("security_validatetrans returned 0 errno: Success\n"
                    "security_validatetrans returned -1 errno: Operation not permitted\n"
                    "security_validatetrans returned 0 errno: Success\n")


def test_the_avc_shows_its_numbers(selinux):
    """avcstat(8)"""
    text = selinux("cd /sys/fs/selinux/avc; echo 100 > cache_threshold; cat cache_threshold; echo; cat hash_stats;"
                   "head -1 cache_stats; avcstat -c | tail -1")
    lines = text.splitlines()
    assert lines[0] == "100"
    assert lines[1].startswith("entries: ")
    assert lines[2].startswith("buckets used: ")
    assert lines[2].endswith("/512")
    assert lines[3].startswith("longest chain: ")
    assert lines[4] == "lookups hits misses allocations reclaims frees"
    lookups, hits, misses, *_ = (int(word) for word in lines[5].split())
    assert lookups == hits + misses > 0


def test_a_policy_may_forbid_to_change_selinux(selinux):
    """Class security"""
    forbidden = ("load_policy", "setenforce", "setbool", "setsecparam", "read_policy", "compute_av")
    extra = "(allow kernel_t file_type (security (check_context))) (boolean lock false)"
    text = selinux("cd /sys/fs/selinux; echo 1 > enforce; cat policy; echo 0 > enforce; echo 1 > booleans/lock;"
                   "echo 9 > avc/cache_threshold; dd if=/given/policy of=load bs=1M status=none; exec 3<>access; printf 'kernel kernel 1' >&3;"
                   "exec 3<>context; printf system_u:object_r:file_t:s0 >&3; cat <&3", extra, load="exec 2>&1;" + LOAD,
                   denied={"security": forbidden})
    assert text.count("I/O error") == 4
    assert "cat: policy: Permission denied" in text
    assert "dd: error writing 'load': Permission denied" in text
    assert text.endswith("system_u:object_r:file_t:s0\n")
    log = selinux.kernel.dmesg()
    for permission in forbidden:
        assert f"denied  {{ {permission} }}" in log


STATUS = """
#include <fcntl.h>
#include <stdio.h>
#include <errno.h>
#include <unistd.h>
#include <sys/mman.h>
int main(void)
{
    int fd = open("/sys/fs/selinux/status", O_RDONLY), enforce = open("/sys/fs/selinux/enforce", O_WRONLY);
    unsigned copy[5];
    volatile unsigned *page = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED || read(fd, copy, 100) != 20) return 1;
    printf("%u %u %u %u\\n", page[0], page[1], page[2], page[4]);
    if (write(enforce, "1", 1) != 1) return 2;
    printf("%u %u %u\\n", page[0], page[1], page[2]);
    printf("%d", mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? errno : 0);
    printf(" %d", mmap(0, 8192, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? errno : 0);
    printf(" %d\\n", mprotect((void *)page, 4096, PROT_READ | PROT_WRITE) ? errno : 0);
    return copy[0] != page[0];
}
"""


def test_the_status_page_changes_under_a_program_that_maps_it(run_c):
    """selinux_status_open(3): version, sequence, enforcing, deny_unknown"""
    result = run_c(STATUS, cmdline=ON)
    assert (result.status, result.stdout) == (0, b"1 0 0 1\n1 2 1\n13 5 13\n"), result


MMAP = """
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <errno.h>
static char data[1 << 20], chunk[1 << 20];
int main(void)
{
    int in = open("/given/policy", O_RDONLY), load = open("/sys/fs/selinux/load", O_WRONLY), fd;
    ssize_t n = read(in, data, sizeof data);
    struct stat st;
    if (write(load, data, n) != n) return 1;
    fd = open("/sys/fs/selinux/policy", O_RDONLY);
    if (fstat(fd, &st) || st.st_size != n) return 2;
    char *map = mmap(0, n, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED || memcmp(map, data, n)) return 3;
    if (mmap(0, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED || errno != EACCES) return 4;
    map = mmap(0, n, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED || memcmp(map, data, n)) return 5;
    if (open("/sys/fs/selinux/policy", O_RDONLY) != -1 || errno != EBUSY) return 6;
    if (read(fd, chunk, sizeof chunk) != n || memcmp(chunk, data, n)) return 7;
    munmap(map, n);
    return 0;
}
"""


def test_the_policy_can_be_mapped_by_one_reader_at_a_time(run_c, tmp_path):
    (tmp_path / "policy").write_bytes(policy(RULES))
    result = run_c(MMAP, cmdline=ON, shares=[Share(str(tmp_path), "/given")])
    assert result.status == 0, result


LISTEN = """
#include <fcntl.h>
#include <stdio.h>
#include <errno.h>
#include <unistd.h>
#include <sys/socket.h>
#include <linux/netlink.h>
#include <linux/selinux_netlink.h>
int main(void)
{
    struct { struct nlmsghdr head; unsigned value; } message;
    struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = SELNL_GRP_AVC };
    int fd, enforce;
    if (setuid(1000)) return 1;
    fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_SELINUX);
    if (fd < 0) { printf("%d\\n", errno); return 0; }
    if (bind(fd, (struct sockaddr *)&address, sizeof address)) return 2;
    puts("listening"); fflush(stdout);
    for (int i = 0; i < 3; i++) {
        if (recv(fd, &message, sizeof message, 0) != 20) return 3;
        printf("%d %u %u %u\\n", message.head.nlmsg_type, message.head.nlmsg_len, message.head.nlmsg_pid, message.value);
    }
    return 0;
}
"""


def test_listeners_are_told_of_changes(boot, build_c, tmp_path):
    """linux/selinux_netlink.h: SELNL_MSG_SETENFORCE, SELNL_MSG_POLICYLOAD"""
    (tmp_path / "policy").write_bytes(policy(RULES))
    listen = build_c(LISTEN)
    kernel = boot(cmdline=ON, shares=[Share(str(tmp_path), "/given"), Share(str(listen.parent), "/programs")])
    result = kernel.run(["/bin/sh", "-c", f"/programs/{listen.name} | (read line;" + LOAD +
                         "setenforce 0; setenforce 1; setenforce 1; setsebool lock on; cat)"])
    assert (result.stdout, result.stderr) == (b"17 20 0 1\n16 20 0 1\n17 20 0 2\n", b"")


def test_without_selinux_its_netlink_protocol_is_unknown(run_c):
    assert run_c(LISTEN).stdout == b"93\n"
