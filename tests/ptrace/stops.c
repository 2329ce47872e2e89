/* ptrace(2): signals on their way, events of fork, exec and exit, group stops of seized processes. */
#include "tracer.h"
#include <pthread.h>
#include <sched.h>

#define OPTIONS (PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC                  \
                 | PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXIT)
#define STOP 128

static volatile int usr1, usr2, value;
static char self[4096];

static void note(int sig, siginfo_t *info, void *context)
{
    (void)context;
    if (sig == SIGUSR1)
        usr1++;
    else
        usr2++;
    value = info->si_value.sival_int;
}

static void handlers(void)
{
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
}

static int signals(void)
{
    handlers();
    raise(SIGUSR1);                                     /* suppressed */
    if (usr1)
        return 1;
    raise(SIGUSR1);                                     /* becomes SIGUSR2 */
    if (usr1 || usr2 != 1)
        return 2;
    union sigval v = {5};
    sigqueue(getpid(), SIGUSR1, v);                     /* its value is changed */
    return usr1 == 1 && value == 99 ? 0 : 3;
}

static int masked(void)
{
    sigset_t set;
    handlers();
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    union sigval v = {11};
    sigqueue(getpid(), SIGUSR1, v);
    raise(SIGTRAP);
    return usr1;
}

static int forks(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(7);
    int status;
    waitpid(pid, &status, 0);
    return status == 7 << 8 ? 0 : 1;
}

static int vforks(void)
{
    pid_t pid = vfork();
    if (pid == 0)
        _exit(7);
    int status;
    waitpid(pid, &status, 0);
    return status == 7 << 8 ? 0 : 1;
}

static void *nothing(void *p) { return p; }
static int threads(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, nothing, NULL);
    return pthread_join(thread, NULL);
}

static int execs(void)
{
    execl(self, self, "8", (char *)NULL);
    return 1;
}

static void *exec_here(void *p)
{
    execs();
    return p;
}

static int thread_execs(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, exec_here, NULL);
    pause();
    return 1;
}

static int clones(void)
{
    pid_t pid = syscall(SYS_clone, CLONE_PTRACE | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(7);
    int status;
    while (waitpid(pid, &status, 0) < 0)
        ;
    pid = syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(7);
    waitpid(pid, &status, 0);
    return status == 7 << 8 ? 0 : 1;
}

static int __attribute__((noreturn)) sleeps(void)
{
    for (;;)
        pause();
}

static void signal_stops(void)
{
    pid_t pid = tracee(signals);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("a signal stops the tracee", stopped_by(wait_status(pid), SIGUSR1));
    siginfo_t info = info_of(pid);
    CHECK("its siginfo", info.si_signo == SIGUSR1 && info.si_code == SI_TKILL && info.si_pid == pid);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("suppressed; the next one", stopped_by(wait_status(pid), SIGUSR1));
    xptrace(PT_CONT, pid, 0, SIGUSR2);
    CHECK("another injected; the queued one", stopped_by(wait_status(pid), SIGUSR1));
    info = info_of(pid);
    CHECK("with its value", info.si_code == SI_QUEUE && info.si_value.sival_int == 5);
    info.si_value.sival_int = 99;
    CHECK("changed", xptrace(PTRACE_SETSIGINFO, pid, 0, (long)&info) == 0);
    xptrace(PT_CONT, pid, 0, SIGUSR1);
    CHECK("all as the tracer said", wait_status(pid) == 0);

    pid = tracee(masked);
    xptrace(PT_CONT, pid, 0, 0);
    wait_status(pid);
    unsigned long mask = 0;
    siginfo_t queued[2] = {{0}};
    struct ptrace_peeksiginfo_args args = {0, 1, 2};
    CHECK("the mask", xptrace(PTRACE_GETSIGMASK, pid, 8, (long)&mask) == 0 && mask == 1UL << (SIGUSR1 - 1));
    CHECK("the process's queue", xptrace(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)queued) == 1
          && queued[0].si_signo == SIGUSR1 && queued[0].si_value.sival_int == 11);
    args.flags = 0;
    CHECK("the thread's queue", xptrace(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)queued) == 0);
    args.flags = 2;
    CHECK("no such queue: EINVAL", FAILS(xptrace(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)queued), EINVAL));
    mask = 0;
    CHECK("unblocked from outside", xptrace(PTRACE_SETSIGMASK, pid, 8, (long)&mask) == 0);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("so it comes", stopped_by(wait_status(pid), SIGUSR1));
    xptrace(PT_CONT, pid, 0, SIGUSR1);
    CHECK("and is handled", wait_status(pid) == 1 << 8);
}

static void events(void)
{
    pid_t pid = tracee(forks), child;
    int status;
    CHECK("options", xptrace(PTRACE_SETOPTIONS, pid, 0, OPTIONS) == 0);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("fork", event(wait_status(pid), PTRACE_EVENT_FORK, SIGTRAP));
    child = message(pid);
    CHECK("its message is the child", child > 1 && kill(child, 0) == 0);
    CHECK("the child is traced and stopped", stopped_by(wait_status(child), SIGSTOP) && tracer_of(child) == getpid());
    xptrace(PT_CONT, child, 0, 0);
    CHECK("it tells its exit", event(wait_status(child), PTRACE_EVENT_EXIT, SIGTRAP) && message(child) == 7 << 8);
    xptrace(PT_CONT, child, 0, 0);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("the tracer sees the end of the child", wait_status(child) == 7 << 8);
    CHECK("its parent too", stopped_by(wait_status(pid), SIGCHLD));
    xptrace(PT_CONT, pid, 0, SIGCHLD);
    CHECK("exit", event(wait_status(pid), PTRACE_EVENT_EXIT, SIGTRAP) && message(pid) == 0);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("the parent could wait as ever", wait_status(pid) == 0);

    pid = tracee(vforks);
    xptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("vfork", event(wait_status(pid), PTRACE_EVENT_VFORK, SIGTRAP));
    child = message(pid);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("the child stops", stopped_by(wait_status(child), SIGSTOP));
    CHECK("the parent waits for it", waitpid(pid, &status, WNOHANG | __WALL) == 0);
    xptrace(PT_CONT, child, 0, 0);
    CHECK("the child is gone", wait_status(child) == 7 << 8);
    status = wait_status(pid);
    if (stopped_by(status, SIGCHLD)) {                  /* either may come first */
        xptrace(PT_CONT, pid, 0, SIGCHLD);
        status = wait_status(pid);
    }
    CHECK("vfork is done", event(status, PTRACE_EVENT_VFORK_DONE, SIGTRAP));
    CHECK("message of that", message(pid) == (unsigned long)child);
    do {
        xptrace(PT_CONT, pid, 0, 0);
        status = wait_status(pid);
    } while (WIFSTOPPED(status));
    CHECK("ends", status == 0);

    pid = tracee(threads);
    xptrace(PTRACE_SETOPTIONS, pid, 0, OPTIONS);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("clone", event(wait_status(pid), PTRACE_EVENT_CLONE, SIGTRAP));
    child = message(pid);
    CHECK("a thread is waited for with __WALL", stopped_by(wait_status(child), SIGSTOP));
    xptrace(PT_CONT, pid, 0, 0);
    xptrace(PT_CONT, child, 0, 0);
    CHECK("its exit", event(wait_status(child), PTRACE_EVENT_EXIT, SIGTRAP));
    xptrace(PT_CONT, child, 0, 0);
    CHECK("its end", wait_status(child) == 0);
    CHECK("the process's", event(wait_status(pid), PTRACE_EVENT_EXIT, SIGTRAP));
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("ends", wait_status(pid) == 0);

    pid = tracee(clones);
    siginfo_t info = {0};
    xptrace(PT_CONT, pid, 0, 0);
    while (waitid(P_ALL, 0, &info, WSTOPPED | WNOWAIT | __WALL) == 0 && info.si_pid == pid)
        ;
    child = info.si_pid;
    CHECK("CLONE_PTRACE: traced, though nobody asked", info.si_code == CLD_TRAPPED && info.si_status == SIGSTOP
          && tracer_of(child) == getpid() && stopped_by(wait_status(child), SIGSTOP));
    xptrace(PTRACE_SETOPTIONS, pid, 0, 0);
    xptrace(PT_CONT, child, 0, 0);
    CHECK("ends", wait_status(child) == 7 << 8);
    CHECK("its parent too", stopped_by(wait_status(pid), SIGCHLD));
    CHECK("an option for all children", xptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEFORK) == 0);
    xptrace(PT_CONT, pid, 0, SIGCHLD);
    CHECK("does not hold for CLONE_UNTRACED", stopped_by(wait_status(pid), SIGCHLD));
    xptrace(PT_CONT, pid, 0, SIGCHLD);
    CHECK("ends", wait_status(pid) == 0);

    pid = tracee(execs);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("exec without its option: SIGTRAP", stopped_by(wait_status(pid), SIGTRAP));
    CHECK("by kill", info_of(pid).si_code == SI_USER);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("ends", wait_status(pid) == 8 << 8);

    pid = tracee(execs);
    xptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXEC);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("exec", event(wait_status(pid), PTRACE_EVENT_EXEC, SIGTRAP) && message(pid) == (unsigned long)pid);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("ends", wait_status(pid) == 8 << 8);

    pid = tracee(thread_execs);
    xptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXEC | PTRACE_O_TRACECLONE);
    xptrace(PT_CONT, pid, 0, 0);
    wait_status(pid);
    child = message(pid);
    wait_status(child);
    xptrace(PT_CONT, pid, 0, 0);
    xptrace(PT_CONT, child, 0, 0);
    CHECK("a thread's exec is the leader's", event(wait_status(pid), PTRACE_EVENT_EXEC, SIGTRAP));
    CHECK("its message is the thread", message(pid) == (unsigned long)child);
    CHECK("the thread is gone", FAILS(waitpid(child, &status, __WALL), ECHILD));
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("ends", wait_status(pid) == 8 << 8);

    pid = tracee(sleeps);
    xptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXIT);
    xptrace(PT_CONT, pid, 0, 0);
    kill(pid, SIGKILL);
    CHECK("even SIGKILL has its event", event(wait_status(pid), PTRACE_EVENT_EXIT, SIGTRAP) && message(pid) == SIGKILL);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("then it dies", wait_status(pid) == SIGKILL);
}

static void group_stops(void)
{
    fflush(stdout);
    pid_t pid = fork();
    int status;
    if (pid == 0)
        sleeps();
    wait_state(pid, 'S');
    CHECK("seized", xptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT) == 0);
    CHECK("it runs on", waitpid(pid, &status, WNOHANG) == 0 && state_of(pid) == 'S');
    CHECK("so it cannot be asked: ESRCH", FAILS(xptrace(PEEKDATA, pid, (long)&value, (long)&status), ESRCH));
    CHECK("interrupt", xptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0);
    CHECK("an event stop", event(wait_status(pid), STOP, SIGTRAP));
    CHECK("listening needs a stop", xptrace(PTRACE_LISTEN, pid, 0, 0) == 0);
    CHECK("a listener cannot be asked: ESRCH", FAILS(xptrace(PT_CONT, pid, 0, 0), ESRCH));
    CHECK("but interrupted", xptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0 && event(wait_status(pid), STOP, SIGTRAP));
    xptrace(PT_CONT, pid, 0, 0);
    kill(pid, SIGSTOP);
    CHECK("a stop signal is a signal", stopped_by(wait_status(pid), SIGSTOP));
    xptrace(PT_CONT, pid, 0, SIGSTOP);
    CHECK("then the group stops", event(wait_status(pid), STOP, SIGSTOP));
    CHECK("which has a siginfo", info_of(pid).si_code == (STOP << 8 | SIGSTOP));
    CHECK("listen", xptrace(PTRACE_LISTEN, pid, 0, 0) == 0);
    CHECK("nothing yet", waitpid(pid, &status, WNOHANG) == 0);
    kill(pid, SIGCONT);
    CHECK("it tells of the end of the stop", event(wait_status(pid), STOP, SIGTRAP));
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("then of SIGCONT", stopped_by(wait_status(pid), SIGCONT));
    CHECK("detach", xptrace(PT_DETACH, pid, 0, SIGTERM) == 0);
    CHECK("with a signal", wait_status(pid) == SIGTERM);
}

static void attaching(void)
{
    fflush(stdout);
    pid_t pid = fork();
    int status;
    if (pid == 0)
        sleeps();
    kill(pid, SIGSTOP);
    CHECK("stopped before", waitpid(pid, &status, WUNTRACED) == pid && stopped_by(status, SIGSTOP));
    CHECK("attach", xptrace(PT_ATTACH, pid, 0, 0) == 0);
    CHECK("it is traced at once", state_of(pid) == 't');
    CHECK("stopped", stopped_by(wait_status(pid), SIGSTOP));
    CHECK("by its group: no siginfo", FAILS(xptrace(PTRACE_GETSIGINFO, pid, 0, (long)&status), EINVAL)
          || info_of(pid).si_signo == SIGSTOP);
    CHECK("let go, it stays stopped", xptrace(PT_DETACH, pid, 0, 0) == 0 && (wait_state(pid, 'T'), state_of(pid) == 'T'));
    kill(pid, SIGCONT);
    wait_state(pid, 'S');
    CHECK("until SIGCONT", state_of(pid) == 'S');
    CHECK("attached while it sleeps", xptrace(PT_ATTACH, pid, 0, 0) == 0 && stopped_by(wait_status(pid), SIGSTOP));
    CHECK("the call will be restarted", (long)peekuser(pid, USER(rax)) == -514 && peekuser(pid, USER(orig_rax)) == SYS_pause);
    CHECK("killed by ptrace", xptrace(PT_KILL, pid, 0, 0) == 0 && wait_status(pid) == SIGKILL);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return atoi(argv[1]);
    self[readlink("/proc/self/exe", self, sizeof self - 1)] = 0;
    signal_stops();
    events();
    group_stops();
    attaching();
    DONE();
}
