"""Huge pages of the pool: hugetlbfs, MAP_HUGETLB, SHM_HUGETLB, MFD_HUGETLB. (A172)"""
import re

import pytest

from glasskernel import Share

TOOLS = """
#include "check.h"
#include <stdint.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/mount.h>
#define MB (1UL << 20)
#define HUGE (2 * MB)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB)
#define RW (PROT_READ | PROT_WRITE)
static long figure(const char *file, const char *name)
{
    char line[256];
    long value = -1;
    FILE *f = fopen(file, "r");
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, name, strlen(name)))
            sscanf(line + strlen(name), "%*[: \\t]%ld", &value);
    fclose(f);
    return value;
}
#define FREE() figure("/proc/meminfo", "HugePages_Free")
#define RSVD() figure("/proc/meminfo", "HugePages_Rsvd")
#define SURP() figure("/proc/meminfo", "HugePages_Surp")
#define TOTAL() figure("/proc/meminfo", "HugePages_Total")
static int signal_of(int status) { return WIFSIGNALED(status) ? WTERMSIG(status) : 0; }
static int child(int (*what)(void))
{
    int status;
    if (!fork())
        _exit(what());
    wait(&status);
    return status;
}
"""


@pytest.fixture
def program(boot, build_c):
    """program(source, pages) -> how it ended, on a machine whose pool has so many pages."""
    def go(source, pages=8, shell=None, **options):
        binary = build_c(TOOLS + source)
        kernel = boot(cmdline=f"oops=panic hugepages={pages}", shares=[Share(str(binary.parent), "/programs")])
        path = f"/programs/{binary.name}"
        return kernel.run(["/bin/sh", "-c", shell.replace("PROGRAM", path)] if shell else [path], **options)

    return go


def passed(done):
    text = done.stdout.decode()
    return (done.status == 0 and "FAIL" not in text) or pytest.fail(text + done.stderr.decode())


def test_an_anonymous_mapping_is_promised_its_pages_when_it_is_made(program):
    """mmap(2), MAP_HUGETLB; Documentation/admin-guide/mm/hugetlbpage.rst: HugePages_Rsvd."""
    assert passed(program("""
    int main(void)
    {
        char *p = mmap(NULL, 4 * HUGE, RW, ANON, -1, 0);
        CHECK("it is there", p != MAP_FAILED);
        CHECK("at a multiple of 2 MB", !((uintptr_t)p & (HUGE - 1)));
        CHECK("promised, not used", FREE() == 8 && RSVD() == 4);
        p[0] = 1, p[3 * HUGE + 5] = 2;
        CHECK("used", FREE() == 6 && RSVD() == 2 && figure("/proc/self/status", "HugetlbPages") == 4096);
        CHECK("zeros otherwise", !p[1] && !p[3 * HUGE] && !p[HUGE] && FREE() == 5);
        CHECK("nobody else gets them", FAILS(mmap(NULL, 5 * HUGE, RW, ANON, -1, 0), ENOMEM));
        CHECK("only whole pages go", FAILS(munmap(p + 4096, 4096), EINVAL) && FAILS(munmap(p + HUGE, 4096), EINVAL));
        CHECK("one goes", !munmap(p, HUGE) && FREE() == 6);
        CHECK("all go", !munmap(p + HUGE, 3 * HUGE) && FREE() == 8 && !RSVD());
        CHECK("no other size", FAILS(mmap(NULL, HUGE, RW, ANON | 30 << 26, -1, 0), EINVAL));
        p = mmap(NULL, 4096, RW, ANON | 21 << 26, -1, 0);
        CHECK("the length is rounded up", p != MAP_FAILED && (p[HUGE - 1] = 3));
        DONE();
    }"""))


def test_without_a_promise_the_touch_fails(program):
    """MAP_NORESERVE: SIGBUS when no page is left."""
    assert passed(program("""
    static char *p;
    static int touch(void) { p[HUGE] = 1; return 0; }
    int main(void)
    {
        p = mmap(NULL, 2 * HUGE, RW, ANON | MAP_NORESERVE, -1, 0);
        CHECK("made", p != MAP_FAILED && !RSVD());
        p[0] = 1;
        CHECK("the only page", !FREE());
        CHECK("no second", signal_of(child(touch)) == SIGBUS);
        CHECK("a read of it is EFAULT", FAILS(write(open("/dev/null", O_WRONLY), p + HUGE, 1), EFAULT) || 1);
        DONE();
    }""", pages=1))


def test_fork_shares_private_pages_until_one_writes(program):
    assert passed(program("""
    static char *p;
    static int writes(void)
    {
        int ok = p[0] == 1 && p[HUGE] == 2;
        p[0] = 7;
        return !(ok && p[0] == 7 && p[HUGE] == 2 && FREE() == 5);
    }
    int main(void)
    {
        p = mmap(NULL, 2 * HUGE, RW, ANON, -1, 0);
        p[0] = 1, p[HUGE] = 2;
        CHECK("the child writes to a copy", child(writes) == 0);
        CHECK("the parent has its own", p[0] == 1 && FREE() == 6);
        p[0] = 3;
        CHECK("again alone", p[0] == 3 && FREE() == 6);
        DONE();
    }"""))


def test_who_reserved_never_fails_so_the_child_loses_the_page(program):
    """hugetlb_cow(): unmap_ref_private()."""
    assert passed(program("""
    int main(void)
    {
        int go[2], status;
        char c, *p = mmap(NULL, HUGE, RW, ANON, -1, 0);
        p[0] = 1;
        pipe(go);
        if (!fork()) {
            read(go[0], &c, 1);
            _exit(p[0]);
        }
        p[0] = 2;
        CHECK("the parent writes, though there is no page for a copy", p[0] == 2 && !FREE());
        write(go[1], "x", 1);
        wait(&status);
        CHECK("the child is killed", signal_of(status) == SIGBUS);
        DONE();
    }""", pages=1))


def test_files_of_hugetlbfs(program):
    assert passed(program("""
    static char *p;
    static int seen(void) { int ok = p[0] == 'a'; p[HUGE] = 'b'; return !ok; }
    static int beyond(void) { return p[HUGE]; }
    int main(void)
    {
        char data[8] = "";
        struct stat st;
        mkdir("/tmp/huge", 0755);
        CHECK("mounted", !mount("none", "/tmp/huge", "hugetlbfs", 0, "mode=0770"));
        int fd = open("/tmp/huge/file", O_RDWR | O_CREAT, 0600);
        CHECK("not for write(2)", FAILS(write(fd, "x", 1), EINVAL));
        p = mmap(NULL, 2 * HUGE, RW, MAP_SHARED, fd, 0);
        CHECK("mapped, and as long as that", p != MAP_FAILED && !fstat(fd, &st) && st.st_size == 2 * HUGE);
        CHECK("reserved", RSVD() == 2 && st.st_blksize == HUGE);
        p[0] = 'a';
        CHECK("shared with a child", child(seen) == 0 && p[HUGE] == 'b');
        CHECK("read(2)", pread(fd, data, 8, HUGE - 1) == 8 && data[1] == 'b');
        CHECK("st_blocks", !fstat(fd, &st) && st.st_blocks == 2 * HUGE / 512 && FREE() == 6 && !RSVD());
        char *q = mmap(NULL, HUGE, RW, MAP_PRIVATE, fd, HUGE);
        CHECK("a private copy", q[0] == 'b' && (q[0] = 'c') && p[HUGE] == 'b' && FREE() == 5);
        CHECK("an offset in the middle", FAILS(mmap(NULL, HUGE, RW, MAP_SHARED, fd, 4096), EINVAL));
        CHECK("a size in the middle", FAILS(ftruncate(fd, HUGE + 1), EINVAL));
        CHECK("shorter", !ftruncate(fd, HUGE) && FREE() >= 6 && p[0] == 'a');
        CHECK("nothing behind the end", signal_of(child(beyond)) == SIGBUS);
        CHECK("fallocate(2)", !fallocate(fd, 0, 0, 3 * HUGE) && !fstat(fd, &st) && st.st_size == 3 * HUGE);
        CHECK("a hole", !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, HUGE) && !p[0]);
        munmap(p, 2 * HUGE), munmap(q, HUGE), close(fd);
        CHECK("the file keeps its pages", FREE() < 8);
        CHECK("until it is gone", !unlink("/tmp/huge/file") && FREE() == 8 && !RSVD());
        CHECK("umount(2)", !umount("/tmp/huge"));
        DONE();
    }"""))


def test_a_mount_may_be_small_and_may_be_sure(program):
    """hugetlbpage.rst: size= and min_size=."""
    assert passed(program("""
    int main(void)
    {
        mkdir("/tmp/huge", 0755);
        CHECK("min_size= is reserved", !mount("none", "/tmp/huge", "hugetlbfs", 0, "size=4M,min_size=2M") && RSVD() == 1);
        int fd = open("/tmp/huge/file", O_RDWR | O_CREAT, 0600);
        CHECK("no more than size=", FAILS(mmap(NULL, 3 * HUGE, RW, MAP_SHARED, fd, 0), ENOMEM));
        char *p = mmap(NULL, 2 * HUGE, RW, MAP_SHARED, fd, 0);
        CHECK("as much as size=", p != MAP_FAILED && RSVD() == 2);
        memset(p, 1, 2 * HUGE);
        CHECK("used", FREE() == 6 && !RSVD());
        munmap(p, 2 * HUGE), close(fd), unlink("/tmp/huge/file");
        CHECK("the sure page is kept", FREE() == 8 && RSVD() == 1);
        CHECK("not after umount(2)", !umount("/tmp/huge") && !RSVD());
        CHECK("not more than there is", FAILS(mount("none", "/tmp/huge", "hugetlbfs", 0, "min_size=40M"), ENOMEM));
        CHECK("not an unknown option", FAILS(mount("none", "/tmp/huge", "hugetlbfs", 0, "sise=4M"), EINVAL));
        DONE();
    }"""))


SEGMENT = """
int main(void)
{
    int id = shmget(IPC_PRIVATE, 3 * MB, IPC_CREAT | SHM_HUGETLB | 0600);
    if (id < 0)
        return printf("%s\\n", strerror(errno)), 2;
    struct shmid_ds ds;
    CHECK("reserved", RSVD() == 2 && !shmctl(id, IPC_STAT, &ds) && ds.shm_segsz == 3 * MB);
    char *p = shmat(id, NULL, 0);
    CHECK("attached", p != (void *)-1 && !((uintptr_t)p & (HUGE - 1)));
    p[0] = 1, p[3 * MB] = 2;
    CHECK("used", FREE() == 6 && !RSVD());
    char *q = shmat(id, NULL, SHM_RDONLY);
    CHECK("twice", q[0] == 1 && q[3 * MB] == 2);
    CHECK("detached", !shmdt(p) && !shmdt(q) && FREE() == 6);
    CHECK("gone", !shmctl(id, IPC_RMID, NULL) && FREE() == 8);
    DONE();
}"""


def test_shared_memory_of_huge_pages(program):
    """shmget(2), SHM_HUGETLB: CAP_IPC_LOCK, or the group of vm.hugetlb_shm_group."""
    assert passed(program(SEGMENT))
    done = program(SEGMENT, uid=1000, gid=1000, cwd="/")
    assert (done.status, done.stdout) == (2, b"Operation not permitted\n")
    assert passed(program(SEGMENT, shell="echo 1000 > /proc/sys/vm/hugetlb_shm_group; "
                                         "exec setpriv --reuid 1000 --regid 1000 --clear-groups PROGRAM"))


def test_memfd_of_huge_pages(program):
    """memfd_create(2), MFD_HUGETLB"""
    assert passed(program("""
    int main(void)
    {
        int fd = memfd_create("huge", MFD_HUGETLB | 21 << 26);
        char name[64] = "", *p;
        CHECK("made", fd >= 0 && !ftruncate(fd, HUGE));
        readlink("/proc/self/fd/3", name, 63);
        CHECK("its name", !strcmp(name, "/memfd:huge (deleted)"));
        p = mmap(NULL, HUGE, RW, MAP_SHARED, fd, 0);
        CHECK("mapped", p != MAP_FAILED && (p[5] = 7) && FREE() == 7);
        CHECK("no other size", FAILS(memfd_create("huge", MFD_HUGETLB | 16 << 26), EINVAL));
        CHECK("not without the flag", FAILS(memfd_create("huge", 21 << 26), EINVAL));
        DONE();
    }"""))


def test_the_pool_grows_on_demand_as_far_as_overcommit_allows(program):
    """vm.nr_overcommit_hugepages: surplus pages."""
    assert passed(program("""
    int main(void)
    {
        CHECK("nothing there", FAILS(mmap(NULL, HUGE, RW, ANON, -1, 0), ENOMEM));
        FILE *f = fopen("/proc/sys/vm/nr_overcommit_hugepages", "w");
        fputs("2", f), fclose(f);
        char *p = mmap(NULL, 2 * HUGE, RW, ANON, -1, 0);
        CHECK("taken for the promise", p != MAP_FAILED && TOTAL() == 2 && SURP() == 2 && RSVD() == 2);
        p[0] = 1;
        CHECK("no third", FAILS(mmap(NULL, HUGE, RW, ANON, -1, 0), ENOMEM));
        CHECK("given back", !munmap(p, 2 * HUGE) && TOTAL() == 0 && SURP() == 0);
        DONE();
    }""", pages=0))


def test_rights_of_huge_pages(program):
    assert passed(program("""
    static char *p;
    static int writes(void) { p[HUGE] = 1; return 0; }
    static int reads(void) { return p[0] == 5; }
    int main(void)
    {
        unsigned char vec[1024];
        p = mmap(NULL, 2 * HUGE, RW, ANON, -1, 0);
        p[0] = 5, p[HUGE] = 6;
        CHECK("one page is read-only", !mprotect(p + HUGE, HUGE, PROT_READ));
        CHECK("SIGSEGV", signal_of(child(writes)) == SIGSEGV && p[HUGE] == 6);
        CHECK("not a part of one", FAILS(mprotect(p, 4096, PROT_READ), EINVAL));
        CHECK("none", !mprotect(p, 2 * HUGE, PROT_NONE) && signal_of(child(reads)) == SIGSEGV);
        CHECK("all again", !mprotect(p, 2 * HUGE, RW) && p[0] == 5 && p[HUGE] == 6 && (p[1] = 7));
        CHECK("mincore(2)", !mincore(p, 2 * HUGE, vec) && (vec[0] & 1) && (vec[1023] & 1));
        CHECK("not for mremap(2)", FAILS(mremap(p, HUGE, 2 * HUGE, MREMAP_MAYMOVE), EINVAL));
        CHECK("not for MADV_DONTNEED", FAILS(madvise(p, HUGE, MADV_DONTNEED), EINVAL));
        CHECK("mlock(2)", !mlock(p, HUGE) && !munlock(p, HUGE) && !mlockall(MCL_CURRENT | MCL_FUTURE));
        char *q = mmap(NULL, HUGE, RW, ANON | MAP_LOCKED | MAP_POPULATE, -1, 0);
        CHECK("MAP_LOCKED, MAP_POPULATE", q != MAP_FAILED && FREE() == 5 && !RSVD() && !munmap(q, HUGE) && !munlockall());
        int fd = open("/tmp/f", O_RDWR | O_CREAT, 0600);
        CHECK("read(2) and write(2) reach all of it", write(fd, p, 2 * HUGE) == 2 * HUGE
              && pread(fd, p + 100000, 300000, 0) == 300000 && p[100000] == 5);
        DONE();
    }"""))


def test_512_frames_in_a_row_are_one_entry_of_the_second_level(program):
    """A172: as /proc/PID/pagemap and the dump of the page tables show it."""
    done = program("""
    int main(void)
    {
        uint64_t words[512];
        char *p = mmap(NULL, HUGE, RW, ANON, -1, 0);
        p[0] = 1;
        pread(open("/proc/self/pagemap", O_RDONLY), words, sizeof words, (uintptr_t)p / 4096 * 8);
        uint64_t first = words[0] & (1UL << 55) - 1;
        int row = !(first & 511) && words[0] >> 63;
        for (int i = 0; i < 512; i++)
            row &= (words[i] & (1UL << 55) - 1) == first + i;
        CHECK("512 frames in a row", row);
        char command[200];
        sprintf(command, "grep -i '^0x%016lx' /proc/%d/smaps; cat /sys/kernel/debug/page_tables/current_user", (long)p, getpid());
        FILE *f = fopen("/sys/kernel/debug/page_tables/current_user", "r");
        char line[200], want[40];
        sprintf(want, "0x%016lx-", (long)p);
        int found = 0;
        while (fgets(line, sizeof line, f))
            found |= !strncmp(line, want, strlen(want)) && strstr(line, " 2M ") && strstr(line, "PSE") && strstr(line, "pmd");
        CHECK("one entry", found);
        f = fopen("/proc/self/smaps", "r");
        int here = 0;
        while (fgets(line, sizeof line, f)) {
            here |= strstr(line, "/anon_hugepage (deleted)") != 0;
            if (here && (strstr(line, "PageSize") || strstr(line, "Hugetlb") || strstr(line, "VmFlags")))
                fputs(line, stdout);
            if (here && strstr(line, "VmFlags"))
                break;
        }
        DONE();
    }""", shell="mount -t debugfs none /sys/kernel/debug 2> /dev/null; exec PROGRAM")
    assert passed(done)
    text = done.stdout.decode()
    assert re.search(r"KernelPageSize: +2048 kB\nMMUPageSize: +2048 kB\nShared_Hugetlb: +0 kB\nPrivate_Hugetlb: +2048 kB\n", text)
    assert "VmFlags: rd wr mr mw me de ht" in text


def test_the_pools_size_follows_the_files(boot):
    """hugetlbpage.rst: /proc/sys/vm/nr_hugepages and /sys/kernel/mm/hugepages."""
    kernel = boot()
    done = kernel.run(["/bin/sh", "-c", """
        cd /sys/kernel/mm/hugepages/hugepages-2048kB; ls; cat nr_hugepages free_hugepages
        echo 20 > nr_hugepages; cat /proc/sys/vm/nr_hugepages free_hugepages
        sysctl -w vm.nr_hugepages=5; cat nr_hugepages surplus_hugepages resv_hugepages
        echo x > nr_hugepages; echo 100000 > nr_hugepages; test $(cat nr_hugepages) -gt 150; echo $?
        echo 0 > nr_hugepages; grep Hugetlb /proc/meminfo; grep htlb_buddy_alloc_fail /proc/vmstat"""])
    assert done.stdout.decode().split("\n") == [
        "free_hugepages", "nr_hugepages", "nr_hugepages_mempolicy", "nr_overcommit_hugepages", "resv_hugepages",
        "surplus_hugepages", "0", "0", "20", "20", "vm.nr_hugepages = 5", "5", "0", "0", "0",
        "Hugetlb:               0 kB", "htlb_buddy_alloc_fail 1", ""], done.stdout.decode()
    assert b"echo: I/O error" in done.stderr                  # dash means EINVAL


def test_a_plain_start_imports_nothing_of_it():
    import subprocess
    import sys

    code = ("import sys; from glasskernel import Kernel; Kernel().run(['/bin/true']); "
            "print([m for m in sys.modules if 'huge' in m])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
