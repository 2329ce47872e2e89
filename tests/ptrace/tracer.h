/* What the tracers here share. */
#include "check.h"
#include <linux/ptrace.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <sys/user.h>

/* glibc's sys/ptrace.h and linux/ptrace.h do not go together: the raw call, with the C library's answers. */
static long xptrace(long request, long pid, unsigned long addr, unsigned long data)
{
    return syscall(SYS_ptrace, request, pid, addr, data);
}

#define PT_TRACEME 0
#define PT_CONT 7
#define PT_KILL 8
#define PT_SINGLESTEP 9
#define PT_ATTACH 16
#define PT_DETACH 17
#define PT_SYSCALL 24
#define PEEKDATA 2
#define PEEKUSER 3
#define POKEDATA 5
#define POKEUSER 6
#define USER(field) offsetof(struct user_regs_struct, field)
#define DR(n) (offsetof(struct user, u_debugreg) + 8 * (n))

static inline unsigned long peekuser(pid_t pid, unsigned long addr)
{
    unsigned long word = 0;
    xptrace(PEEKUSER, pid, addr, (unsigned long)&word);
    return word;
}

static inline unsigned long peek(pid_t pid, const volatile void *addr)
{
    unsigned long word = 0;
    xptrace(PEEKDATA, pid, (unsigned long)addr, (unsigned long)&word);
    return word;
}

static inline int wait_status(pid_t pid)
{
    int status = -1;
    return waitpid(pid, &status, __WALL) == pid ? status : -1;
}

static inline int stopped_by(int status, int sig) { return status == (sig << 8 | 0x7f); }
static inline int event(int status, int event, int sig) { return status == (event << 16 | sig << 8 | 0x7f); }

static inline unsigned long message(pid_t pid)
{
    unsigned long word = 0;
    xptrace(PTRACE_GETEVENTMSG, pid, 0, (unsigned long)&word);
    return word;
}

static inline siginfo_t info_of(pid_t pid)
{
    siginfo_t info = {0};
    xptrace(PTRACE_GETSIGINFO, pid, 0, (unsigned long)&info);
    return info;
}

/* A child that asks to be traced and stops; body runs when it is let go. */
static inline pid_t tracee(int (*body)(void))
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        xptrace(PT_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        _exit(body());
    }
    if (!stopped_by(wait_status(pid), SIGSTOP))
        exit(3);
    return pid;
}

/* The state letter of /proc/PID/stat, and the tracer in /proc/PID/status. */
static inline char state_of(pid_t pid)
{
    char name[64], line[256] = "", state = '?';
    snprintf(name, sizeof name, "/proc/%d/stat", pid);
    FILE *f = fopen(name, "r");
    if (f) {
        if (fgets(line, sizeof line, f) && strrchr(line, ')'))
            state = strrchr(line, ')')[2];
        fclose(f);
    }
    return state;
}

static inline int tracer_of(pid_t pid)
{
    char name[64], line[256];
    int tracer = -1;
    snprintf(name, sizeof name, "/proc/%d/status", pid);
    FILE *f = fopen(name, "r");
    while (f && fgets(line, sizeof line, f))
        sscanf(line, "TracerPid: %d", &tracer);
    if (f)
        fclose(f);
    return tracer;
}

static inline void wait_state(pid_t pid, char state)
{
    for (int i = 0; i < 2000 && state_of(pid) != state; i++)
        sleep_ms(1);
}
