"""Transparent huge pages. (A172)"""
import re

import pytest

from glasskernel import Share

TOOLS = """
#include "check.h"
#include <stdint.h>
#define MB (1UL << 20)
#define HUGE (2 * MB)
#define RW (PROT_READ | PROT_WRITE)
static long figure(const char *file, const char *name)
{
    char line[256];
    long value = -1;
    FILE *f = fopen(file, "r");
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, name, strlen(name)) && strchr(": \\t", line[strlen(name)]))
            value = strtol(line + strlen(name) + 1, NULL, 10);
    fclose(f);
    return value;
}
#define MAPPED() (figure("/proc/self/smaps_rollup", "AnonHugePages") / 2048)
#define EVENT(name) figure("/proc/vmstat", "thp_" name)
static char *room(long pages, int advice)           /* aligned, of so many huge pages */
{
    char *p = mmap(NULL, (pages + 1) * HUGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *at = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
    if (at > p)
        munmap(p, at - p);
    munmap(at + pages * HUGE, p + HUGE - at);
    if (advice)
        madvise(at, pages * HUGE, advice);
    return at;
}
static void fill(char *p, long size) { for (long i = 0; i < size; i += 4096) *(long *)(p + i) = i + 1; }
static int filled(char *p, long size)
{
    for (long i = 0; i < size; i += 4096)
        if (*(long *)(p + i) != i + 1)
            return 0;
    return 1;
}
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
    """program(source) -> how it ended."""
    def go(source, shell="exec PROGRAM", **machine):
        binary = build_c(TOOLS + source)
        kernel = boot(shares=[Share(str(binary.parent), "/programs")], **machine)
        return kernel.run(["/bin/sh", "-c", shell.replace("PROGRAM", f"/programs/{binary.name}")])

    return go


def passed(done):
    text = done.stdout.decode()
    return (done.status == 0 and "FAIL" not in text) or pytest.fail(text + done.stderr.decode())


def test_an_area_that_asks_gets_huge_pages_at_its_first_touch(program):
    """madvise(2), MADV_HUGEPAGE; transhuge.rst: AnonHugePages, thp_fault_alloc."""
    assert passed(program("""
    int main(void)
    {
        char *small = room(1, 0), *p = room(2, MADV_HUGEPAGE), *never = room(1, MADV_NOHUGEPAGE);
        struct rusage before, after;
        small[0] = never[0] = 1;
        CHECK("not who does not ask", MAPPED() == 0);
        getrusage(RUSAGE_SELF, &before);
        fill(p, 2 * HUGE);
        getrusage(RUSAGE_SELF, &after);
        CHECK("two faults instead of 1024", after.ru_minflt - before.ru_minflt == 2);
        CHECK("two huge pages", MAPPED() == 2 && EVENT("fault_alloc") == 2);
        CHECK("what was written is there", filled(p, 2 * HUGE));
        uint64_t words[512];
        pread(open("/proc/self/pagemap", O_RDONLY), words, sizeof words, (uintptr_t)p / 4096 * 8);
        CHECK("512 frames in a row", (words[511] & 0xffffffff) == (words[0] & 0xffffffff) + 511 && !(words[0] & 511));
        CHECK("meminfo", figure("/proc/meminfo", "AnonHugePages") == 4096);
        munmap(p, 2 * HUGE);
        CHECK("gone", MAPPED() == 0 && figure("/proc/meminfo", "AnonHugePages") == 0);
        DONE();
    }"""))


def test_reads_share_the_huge_zero_page(program):
    """transhuge.rst: use_zero_page."""
    assert passed(program("""
    int main(void)
    {
        char *p = room(2, MADV_HUGEPAGE);
        long rss = figure("/proc/self/status", "RssAnon");
        CHECK("zeros", !p[5] && !p[HUGE + 7] && EVENT("zero_page_alloc") == 1);
        CHECK("nobody's memory", MAPPED() == 0 && figure("/proc/self/status", "RssAnon") < rss + 64);
        p[HUGE] = 1;
        CHECK("a write gets its own", MAPPED() == 1 && !p[HUGE + 1] && !p[HUGE - 1]);
        mprotect(p, 4096, PROT_READ);
        CHECK("it can be split", !p[0] && !p[4096] && (p[4096] = 2) && !p[8192] && EVENT("split_pmd") == 1);
        DONE();
    }"""))


def test_copy_on_write_of_a_huge_page(program):
    assert passed(program("""
    static char *p;
    static int in_child(void)
    {
        int ok = filled(p, 2 * HUGE) && MAPPED() == 2;
        *(long *)p = 99;
        ok &= MAPPED() == 2 && EVENT("fault_alloc") == 3 && figure("/proc/meminfo", "AnonHugePages") == 3 * 2048;
        return !(ok && filled(p + HUGE - HUGE, 0) && *(long *)(p + 4096) == 4097);
    }
    int main(void)
    {
        p = room(2, MADV_HUGEPAGE);
        fill(p, 2 * HUGE);
        CHECK("the child copies the one that it writes to", child(in_child) == 0);
        CHECK("the parent's is as it was", filled(p, 2 * HUGE) && MAPPED() == 2);
        *(long *)p = 1;
        CHECK("alone again, nothing is copied", EVENT("fault_alloc") == 3);
        DONE();
    }"""))


@pytest.mark.parametrize("what", [
    "munmap(p + 4096, 4096)", "mprotect(p + 4096, 4096, PROT_READ)", "madvise(p + 4096, 4096, MADV_DONTNEED)",
    "mremap(p + 4096, 4096, 8192, MREMAP_MAYMOVE) == MAP_FAILED", "mlock(p + 4096, 4096)", "mprotect(p, HUGE, PROT_NONE)",
])
def test_what_concerns_a_part_splits_the_entry(program, what):
    """__split_huge_pmd()"""
    assert passed(program("""
    int main(void)
    {
        char *p = room(1, MADV_HUGEPAGE);
        fill(p, HUGE);
        CHECK("done", !(WHAT));
        CHECK("split", MAPPED() == 0 && EVENT("split_pmd") == 1);
        mprotect(p, HUGE, RW);
        CHECK("the rest is there", filled(p, 4096) && *(long *)(p + 8192) == 8193 && *(long *)(p + HUGE - 4096) == HUGE - 4095);
        DONE();
    }""".replace("WHAT", what)))


def test_all_of_a_huge_page_may_change_its_rights_or_go(program):
    assert passed(program("""
    int main(void)
    {
        char *p = room(3, MADV_HUGEPAGE);
        fill(p, 3 * HUGE);
        CHECK("read-only", !mprotect(p, 3 * HUGE, PROT_READ) && MAPPED() == 3 && filled(p, 3 * HUGE));
        CHECK("writable again", !mprotect(p, 3 * HUGE, RW) && (p[0] = 1) && MAPPED() == 3);
        CHECK("dropped", !madvise(p + HUGE, HUGE, MADV_DONTNEED) && MAPPED() == 2 && !p[HUGE]);
        CHECK("never split", EVENT("split_pmd") == 0);
        unsigned char vec[512];
        CHECK("mincore(2)", !mincore(p, HUGE, vec) && vec[0] && vec[511]);
        int fd = open("/tmp/f", O_RDWR | O_CREAT, 0600);
        CHECK("system calls reach it", write(fd, p + 4000, 9000) == 9000 && pread(fd, p + 100000, 9000, 0) == 9000
              && !memcmp(p + 100000, p + 4000, 9000));
        DONE();
    }"""))


def test_threads_that_touch_the_same_memory_see_one_page(program):
    assert passed(program("""
    #include <pthread.h>
    static char *p;
    static void *touch(void *n) { for (long i = 0; i < 2 * HUGE; i += 4096) __sync_fetch_and_add((long *)(p + i), 1); return n; }
    int main(void)
    {
        pthread_t t[4];
        long wrong = 0;
        p = room(2, MADV_HUGEPAGE);
        for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, touch, NULL);
        for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
        for (long i = 0; i < 2 * HUGE; i += 4096) wrong += *(long *)(p + i) != 4;
        CHECK("nothing is lost", !wrong && MAPPED() == 2);
        DONE();
    }"""))


def test_swapping_splits_and_loses_nothing(boot, build_c):
    """Reclaim takes huge pages apart, and reads them back as small ones."""
    from glasskernel.machine.disk import Disk

    binary = build_c(TOOLS + """
    int main(void)
    {
        char *p = room(24, MADV_HUGEPAGE);
        fill(p, 24 * HUGE);
        char *q = room(24, 0);
        fill(q, 24 * HUGE);
        CHECK("both are whole", filled(p, 24 * HUGE) && filled(q, 24 * HUGE));
        CHECK("something was swapped", figure("/proc/vmstat", "pswpout") > 1000 && EVENT("split_pmd") > 0);
        DONE();
    }""")
    kernel = boot(memory=80 << 20, disks=[Disk(size=128 << 20)], shares=[Share(str(binary.parent), "/programs")])
    assert passed(kernel.run(["/bin/sh", "-c", f"mkswap /dev/sda > /dev/null && swapon /dev/sda && /programs/{binary.name} && "
                                               "swapoff /dev/sda"]))


def test_always_madvise_never(program):
    """transhuge.rst: /sys/kernel/mm/transparent_hugepage/enabled."""
    source = """
    int main(void)
    {
        char *p = room(2, 0), *q = room(2, MADV_HUGEPAGE);
        fill(p, 2 * HUGE), fill(q, 2 * HUGE);
        printf("%ld\\n", MAPPED());
        return 0;
    }"""
    done = program(source, shell="cd /sys/kernel/mm/transparent_hugepage; ls; cat enabled defrag use_zero_page hpage_pmd_size\n"
                   "for i in always madvise never; do echo $i > enabled; cat enabled; PROGRAM; done; echo perhaps > enabled")
    assert done.stdout.decode().split("\n") == [
        "defrag", "enabled", "hpage_pmd_size", "khugepaged", "use_zero_page", "always [madvise] never",
        "always defer defer+madvise [madvise] never", "1", "2097152", "[always] madvise never", "4",
        "always [madvise] never", "2", "always madvise [never]", "0", ""]
    assert b"echo: I/O error" in done.stderr and done.status


def test_khugepaged_collapses_what_was_small(program):
    """transhuge.rst: khugepaged scans in the background."""
    assert passed(program("""
    #define FILE(name) "/sys/kernel/mm/transparent_hugepage/khugepaged/" name
    static long setting(const char *name)
    {
        char text[32] = "";
        int fd = open(name, O_RDONLY);
        read(fd, text, 31), close(fd);
        return atol(text);
    }
    int main(void)
    {
        char *p = room(3, 0), *q = room(1, 0);
        int fd[2], status;
        fill(p, 2 * HUGE), fill(q, HUGE);
        p[2 * HUGE] = 7;
        madvise(p, 3 * HUGE, MADV_HUGEPAGE);
        CHECK("small so far", MAPPED() == 0 && filled(p, 2 * HUGE));
        sleep(25);
        CHECK("huge now, even the one with a single page", MAPPED() == 3 && EVENT("collapse_alloc") == 3);
        CHECK("the same bytes", filled(p, 2 * HUGE) && p[2 * HUGE] == 7 && !p[2 * HUGE + 1] && !p[3 * HUGE - 1]);
        CHECK("counted", setting(FILE("pages_collapsed")) == 3 && setting(FILE("full_scans")) > 0);
        mprotect(p, 4096, PROT_READ), mprotect(p, 4096, RW);
        CHECK("split", MAPPED() == 2 && filled(p, HUGE));
        *(long *)p = 1;
        sleep(25);
        CHECK("collapsed again", MAPPED() == 3 && filled(p, HUGE));
        munmap(p + 4096, 4096), mmap(p + 4096, 4096, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        madvise(p, HUGE, MADV_HUGEPAGE);
        int max = open(FILE("max_ptes_none"), O_WRONLY);
        CHECK("a hole is one too many", write(max, "0", 1) == 1);
        sleep(25);
        CHECK("stays small", MAPPED() == 2);
        if (!fork()) {
            sleep(25);
            _exit(!(MAPPED() == 2 && filled(p + HUGE - HUGE, 4096)));
        }
        wait(&status);
        CHECK("a child is scanned, too", status == 0);
        CHECK("who did not ask is left alone", filled(q, HUGE) && MAPPED() == 2);
        DONE();
    }"""))


def test_prctl_switches_them_off_for_a_process(program):
    """prctl(2), PR_SET_THP_DISABLE"""
    assert passed(program("""
    #include <sys/prctl.h>
    int main(void)
    {
        char *p = room(1, MADV_HUGEPAGE);
        CHECK("off", !prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) && (p[0] = 1) && MAPPED() == 0);
        DONE();
    }"""))


def test_smaps_says_who_could_have_them(program):
    done = program("""
    int main(void)
    {
        char *p = room(1, MADV_HUGEPAGE), line[256], want[32];
        int here = 0;
        fill(p, HUGE);
        sprintf(want, "%lx-", (long)p);
        FILE *f = fopen("/proc/self/smaps", "r");
        while (fgets(line, sizeof line, f)) {
            here |= !strncmp(line, want, strlen(want));
            if (here)
                fputs(line, stdout);
            if (here && strstr(line, "VmFlags"))
                return 0;
        }
        return 1;
    }""")
    text = done.stdout.decode()
    assert re.search(r"Rss: +2048 kB", text) and re.search(r"Private_Dirty: +2048 kB", text)
    assert re.search(r"AnonHugePages: +2048 kB", text) and "THPeligible:    1\nVmFlags: rd wr mr mw me ac hg" in text, text


def test_the_functions_on_the_way(program):
    """As the reference run of Linux shows them (c-anonthp)."""
    done = program("""
    int main(void) { char *p = room(1, MADV_HUGEPAGE); p[0] = 1; munmap(p, HUGE); return 0; }
    """, shell="cd /sys/kernel/debug/tracing 2>/dev/null || { mount -t tracefs none /sys/kernel/tracing; cd /sys/kernel/tracing; }\n"
               "echo '*huge*' 'alloc_pages_vma' 'pte_alloc_one' 'page_add_new_anon_rmap' '__free_pages_ok' free_compound_page "
               "'release_pages' > set_ftrace_filter; echo function > current_tracer; PROGRAM; echo nop > /dev/null; cat trace")
    text = done.stdout.decode()
    for callee, caller in (
            ("do_huge_pmd_anonymous_page", ""), ("clear_huge_page", "do_huge_pmd_anonymous_page"),
            ("pgtable_trans_huge_deposit", "do_huge_pmd_anonymous_page"), ("zap_huge_pmd", "unmap_page_range"),
            ("pgtable_trans_huge_withdraw", "zap_huge_pmd"), ("free_compound_page", "free_transhuge_page"),
            ("__free_pages_ok", "free_compound_page")):
        assert re.search(rf": {callee} <-.*{caller}", text), (callee, text[-3000:])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_calls_agree_with_a_copy_of_the_memory(boot, build_c, seed):
    """Writes, rights, holes, moves, fork, mlock, reclaim: each 4096 bytes hold what was last written there."""
    binary = build_c(TOOLS + """
    #define PAGES 3072                                  /* 12 MB */
    static int shadow[PAGES];                           /* -1: not mapped */
    static unsigned long state;
    static unsigned rnd(unsigned n) { state = state * 6364136223846793005UL + 1442695040888963407UL; return (state >> 33) % n; }
    static int check(char *p, const char *when)
    {
        for (int i = 0; i < PAGES; i++)
            if (shadow[i] >= 0 && *(int *)(p + 4096L * i) != shadow[i])
                return printf("FAIL page %d is %d, not %d after %s\\n", i, *(int *)(p + 4096L * i), shadow[i], when);
        return 0;
    }
    int main(int argc, char **argv)
    {
        char *p = room(6, 0);
        int status, stamp = 0;
        state = atol(argv[1]);
        for (int step = 0; step < 400; step++) {
            int from = rnd(8) < 3 ? rnd(6) * 512 : rnd(PAGES), n = rnd(8) < 3 ? 512 * (1 + rnd(2)) : 1 + rnd(40);
            if (from + n > PAGES) n = PAGES - from;
            char *at = p + 4096L * from;
            long size = 4096L * n;
            const char *what = "?";
            switch (rnd(10)) {
            case 0: case 1: case 2:
                what = "write";
                for (int i = from; i < from + n; i++)
                    if (shadow[i] >= 0)
                        *(int *)(p + 4096L * i) = shadow[i] = ++stamp;
                break;
            case 3: what = "rights"; mprotect(at, size, rnd(2) ? PROT_NONE : PROT_READ); mprotect(at, size, RW); break;
            case 4:
                what = "dontneed";
                if (!madvise(at, size, MADV_DONTNEED) || errno == ENOMEM)
                    for (int i = from; i < from + n; i++) if (shadow[i] > 0) shadow[i] = 0;
                break;
            case 5:
                what = "hole";
                munmap(at, size);
                for (int i = from; i < from + n; i++) shadow[i] = -1;
                break;
            case 6:
                what = "map";
                if (mmap(at, size, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at) return printf("FAIL map\\n");
                for (int i = from; i < from + n; i++) shadow[i] = 0;
                madvise(at, size, MADV_HUGEPAGE);
                break;
            case 7: {
                what = "move";
                int to = rnd(PAGES - n + 1), whole = 1;
                for (int i = from; i < from + n; i++) whole &= shadow[i] >= 0;
                if (!whole || (to < from + n && from < to + n)) break;
                if (mremap(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, p + 4096L * to) == MAP_FAILED) {
                    for (int i = to; i < to + n; i++) shadow[i] = -1;        /* two areas: EFAULT, when the target is gone */
                    break;
                }
                for (int i = 0; i < n; i++) shadow[to + i] = shadow[from + i], shadow[from + i] = -1;
                break;
            }
            case 8:
                what = "fork";
                if (rnd(3)) break;
                if (!fork()) {
                    for (int i = from; i < from + n; i++)
                        if (shadow[i] >= 0)
                            *(int *)(p + 4096L * i) = shadow[i] = 1 << 30 | i;
                    _exit(check(p, "fork, in the child") != 0);
                }
                wait(&status);
                if (status) return printf("FAIL child %x\\n", status);
                break;
            case 9: what = "advice"; madvise(at, size, rnd(3) ? MADV_HUGEPAGE : rnd(2) ? 21 : MADV_NOHUGEPAGE); break;
            }
            if (step % 8 == 0 && check(p, what)) return 1;
            if (step % 100 == 99) sleep(11);
        }
        check(p, "all");
        printf("%ld %ld\\n", EVENT("fault_alloc"), EVENT("split_pmd"));
        return 0;
    }""")
    from glasskernel.machine.disk import Disk

    kernel = boot(memory=96 << 20, seed=seed, disks=[Disk(size=64 << 20)], shares=[Share(str(binary.parent), "/programs")])
    done = kernel.run(["/bin/sh", "-c", "mkswap /dev/sda > /dev/null; swapon /dev/sda; echo always > "
                       f"/sys/kernel/mm/transparent_hugepage/enabled; /programs/{binary.name} {seed}; swapoff /dev/sda"])
    text = done.stdout.decode()
    assert "FAIL" not in text and all(int(word) > 0 for word in text.split()) and len(text.split()) == 2, text + done.stderr.decode()
