/* Endless loops side by side: hogs MILLISECONDS POLICY:PRIORITY-OR-NICE:CPU ... prints the CPU time of each, in us.
 *
 * POLICY: o other, b batch, i idle, f fifo, r rr. CPU: a number, or * for any. */
#include "check.h"
#include <sched.h>

int main(int argc, char **argv)
{
    int ms = atoi(argv[1]), n = argc - 2;
    pid_t pid[n];
    struct sched_param high = {99};
    sched_setscheduler(0, SCHED_FIFO, &high); /* so that all start together */
    for (int i = 0; i < n; i++) {
        char policy, cpu;
        int value;
        if (sscanf(argv[i + 2], "%c:%d:%c", &policy, &value, &cpu) != 3)
            return 2;
        pid[i] = fork();
        if (pid[i] == 0) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(cpu == '*' ? 0 : cpu - '0', &set);
            if (cpu != '*' && sched_setaffinity(0, sizeof set, &set))
                _exit(3);
            int real_time = policy == 'f' || policy == 'r';
            struct sched_param param = {real_time ? value : 0};
            int number = policy == 'f' ? SCHED_FIFO : policy == 'r' ? SCHED_RR : policy == 'i' ? SCHED_IDLE
                         : policy == 'b' ? SCHED_BATCH : SCHED_OTHER;
            if (sched_setscheduler(0, number, &param) || (!real_time && setpriority(PRIO_PROCESS, 0, value)))
                _exit(4);
            for (;;)
                ;
        }
    }
    sleep_ms(ms);
    for (int i = 0; i < n; i++)
        kill(pid[i], SIGKILL);
    for (int i = 0; i < n; i++) {
        struct rusage use;
        int status;
        wait4(pid[i], &status, 0, &use);
        if (!WIFSIGNALED(status))
            return 5;
        printf("%ld\n", use.ru_utime.tv_sec * 1000000L + use.ru_utime.tv_usec);
    }
    return 0;
}
