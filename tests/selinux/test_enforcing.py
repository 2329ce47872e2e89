"""A policy decides: what is refused, what is recorded, which label a program and a file get."""
from __future__ import annotations

import re
import subprocess

import pytest

from glasskernel import Share
from glasskernel.machine.disk import Disk
from tests.selinux.policies import policy

FILE = "(system_u object_r file_t ((s0) (s0)))"
# user_t may do everything to file_t, and nothing to secret_t but what a test adds. prog_exec_t is a program that makes prog_t.
RULES = "\n".join(
    [f"(fsuse xattr ext4 {FILE}) (fsuse trans tmpfs {FILE}) (fsuse trans devpts {FILE}) (fsuse task pipefs {FILE})"
     f"(fsuse task sockfs {FILE})"]
    + [f"(genfscon {name} / {FILE})" for name in
       ("proc", "sysfs", "overlay", "hostfs", "hoststdio", "devtmpfs", "selinuxfs", "rootfs", "anon_inodefs", "mqueue")]
    + [f"(allow user_t file_t ({name} (all)))" for name in ("file", "dir", "lnk_file", "chr_file", "fifo_file", "filesystem")]
    + [f"(allow user_t self ({name} (all)))" for name in (
        "process", "fd", "capability", "dir", "file", "lnk_file", "fifo_file", "unix_stream_socket", "tcp_socket",
        "udp_socket", "unix_dgram_socket", "shm", "sem", "msgq", "msg", "key")]
    + [f"(allow user_t kernel_t ({name}))" for name in (
        "fd (use)", "process (sigchld)", "fifo_file (all)", "key (search)", "file (read getattr open)", "dir (all)")]
    + ["(allow kernel_t domain (process (all)))", "(allow file_type file_t (filesystem (associate)))",
       "(allow user_t secret_t (file (getattr)))", "(roleallow system_r user_r)", "(policycap open_perms)",
       "(allow user_t kernel_t (security (compute_av compute_create check_context)))"])
LOAD = "load_policy() { cat /given/policy > /sys/fs/selinux/load; }; load_policy || exit 99; "
AS_USER = "runcon user_u:user_r:user_t:s0 "


@pytest.fixture
def selinux(boot, tmp_path):
    """selinux(script, extra="") -> Result in enforcing mode; selinux.denied() lists the records of the kernel's log."""

    def go(script, extra="", mode="enforcing=1", labels=RULES):
        (tmp_path / "policy").write_bytes(policy(labels + extra))
        go.kernel = boot(cmdline=f"security=selinux {mode} oops=panic", shares=[Share(str(tmp_path), "/given")], home=True)
        return go.kernel.run(["/bin/sh", "-c", "echo 0 > /proc/sys/kernel/printk_ratelimit;" + LOAD + script])

    go.denied = lambda: [re.sub(r"audit\([0-9.]+:\d+\)|pid=\d+|ino=\d+", "", line.partition("type=1400 ")[2])
                         for line in go.kernel.dmesg().splitlines() if "type=1400" in line]
    return go


def test_a_read_is_refused_and_recorded(selinux):
    """EACCES, and Linux's line in the kernel's log."""
    result = selinux(f"echo text > secret; chcon -t secret_t secret; {AS_USER} cat secret; echo $?; cat secret")
    assert (result.stdout, result.stderr) == (b"1\ntext\n", b"cat: secret: Permission denied\n")
    assert selinux.denied() == [
        ': avc:  denied  { read } for   comm="cat" name="secret" dev="sda2"  scontext=user_u:user_r:user_t:s0 '
        "tcontext=system_u:object_r:secret_t:s0 tclass=file permissive=0"]
    line = next(line for line in selinux.kernel.dmesg().splitlines() if "denied" in line)
    assert re.fullmatch(r'\[ *\d+\.\d{6}\] audit: type=1400 audit\(\d+\.\d{3}:\d+\): avc:  denied  \{ read \} for  pid=\d+ comm="cat" '
                        r'name="secret" dev="sda2" ino=\d+ scontext=\S+ tcontext=\S+ tclass=file permissive=0', line)


def test_permissive_only_records_and_once(selinux):
    """The widened answer stays in the cache."""
    result = selinux(f"echo text > secret; chcon -t secret_t secret; {AS_USER} cat secret; {AS_USER} cat secret", mode="enforcing=0")
    assert (result.stdout, result.stderr) == (b"text\ntext\n", b"")
    assert [line[:29] + line[-13:] for line in selinux.denied()] == [
        ": avc:  denied  { read } for  permissive=1", ": avc:  denied  { open } for  permissive=1"]


def test_setenforce_changes_it_at_once(selinux):
    result = selinux(f"echo text > secret; chcon -t secret_t secret; {AS_USER} cat secret 2>/dev/null; setenforce 0; {AS_USER} cat secret;"
                     f"setenforce 1; getenforce; {AS_USER} cat secret 2>/dev/null; echo $?")
    assert result.stdout == b"text\nEnforcing\n1\n"


def test_an_open_file_is_asked_about_again_when_the_policy_changes(selinux, tmp_path):
    """selinux_file_permission(): nothing is asked while caller, label and policy are those of open(2)."""
    result = selinux(f"""echo one > f
        {AS_USER} sh -c 'exec 3<f; read -r x <&3; echo $x; echo > /tmp/opened; while [ ! -e /tmp/changed ]; do sleep 0.01; done; read -r y <&3 || echo no' &
        while [ ! -e /tmp/opened ]; do sleep 0.01; done; echo two >> f; chcon -t secret_t f; echo > /tmp/changed; wait""")
    assert result.stdout == b"one\nno\n"
    assert any('path="/root/f"' in line and "{ read }" in line for line in selinux.denied())


def test_each_operation_has_its_permission(selinux):
    """What the records name is what the policy would have to allow."""
    result = selinux(f"""mkdir d; echo a > d/s; echo b > d/f; chcon -t secret_t d/s
        {AS_USER} sh -c 'cd d; echo x >> s; rm -f s; mv s t; ln s u; chmod 600 s; cat s; ./s; truncate -s 0 s; chcon -t file_t s
        chcon -t secret_t f; touch -d 2000-01-01 s; setfattr -n user.a -v b s; flock s true; exec 3<s' """)
    assert result.status == 0 or result.stderr
    found = {re.search(r"\{ (.*) \}", line)[1] for line in selinux.denied()}
    assert found >= {"append", "unlink", "rename", "link", "setattr", "read", "write", "relabelfrom", "relabelto"}, found


def test_signals_between_domains(selinux):
    result = selinux("sleep 9 & " + AS_USER + "sh -c \"kill -0 $!; kill -TERM $!; kill -9 $!; kill -STOP $!\"; kill $!", )
    assert result.stderr.count(b"Permission denied") == 4
    assert [re.search(r"\{ (.*) \}", line)[1] for line in selinux.denied()] == ["signull", "signal", "sigkill", "sigstop"]


def test_capabilities_need_the_policy(selinux):
    """Root without capability { sys_admin } cannot mount."""
    weak = "(allow prog_t file_t (file (all))) (allow prog_t file_t (dir (all))) (allow prog_t file_t (lnk_file (all)))" \
        "(allow prog_t file_t (chr_file (all))) (allow prog_t self (process (all))) (allow prog_t self (fd (use)))" \
        "(allow prog_t kernel_t (fd (use))) (allow prog_t file_t (fifo_file (all))) (allow prog_t self (dir (all)))" \
        "(allow prog_t self (file (all))) (allow prog_t self (lnk_file (all))) (allow prog_t kernel_t (process (sigchld)))" \
        "(allow prog_t file_t (filesystem (getattr)))"
    result = selinux("runcon user_u:user_r:prog_t:s0 mount -t tmpfs x /mnt; runcon user_u:user_r:prog_t:s0 chown 1 /root", weak)
    assert result.status == 1 and result.stderr.count(b"ermi") >= 2, result
    found = {re.search(r"\{ (.*) \}.*(capability=\d+)", line)[0] for line in selinux.denied() if "tclass=capability " in line}
    assert {re.search(r"\{ (\w+) \}", text)[1] for text in found} >= {"sys_admin", "chown"}, selinux.denied()


def test_a_program_brings_its_label(selinux):
    """execve(2) of a labelled program: transition, AT_SECURE, /proc/PID/attr/prev."""
    extra = "(typetransition user_t prog_exec_t process prog_t) (allow user_t prog_exec_t (file (all)))" \
        "(allow user_t prog_t (process (transition))) (allow prog_t prog_exec_t (file (entrypoint read execute open getattr map)))" \
        "(allow prog_t file_t (file (all))) (allow prog_t file_t (dir (all))) (allow prog_t file_t (lnk_file (all)))" \
        "(allow prog_t file_t (chr_file (all))) (allow prog_t file_t (fifo_file (all))) (allow prog_t self (process (all)))" \
        "(allow prog_t self (file (all))) (allow prog_t self (dir (all))) (allow prog_t self (lnk_file (all)))" \
        "(allow prog_t kernel_t (fd (use))) (allow prog_t user_t (fd (use))) (allow prog_t user_t (process (sigchld)))" \
        "(allow prog_t kernel_t (fifo_file (all)))"
    script = f"cp /bin/cat prog; chcon -t prog_exec_t prog; {AS_USER} sh -c './prog /proc/self/attr/current /proc/self/attr/prev;" \
        f"cat /proc/self/attr/current'; {AS_USER} sh -c ./prog\\ /proc/self/auxv | od -An -v -tx8 -w16 | grep ' 0*17 '"
    result = selinux(script, extra)
    texts = result.stdout.split(b"\0")
    assert texts[:3] == [b"user_u:user_r:prog_t:s0", b"user_u:user_r:user_t:s0", b"user_u:user_r:user_t:s0"], (result, selinux.denied())
    assert texts[3].split() == [b"0000000000000017", b"0000000000000001"]
    result = selinux(script, extra + "(allow user_t prog_t (process (noatsecure)))")
    assert result.stdout.split(b"\0")[3].split() == [b"0000000000000017", b"0000000000000000"]


def test_a_transition_that_is_not_allowed(selinux):
    """Without entrypoint, the program does not start."""
    extra = "(typetransition user_t prog_exec_t process prog_t) (allow user_t prog_exec_t (file (all)))" \
        "(allow user_t prog_t (process (transition)))"
    result = selinux(f"cp /bin/true prog; chcon -t prog_exec_t prog; {AS_USER} sh -c './prog; echo $?'", extra)
    assert result.stdout == b"126\n"
    assert "{ entrypoint }" in selinux.denied()[-1] and 'path="/root/prog"' in selinux.denied()[-1]


def test_new_files_get_labels_that_stay(selinux):
    """inode_init_security: the directory's, the policy's for a type or a name, or the one asked for; stored on ext4."""
    extra = "(typetransition user_t secret_t file prog_exec_t) (typetransition user_t file_t file \"special\" secret_t)" \
        "(allow user_t secret_t (dir (all))) (allow user_t secret_t (file (all))) (allow user_t prog_exec_t (file (all)))"
    result = selinux(f"""mkdir s; chcon -t secret_t s
        {AS_USER} sh -c 'echo > plain; echo > special; echo > s/inside; mkdir s/d; for f in plain special s/inside s/d; do ls -Zd $f; done'
        printf system_u:object_r:secret_t:s0 > /proc/self/attr/fscreate
        touch /tmp/asked; ls -Z /tmp/asked; mkdir -Z /tmp/dir; ls -Z plain
        """, extra)
    assert [line.split() for line in result.stdout.decode().splitlines()[:4]] == [
        ["user_u:object_r:file_t:s0", "plain"], ["user_u:object_r:secret_t:s0", "special"],
        ["user_u:object_r:prog_exec_t:s0", "s/inside"], ["user_u:object_r:secret_t:s0", "s/d"]], result


def test_fscreate_and_its_end(selinux):
    result = selinux("""python3 -c '
import os
def attr(text): open("/proc/self/attr/fscreate", "w").write(text)
attr("system_u:object_r:secret_t:s0"); open("a", "w"); print(open("/proc/self/attr/fscreate").read().rstrip(chr(0)))
attr("\\n"); open("b", "w"); print(repr(open("/proc/self/attr/fscreate").read()))
for bad in ("no:such:context:s0", "rubbish"):
    try: os.write(os.open("/proc/self/attr/exec", 1), bad.encode())
    except OSError as e: print(e.errno)
'; ls -Z a b""")
    assert result.stdout.decode().split() == [
        "system_u:object_r:secret_t:s0", "''", "22", "22", "system_u:object_r:secret_t:s0", "a", "system_u:object_r:file_t:s0", "b"]


def test_chcon_restorecon_and_a_label_nobody_can_remove(selinux):
    result = selinux(f"""echo > f; chcon -t secret_t f; ls -Z f; setfattr -x security.selinux f; echo > h; {AS_USER} chcon -t no_such_t h
        chcon system_u:object_r:file_t:s0:c3 f; ls -Z f; cp --preserve=context f g; ls -Z g; stat -c %C g""")
    assert result.stdout.decode().split() == [
        "system_u:object_r:secret_t:s0", "f", "system_u:object_r:file_t:s0:c3", "f", "system_u:object_r:file_t:s0:c3", "g",
        "system_u:object_r:file_t:s0:c3"]
    assert b"setfattr: f: Permission denied" in result.stderr and b"Invalid argument" in result.stderr


def test_mounts_with_a_context(selinux):
    """context= labels everything; what has a label of its own shows seclabel."""
    result = selinux("""mkdir /tmp/m; mount -t tmpfs -o context=system_u:object_r:secret_t:s0 x /tmp/m; echo > /tmp/m/f; ls -Zd /tmp/m /tmp/m/f
        grep /tmp/m /proc/mounts; chcon -t file_t /tmp/m/f; umount /tmp/m; mount -t tmpfs -o rootcontext=system_u:object_r:secret_t:s0 x /tmp/m
        ls -Zd /tmp/m; grep -c seclabel /proc/mounts >/dev/null; grep /tmp/m /proc/mounts; mount -t tmpfs -o context=bad x /tmp/m""")
    lines = result.stdout.decode().splitlines()
    assert lines[0].split() == ["system_u:object_r:secret_t:s0", "/tmp/m"] and lines[1].split()[0] == "system_u:object_r:secret_t:s0"
    assert lines[2] == "x /tmp/m tmpfs rw,context=system_u:object_r:secret_t:s0,relatime 0 0"
    assert lines[3].split() == ["system_u:object_r:secret_t:s0", "/tmp/m"]
    assert lines[4] == "x /tmp/m tmpfs rw,rootcontext=system_u:object_r:secret_t:s0,seclabel,relatime 0 0"
    assert b"not supported" in result.stderr and b"mount: /tmp/m" in result.stderr


def test_sockets_and_system_v_objects_have_labels(selinux):
    """Another domain may not connect to a socket, nor use a segment, without the policy's word."""
    result = selinux(f"""python3 -c '
import socket, os
s = socket.socket(socket.AF_UNIX); s.bind("/tmp/sock"); s.listen(); open("/tmp/ready", "w"); c, _ = s.accept()
print(c.getsockopt(socket.SOL_SOCKET, 31, 200).decode())' &
        while [ ! -e /tmp/ready ]; do sleep 0.01; done
        {AS_USER} python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect("/tmp/sock")' 2>&1 | tail -1
        python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect("/tmp/sock"); print(s.getsockopt(1, 31, 200).decode())'
        wait; ipcmk -S 1 >/dev/null; {AS_USER} ipcs -s -i 0 2>&1 | tail -1
        {AS_USER} python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 80))' 2>&1 | tail -1""",
                     "(allow user_t file_t (sock_file (all)))")
    text = result.stdout.decode().replace("\0", "").splitlines()
    assert text[0] == "PermissionError: [Errno 13] Permission denied"
    assert sorted(text[1:3]) == ["system_u:system_r:kernel_t:s0"] * 2
    assert text[-1] == "PermissionError: [Errno 13] Permission denied"
    found = [re.search(r"\{ .* \}", line)[0] + re.search(r"tclass=\w+", line)[0] for line in selinux.denied()]
    assert "{ connectto }tclass=unix_stream_socket" in found and "{ name_bind }tclass=tcp_socket" in found


def test_descriptors_that_a_new_label_may_not_have_show_null(selinux):
    """flush_unauthorized_files(): /sys/fs/selinux/null instead."""
    extra = "(typetransition user_t prog_exec_t process prog_t) (allow user_t prog_exec_t (file (all)))" \
        "(allow user_t secret_t (file (all))) (allow user_t prog_t (process (transition noatsecure rlimitinh siginh)))" \
        "(allow prog_t prog_exec_t (file (entrypoint read execute open getattr map))) (allow prog_t file_t (file (all)))" \
        "(allow prog_t file_t (dir (all))) (allow prog_t file_t (lnk_file (all))) (allow prog_t file_t (chr_file (all)))" \
        "(allow prog_t file_t (fifo_file (all))) (allow prog_t self (process (all))) (allow prog_t self (file (all)))" \
        "(allow prog_t self (dir (all))) (allow prog_t self (lnk_file (all))) (allow prog_t kernel_t (fd (use)))" \
        "(allow prog_t user_t (fd (use))) (allow prog_t user_t (process (sigchld))) (allow prog_t self (fd (use)))" \
        "(allow prog_t unlabeled_t (chr_file (all)))"
    result = selinux(f"echo text > secret; chcon -t secret_t secret; cp /bin/readlink prog; chcon -t prog_exec_t prog;"
                     f"{AS_USER} sh -c './prog /proc/self/fd/3 3<secret'", extra)
    assert result.stdout in (b"/sys/fs/selinux/null\n", b"/null\n"), result


def test_execmem_and_execmod(selinux, build_c, tmp_path):
    """Memory that is written and executed needs the policy's word."""
    strict = RULES.replace("(allow user_t self (process (all)))", "(allow user_t self (process (not (execmem execstack execheap))))")
    program = build_c("""#include <sys/mman.h>
        #include <stdio.h>
        #include <stdlib.h>
        int main(void) { char stack[9]; char *heap = malloc(9999);
        printf("%d ", mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
        printf("%d ", mprotect((void *)((long)heap & ~4095), 4096, 7)); printf("%d\\n", mprotect((void *)((long)stack & ~4095), 4096, 7)); }""")
    (tmp_path / "x").write_bytes(program.read_bytes())
    result = selinux(f"cp /given/x x; chmod +x x; {AS_USER} ./x; ./x", labels=strict)
    assert result.stdout == b"1 -1 -1\n0 0 0\n"
    assert [re.search(r"\{ (.*) \}", line)[1] for line in selinux.denied()] == ["execmem", "execheap", "execstack"]


def test_the_cache_counts(selinux):
    """avc/cache_stats, cache_threshold: a small cache reclaims."""
    result = selinux(f"""cd /sys/fs/selinux/avc; echo 16 > cache_threshold; cat cache_threshold; echo; ls -lR /sys/class >/dev/null
        {AS_USER} ls -l / >/dev/null; awk 'NR>1 {{l+=$1; h+=$2; m+=$3; a+=$4; r+=$5; f+=$6}} END {{print (l==h+m), (a<=m), (r>0), (f>=r)}}' cache_stats
        head -1 cache_stats; cat hash_stats""")
    lines = result.stdout.decode().splitlines()
    assert lines[:3] == ["16", "1 1 1 1", "lookups hits misses allocations reclaims frees"]
    assert int(lines[3].partition(": ")[2]) <= 17 and lines[4].endswith("/512")


def test_overlayfs_gives_its_files_the_labels_that_they_have_there(selinux):
    """What is made through an overlay, or copied up, is labelled by the overlay's rules, not the upper layer's."""
    extra = "(typetransition kernel_t file_t file made prog_exec_t) (allow kernel_t file_type (filesystem (all)))"
    rules = """mkdir -p lower; echo old > lower/old; chcon -t secret_t lower/old; mkdir -p /tmp/o/u /tmp/o/w /tmp/m
        mount -t overlay -o lowerdir=/root/lower,upperdir=/tmp/o/u,workdir=/tmp/o/w x /tmp/m; cd /tmp/m; echo > made; echo new >> old; cat old
        for f in made old /tmp/o/u/made /tmp/o/u/old; do ls -Z $f; done; cd /; umount /tmp/m"""
    result = selinux(rules, extra.replace("file made", 'file "made"'), labels=RULES.replace(
        f"(genfscon overlay / {FILE})", f"(fsuse xattr overlay {FILE})"))
    words = result.stdout.decode().split()
    assert words[:2] == ["old", "new"]
    assert words[2:] == ["system_u:object_r:prog_exec_t:s0", "made", "system_u:object_r:secret_t:s0", "old",
                         "system_u:object_r:prog_exec_t:s0", "/tmp/o/u/made", "system_u:object_r:secret_t:s0", "/tmp/o/u/old"], result


def test_ioctl_numbers(selinux):
    """allowxperm: only the numbers that the policy lists; ENOTTY comes from the file, EACCES from SELinux."""
    extra = "(allow user_t secret_t (file (read open ioctl map))) (allowx user_t secret_t (ioctl file (range 0x5401 0x5410)))"
    script = f"""echo text > f; chcon -t secret_t f; {AS_USER} python3 -c '
import fcntl
with open("f") as f:
    for number in (0x5401, 0x5413, 0x5413, 0x1234, 0x541b):
        try: print(hex(number), fcntl.ioctl(f, number, bytes(64))[:1])
        except OSError as e: print(hex(number), e.errno)'"""
    result = selinux(script, extra)
    assert result.stdout.decode().split() == ["0x5401", "25", "0x5413", "13", "0x5413", "13", "0x1234", "13", "0x541b",
                                              "b'\\x05'"], result
    assert [re.search(r"ioctlcmd=\w+", line)[0] for line in selinux.denied()] == [
        "ioctlcmd=0x5413", "ioctlcmd=0x5413", "ioctlcmd=0x1234"]
    result = selinux(script, extra, mode="enforcing=0")
    assert [re.search(r"ioctlcmd=\w+", line)[0] for line in selinux.denied()] == ["ioctlcmd=0x5413", "ioctlcmd=0x1234"]


def test_system_v_objects_between_domains(selinux):
    """Semaphores, segments, queues and messages: another label's need the policy's word."""
    result = selinux(f"""ipcmk -S 1 >/dev/null; ipcmk -M 4096 >/dev/null; ipcmk -Q >/dev/null
        for kind in s m q; do {AS_USER} ipcrm -$kind 0; done; {AS_USER} sh -c 'ipcmk -S 1; ipcmk -M 4096; ipcmk -Q; ipcrm -s 1 -m 1 -q 1'""")
    assert result.stdout.count(b"id: ") == 3
    found = {(re.search(r"\{ (.*) \}", line)[1], re.search(r"tclass=(\w+)", line)[1]) for line in selinux.denied()}
    assert found == {("destroy", "sem"), ("destroy", "shm"), ("destroy", "msgq")}, found


def test_keys_have_labels(selinux):
    """keyctl(KEYCTL_GET_SECURITY): who made it; keycreate asks for another."""
    result = selinux("""id=$(keyctl add user name secret @s); keyctl security $id
        printf user_u:user_r:user_t:s0 > /proc/self/attr/keycreate; id=$(keyctl add user other secret @s)""",
                     "(allow kernel_t domain (key (all)))")
    assert result.stdout == b"system_u:system_r:kernel_t:s0\n", result


def test_descriptors_that_come_through_a_socket(selinux):
    """file_receive: who gets a descriptor must be allowed what it is open for."""
    result = selinux("""echo text > secret; chcon -t secret_t secret; cat > give.py <<'P'
import array, os, socket, sys
a, b = socket.socketpair(); f = open("secret")
socket.send_fds(a, [b"x"], [f.fileno()]); f.close(); os.set_inheritable(b.fileno(), True)
os.execvp("runcon", ["runcon", "user_u:user_r:user_t:s0", "python3", "-c",
    "import socket; b = socket.socket(fileno=%d); print(socket.recv_fds(b, 1, 1)[1])" % b.fileno()])
P
        python3 give.py""", "(allow user_t kernel_t (unix_stream_socket (all)))")
    assert result.stdout == b"[]\n", result
    assert any("{ read }" in line and 'path="/root/secret"' in line for line in selinux.denied())


def test_the_label_of_a_file_survives_a_remount(boot, tmp_path):
    """security.selinux is on the disk: the next boot, with the same policy, finds it; a machine without SELinux shows it raw."""
    (tmp_path / "policy").write_bytes(policy(RULES))
    image = tmp_path / "disk"
    subprocess.run(["/sbin/mkfs.ext4", "-q", str(image), "16M"], check=True)
    outputs = []
    for cmdline, script in (
        ("security=selinux", LOAD + "mount /dev/sda /mnt; echo > /mnt/f; chcon -t secret_t /mnt/f; mkdir /mnt/d"),
        ("security=selinux", LOAD + "mount /dev/sda /mnt; ls -Z /mnt/f; ls -Zd /mnt/d"),
        ("", "mount /dev/sda /mnt; getfattr --only-values -n security.selinux /mnt/f")):
        kernel = boot(cmdline=cmdline + " oops=panic", shares=[Share(str(tmp_path), "/given")], disks=[Disk(str(image))], home=False)
        outputs.append(kernel.run(["/bin/sh", "-c", script + "; umount /mnt"]))
    assert outputs[1].stdout.split() == [b"system_u:object_r:secret_t:s0", b"/mnt/f", b"system_u:object_r:file_t:s0", b"/mnt/d"], outputs
    assert outputs[2].stdout == b"system_u:object_r:secret_t:s0\0"


def test_auditallow_and_dontaudit(selinux):
    """What is granted can be recorded, what is refused be kept quiet; a permissive type is refused nothing."""
    script = f"echo text > f; echo text > secret; chcon -t secret_t secret; {AS_USER} cat f secret"
    result = selinux(script, "(auditallow user_t file_t (file (open))) (dontaudit user_t secret_t (file (read)))")
    assert (result.stdout, result.stderr) == (b"text\n", b"cat: secret: Permission denied\n")
    mine = [line for line in selinux.denied() if 'path="/root/' in line or 'name="secret"' in line]
    assert [re.sub(" scontext.*tclass", " tclass", line) for line in mine] == [
        ': avc:  granted  { open } for   comm="cat" path="/root/f" dev="sda2"  tclass=file']
    result = selinux(script, "(typepermissive user_t)")
    assert result.stdout == b"text\ntext\n"
    assert [line[-13:] for line in selinux.denied() if "secret" in line.partition("scontext")[0]] == [" permissive=1"[-13:]] * 2


def test_only_so_many_records_in_five_seconds(boot, tmp_path):
    """sysctl kernel.printk_ratelimit and printk_ratelimit_burst, and the line about what was left out."""
    (tmp_path / "policy").write_bytes(policy(RULES))
    kernel = boot(cmdline="security=selinux enforcing=1 oops=panic", shares=[Share(str(tmp_path), "/given")], home=True)
    script = LOAD + f"echo > s; chcon -t secret_t s; {AS_USER} sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do true < s; done'" \
        f"; sleep 6; {AS_USER} sh -c 'true < s'; sysctl kernel.printk_ratelimit kernel.printk_ratelimit_burst"
    result = kernel.run(["/bin/sh", "-c", script])
    assert result.stdout == b"kernel.printk_ratelimit = 5\nkernel.printk_ratelimit_burst = 10\n", result
    log = kernel.dmesg().splitlines()
    printed = [line for line in log if "denied" in line]
    suppressed = [int(line.split()[-3]) for line in log if "callbacks suppressed" in line]
    assert len(suppressed) == 1 and len(printed) + suppressed[0] == 16 and "kauditd_printk_skb: " in "".join(log)


def test_setfiles_labels_a_tree(selinux):
    """policycoreutils: file_contexts are compared with what the files have, and what differs is relabelled."""
    result = selinux(r"""mkdir -p t/bin; echo > t/bin/prog; echo > t/key; echo > t/other
        printf '%s\n' '/root/t(/.*)? system_u:object_r:file_t:s0' '/root/t/bin/.* -- system_u:object_r:prog_exec_t:s0' \
            '/root/t/key system_u:object_r:secret_t:s0' > contexts
        setfiles -v contexts /root/t; setfiles -v contexts /root/t; for f in t t/bin/prog t/key t/other; do ls -Zd $f; done""")
    lines = result.stdout.decode().splitlines()
    assert lines == [
        "Relabeled /root/t/bin/prog from system_u:object_r:file_t:s0 to system_u:object_r:prog_exec_t:s0",
        "Relabeled /root/t/key from system_u:object_r:file_t:s0 to system_u:object_r:secret_t:s0",
        "system_u:object_r:file_t:s0 t", "system_u:object_r:prog_exec_t:s0 t/bin/prog", "system_u:object_r:secret_t:s0 t/key",
        "system_u:object_r:file_t:s0 t/other"], result


def test_messages_to_the_network_read_or_write(selinux):
    """nlmsg_read and nlmsg_write of a route socket: ip(8) may show addresses, not change them."""
    extra = "(allow user_t self (netlink_route_socket (create bind getattr setopt getopt read write nlmsg_read)))"
    result = selinux(f"{AS_USER} ip -o -4 addr show lo | cut -c1-20; {AS_USER} ip link set lo down", extra)
    assert result.stdout.startswith(b"1: lo    inet 127.0") and b"Permission denied" in result.stderr, result
    assert [re.search(r"\{ .* \}", line)[0] for line in selinux.denied() if "netlink" in line] == ["{ nlmsg_write }"]
