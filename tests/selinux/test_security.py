"""Security modules: which one is on, what it costs when none is, and the hooks that a read goes through."""
from __future__ import annotations

import subprocess
import sys

import pytest

from tests.trace.call_graph import CallGraph

ON = "security=selinux oops=panic"


def lines(kernel, *words):
    return [line.partition("] ")[2] for line in kernel.dmesg().splitlines() if any(word in line for word in words)]


def test_a_machine_without_a_module_imports_none_of_it():
    """Start-up time: nothing of it is loaded, and there is no /proc/PID/attr."""
    script = ("import sys; from glasskernel import Kernel; k = Kernel(); r = k.run(['/bin/true']); "
              "names = ('security.security', 'selinux', 'lsm', 'kernel.audit', 'proc.attr'); k.close();"
              "print([m for m in sys.modules if m.startswith('glasskernel') and any(n in m for n in names)], r.status)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[] 0\n"


def test_a_machine_without_a_module_looks_as_before(run):
    result = run("ls -d /proc/self/attr /sys/fs/selinux /proc/self/task/1/attr; getfattr -n security.selinux /etc/passwd;"
                 "touch /tmp/a; setfattr -n security.selinux -v any /tmp/a; getfattr --only-values -n security.selinux /tmp/a")
    assert result.stdout == b"any"
    assert result.stderr.count(b"No such file") == 3 and b"Operation not supported" in result.stderr


@pytest.mark.parametrize("words, on", [
    ("security=selinux", True), ("lsm=selinux", True), ("security=selinux selinux=0", False), ("security=none", False),
    ("lsm=yama,selinux", True), ("lsm=selinux security=apparmor", True), ("lsm=", False)])
def test_the_command_line_chooses(boot, words, on):
    kernel = boot(cmdline=words + " oops=panic")
    assert (kernel.selinux is not None) == on == (kernel.lsm is not None)
    said = lines(kernel, "LSM:", "SELinux:")
    assert said[0] == "LSM: Security Framework initializing"
    assert ("SELinux:  Initializing." in said) == on
    assert ("LSM: security= is ignored because it is superseded by lsm=" in said) == ("apparmor" in words)


def test_unknown_modules_are_told_with_lsm_debug(boot):
    """Linux ignores them silently, and says so when asked."""
    kernel = boot(cmdline="lsm=tomoyo,selinux lsm.debug selinux=0")
    assert lines(kernel, "LSM:") == ["LSM: Security Framework initializing", "LSM: cmdline ignored: tomoyo",
                                     "LSM: cmdline ordering: selinux (disabled)"]


def test_enforcing_of_the_command_line(boot):
    for word, mode in (("enforcing=1", b"Enforcing\n"), ("enforcing=0", b"Permissive\n")):
        assert boot(cmdline=f"{ON} {word}").run(["/usr/sbin/getenforce"]).stdout == mode


def test_a254_the_hooks_of_a_read(boot):
    """Seed 003: rw_verify_area > security_file_permission > selinux_file_permission, then fsnotify."""
    kernel = boot(cmdline=ON, home=True)
    with CallGraph(kernel) as graph:
        kernel.run(["/bin/sh", "-c", "echo text > file; cat file"])
    for edge in (
        ("vfs_read", "rw_verify_area"), ("rw_verify_area", "security_file_permission"),
        ("security_file_permission", "selinux_file_permission"),
        ("selinux_file_permission", "__inode_security_revalidate"), ("__inode_security_revalidate", "_cond_resched"),
        ("selinux_file_permission", "avc_policy_seqno"), ("security_file_permission", "__fsnotify_parent"),
        ("security_file_permission", "fsnotify"), ("new_sync_read", "ext4_file_read_iter"),
    ):
        assert graph.edges[edge], edge


def test_hooks_stand_where_linux_has_them(boot):
    """The captures in shared/reference have these edges, with AppArmor's hooks below them."""
    kernel = boot(cmdline=ON, home=True)
    with CallGraph(kernel) as graph:
        kernel.run(["/bin/sh", "-c", "mkdir d; echo a > d/f; mv d/f d/g; chmod 600 d/g; ln -s g d/l; cat d/l; ls -l d; df .; rm -r d; kill -0 $$"])
    for edge in (
        ("__alloc_file", "security_file_alloc"), ("do_dentry_open", "security_file_open"),
        ("inode_init_always", "security_inode_alloc"), ("inode_permission", "security_inode_permission"),
        ("vm_mmap_pgoff", "security_mmap_file"), ("get_unmapped_area", "security_mmap_addr"),
        ("prepare_creds", "security_prepare_creds"), ("copy_process", "security_task_alloc"),
        ("vfs_statx", "security_inode_getattr"), ("do_mprotect_pkey", "security_file_mprotect"),
        ("ext4_init_security", "security_inode_init_security"), ("d_instantiate_new", "security_d_instantiate"),
        ("d_splice_alias", "security_d_instantiate"), ("check_kill_permission", "security_task_kill"),
        ("vfs_rename", "security_inode_rename"), ("vfs_mkdir", "security_inode_mkdir"),
        ("vfs_unlink", "security_inode_unlink"), ("vfs_rmdir", "security_inode_rmdir"),
        ("vfs_symlink", "security_inode_symlink"), ("notify_change", "security_inode_setattr"),
        ("statfs_by_dentry", "security_sb_statfs"),
    ):
        assert graph.edges[edge], edge


def test_everything_works_with_selinux_and_no_policy(agree):
    """Until a policy is loaded nothing is refused."""
    agree("""
        mkdir d; cd d; echo one > a; cp a b; ln a c; ln -s a l; cat l c; mv b e; chmod 600 e; ls; rm c; mkfifo p; test -p p && echo fifo
        (echo through > p) & cat p; wait; sort a e | uniq -c; python3 -c 'print(sum(range(10)))'; find . | sort
        exec 3<>a; read -r x <&3; echo $x; trap 'echo usr1' USR1; kill -USR1 $$; (exit 7); echo $?; nice -n 3 nice
        seq 1000 | awk '{s+=$1} END {print s}'; dd if=/dev/zero bs=1k count=3 2>/dev/null | wc -c; ulimit -n 99; ulimit -n
        python3 -c 'import socket; a, b = socket.socketpair(); a.send(b"x"); print(b.recv(2))'; truncate -s 10 a; stat -c %s a
        perl -e 'print "perl\n"'; cd ..; rm -r d; ls
    """, cmdline=ON)


def test_the_label_of_everything_is_a_name_without_a_policy(run):
    """Contexts are the names of initial SIDs."""
    result = run("cat /proc/self/attr/current /proc/1/attr/current | tr '\\0' '\\n'; id -Z; ls -Z /etc/passwd; ps -o label= -p $$;"
                 "getfattr --only-values -n security.selinux /etc/passwd; cat /proc/self/attr/exec | wc -c", cmdline=ON)
    assert result.stdout == b"kernel\nkernel\nkernel\n? /etc/passwd\nkernel\nunlabeled\x000\n"


def test_proc_pid_attr(run):
    """proc(5): each file with its mode; a process writes its own only."""
    result = run("stat -c '%A %n' /proc/self/attr/*; ls /proc/self/task/*/attr | wc -w; echo x | tee /proc/1/attr/exec >/dev/null", cmdline=ON)
    assert result.stdout == (
        b"-rw-rw-rw- /proc/self/attr/current\n-rw-rw-rw- /proc/self/attr/exec\n-rw-rw-rw- /proc/self/attr/fscreate\n"
        b"-rw-rw-rw- /proc/self/attr/keycreate\n-r--r--r-- /proc/self/attr/prev\n-rw-rw-rw- /proc/self/attr/sockcreate\n6\n")
    assert b"Permission denied" in result.stderr


def test_securityfs_names_the_modules(run):
    result = run("cat /sys/kernel/security/lsm; echo; stat -c '%A %h' /sys/kernel/security /sys/kernel/security/lsm;"
                 "grep securityfs /proc/mounts; stat -f -c %T /sys/kernel/security", cmdline=ON)
    assert result.stdout.decode().splitlines() == [
        "capability,selinux", "drwxr-xr-x 2", "-r--r--r-- 1",
        "securityfs /sys/kernel/security securityfs rw,nosuid,nodev,noexec,relatime 0 0", "securityfs"]
    assert run("ls /sys/kernel/security; grep securityfs /proc/filesystems").stdout == b""


def test_files_that_are_gone_do_not_wait_for_a_policy(boot):
    """isec_head holds the inodes that a policy will label, while they exist."""
    kernel = boot(cmdline=ON)
    kernel.run(["/bin/sh", "-c", "cd /tmp; for i in 1 2 3 4 5 6 7 8 9; do echo > $i; rm $i; done; mkdir kept"])
    waiting = [inode for sb in kernel.vfs.super_blocks for inode in sb.s_security.isec_head if sb.s_type.name == b"tmpfs"]
    assert waiting and all(inode in inode.i_sb.s_inode_list for inode in waiting)
    assert any(dentry.d_name == b"kept" for inode in waiting for dentry in inode.i_dentry)


@pytest.mark.parametrize("cmdline", ["oops=panic", ON])
def test_attributes_of_security_modules_are_for_administrators(boot, cmdline):
    """commoncap: an owner may not give a file capabilities, nor set or remove other attributes of security modules."""
    kernel = boot(cmdline=cmdline)
    script = """import os
for name, value in (("security.foo", b"x"), ("security.capability", b"12345"), ("security.capability", bytes.fromhex("0100000280000000") + bytes(12)),
                    ("user.any", b"x")):
    try: os.setxattr("/tmp/f", name, value); print(name, "set")
    except OSError as e: print(name, e.errno)
try: os.removexattr("/tmp/f", "security.capability"); print("removed")
except OSError as e: print(e.errno)"""
    assert kernel.run(["/bin/sh", "-c", "cp /bin/true /tmp/f; chown 1000 /tmp/f"]).status == 0
    mine = kernel.run(["/usr/bin/python3", "-c", script], uid=1000, gid=1000, cwd="/tmp")
    assert mine.stdout.split() == [b"security.foo", b"1", b"security.capability", b"22", b"security.capability", b"1",
                                   b"user.any", b"95", b"1"], mine
    root = kernel.run(["/usr/bin/python3", "-c", script])
    assert root.stdout.split() == [b"security.foo", b"set", b"security.capability", b"22", b"security.capability", b"set",
                                   b"user.any", b"95", b"removed"], root
    assert kernel.run(["/bin/sh", "-c", "setcap cap_net_raw+ep /tmp/f; getcap /tmp/f"]).stdout == b"/tmp/f cap_net_raw=ep\n"
