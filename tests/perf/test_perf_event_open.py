"""perf_event_open(2) from C: counts, groups, ioctl(2), buffers, errors. What is expected is what the manual page says."""
import pytest

pytestmark = pytest.mark.patience(120)
HEAD = r"""
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <sys/prctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
static struct perf_event_attr attr;
static void fresh(unsigned type, uint64_t config) {
    memset(&attr, 0, sizeof attr);
    attr.size = sizeof attr < 112 ? sizeof attr : 112; attr.type = type; attr.config = config;
}
static int open_event(int pid, int cpu, int group, unsigned long flags) {
    int fd = syscall(SYS_perf_event_open, &attr, pid, cpu, group, flags);
    return fd < 0 ? -errno : fd;
}
static uint64_t count(int fd) { uint64_t n = -1; read(fd, &n, 8); return n; }
static void touch(int pages) {
    char *p = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < pages; i++) p[i * 4096] = 1;
    munmap(p, pages * 4096);
}
#define CHECK(x) do { if (!(x)) { printf("line %d: %s\n", __LINE__, #x); return 1; } } while (0)
static void spin(void) { for (volatile int i = 0; i < 300000; i++); }
"""


@pytest.fixture
def passes(run_c):
    def go(body):
        result = run_c(HEAD + "int main(void) {\n" + body + "\nreturn 0; }\n")
        assert result.status == 0, (result.stdout + result.stderr).decode()
        return result.stdout.decode()

    return go


def test_a_count_is_read_reset_enabled_and_disabled(passes):
    passes("""
        fresh(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS_MIN); attr.disabled = 1;
        int fd = open_event(0, -1, -1, PERF_FLAG_FD_CLOEXEC); CHECK(fd >= 0);
        touch(3); CHECK(count(fd) == 0);
        ioctl(fd, PERF_EVENT_IOC_ENABLE, 0); touch(10); ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
        CHECK(count(fd) == 10); touch(5); CHECK(count(fd) == 10);
        CHECK(ioctl(fd, PERF_EVENT_IOC_RESET, 0) == 0); CHECK(count(fd) == 0);
        uint64_t small; CHECK(read(fd, &small, 4) == -1 && errno == ENOSPC);
        CHECK(ioctl(fd, 0x1234, 0) == -1 && errno == ENOTTY);
    """)


def test_a_group_is_read_at_once_with_ids_and_times(passes):
    passes("""
        fresh(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK); attr.disabled = 1;
        attr.read_format = PERF_FORMAT_GROUP | PERF_FORMAT_ID | PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
        int a = open_event(0, -1, -1, 0);
        attr.config = PERF_COUNT_SW_PAGE_FAULTS; attr.disabled = 0;
        int b = open_event(0, -1, a, 0); CHECK(a >= 0 && b >= 0);
        ioctl(a, PERF_EVENT_IOC_ENABLE, PERF_IOC_FLAG_GROUP); touch(7); spin();
        ioctl(a, PERF_EVENT_IOC_DISABLE, PERF_IOC_FLAG_GROUP);
        uint64_t v[8], ida, idb;
        CHECK(read(a, v, sizeof v) == 56);
        ioctl(a, PERF_EVENT_IOC_ID, &ida); ioctl(b, PERF_EVENT_IOC_ID, &idb);
        CHECK(v[0] == 2 && v[4] == ida && v[6] == idb && ida != idb);
        CHECK(v[1] == v[2] && v[3] > 0 && v[3] <= v[1]); CHECK(v[5] == 7);
        CHECK(read(b, v, 40) == -1 && errno == ENOSPC);
    """)


def test_children_are_counted_when_they_inherit(passes):
    passes("""
        fresh(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS); attr.inherit = 1; int with = open_event(0, -1, -1, 0);
        attr.inherit = 0; int without = open_event(0, -1, -1, 0);
        uint64_t w = count(with), wo = count(without);
        if (!fork()) { touch(50); _exit(0); }
        wait(0);
        CHECK(count(with) - w >= 50); CHECK(count(without) - wo < 20);
        char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, with, 0); CHECK(p == MAP_FAILED && errno == EINVAL);
    """)


def test_errors_are_those_of_the_manual(passes):
    passes("""
        fresh(PERF_TYPE_HARDWARE, 0); CHECK(open_event(0, -1, -1, 0) == -ENOENT);
        fresh(PERF_TYPE_HW_CACHE, 0); CHECK(open_event(0, -1, -1, 0) == -ENOENT);
        fresh(77, 0); CHECK(open_event(0, -1, -1, 0) == -ENOENT);
        fresh(PERF_TYPE_SOFTWARE, 99); CHECK(open_event(0, -1, -1, 0) == -ENOENT);
        fresh(PERF_TYPE_TRACEPOINT, 65000); CHECK(open_event(0, -1, -1, 0) == -EINVAL);
        fresh(PERF_TYPE_SOFTWARE, 0);
        CHECK(open_event(-1, -1, -1, 0) == -EINVAL); CHECK(open_event(-1, 99, -1, 0) == -EINVAL);
        CHECK(open_event(99999, -1, -1, 0) == -ESRCH); CHECK(open_event(0, -1, 0, 0) == -EBADF);
        CHECK(open_event(0, -1, -1, 16) == -EINVAL);
        attr.size = 32; CHECK(open_event(0, -1, -1, 0) == -E2BIG); CHECK(attr.size == 112);
        fresh(PERF_TYPE_SOFTWARE, 0); attr.sample_type = 1ul << 40; CHECK(open_event(0, -1, -1, 0) == -EINVAL);
        fresh(PERF_TYPE_SOFTWARE, 0); attr.freq = 1; attr.sample_freq = 1 << 30; CHECK(open_event(0, -1, -1, 0) == -EINVAL);
        fresh(PERF_TYPE_SOFTWARE, 0); attr.sample_type = PERF_SAMPLE_BRANCH_STACK; attr.branch_sample_type = 1;
        CHECK(open_event(0, -1, -1, 0) == -EOPNOTSUPP);
        fresh(PERF_TYPE_SOFTWARE, 0); int leader = open_event(0, -1, -1, 0), member = open_event(0, -1, leader, 0);
        CHECK(open_event(0, -1, member, 0) == -EINVAL); CHECK(open_event(0, 0, leader, 0) == -EINVAL);
        CHECK(ioctl(leader, PERF_EVENT_IOC_SET_FILTER, "a == 1") == -1 && errno == EINVAL);
        CHECK(setuid(1000) == 0);
        fresh(PERF_TYPE_SOFTWARE, 0); CHECK(open_event(0, -1, -1, 0) == -EACCES);
        attr.exclude_kernel = 1; CHECK(open_event(0, -1, -1, 0) >= 0);
        CHECK(open_event(-1, 0, -1, 0) == -EACCES); CHECK(open_event(1, -1, -1, 0) == -EACCES);
    """)


SAMPLES = """
    struct perf_event_mmap_page *page = mmap(0, 3 * 4096 - 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(page != MAP_FAILED); CHECK(page->data_offset == 4096 && page->data_size == 4096);
    char *data = (char *)page + 4096;
"""


def test_samples_arrive_in_the_mapped_buffer_and_wake_the_poller(passes):
    passes("""
        fresh(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS); attr.sample_period = 1; attr.wakeup_events = 4; attr.disabled = 1;
        attr.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_ADDR | PERF_SAMPLE_CPU;
        int fd = open_event(0, -1, -1, 0);
    """ + SAMPLES + """
        struct pollfd p = { fd, POLLIN };
        CHECK(poll(&p, 1, 0) == 0);
        char *m = mmap(0, 6 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
        for (int i = 0; i < 6; i++) m[i * 4096] = 1;
        ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
        CHECK(poll(&p, 1, 1000) == 1 && p.revents == POLLIN); CHECK(poll(&p, 1, 0) == 0);
        struct sample { struct perf_event_header h; uint64_t ip; uint32_t pid, tid; uint64_t time, addr; uint32_t cpu, res; } s;
        CHECK(page->data_head == 6 * sizeof s);
        uint64_t last = 0;
        for (int i = 0; i < 6; i++) {
            memcpy(&s, data + i * sizeof s, sizeof s);
            CHECK(s.h.type == PERF_RECORD_SAMPLE && s.h.size == sizeof s && (s.h.misc & 7) == PERF_RECORD_MISC_USER);
            CHECK(s.ip > (uint64_t)main - 4096 && s.ip < (uint64_t)main + 65536); CHECK(s.addr == (uint64_t)m + i * 4096);
            CHECK(s.pid == getpid() && s.tid == getpid() && s.time > last); last = s.time;
        }
        m = (char *)page; CHECK(munmap(page, 8192) == 0);
    """)


def test_what_does_not_fit_is_counted(passes):
    passes("""
        fresh(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS); attr.sample_period = 1; attr.sample_type = PERF_SAMPLE_ADDR;
        attr.disabled = 1;
        int fd = open_event(0, -1, -1, 0);
    """ + SAMPLES + """
        ioctl(fd, PERF_EVENT_IOC_ENABLE, 0); touch(400); ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
        CHECK(page->data_head == 255 * 16); CHECK(count(fd) == 400);
        page->data_tail = page->data_head;
        ioctl(fd, PERF_EVENT_IOC_ENABLE, 0); touch(1); ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
        struct perf_event_header *h = (void *)(data + 255 * 16);
        uint64_t *lost = (void *)data;                       /* the record goes around the end */
        CHECK(h->type == PERF_RECORD_LOST && h->size == 24); CHECK(lost[0] == 145 || lost[-0] == 145);
        ioctl(fd, PERF_EVENT_IOC_PAUSE_OUTPUT, 1); uint64_t head = page->data_head;
        ioctl(fd, PERF_EVENT_IOC_ENABLE, 0); touch(3); CHECK(page->data_head == head);
    """)


def test_refresh_stops_after_so_many_overflows(passes):
    passes("""
        fresh(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS); attr.sample_period = 1; attr.sample_type = PERF_SAMPLE_IP; attr.disabled = 1;
        int fd = open_event(0, -1, -1, 0);
    """ + SAMPLES + """
        CHECK(ioctl(fd, PERF_EVENT_IOC_REFRESH, 3) == 0);
        char *m = mmap(0, 40960, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int i = 0; i < 10; i++) { m[i * 4096] = 1; getppid(); }
        CHECK(count(fd) >= 3 && count(fd) < 10); (void)data;
        uint64_t period = 0; CHECK(ioctl(fd, PERF_EVENT_IOC_PERIOD, &period) == -1 && errno == EINVAL);
        period = 2; CHECK(ioctl(fd, PERF_EVENT_IOC_PERIOD, &period) == 0);
    """)


def test_records_tell_names_forks_exits_and_mappings(passes):
    passes("""
        fresh(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY); attr.comm = attr.task = attr.mmap2 = attr.mmap = 1; attr.mmap_data = 1;
        attr.sample_id_all = 1; attr.sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_TIME;
        int fd = open_event(0, -1, -1, 0);
    """ + SAMPLES + """
        prctl(PR_SET_NAME, "renamed");
        mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        int child = fork(); if (!child) _exit(0);
        wait(0);
        int seen[20] = {0};
        for (uint64_t at = 0; at < page->data_head;) {
            struct perf_event_header *h = (void *)(data + at); CHECK(h->type < 20 && h->size); seen[h->type]++;
            uint32_t *w = (uint32_t *)(h + 1);
            if (h->type == PERF_RECORD_COMM) CHECK(w[0] == getpid() && !strcmp((char *)(w + 2), "renamed"));
            if (h->type == PERF_RECORD_FORK) CHECK(w[0] == child && w[1] == getpid() && w[2] == child);
            if (h->type == PERF_RECORD_MMAP2 && !(h->misc & PERF_RECORD_MISC_MMAP_DATA)) {
                CHECK(*(uint64_t *)(w + 4) == 4096); CHECK(w[14] == (PROT_READ | PROT_EXEC) && w[15] == MAP_PRIVATE);
                CHECK(!strcmp((char *)(w + 16), "//anon"));
            }
            at += h->size;
        }
        CHECK(seen[PERF_RECORD_COMM] == 1 && seen[PERF_RECORD_FORK] == 1 && seen[PERF_RECORD_MMAP2] >= 1);
        CHECK(seen[PERF_RECORD_SAMPLE] == 0);
    """)


def test_another_events_buffer(passes):
    passes("""
        fresh(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY); attr.sample_type = PERF_SAMPLE_IDENTIFIER; int fd = open_event(0, -1, -1, 0);
    """ + SAMPLES + """
        attr.config = PERF_COUNT_SW_PAGE_FAULTS; attr.sample_period = 1; attr.disabled = 1; int other = open_event(0, -1, -1, 0);
        CHECK(ioctl(other, PERF_EVENT_IOC_SET_OUTPUT, fd) == 0); CHECK(ioctl(fd, PERF_EVENT_IOC_SET_OUTPUT, fd) == -1 && errno == EINVAL);
        ioctl(other, PERF_EVENT_IOC_ENABLE, 0); touch(2); ioctl(other, PERF_EVENT_IOC_DISABLE, 0);
        uint64_t id, *words = (void *)data; ioctl(other, PERF_EVENT_IOC_ID, &id);
        CHECK(page->data_head >= 32 && words[1] == id);
    """)


def test_throttling_and_clock_samples(passes):
    passes("""
        fresh(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK); attr.sample_period = 100000; attr.sample_type = PERF_SAMPLE_TIME; attr.disabled = 1;
        int fd = open_event(0, -1, -1, 0);
    """ + SAMPLES + """
        ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
        while (count(fd) < 3000000) spin();
        ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
        uint64_t n = page->data_head / 16, c = count(fd); (void)data;
        CHECK(n + 2 >= c / 100000 && n <= c / 100000 + 1);
    """)


def test_sysctl_and_sysfs(run):
    result = run("cat /proc/sys/kernel/perf_event_paranoid /proc/sys/kernel/perf_event_mlock_kb "
                 "/proc/sys/kernel/perf_event_max_sample_rate /sys/bus/event_source/devices/software/type")
    assert result.stdout.decode().split() == ["2", "516", "100000", "1"]


def test_breakpoints_count_writes_and_calls(passes):
    passes("""
        static volatile long watched;
        fresh(PERF_TYPE_BREAKPOINT, 0); attr.bp_type = 2; attr.bp_addr = (long)&watched; attr.bp_len = 8; attr.disabled = 1;
        int w = open_event(0, -1, -1, 0); CHECK(w >= 0);
        fresh(PERF_TYPE_BREAKPOINT, 0); attr.bp_type = 4; attr.bp_addr = (long)spin; attr.bp_len = 8; attr.disabled = 1;
        attr.sample_period = 1; attr.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_ADDR;
        int fd = open_event(0, -1, -1, 0); CHECK(fd >= 0);
    """ + SAMPLES + """
        ioctl(w, PERF_EVENT_IOC_ENABLE, 0);
        for (int i = 1; i <= 5; i++) watched = i;
        ioctl(w, PERF_EVENT_IOC_DISABLE, 0); watched = 9;
        CHECK(count(w) == 5);
        ioctl(fd, PERF_EVENT_IOC_ENABLE, 0); touch(1); ioctl(fd, PERF_EVENT_IOC_DISABLE, 0); CHECK(count(fd) == 0);
        attr.bp_addr = (long)touch; int t = open_event(0, -1, -1, 0);
        ioctl(t, PERF_EVENT_IOC_SET_OUTPUT, fd); ioctl(t, PERF_EVENT_IOC_ENABLE, 0); touch(1); touch(1);
        ioctl(t, PERF_EVENT_IOC_DISABLE, 0); CHECK(count(t) == 2);
        uint64_t *words = (void *)data; CHECK(page->data_head == 48 && words[1] == (long)touch && words[2] == (long)touch);
        CHECK(open_event(0, -1, -1, 0) >= 0); CHECK(open_event(0, -1, -1, 0) == -ENOSPC);
        close(t); CHECK(open_event(0, -1, -1, 0) >= 0);
        attr.bp_type = 2; attr.bp_len = 3; CHECK(open_event(0, -1, -1, 0) == -EINVAL);
        attr.bp_type = 1; attr.bp_len = 8; CHECK(open_event(0, -1, -1, 0) == -EINVAL);
    """)
