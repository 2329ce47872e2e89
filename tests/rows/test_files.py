"""Inventory A10, A13: files, and pipes between processes."""
import re

import pytest

from tests.conftest import PROGRAMS


def text(result):
    assert (result.status, result.stderr) == (0, b""), result
    return result.stdout.decode()


def passes(result):
    assert result.status == 0, result.stdout.decode() + result.stderr.decode()
    assert b"FAIL" not in result.stdout and b"PASS" in result.stdout


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm", "/var/tmp", "/shared"])
def test_the_same_program_works_on_every_file_system(place, run, build_c, tmp_path):
    """A219: tmpfs, the overlay over the host's files, a writable share of a host directory."""
    from glasskernel import Share

    binary = build_c("""
#include "check.h"
#include <dirent.h>
int main(int argc, char **argv) {
    struct stat st, dir;
    CHECK("chdir", chdir(argv[1]) == 0);
    mkdir("t", 0755), chdir("t");
    int fd = open("f", O_RDWR | O_CREAT | O_EXCL, 0640);
    CHECK("create", fd >= 0 && FAILS(open("f", O_CREAT | O_EXCL, 0600), EEXIST));
    CHECK("write", write(fd, "hello world", 11) == 11 && pwrite(fd, "W", 1, 6) == 1);
    char text[20] = "";
    CHECK("read", pread(fd, text, 20, 0) == 11 && !strcmp(text, "hello World"));
    CHECK("fstat", fstat(fd, &st) == 0 && st.st_size == 11 && (st.st_mode & 0777) == 0640 && S_ISREG(st.st_mode));
    CHECK("link and nlink", link("f", "g") == 0 && stat("g", &st) == 0 && st.st_nlink == 2);
    CHECK("rename", rename("g", "h") == 0 && FAILS(access("g", F_OK), ENOENT));
    CHECK("symlink", symlink("h", "s") == 0 && readlink("s", text, 20) == 1);
    CHECK("ftruncate", ftruncate(fd, 5000) == 0 && fstat(fd, &st) == 0 && st.st_size == 5000);
    char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK("mmap", p != MAP_FAILED && p[6] == 'W');
    p[0] = 'J';
    msync(p, 4096, MS_SYNC);
    CHECK("what is mapped is read", pread(fd, text, 1, 0) == 1 && text[0] == 'J');
    struct timespec times[2] = {{1, 0}, {2, 0}};
    CHECK("utimensat", utimensat(AT_FDCWD, "f", times, 0) == 0 && stat("f", &st) == 0 && st.st_mtime == 2);
    mkdir("d", 0700);
    int n = 0;
    DIR *d = opendir(".");
    while (readdir(d)) n++;
    closedir(d);
    CHECK("getdents: . .. f h s d", n == 6);
    CHECK("rmdir", rmdir("d") == 0 && stat("d", &dir) != 0);
    CHECK("unlink", unlink("h") == 0 && unlink("f") == 0 && unlink("s") == 0 && fstat(fd, &st) == 0 && st.st_nlink == 0);
    CHECK("it lives while it is open", pread(fd, text, 1, 0) == 1);
    close(fd);
    CHECK("empty again", chdir("..") == 0 && rmdir("t") == 0);
    DONE();
}""")
    shares = [Share(str(binary.parent), "/programs"), Share(str(tmp_path), "/shared", writable=True)]
    passes(run([f"/programs/{binary.name}", place], shares=shares))


def test_one_write_passes_every_layer(boot):
    """A218: C library, system call, VFS, file system, page cache: as one Python stack shows."""
    import traceback

    from glasskernel.mm import shmem

    kernel = boot()
    seen = []
    plain = shmem.shmem_getpage

    def look(*args, **kwargs):
        seen.append([f.name for f in traceback.extract_stack()])
        return plain(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shmem, "shmem_getpage", look)
        kernel.run(["/bin/sh", "-c", "echo hi >/tmp/f"])
    names = next(stack for stack in seen if "vfs_write" in stack)
    order = [names.index(n) for n in ("do_syscall_64", "__x64_sys_write", "ksys_write", "vfs_write", "generic_file_write_iter")]
    assert order == sorted(order)


def test_stat_statfs_and_getdents_agree(run):
    """A220, A227, B423: stat prints Size Blocks IO Block Device Inode Links Access Uid Gid and times."""
    out = text(run("cd /tmp; printf '%57s' x >hello.c; stat hello.c; ls -i hello.c; stat -f -c '%T %s' ."))
    assert re.search(r"Size: 57 +\tBlocks: 8 +IO Block: 4096   regular file", out)
    inode = re.search(r"Inode: (\d+) +Links: 1", out)[1]
    assert re.search(r"Access: \(0644/-rw-r--r--\)  Uid: \( +0/ +root\)   Gid: \( +0/ +root\)", out)
    assert len(re.findall(r"^(?:Access|Modify|Change): \d{4}-", out, re.MULTILINE)) == 3 and " Birth: " in out
    assert f"{inode} hello.c" in out and out.endswith("tmpfs 4096\n")


def test_the_lowest_free_descriptor_is_returned(run_c):
    """A224, A223."""
    passes(run_c(PROGRAMS / "descriptors.c"))


def test_a_second_lookup_asks_the_file_system_no_more(boot):
    """A225: the dentry cache."""
    from glasskernel.fs import path_walk

    kernel = boot()
    kernel.run(["/bin/ls", "/usr/share"])
    asked = []
    plain = path_walk.lookup_real

    def look(*args):
        asked.append(args)
        return plain(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(path_walk, "lookup_real", look)
        kernel.run(["/bin/sh", "-c", "test -d /usr/share/doc"])
        first = len(asked)
        kernel.run(["/bin/sh", "-c", "test -d /usr/share/doc"])
    assert len(asked) - first < max(first, 6) // 2 + 3


def test_rename_is_atomic_and_renameat2_refuses_what_linux_refuses(run_c):
    """A228, A054: NOREPLACE EEXIST; NOREPLACE with EXCHANGE EINVAL; EXCHANGE swaps; WHITEOUT needs CAP_MKNOD."""
    passes(run_c("""
#include "check.h"
static void put(const char *name, const char *text) { int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644); write(fd, text, 1); close(fd); }
static char get(const char *name) { char c = 0; int fd = open(name, O_RDONLY); read(fd, &c, 1); close(fd); return c; }
static long r2(const char *a, const char *b, int flags) { return syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, flags); }
static int whiteout(void *arg) { setgid(1000), setuid(1000); put("mine", "m"); return FAILS(r2("mine", "other", 4), EPERM) ? 0 : 1; }
int main(void) {
    enter_scratch();
    chmod(".", 0777);
    put("a", "a"), put("b", "b");
    CHECK("NOREPLACE", FAILS(r2("a", "b", 1), EEXIST));
    CHECK("NOREPLACE | EXCHANGE", FAILS(r2("a", "b", 3), EINVAL));
    CHECK("WHITEOUT | EXCHANGE", FAILS(r2("a", "b", 6), EINVAL));
    CHECK("unknown flags", FAILS(r2("a", "b", 8), EINVAL));
    CHECK("EXCHANGE", r2("a", "b", 2) == 0 && get("a") == 'b' && get("b") == 'a');
    CHECK("EXCHANGE with nothing", FAILS(r2("a", "none", 2), ENOENT));
    CHECK("rename replaces", rename("a", "b") == 0 && get("b") == 'b' && FAILS(access("a", F_OK), ENOENT));
    CHECK("WHITEOUT needs CAP_MKNOD", run_child(whiteout, NULL) == 0);
    mkdir("d", 0755), mkdir("d/e", 0755);
    CHECK("not into itself", FAILS(rename("d", "d/e/f"), EINVAL));
    CHECK("a directory over a file", FAILS(rename("d", "b"), ENOTDIR));
    CHECK("a file over a directory", FAILS(rename("b", "d"), EISDIR));
    CHECK("over a full directory", mkdir("x", 0755) == 0 && FAILS(rename("x", "d"), ENOTEMPTY));
    CHECK("between file systems", FAILS(rename("b", "/dev/shm/b"), EXDEV));
    DONE();
}"""))


def test_read_finds_what_is_cached_and_reads_what_is_not(boot):
    """A229: the second read of a file asks its file system nothing."""
    from glasskernel.mm import readahead

    kernel = boot()
    names = [n for n in ("page_cache_sync_readahead", "ondemand_readahead") if hasattr(readahead, n)]
    from glasskernel.mm import filemap

    asked = []
    plain = filemap.page_cache_sync_readahead
    assert names

    def look(*args):
        asked.append(args)
        return plain(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filemap, "page_cache_sync_readahead", look)
        kernel.run(["/bin/cat", "/etc/services"])
        first = len(asked)
        kernel.run(["/bin/cat", "/etc/services"])
    assert first > 0 and len(asked) - first == 0


def test_redirection_and_pipelines(agree):
    """A236, A285, B068: > and | use dup2; cat | wc -l."""
    agree("seq 3 >f; cat <f | wc -l; ls nosuch >o 2>&1; wc -l <o; exec 4>g; echo x >&4; cat g; { echo a; echo b >&2; } 2>e; cat e")


def test_file_max_and_the_open_files_line_of_ulimit(run):
    """A237, B46, B217, B218."""
    out = text(run(["/bin/bash", "-c", "cat /proc/sys/fs/file-max; ulimit -a | grep files; cat /proc/sys/fs/file-nr"]))
    lines = out.splitlines()
    assert lines[0].isdigit()
    assert re.fullmatch(r"open files +\(-n\) 1024", lines[1])
    assert lines[2].split()[2] == lines[0]


def test_enfile_when_the_limit_of_the_system_is_reached(run_c):
    """A237: for everybody but the administrator."""
    passes(run_c("""
#include "check.h"
int main(void) {
    int fd = open("/proc/sys/fs/file-max", O_WRONLY), n = 0;
    CHECK("file-max can be set", write(fd, "200", 3) == 3);
    while (n < 400 && open("/dev/null", O_RDONLY) >= 0) n++;
    CHECK("root is not held back", n == 400);
    setgid(1000), setuid(1000);
    CHECK("others are: ENFILE", FAILS(open("/dev/null", O_RDONLY), ENFILE));
    DONE();
}"""))


def test_reads_of_any_size_return_the_whole_of_a_proc_file(run):
    """A243, A244: seq_file."""
    script = """
        for f in /proc/self/maps /proc/meminfo /proc/devices /proc/mounts /proc/interrupts /proc/cpuinfo /proc/zoneinfo; do
        a=$(cat $f | sed 's/[0-9]//g' | md5sum); for n in 1 7 100 4096 100000; do
        b=$(dd if=$f bs=$n status=none | sed 's/[0-9]//g' | md5sum); done
        [ "$(dd if=/proc/devices bs=3 status=none | md5sum)" = "$(md5sum </proc/devices)" ] || echo differs $f; done
        tail -c 5 /proc/version; ls /proc | grep -c '^[0-9]'"""
    out = text(run(["/bin/bash", "-c", script]))
    assert "differs" not in out


def test_proc_devices_lists_both_kinds(run):
    """A245."""
    out = text(run("cat /proc/devices"))
    assert re.match(r"Character devices:\n +1 mem\n", out) and "\n\nBlock devices:\n" in out


def test_proc_filesystems_marks_nodev(run):
    """A252."""
    lines = text(run("cat /proc/filesystems")).splitlines()
    assert "nodev\tproc" in lines and "nodev\ttmpfs" in lines and "nodev\tsysfs" in lines


def test_sysfs_is_a_tree_of_directories_and_links(run):
    """A246, B022: /sys/bus/cpu/devices/cpuN -> ../../../devices/system/cpu/cpuN."""
    out = text(run("ls -l /sys/bus/cpu/devices; ls /sys/devices/system/cpu/cpu3; cat /sys/devices/system/cpu/online; readlink /sys/dev/char/1:3"))
    for cpu in range(4):
        assert f"cpu{cpu} -> ../../../devices/system/cpu/cpu{cpu}\n" in out
    assert "\n0-3\n" in out and {"cache", "topology"} <= set(out.split())
    assert out.rstrip().endswith("mem/null")


def test_devices_are_files_with_numbers(run):
    """A249, A251, B452: ls -hal /dev shows c files with major and minor; byte streams all."""
    out = text(run("ls -hal /dev; head -c 3 /dev/zero | od -An -tx1; cat /dev/null; echo x | tee /dev/full 2>/dev/null || echo full"))
    assert re.search(r"^crw-rw-rw- 1 root root +1, +3 .* null$", out, re.MULTILINE)
    assert re.search(r"^crw-rw-rw- 1 root \w+ +5, +0 .* tty$", out, re.MULTILINE)
    assert " 00 00 00\n" in out and out.rstrip().endswith("full")
    result = run("cd /tmp; mount -o remount,dev /tmp; mknod n c 1 3; mknod b b 239 0; ls -l n b; echo x >n; cat n; cat b")
    assert re.search(rb"^brw-r--r-- 1 root root 239, 0 .* b$", result.stdout, re.MULTILINE)
    assert b"No such device or address" in result.stderr


def test_a_bind_mount_of_a_file_shows_other_content(run):
    """A253."""
    assert text(run("cd /tmp; echo FIRST >first; echo SECOND >second; mount -n --bind second first; cat first; umount first; cat first")
                ).split() == ["SECOND", "FIRST"]


def test_a_fifo_blocks_until_both_ends_are_open(run):
    """A285."""
    out = text(run(["/bin/bash", "-c", """
        cd /tmp; mkfifo p; (sleep 0.2; echo late >p) & date +%s%N; cat p; date +%s%N; (sleep 0.2; cat p) & echo early >p; date +%s%N; wait"""]))
    first, late, second, *rest = out.split()
    assert late == "late" and int(second) - int(first) > 150_000_000
    assert "early" in rest


def test_reading_a_process_table_row_by_row(run):
    """A251: cat works on all of them."""
    out = text(run("cat /proc/1/comm /proc/sys/kernel/ostype /sys/devices/system/cpu/possible; head -c 1 /dev/urandom | wc -c"))
    assert out.split()[1:] == ["Linux", "0-3", "1"]


def test_a_write_by_somebody_else_takes_the_setuid_bit_away(run):
    """inode(7). On the overlay this once locked one inode twice."""
    script = """
        for d in /var/tmp /tmp; do printf x >$d/s; chmod 6777 $d/s; setpriv --reuid 1000 --regid 1000 --clear-groups sh -c "echo y >>$d/s"
        stat -c %a $d/s; done; chmod 6777 /var/tmp/s; echo root >>/var/tmp/s; stat -c %a /var/tmp/s"""
    assert text(run(script)).split() == ["777", "777", "6777"]
