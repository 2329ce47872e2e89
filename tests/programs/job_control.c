/* Sessions, process groups and the foreground group of a terminal, on a pseudo terminal of our own. */
#include "check.h"
#include <sys/ioctl.h>
#include <termios.h>

static int slave_fd;
static char slave_name[64];

static volatile int got_int, got_ttou;
static void on_int(int signo)
{
    got_int++;
}
static void on_ttou(int signo)
{
    got_ttou++;
}

static int stop_status(pid_t pid)
{
    int status = 0;
    waitpid(pid, &status, WUNTRACED);
    return WIFSTOPPED(status) ? WSTOPSIG(status) : -1;
}

static int background_job(void *arg)
{
    struct sigaction sa = {.sa_handler = on_ttou}; /* without SA_RESTART */
    setpgid(0, 0);
    sigaction(SIGTTOU, &sa, NULL);
    return FAILS(tcsetpgrp(slave_fd, getpid()), EINTR) && got_ttou == 1 ? 0 : 1;
}

static int session(void *arg) /* the leader of a new session with the terminal as its own */
{
    int master = *(int *)arg;
    failures = 0;
    CHECK("setsid", setsid() == getpid() && getsid(0) == getpid() && getpgrp() == getpid());
    CHECK("a leader cannot do it again", FAILS(setsid(), EPERM));
    CHECK("without a terminal /dev/tty is ENXIO", FAILS(open("/dev/tty", O_RDWR), ENXIO));
    slave_fd = open(slave_name, O_RDWR);
    CHECK("opening one makes it the controlling terminal", slave_fd >= 0 && tcgetsid(slave_fd) == getpid());
    CHECK("its foreground group is ours", tcgetpgrp(slave_fd) == getpgrp());
    CHECK("/dev/tty is it", isatty(open("/dev/tty", O_RDWR)));

    signal(SIGINT, on_int);
    (void)!write(master, "\3", 1);
    for (int i = 0; i < 100 && !got_int; i++)
        sleep_ms(10);
    CHECK("^C is SIGINT to the foreground", got_int == 1);

    int ready[2];
    (void)!pipe(ready);
    pid_t job = fork();
    if (job == 0) { /* a background job that reads the terminal */
        char c;
        setpgid(0, 0);
        (void)!write(ready[1], "r", 1);
        _exit(read(slave_fd, &c, 1) == 1 && c == 'k' ? 0 : 1);
    }
    char c;
    (void)!read(ready[0], &c, 1);
    CHECK("setpgid moved the job", getpgid(job) == job);
    CHECK("reading in the background stops it: SIGTTIN", stop_status(job) == SIGTTIN);
    CHECK("tcsetpgrp", tcsetpgrp(slave_fd, job) == 0 && tcgetpgrp(slave_fd) == job);
    kill(-job, SIGCONT);
    (void)!write(master, "k\n", 2);
    int status;
    CHECK("in the foreground it goes on", waitpid(job, &status, 0) == job && status == 0);
    CHECK("its group is gone", FAILS(kill(-job, 0), ESRCH));

    CHECK("in the background, and orphaned, we get ENOTTY", FAILS(tcsetpgrp(slave_fd, getpgrp()), ENOTTY));
    CHECK("a background job with a parent gets SIGTTOU", run_child(background_job, NULL) == 0);
    signal(SIGTTOU, SIG_IGN);
    CHECK("ignored, the call is allowed", tcsetpgrp(slave_fd, getpgrp()) == 0);

    job = fork();
    if (job == 0) {
        setpgid(0, 0);
        for (;;)
            pause();
    }
    setpgid(job, job);
    tcsetpgrp(slave_fd, job);
    (void)!write(master, "\32", 1);
    CHECK("^Z stops the foreground job", stop_status(job) == SIGTSTP);
    kill(job, SIGCONT);
    CHECK("WCONTINUED", waitpid(job, &status, WCONTINUED) == job && WIFCONTINUED(status));
    (void)!write(master, "\34", 1);
    CHECK("^\\ kills it", waitpid(job, &status, 0) == job && WIFSIGNALED(status) && WTERMSIG(status) == SIGQUIT);
    tcsetpgrp(slave_fd, getpgrp());
    job = fork();
    if (job == 0) {
        setsid();
        (void)!write(ready[1], "s", 1);
        for (;;)
            pause();
    }
    (void)!read(ready[0], &c, 1);
    CHECK("a group of another session is EPERM", FAILS(tcsetpgrp(slave_fd, job), EPERM));
    kill(job, SIGKILL);
    waitpid(job, &status, 0);
    return failures;
}

int main(void)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK("a pseudo terminal", master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0 &&
                                   ptsname_r(master, slave_name, sizeof slave_name) == 0);
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    CHECK("the session behaves", run_child(session, &master) == 0);
    CHECK("setpgid of a stranger is ESRCH", FAILS(setpgid(1, 0), ESRCH));
    CHECK("a negative group is EINVAL", FAILS(setpgid(0, -1), EINVAL));
    DONE();
}
