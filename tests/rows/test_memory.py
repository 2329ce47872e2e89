"""Inventory A9: memory."""
import re

from tests.conftest import PROGRAMS, watch_calls


def text(result):
    assert (result.status, result.stderr) == (0, b""), result
    return result.stdout.decode()


def passes(result):
    assert result.status == 0, result.stdout.decode() + result.stderr.decode()
    assert b"FAIL" not in result.stdout and b"PASS" in result.stdout


STATUS = """
#include "check.h"
static long field(const char *name) { /* of /proc/self/status, in kB */
    char line[200];
    long value = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, name, strlen(name))) value = atol(line + strlen(name));
    fclose(f);
    return value;
}
"""


def test_malloc_gives_addresses_and_touching_gives_memory(run_c):
    """A163, A165, A181, C01, C02: VSZ grows at once, RSS at the touch, by what was touched."""
    passes(run_c(STATUS + """
int main(void) {
    field("VmSize:");
    long vsz = field("VmSize:"), rss = field("VmRSS:");
    char *p = malloc(1 << 20);
    CHECK("VSZ grows by a mebibyte", field("VmSize:") - vsz >= 1024);
    CHECK("RSS does not", field("VmRSS:") - rss < 64);
    int zero = 1;
    for (int i = 0; i < 1 << 20; i += 512) zero &= p[i] == 0;
    CHECK("a fresh page reads 0", zero);
    memset(p, 1, 1 << 20);
    long grown = field("VmRSS:") - rss;
    CHECK("RSS grows when touched", grown >= 1024 && grown < 1100);
    CHECK("as anonymous memory", field("RssAnon:") >= 1024);
    void *brk0 = sbrk(0);
    for (int i = 0; i < 100; i++) malloc(1000);
    CHECK("small blocks come from the heap", sbrk(0) >= brk0 && (char *)malloc(1000) < (char *)sbrk(0));
    CHECK("large ones from mmap", (char *)p > (char *)sbrk(0));
    DONE();
}"""))


def test_overcommit_follows_its_three_modes(run):
    """A166."""
    code = "import mmap,sys\ntry: m = mmap.mmap(-1, int(sys.argv[1]) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); print('ok')\nexcept OSError as e: print(e.errno)"
    script = f"""
        t() {{ echo $1 >/proc/sys/vm/overcommit_memory; /usr/bin/python3 -I -c "{code}" $2; }}
        t 0 100; t 0 2000; t 1 20000; t 2 100; t 2 600; grep -E '^Commit' /proc/meminfo"""
    out = text(run(["/bin/bash", "-c", script])).split()
    assert out[:5] == ["ok", "12", "ok", "ok", "12"]
    assert out[5] == "CommitLimit:" and int(out[6]) > 200_000


def test_page_tables_grow_by_four_kb_for_each_two_mb(run_c):
    """A170: VmPTE; 9 bits a level."""
    passes(run_c(STATUS + """
int main(void) {
    char *p = mmap((void *)0x10000000000, 64UL << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    p[0] = 1;
    long before = field("VmPTE:");
    for (int i = 1; i < 9; i++) p[(long)i << 21] = 1;
    CHECK("eight ranges, eight tables", field("VmPTE:") - before == 32);
    p[(1L << 21) + 4096] = 1;
    CHECK("a second page in a range needs none", field("VmPTE:") - before == 32);
    DONE();
}"""))


def test_error_codes_of_page_faults(boot, build_c):
    """A174, A175, A176: 0x4 read, 0x6 write, 0x7 write to a protected page, 0x14 instruction fetch; CR2 is si_addr."""
    import pytest

    from glasskernel import Share
    from glasskernel.arch.x86.entry import common

    binary = build_c("""
#include "check.h"
#include <setjmp.h>
static sigjmp_buf env;
static void *where;
static void on(int s, siginfo_t *si, void *c) { where = si->si_addr; siglongjmp(env, 1); }
int main(void) {
    struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &sa, NULL);
    volatile char *a = (char *)0x100000000;
    volatile char *ro = mmap((void *)0x200000000, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    (void)*ro;
    if (!sigsetjmp(env, 1)) (void)*(a + 0x123);
    CHECK("read", where == a + 0x123);
    if (!sigsetjmp(env, 1)) *(a + 0x456) = 1;
    CHECK("write", where == a + 0x456);
    if (!sigsetjmp(env, 1)) *(ro + 5) = 1;
    CHECK("protected", where == ro + 5);
    if (!sigsetjmp(env, 1)) ((void (*)(void))0x300000000)();
    CHECK("fetch", where == (void *)0x300000000);
    volatile int *cow = mmap((void *)0x400000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    *cow = 1;
    if (fork() == 0) { *cow = 2; _exit(*cow); }
    int status;
    wait(&status);
    CHECK("copy on write", WEXITSTATUS(status) == 2 && *cow == 1);
    DONE();
}""")
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    faults = {}
    plain = common.do_page_fault

    def look(task, error_code, address):
        faults.setdefault(address, error_code)
        return plain(task, error_code, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "do_page_fault", look)
        passes(kernel.run([f"/programs/{binary.name}"]))
    assert faults[0x100000123] == 0x4
    assert faults[0x100000456] == 0x6
    assert faults[0x200000005] == 0x7
    assert faults[0x300000000] == 0x14


def test_a_write_after_fork_is_a_protection_fault_that_copies(boot, build_c):
    """A183: error code 0x7."""
    import pytest

    from glasskernel import Share
    from glasskernel.arch.x86.entry import common

    binary = build_c("""
#include "check.h"
int main(void) {
    volatile int *p = mmap((void *)0x400000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    *p = 1;
    if (fork() == 0) { *p = 2; _exit(0); }
    wait(NULL);
    return *p != 1;
}""")
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    codes = []
    plain = common.do_page_fault

    def look(task, error_code, address):
        if address == 0x400000000:
            codes.append(error_code)
        return plain(task, error_code, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "do_page_fault", look)
        assert kernel.run([f"/programs/{binary.name}"]).status == 0
    assert codes == [0x6, 0x7]


def test_the_stack_grows_within_its_limit(run_c):
    """A177: touching below the stack grows it; beyond the limit it is SIGSEGV."""
    passes(run_c(STATUS + """
static int deep(void *arg) {
    volatile char *here = (char *)&arg;
    for (long i = 0; i < (long)arg; i += 4096) here[-i] = 1;
    return 0;
}
int main(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    long before = field("VmStk:");
    deep((void *)(1L << 20));
    CHECK("a mebibyte more", field("VmStk:") - before >= 800);
    CHECK("7 MB are within 8", run_child(deep, (void *)(7L << 20)) == 0);
    int status = run_child(deep, (void *)(9L << 20));
    CHECK("9 MB are not", WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    DONE();
}"""))


def test_vmstat_counts_faults_and_rusage_tells_minor_from_major(run_c):
    """A178, A179, A180: anonymous memory is always minor; the first touch of a file that nobody read is major."""
    passes(run_c("""
#include "check.h"
static long pgfault(void) {
    char line[100];
    long n = -1;
    FILE *f = fopen("/proc/vmstat", "r");
    while (fgets(line, sizeof line, f)) if (sscanf(line, "pgfault %ld", &n) == 1) break;
    fclose(f);
    return n;
}
int main(void) {
    struct rusage a, b;
    pgfault();
    long before = pgfault();
    getrusage(RUSAGE_SELF, &a);
    char *p = mmap(0, 100 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 100; i++) p[i * 4096] = 1;
    getrusage(RUSAGE_SELF, &b);
    CHECK("a hundred minor faults", b.ru_minflt - a.ru_minflt >= 100 && b.ru_minflt - a.ru_minflt < 110);
    CHECK("no major one", b.ru_majflt == a.ru_majflt);
    CHECK("pgfault counts them", pgfault() - before >= 100);
    DONE();
}"""))


def test_file_pages_are_counted_as_cached(run):
    """A182, A215: and shmem as shared."""
    script = """
        get() { grep -E '^(Cached|Shmem):' /proc/meminfo | tr -dc '0-9\\n'; }
        get; head -c 4000000 /dev/zero >/tmp/f; get; rm /tmp/f; get"""
    cached, shmem, cached2, shmem2, cached3, shmem3 = map(int, text(run(["/bin/bash", "-c", script])).split())
    assert 3900 <= shmem2 - shmem <= 4000 and cached2 - cached >= 3900
    assert shmem3 <= shmem + 8 and cached3 < cached2 - 3800


def test_maps_lines_are_areas_in_linuxs_format(run_c):
    """A184, A185, A186: start-end perms offset dev inode path; they split and merge with mprotect."""
    passes(run_c("""
#include "check.h"
static int count, bad;
static char line_of[200];
static void look(void *address) {
    char line[300];
    count = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, f)) {
        unsigned long start, end, offset, inode;
        char perms[5], dev[8];
        if (sscanf(line, "%lx-%lx %4s %lx %7s %lu", &start, &end, perms, &offset, dev, &inode) != 6) bad++;
        if (start <= (unsigned long)address && (unsigned long)address < end) strcpy(line_of, line);
        char *path = strpbrk(line, "/[");
        if (path && path - line != 73 && end < 0x7fffffffffff) bad++;
        count++;
    }
    fclose(f);
}
int main(void) {
    char *p = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    look(p);
    look(p);
    int before = count;
    mprotect(p + 4096, 4096, PROT_READ);
    look(p + 4096);
    CHECK("mprotect splits an area into three", count == before + 2);
    CHECK("with its own rights", strstr(line_of, " r--p "));
    mprotect(p + 4096, 4096, PROT_READ | PROT_WRITE);
    look(p);
    CHECK("and merges them again", count == before);
    mprotect(p, 4096, PROT_NONE);
    look(p);
    CHECK("---p", strstr(line_of, " ---p "));
    int fd = open("/tmp/mapped", O_RDWR | O_CREAT, 0600);
    ftruncate(fd, 8192);
    char *s = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
    look(s);
    CHECK("a shared file mapping", strstr(line_of, " rw-s 00001000 ") && strstr(line_of, "/tmp/mapped\\n"));
    CHECK("every line is well formed", bad == 0);
    DONE();
}"""))


def test_the_user_half_ends_below_0x800000000000(run_c):
    """A191, A187."""
    passes(run_c("""
#include "check.h"
int main(void) {
    void *top = (void *)0x7fffffffe000;
    CHECK("the last page may be mapped", mmap(top, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == top);
    CHECK("the next may not", mmap((char *)top + 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED && errno == ENOMEM);
    CHECK("nor kernel addresses", mmap((void *)0xffff800000000000, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED);
    int here;
    CHECK("the stack is below it", (unsigned long)&here < 0x800000000000);
    DONE();
}"""))


def test_shared_file_mappings_and_read_see_the_same_page(run_c):
    """A188, A189, A190."""
    passes(run_c(PROGRAMS / "mmap_semantics.c"))


def test_the_same_address_in_two_processes_is_two_frames(boot, build_c):
    """A162: from the live page tables."""
    from glasskernel import Share

    binary = build_c("""
#include "check.h"
int main(void) {
    volatile int *p = mmap((void *)0x400000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    *p = 1;
    pid_t pid = fork();
    *p = 2;
    getppid();
    if (pid == 0) _exit(0);
    wait(NULL);
    return 0;
}""")
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    frames = {}

    class Look:
        def enter(self, task, nr):
            from glasskernel.mm.memory import follow_page

            if nr == 110:
                frames[task.pid] = follow_page(task.mm, 0x400000000)

        def exit(self, task, nr, result):
            pass

    watch_calls(kernel, Look())
    assert kernel.run([f"/programs/{binary.name}"]).status == 0
    assert len(frames) == 2 and None not in frames.values() and len(set(frames.values())) == 2


def test_zoneinfo_and_buddyinfo_describe_the_zones(boot):
    """A193, A194, A202, A203: eleven columns; spanned >= present >= managed; min < low < high; counts change."""
    kernel = boot(memory=6 << 30)
    out = kernel.run(["/bin/sh", "-c", "cat /proc/buddyinfo; cat /proc/zoneinfo"]).stdout.decode()
    zones = re.findall(r"^Node 0, zone +(\w+)((?: +\d+)+) *$", out, re.MULTILINE)
    assert [name for name, _ in zones] == ["DMA", "DMA32", "Normal"]
    free = 0
    for _, counts in zones:
        values = list(map(int, counts.split()))
        assert len(values) == 11
        free += sum(n << order for order, n in enumerate(values))
    for block in out.split("Node 0, zone")[4:7]:
        value = {k: int(re.search(rf"^ +(?:pages )?{k} +(\d+)", block, re.MULTILINE)[1])
                 for k in ("free", "min", "low", "high", "spanned", "present", "managed")}
        assert value["min"] < value["low"] < value["high"]
        assert value["spanned"] >= value["present"] >= value["managed"] >= value["free"]
    assert abs(free - (6 << 18)) < 10_000


def test_buddies_split_and_merge():
    """A194, A195: an order-3 block taken from a fresh machine splits larger ones; given back they merge."""
    from glasskernel import Kernel
    from glasskernel.mm.page_alloc import GFP_KERNEL, __alloc_pages_nodemask, check_frames, drain_all_pages, free_pages

    kernel = Kernel(memory=64 << 20)
    from glasskernel.kernel.current import register

    register.task = kernel.machine.this_cpu.task
    drain_all_pages(kernel.mem)
    before = [[len(area) for area in zone.free_area] for zone in kernel.mem.zones]
    pfn = __alloc_pages_nodemask(kernel, GFP_KERNEL, 3, 0, None)
    assert pfn % 8 == 0
    assert [[len(area) for area in zone.free_area] for zone in kernel.mem.zones] != before
    free_pages(kernel, pfn, 3)
    assert [[len(area) for area in zone.free_area] for zone in kernel.mem.zones] == before
    assert check_frames(kernel) == []
    kernel.close()


def test_meminfo_begins_as_linuxs_does(run):
    """A209, B053, B128: the order of the first lines, all in kB."""
    lines = text(run("cat /proc/meminfo")).splitlines()
    names = ["MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active", "Inactive",
             "Active(anon)", "Inactive(anon)", "Active(file)", "Inactive(file)"]
    assert [line.split(":")[0] for line in lines[:12]] == names
    assert all(re.fullmatch(r"\S+: +\d+ kB", line) for line in lines if not line.startswith("HugePages_"))
    value = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    assert value["Active"] == value["Active(anon)"] + value["Active(file)"]
    assert value["Inactive"] == value["Inactive(anon)"] + value["Inactive(file)"]
    assert value["MemTotal"] > value["MemAvailable"] > 0


def test_tlb_entries_do_not_outlive_a_mapping_in_any_thread(run_c):
    """A168."""
    passes(run_c("""
#include "check.h"
#include <pthread.h>
#include <setjmp.h>
static volatile char *p;
static volatile int stage, left;
static sigjmp_buf env;
static void on(int s) { siglongjmp(env, 1); }
static void *body(void *arg) {
    int sum = 0;
    while (stage == 0) sum += *p;
    left = 1;
    while (stage == 1) sched_yield();
    volatile int faulted = 0;
    if (!sigsetjmp(env, 1)) sum += *p; else faulted = 1;
    return (void *)(long)faulted;
}
int main(void) {
    pthread_t t;
    signal(SIGSEGV, on);
    p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *p = 1;
    pthread_create(&t, NULL, body, NULL);
    sleep_ms(2);
    stage = 1;
    while (!left) sched_yield();
    munmap((void *)p, 4096);
    stage = 2;
    void *faulted;
    pthread_join(t, &faulted);
    CHECK("the other CPU faults", faulted != NULL);
    DONE();
}""".replace('#include <pthread.h>', '#include <pthread.h>\n#include <sched.h>', 1)))
