/* A074: an orphan's new parent is the nearest subreaper, otherwise init of its pid namespace. */
#include "check.h"
#include <sys/prctl.h>

static int report; /* the orphan writes its parent's pid here */

static pid_t parent_of_orphan(void)
{
    int p[2];
    pid_t seen = 0;
    (void)!pipe(p);
    report = p[1];
    pid_t middle = fork();
    if (middle == 0) {
        pid_t old = getpid();
        if (fork() == 0) {
            while (getppid() == old)
                sleep_ms(1);
            pid_t new = getppid();
            (void)!write(report, &new, sizeof new);
            _exit(0);
        }
        _exit(0);
    }
    waitpid(middle, NULL, 0);
    (void)!read(p[0], &seen, sizeof seen);
    close(p[0]);
    close(p[1]);
    return seen;
}

static int without_subreaper(void *arg)
{
    pid_t seen = parent_of_orphan();
    return seen == getpid() ? 1 : 0;
}

int main(void)
{
    CHECK("not adopted by its grandparent", run_child(without_subreaper, NULL) == 0);
    CHECK("PR_SET_CHILD_SUBREAPER", prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    int on = 0;
    CHECK("PR_GET_CHILD_SUBREAPER", prctl(PR_GET_CHILD_SUBREAPER, &on) == 0 && on == 1);
    CHECK("adopted by the subreaper", parent_of_orphan() == getpid());
    CHECK("which can wait for it", wait(NULL) > 0);
    CHECK("and has no other child", FAILS(wait(NULL), ECHILD));
    DONE();
}
