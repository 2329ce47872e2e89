/* ptrace(2): when tracer or parent ends, and who gets the zombie. */
#include "tracer.h"
#include <poll.h>
#include <pthread.h>

static int gate[2];

/* Runs body in a process of its own, which becomes the tracer; answers its exit status. */
static int tracer(int (*body)(pid_t), pid_t target)
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        _exit(body(target));
    waitpid(pid, &status, 0);
    return status;
}

static pid_t sleeper(void)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        for (;;)
            pause();
    wait_state(pid, 'S');
    return pid;
}

static int attach_and_exit(pid_t pid)
{
    return xptrace(PT_ATTACH, pid, 0, 0) || !stopped_by(wait_status(pid), SIGSTOP);
}

static int seize_and_exit(pid_t pid) { return xptrace(PTRACE_SEIZE, pid, 0, 0) != 0; }
static int exitkill_and_exit(pid_t pid) { return xptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL) != 0; }

static int kill_and_wait(pid_t pid)
{
    int status;
    if (xptrace(PTRACE_SEIZE, pid, 0, 0))
        return 1;
    kill(pid, SIGKILL);
    if (wait_status(pid) != SIGKILL)
        return 2;
    if (!FAILS(waitpid(pid, &status, __WALL), ECHILD))
        return 3;
    return 0;
}

static int kill_and_leave(pid_t pid)
{
    if (xptrace(PTRACE_SEIZE, pid, 0, 0))
        return 1;
    kill(pid, SIGKILL);
    wait_state(pid, 'Z');
    char byte = 0;
    if (write(gate[1], &byte, 1) != 1)
        return 2;
    sleep_ms(20);
    return 0;
}

static int attach_stop_exit(pid_t pid)                  /* the group stops while traced; the tracer ends */
{
    if (xptrace(PTRACE_SEIZE, pid, 0, 0))
        return 1;
    kill(pid, SIGSTOP);
    if (!stopped_by(wait_status(pid), SIGSTOP))
        return 2;
    xptrace(PT_CONT, pid, 0, SIGSTOP);
    return !event(wait_status(pid), 128, SIGSTOP);
}

static int refused(pid_t pid) { return !FAILS(xptrace(PT_ATTACH, pid, 0, 0), EPERM); }

static int as_nobody(pid_t pid)
{
    if (setgid(65534) || setuid(65534))
        return 2;
    return !FAILS(xptrace(PT_ATTACH, pid, 0, 0), EPERM);
}

static void *attach_thread(void *pid)
{
    return (void *)xptrace(PTRACE_SEIZE, (long)pid, 0, 0);
}

static int twice(void)
{
    return FAILS(xptrace(PT_TRACEME, 0, 0, 0), EPERM) ? 0 : 1;
}

static int parent_leaves(void)                          /* the tracee of a parent that just exits */
{
    pid_t pid = fork();
    if (pid == 0) {
        xptrace(PT_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        char byte = 1;
        _exit(write(gate[1], &byte, 1) != 1);
    }
    wait_status(pid);
    return 0;
}

int main(void)
{
    int status;
    char byte;
    if (pipe(gate))
        return 2;
    pid_t pid = sleeper();
    CHECK("a tracer attaches and exits", tracer(attach_and_exit, pid) == 0);
    wait_state(pid, 'S');
    CHECK("its tracee goes on", state_of(pid) == 'S' && tracer_of(pid) == 0);
    CHECK("seized, the same", tracer(seize_and_exit, pid) == 0 && tracer_of(pid) == 0 && state_of(pid) == 'S');
    CHECK("the group stops while traced", tracer(attach_stop_exit, pid) == 0);
    wait_state(pid, 'T');
    CHECK("it stays stopped without the tracer", state_of(pid) == 'T');
    CHECK("its parent hears of it", waitpid(pid, &status, WUNTRACED | WNOHANG) == pid && stopped_by(status, SIGSTOP));
    kill(pid, SIGCONT);
    CHECK("and that it goes on", waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status));
    CHECK("a tracer with EXITKILL", tracer(exitkill_and_exit, pid) == 0);
    CHECK("takes its tracee along", wait_status(pid) == SIGKILL);

    pid = sleeper();
    CHECK("a tracer sees the end, once", tracer(kill_and_wait, pid) == 0);
    CHECK("the parent still gets its zombie", wait_status(pid) == SIGKILL);

    pid = sleeper();
    fflush(stdout);
    pid_t other = fork();
    if (other == 0)
        _exit(kill_and_leave(pid));
    CHECK("a dead tracee", read(gate[0], &byte, 1) == 1 && state_of(pid) == 'Z');
    CHECK("is the tracer's first", waitpid(pid, &status, WNOHANG) == 0);
    CHECK("then the parent's", wait_status(pid) == SIGKILL);
    CHECK("ends", wait_status(other) == 0);

    pid = sleeper();
    pthread_t thread;
    void *answer;
    pthread_create(&thread, NULL, attach_thread, (void *)(long)pid);
    pthread_join(thread, &answer);
    CHECK("a thread traces", answer == NULL);
    CHECK("until it exits", (wait_state(pid, 'S'), tracer_of(pid) == 0));
    CHECK("one tracer", xptrace(PTRACE_SEIZE, pid, 0, 0) == 0);
    CHECK("not two: EPERM", tracer(refused, pid) == 0);
    CHECK("detaching needs a stop: ESRCH", FAILS(xptrace(PT_DETACH, pid, 0, 0), ESRCH));
    xptrace(PTRACE_INTERRUPT, pid, 0, 0);
    wait_status(pid);
    CHECK("detach", xptrace(PT_DETACH, pid, 0, 0) == 0 && tracer_of(pid) == 0);
    if (getuid() == 0)
        CHECK("another user: EPERM", tracer(as_nobody, pid) == 0);
    else
        printf("PASS another user: EPERM\n");
    kill(pid, SIGKILL);
    wait_status(pid);

    pid = tracee(twice);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("traceme twice: EPERM", wait_status(pid) == 0);

    pid = tracee(twice);
    kill(pid, SIGKILL);
    CHECK("SIGKILL ends a stop", wait_status(pid) == SIGKILL);

    fflush(stdout);
    pid = fork();
    if (pid == 0)
        _exit(parent_leaves());
    wait_status(pid);
    struct pollfd fd = {gate[0], POLLIN, 0};
    CHECK("an orphaned tracee goes on", poll(&fd, 1, 2000) == 1 && read(gate[0], &byte, 1) == 1 && byte == 1);
    DONE();
}
