/* Runs DIR/0000, DIR/0001, ... and prints how each ended: "errno N", "exit N" or "signal N". */
#include "check.h"
#include <sys/time.h>

int main(int argc, char **argv)
{
    char path[4096];
    struct itimerval limit = {{0, 0}, {0, 50000}};
    (void)argc;
    for (int i = 0; i < atoi(argv[2]); i++) {
        int report[2], status, error = 0;
        snprintf(path, sizeof path, "%s/%04d", argv[1], i);
        if (pipe2(report, O_CLOEXEC) < 0)
            return 1;
        pid_t pid = fork();
        if (!pid) {
            char *av[] = {path, NULL}, *no_env[] = {NULL};
            setitimer(ITIMER_REAL, &limit, NULL);
            execve(path, av, no_env);
            error = errno;
            _exit(write(report[1], &error, sizeof error) < 0);
        }
        close(report[1]);
        waitpid(pid, &status, 0);
        if (read(report[0], &error, sizeof error) == sizeof error)
            printf("errno %d\n", error);
        else if (WIFSIGNALED(status))
            printf("signal %d\n", WTERMSIG(status));
        else
            printf("exit %d\n", WEXITSTATUS(status));
        close(report[0]);
    }
    return 0;
}
