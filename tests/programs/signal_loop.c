/* C05: one handler for SIGINT and SIGUSR1, waiting in pause(). With an argument N: end after N signals. */
#include "check.h"

static volatile sig_atomic_t seen;

static void handler(int signo)
{
    static const char usr1[] = "Received SIGUSR1 signal.\n", sigint[] = "Received SIGINT signal.\n";
    if (signo == SIGUSR1)
        (void)!write(1, usr1, sizeof usr1 - 1);
    else
        (void)!write(1, sigint, sizeof sigint - 1);
    seen++;
}

int main(int argc, char **argv)
{
    int enough = argc > 1 ? atoi(argv[1]) : 0;
    signal(SIGINT, handler);
    signal(SIGUSR1, handler);
    printf("Process %d is waiting for a signal...\n", getpid());
    fflush(stdout);
    if (enough && fork() == 0) { /* a tester without a terminal */
        for (int i = 0; i < enough; i++) {
            sleep_ms(20);
            kill(getppid(), i % 2 ? SIGUSR1 : SIGINT);
        }
        _exit(0);
    }
    while (!enough || seen < enough)
        pause();
    return 0;
}
