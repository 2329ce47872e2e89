"""hostfs: what the guest sees of the host, and what it may change."""

import os
import socket
import stat
from random import Random

import pytest

from glasskernel import Share
from glasskernel.fs.hostfs.policy import SYSTEM_ROOT, world_readable


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "secret").write_text("secret\n")
    share = tmp_path / "share"
    (share / "dir").mkdir(parents=True)
    (share / "file").write_text("inside\n")
    (share / "dir/file").write_text("deep\n")
    return tmp_path


@pytest.fixture
def sh(boot, tree):
    """sh(script) with the shared directory at /mnt; writable unless asked otherwise."""
    kernels = {}

    def go(script, writable=True, **options):
        if writable not in kernels:
            kernels[writable] = boot(shares=[Share(str(tree / "share"), "/mnt", writable)])
        result = kernels[writable].run(["bash", "-c", "exec 2>&1; " + script], cwd="/mnt", **options)
        return result.stdout.decode()

    return go


# ---- the default root -----------------------------------------------------------------------------------------
def test_the_default_root_shows_system_directories_only(run):
    result = run("ls -A / /home /root /tmp /run /mnt /var/log; cat /etc/shadow; ls -A /proc/1/root/lower /lower")
    shown = result.stdout.decode().split("\n\n")[0].split("\n")[1:]
    assert set(shown) <= {name.decode() for name in SYSTEM_ROOT.root.names} | {"boot"}      # boot: our own config file
    for name in ("/home", "/mnt", "/root", "/run", "/tmp", "/var/log"):
        assert f"{name}:\n\n" in result.stdout.decode() + "\n\n"
    assert b"/etc/shadow: No such file" in result.stderr


@pytest.mark.parametrize(("name", "mode", "seen"), [
    (b"passwd", 0o100644, True), (b"shadow", 0o100640, False), (b"ssh_host_rsa_key", 0o100644, False),
    (b"ssh_host_rsa_key.pub", 0o100644, True), (b"server.key", 0o100644, False), (b"ssl", 0o040755, True),
    (b"private", 0o040710, False), (b"hidden", 0o040711, False), (b"link", 0o120777, True), (b"sock", 0o140777, False),
    (b"disk", 0o060666, False), (b"machine-id", 0o100444, False), (b"sudo", 0o104755, True),
])
def test_what_is_not_for_everybody_is_not_there(name, mode, seen):
    assert world_readable(name, mode) is seen


def test_a_share_cannot_be_mounted_by_host_path(run):
    result = run("mount -t hostfs /root /mnt; mount -t hostfs / /mnt")
    assert result.stdout == b"" and result.stderr.count(b"mount:") == 2


# ---- reading --------------------------------------------------------------------------------------------------
def test_a_share_is_read_only_unless_asked(sh, tree):
    out = sh("cat file; echo x > file; touch new; rm file; mkdir d; chmod 600 file; mv file f", writable=False)
    assert out.startswith("inside\n")
    assert out.count("Read-only file system") == 6
    assert (tree / "share/file").read_text() == "inside\n"


def test_symlinks_are_resolved_inside_the_guest(sh, tree):
    (tree / "share/absolute").symlink_to(tree / "secret")
    (tree / "share/relative").symlink_to("../secret")
    (tree / "share/passwd").symlink_to("/etc/hostname")
    out = sh("echo guest > /etc/hostname; cat absolute relative passwd; readlink absolute; cat ../secret ../../secret")
    assert "secret\n" not in out.replace("'absolute'", "").split("guest")[0]
    assert out.count("No such file or directory") == 4
    assert "guest\n" in out
    assert f"{tree}/secret\n" in out


def test_dot_dot_leads_to_the_guests_parent(sh):
    assert sh("cd dir/..; pwd -P; ls -d ../mnt; cd ..; pwd") == (
        "/mnt\n../mnt\n/\n")


def test_special_files_of_the_host_are_seen_but_out_of_reach(sh, tree):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tree / "share")
        try:
            server.bind("sock")
        finally:
            os.chdir(here)
    out = sh("stat -c %F sock; cat sock")
    assert out.splitlines()[0] == "socket"
    assert "No such device or address" in out


def test_a_fifo_is_a_pipe_of_the_guest(sh, tree):
    os.mkfifo(tree / "share/fifo")
    assert sh("(echo through > fifo) & cat fifo") == "through\n"


def test_inode_numbers_are_not_the_hosts(sh, tree):
    numbers = [int(n) for n in sh("stat -c %i . file dir dir/file").split()]
    assert len(set(numbers)) == 4
    assert max(numbers) < 100


def test_mode_size_and_times_are_the_hosts(sh, tree):
    os.utime(tree / "share/file", (1e9, 1.5e9))
    os.chmod(tree / "share/file", 0o640)
    assert sh("stat -c '%a %s %Y %h' file") == "640 7 1500000000 1\n"


def test_a_file_that_changes_on_the_host_is_seen_at_the_next_open(boot, tree):
    kernel = boot(shares=[Share(str(tree / "share"), "/mnt", True)])
    assert kernel.run(["cat", "/mnt/file"]).stdout == b"inside\n"
    (tree / "share/file").write_text("changed, and longer\n")
    assert kernel.run(["cat", "/mnt/file"]).stdout == b"changed, and longer\n"
    os.remove(tree / "share/file")
    (tree / "share/file").write_text("another\n")
    assert kernel.run(["cat", "/mnt/file"]).stdout == b"another\n"
    (tree / "share/new").write_text("new\n")
    assert kernel.run(["ls", "/mnt"]).stdout == b"dir\nfile\nnew\n"
    os.remove(tree / "share/new")
    assert kernel.run(["cat", "/mnt/new"]).status == 1


@pytest.mark.parametrize("writable", [False, True])
def test_a_file_cut_on_the_host_under_a_mapping_is_sigbus(boot, tree, build_c, writable):
    """mmap(2): SIGBUS for a page that lies wholly beyond the end of the file; read(2) is short."""
    source = r"""
    #include <fcntl.h>
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <sys/mman.h>
    #include <unistd.h>
    static char buffer[20000];
    static void bus(int s, siginfo_t *i, void *c) { printf("SIGBUS %d\n", i->si_code); exit(0); }
    int main(void) {
        struct sigaction sa = {.sa_sigaction = bus, .sa_flags = SA_SIGINFO};
        int fd = open("/mnt/big", O_RDONLY);
        char *p = mmap(0, 16384, PROT_READ, MAP_PRIVATE, fd, 0);
        sigaction(SIGBUS, &sa, 0);
        printf("%c\n", p[0]);
        fflush(stdout);
        getchar();
        printf("%zd\n", read(fd, buffer, sizeof buffer));
        printf("%c\n", p[12288]);
    }"""
    binary = build_c(source)
    (tree / "share/big").write_bytes(b"x" * 16384)

    kernel = boot(shares=[Share(str(tree / "share"), "/mnt", writable), Share(str(binary.parent), "/programs")])
    script = f"(sleep 1; echo cut) | /programs/{binary.name}"
    import glasskernel.machine.hostdir as hostdir
    real = hostdir.HostFile.read_into
    reads = []

    def read_into(self, target, offset):
        """The host cuts the file after the guest has read its first page."""
        if self.path == (b"big",):
            reads.append(offset)
            if len(reads) > 1:
                os.truncate(tree / "share/big", 5000)
        return real(self, target, offset)

    hostdir.HostFile.read_into = read_into
    try:
        result = kernel.run(["sh", "-c", script])
    finally:
        hostdir.HostFile.read_into = real
    lines = result.stdout.decode().splitlines()
    assert lines[0] == "x"
    assert lines[-1] == "SIGBUS 2"


# ---- writing --------------------------------------------------------------------------------------------------
def test_writes_reach_the_host(sh, tree):
    sh("echo more >> file; echo new > new; mkdir -p d/e; echo deep > d/e/f; ln -s f d/e/link; ln new hard")
    share = tree / "share"
    assert (share / "file").read_text() == "inside\nmore\n"
    assert (share / "new").read_text() == (share / "hard").read_text() == "new\n"
    assert (share / "d/e/link").read_text() == "deep\n"
    assert os.stat(share / "new").st_nlink == 2


def test_rename_unlink_chmod_utime_truncate(sh, tree):
    sh("mv file moved; mv dir d2; mv d2/file .; rmdir d2; chmod 751 moved; touch -d @1500000000 moved; "
       "truncate -s 3 file")
    share = tree / "share"
    assert sorted(os.listdir(share)) == ["file", "moved"]
    assert (share / "file").read_text() == "dee"
    st = os.stat(share / "moved")
    assert (stat.S_IMODE(st.st_mode), st.st_mtime) == (0o751, 1500000000)
    sh("rm file moved")
    assert os.listdir(share) == []


def test_rename_over_a_file_and_no_replace(sh, tree):
    assert sh("echo a > a; echo b > b; mv -n a b; cat b; mv -f a b; cat b; ls") == "b\na\nb\ndir\nfile\n"


def test_a_file_used_under_its_new_name_after_its_directory_moved(sh, tree):
    assert sh("exec 3<>dir/file; mv dir moved; echo x >&3; cat moved/file; cat <&3") == "x\nep\nep\n"


def test_an_open_file_survives_its_removal(sh):
    assert sh("exec 3<file; rm file; cat <&3; ls") == "inside\ndir\n"


def test_shared_mappings_are_stored_on_the_host(boot, tree, build_c):
    source = r"""
    #include <fcntl.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <unistd.h>
    int main(void) {
        int fd = open("/mnt/file", O_RDWR);
        char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        memcpy(p, "MAPPED", 6);
        close(fd);
        return 0;
    }"""
    binary = build_c(source)
    kernel = boot(shares=[Share(str(tree / "share"), "/mnt", True), Share(str(binary.parent), "/programs")])
    assert kernel.run([f"/programs/{binary.name}"]).status == 0
    assert (tree / "share/file").read_text() == "MAPPED\n"


def test_partial_writes_keep_the_rest_of_the_page(sh, tree):
    (tree / "share/big").write_bytes(bytes(range(256)) * 64)
    dd = "dd of=big bs=1 conv=notrunc 2>/dev/null"
    sh(f"printf XY | {dd} seek=5000; printf Z | {dd} seek=20000")
    expected = bytearray(bytes(range(256)) * 64)
    expected[5000:5002] = b"XY"
    assert (tree / "share/big").read_bytes() == bytes(expected) + bytes(20000 - 16384) + b"Z"


def test_owners_set_user_id_and_devices_are_refused(sh, tree):
    out = sh("chown 1234 file; chmod 4755 file; mknod null c 1 3; mknod fifo p; ls")
    assert out.count("Operation not permitted") == 3
    assert not os.stat(tree / "share/file").st_mode & 0o6000
    assert stat.S_ISFIFO(os.stat(tree / "share/fifo").st_mode)


def test_a_program_in_a_share_runs(boot, tree, build_c):
    binary = build_c("int main(void) { return 7; }")
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    assert kernel.run([f"/programs/{binary.name}"]).status == 7


def test_df_shows_the_hosts_free_space(sh, tree):
    total, free = (int(n) for n in sh("stat -f -c '%b %f' /mnt").split())
    st = os.statvfs(tree / "share")
    assert total == st.f_blocks and free > 0


@pytest.mark.parametrize("seed", range(4))
def test_random_changes_through_a_share_are_those_of_linux(boot, host, tmp_path, seed):
    """The same 120 random commands in a share and, on the host itself, in a copy of it."""
    random = Random(seed)
    names = ["file", "other", "sub", "link", "hard", "a", "b", "sub/deep", "sub/a", "a/x", "b/y", "a/sub", "sub/sub"]
    commands = []
    for i in range(120):
        first, second = random.choice(names), random.choice(names)
        commands.append(random.choice([
            f"echo {i} > {first}", f"echo {i} >> {first}", f"rm {first}", f"rm -r {first}", f"mkdir {first}",
            f"rmdir {first}", f"mv {first} {second}", f"ln {first} {second}", f"ln -s {first} {second}",
            f"chmod {random.choice(['600', '755', '640'])} {first}", f"cat {first}", f"mv -T {first} {second}",
            f"test -e {first} && truncate -s {random.randrange(9)} {first}", f"cp -r {first} {second}",
            f"(exec 3<{first}; rm {first}; cat <&3)", f"mkfifo {first}",
        ]) if i % 40 != 39 else f"test -p {first} || echo {i} > {first}")
    commands = [c if "cat" not in c and ">" not in c and "cp" not in c else f"find . -type p -exec rm '{{}}' +; {c}"
                for c in commands]
    commands.append("find . | sort | while read f; do stat -c '%A %n %s %h %N' \"$f\" | sed 's/ [0-9]* / S /'; done")
    commands.append("find . -type f | sort | xargs cat")
    script = "\n".join(f"{{ {c}; }} 2>/dev/null; echo {i} $?" for i, c in enumerate(commands))
    for directory in ("share", "copy"):
        (tmp_path / directory / "sub").mkdir(parents=True)
        (tmp_path / directory / "file").write_text("file\n")
        (tmp_path / directory / "sub/deep").write_text("deep\n")
        (tmp_path / directory / "hard").hardlink_to(tmp_path / directory / "file")
        (tmp_path / directory / "link").symlink_to("file")
    expected = host(["busybox", "sh", "-c", script], cwd=tmp_path / "copy")
    kernel = boot(shares=[Share(str(tmp_path / "share"), "/mnt", True)])
    result = kernel.run(["busybox", "sh", "-c", script], cwd="/mnt", env={"PATH": "/bin", "LC_ALL": "C"})
    for mine, real in zip(result.stdout.splitlines(), expected.stdout.splitlines()):
        assert mine == real, "; ".join(commands[: int(real.split()[0]) + 1][-25:]) if b" " in real else mine
    assert result.stdout == expected.stdout
    assert len(result.stdout.splitlines()) > 120, result.stderr

    def seen(directory):
        return [(str(p.relative_to(directory)), p.lstat().st_mode, p.read_bytes() if p.is_file() else None)
                for p in sorted(directory.rglob("*"))]

    assert seen(tmp_path / "share") == seen(tmp_path / "copy")
