"""Inventory A6: signals."""
from tests.conftest import PROGRAMS


def passes(result):
    assert result.status == 0, result.stdout.decode() + result.stderr.decode()
    assert b"FAIL" not in result.stdout and b"PASS" in result.stdout


def test_a_handler_runs_between_two_instructions_and_resumes_them(run_c):
    """A123, A127: every register and the flags are as before; SSE and x87 too."""
    passes(run_c("""
#include "check.h"
#include <sys/time.h>
static volatile int hits;
static void on(int s) { volatile double d = hits; d = d * 3.7 + 1; hits++; (void)!write(-1, &d, 0); }
int main(void) {
    struct itimerval every = {{0, 1000}, {0, 1000}};
    signal(SIGALRM, on);
    setitimer(ITIMER_REAL, &every, NULL);
    unsigned long bad = 0, rounds = 0;
    while (hits < 20) {
        unsigned long a = 0x1111, b = 0x2222, c = 0x3333, d = 0x4444, before, after;
        double x = 1.25, y = 2.5;
        __asm__ volatile("pushfq; pop %4; mov $20000, %%rcx; 1: dec %%rcx; jnz 1b; pushfq; pop %5\\n"
            : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "=&r"(before), "=&r"(after), "+x"(x), "+x"(y) : : "rcx", "memory");
        bad += a != 0x1111 || b != 0x2222 || c != 0x3333 || d != 0x4444 || x != 1.25 || y != 2.5;
        rounds++;
    }
    CHECK("many rounds", rounds > 5);
    CHECK("nothing was disturbed", bad == 0);
    DONE();
}""", flags=("-O1", "-static", "-mno-red-zone")))


def test_default_actions_are_those_of_signal_7(run_c):
    """A124."""
    passes(run_c("""
#include "check.h"
static int die(void *arg) { signal((long)arg, SIG_DFL); kill(getpid(), (long)arg); return 77; }
int main(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    for (long s = 1; s <= 64; s++) {
        if (s == 32 || s == 33) continue;
        char what[32];
        snprintf(what, sizeof what, "signal %ld", s);
        if (s == SIGSTOP || s == SIGTSTP || s == SIGTTIN || s == SIGTTOU) {
            pid_t pid = fork();
            if (pid == 0) { setpgid(0, 0); _exit(die((void *)s)); }
            setpgid(pid, pid);
            int status;
            waitpid(pid, &status, WUNTRACED);
            CHECK(what, (WIFSTOPPED(status) && WSTOPSIG(status) == s) || (s != SIGSTOP && WIFEXITED(status)));
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            continue;
        }
        int status = run_child(die, (void *)s);
        int ignored = s == SIGCHLD || s == SIGCONT || s == SIGURG || s == SIGWINCH;
        CHECK(what, ignored ? WIFEXITED(status) && WEXITSTATUS(status) == 77 : WIFSIGNALED(status) && WTERMSIG(status) == s);
    }
    CHECK("SIGKILL cannot be caught", FAILS(sigaction(SIGKILL, &(struct sigaction){.sa_handler = SIG_IGN}, NULL), EINVAL));
    DONE();
}"""))


def test_signals_wait_on_a_private_or_a_shared_queue(run_c):
    """A125, A126: kill goes to the process, tgkill to one thread."""
    passes(run_c("""
#include "check.h"
#include <pthread.h>
static void *body(void *arg) {
    sigset_t set, pending;
    sigfillset(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1);
    sigpending(&pending);
    CHECK("tgkill is pending here", sigismember(&pending, SIGUSR1));
    kill(getpid(), SIGUSR2);
    sigpending(&pending);
    CHECK("kill is pending for all", sigismember(&pending, SIGUSR2));
    return NULL;
}
int main(void) {
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1), sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pthread_t t;
    pthread_create(&t, NULL, body, NULL);
    pthread_join(t, NULL);
    sigpending(&pending);
    CHECK("the thread's own is not ours", !sigismember(&pending, SIGUSR1));
    CHECK("the process's is", sigismember(&pending, SIGUSR2));
    siginfo_t si;
    CHECK("with its sender", sigwaitinfo(&set, &si) == SIGUSR2 && si.si_code == SI_USER && si.si_pid == getpid());
    union sigval v = {.sival_int = 5};
    for (int i = 0; i < 3; i++) { v.sival_int = i; sigqueue(getpid(), SIGRTMIN + 1, v); }
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    DONE();
}""".replace("for (int i = 0; i < 3; i++) { v.sival_int = i; sigqueue(getpid(), SIGRTMIN + 1, v); }\n    sigemptyset(&set);\n    sigaddset(&set, SIGRTMIN + 1);", """sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < 3; i++) { v.sival_int = i; sigqueue(getpid(), SIGRTMIN + 1, v); }
    int in_order = 1;
    for (int i = 0; i < 3; i++) in_order &= sigwaitinfo(&set, &si) == SIGRTMIN + 1 && si.si_value.sival_int == i;
    CHECK("real-time signals queue", in_order);""")))


def test_status_shows_pending_blocked_ignored_and_caught(run_c):
    """A132."""
    result = run_c("""
#include "check.h"
static void on(int s) {}
int main(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGUSR2, on);
    signal(SIGHUP, SIG_IGN);
    kill(getpid(), SIGUSR1);
    execl("/bin/cat", "cat", "/proc/self/status", NULL);
    return 1;
}""")
    fields = dict(line.split(":\t", 1) for line in result.stdout.decode().splitlines())
    usr1, hup = 1 << 9, 1 << 0
    assert int(fields["ShdPnd"], 16) == usr1 and int(fields["SigBlk"], 16) == usr1
    assert int(fields["SigIgn"], 16) == hup and int(fields["SigCgt"], 16) == 0, "exec resets handlers"


def test_killing_a_stopped_program_tells_its_parent(run_c):
    """A128, A129: SIGCHLD with CLD_STOPPED (5), then CLD_KILLED (2)."""
    passes(run_c("""
#include "check.h"
static volatile int codes[8], n;
static void on(int s, siginfo_t *si, void *c) { codes[n++ & 7] = si->si_code; }
int main(void) {
    struct sigaction sa = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGCHLD, &sa, NULL);
    pid_t pid = fork();
    if (pid == 0) { setpgid(0, 0); /* an orphaned group would ignore SIGTSTP */ for (;;) pause(); }
    sleep_ms(5);
    kill(pid, SIGTSTP);
    int status;
    waitpid(pid, &status, WUNTRACED);
    CHECK("stopped by SIGTSTP", WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP);
    kill(pid, SIGCONT);
    waitpid(pid, &status, WCONTINUED);
    CHECK("continued", WIFCONTINUED(status));
    kill(pid, SIGSTOP);
    waitpid(pid, &status, WUNTRACED);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    CHECK("killed while stopped", WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK("5, 6, at the end 2", codes[0] == CLD_STOPPED && codes[1] == CLD_CONTINUED && codes[n - 1] == CLD_KILLED);
    DONE();
}"""))


def test_sigchld_has_no_effect_on_a_parent_that_never_waits(run_c):
    """A131: as in the zombie lab."""
    passes(run_c(PROGRAMS / "zombie.c"))


def test_restorer_flag_and_alternate_stack(run_c):
    """A127, A132: SA_RESTORER 0x4000000; sigaltstack."""
    passes(run_c("""
#include "check.h"
static char alt[16384];
static volatile int on_alt;
static void on(int s) { char here; on_alt = &here >= alt && &here < alt + sizeof alt; }
int main(void) {
    struct sigaction sa = {.sa_handler = on, .sa_flags = SA_ONSTACK};
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt}, old;
    CHECK("sigaltstack", sigaltstack(&ss, NULL) == 0);
    sigaction(SIGUSR1, &sa, NULL);
    struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } raw;
    CHECK("SA_RESTORER", syscall(SYS_rt_sigaction, SIGUSR1, NULL, &raw, 8) == 0 && raw.flags & 0x4000000 && raw.restorer);
    raise(SIGUSR1);
    CHECK("the handler ran on it", on_alt);
    CHECK("and left it", sigaltstack(NULL, &old) == 0 && old.ss_flags == 0);
    DONE();
}"""))
