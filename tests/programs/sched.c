/* Scheduling parameters: nice values, policies, CPU affinity, and what each call refuses. */
#include "check.h"
#include <sched.h>
#include <sys/sysinfo.h>

static int lower_priority(void *arg)
{
    if (nice(5) != 5 || getpriority(PRIO_PROCESS, 0) != 5)
        return 1;
    if (setpriority(PRIO_PROCESS, 0, 100) != 0 || getpriority(PRIO_PROCESS, 0) != 19)
        return 2;
    return nice(-100) == -20 || errno == EPERM || errno == EACCES ? 0 : 3;
}

static int pin(void *arg)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    if (sched_setaffinity(0, sizeof set, &set) || sched_getaffinity(0, sizeof set, &set))
        return 1;
    sched_yield();
    return CPU_COUNT(&set) == 1 && sched_getcpu() == 0 ? 0 : 2;
}

static int batch(void *arg)
{
    struct sched_param param = {0};
    if (sched_setscheduler(0, SCHED_BATCH, &param) || sched_getscheduler(0) != SCHED_BATCH)
        return 1;
    pid_t child = fork();
    if (child == 0)
        _exit(sched_getscheduler(0) == SCHED_BATCH ? 0 : 1);
    int status;
    waitpid(child, &status, 0);
    return status != 0;
}

int main(void)
{
    errno = 0;
    CHECK("the nice value starts at 0", getpriority(PRIO_PROCESS, 0) == 0);
    CHECK("the system call returns 20 - nice", syscall(SYS_getpriority, PRIO_PROCESS, 0) == 20);
    CHECK("nice and setpriority clamp", run_child(lower_priority, NULL) == 0);
    CHECK("a process that is not there is ESRCH", FAILS(getpriority(PRIO_PROCESS, 0x7ffffff0), ESRCH));
    CHECK("an unknown `which` is EINVAL", FAILS(getpriority(9, 0), EINVAL));
    CHECK("setpriority too", FAILS(setpriority(PRIO_PROCESS, 0x7ffffff0, 0), ESRCH));

    cpu_set_t set;
    CHECK("sched_getaffinity", sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) >= 1);
    CHECK("the system call returns the mask's size",
          syscall(SYS_sched_getaffinity, 0, sizeof set, &set) >= (long)sizeof(long));
    CHECK("a process can be pinned to CPU 0", run_child(pin, NULL) == 0);
    CPU_ZERO(&set);
    CHECK("an empty mask is EINVAL", FAILS(sched_setaffinity(0, sizeof set, &set), EINVAL));
    CHECK("a mask too short is EINVAL", FAILS(syscall(SYS_sched_getaffinity, 0, 1, &set), EINVAL));
    CHECK("get_nprocs counts CPUs", get_nprocs() >= 1);
    unsigned cpu = 99, node = 99;
    CHECK("getcpu", syscall(SYS_getcpu, &cpu, &node, NULL) == 0 && cpu < 99 && node < 99);

    struct sched_param param = {1};
    CHECK("the policy starts as SCHED_OTHER", sched_getscheduler(0) == SCHED_OTHER);
    CHECK("SCHED_OTHER has no priority", FAILS(sched_setscheduler(0, SCHED_OTHER, &param), EINVAL));
    CHECK("priority limits", sched_get_priority_max(SCHED_FIFO) == 99 && sched_get_priority_min(SCHED_FIFO) == 1 &&
                                 sched_get_priority_max(SCHED_OTHER) == 0);
    CHECK("an unknown policy is EINVAL", FAILS(sched_get_priority_max(99), EINVAL));
    CHECK("SCHED_BATCH is inherited", run_child(batch, NULL) == 0);
    struct timespec ts;
    CHECK("sched_rr_get_interval", sched_rr_get_interval(0, &ts) == 0);
    CHECK("of nobody is ESRCH", FAILS(sched_rr_get_interval(0x7ffffff0, &ts), ESRCH));
    DONE();
}
