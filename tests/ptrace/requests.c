/* ptrace(2): who may ask for what, registers, memory, system calls, single steps, breakpoints. */
#include "tracer.h"
#include <pthread.h>

static volatile long word = 42;
static const long constant __attribute__((used)) = 7;
static volatile int handled;

static int quiet(void) { return 5; }
static void *other_thread(void *p) { *(pid_t *)p = gettid(); sleep(1000); return NULL; }

static int calls(void)
{
    return syscall(SYS_getpid) == getppid() && syscall(SYS_getuid) == 1234 && syscall(SYS_getgid) == 4321 ? 0 : 1;
}

__attribute__((noinline)) static void here(void) { word++; }
static int breaks(void) { here(); return word == 43 ? 0 : 1; }

static void on_usr1(int sig) { handled = sig; }
static int handles(void) { signal(SIGUSR1, on_usr1); raise(SIGUSR1); return handled == SIGUSR1 ? 0 : 1; }

static int steps(void)
{
    long r;
    asm volatile("nop\n nop\n mov $39, %%eax\n syscall\n nop" : "=a"(r) : : "rcx", "r11", "memory");
    return r == getpid() ? 0 : 1;
}

static int writes(void)
{
    for (volatile int i = 0; i < 100; i++)
        ;
    word = 42;
    word = 77;
    return 0;
}

static int vector(void)
{
    double out;
    raise(SIGTRAP);
    asm volatile("movsd %%xmm5, %0" : "=m"(out));
    return out == 2.5 ? 0 : 1;
}

static void errors(void)
{
    pid_t pid = tracee(quiet);
    unsigned long data;
    pthread_t thread;
    volatile pid_t tid = 0;
    pthread_create(&thread, NULL, other_thread, (void *)&tid);
    while (!tid)
        sleep_ms(1);
    CHECK("a stranger cannot be asked: ESRCH", FAILS(xptrace(PEEKDATA, getppid(), (long)&word, (long)&data), ESRCH));
    CHECK("nobody has this number: ESRCH", FAILS(xptrace(PT_ATTACH, 0x7ffffff, 0, 0), ESRCH));
    CHECK("one cannot trace oneself: EPERM", FAILS(xptrace(PT_ATTACH, getpid(), 0, 0), EPERM));
    CHECK("nor one's own thread: EPERM", FAILS(xptrace(PTRACE_SEIZE, tid, 0, 0), EPERM));
    CHECK("nor a tracee again: EPERM", FAILS(xptrace(PT_ATTACH, pid, 0, 0), EPERM));
    CHECK("seize takes no address: EIO", FAILS(xptrace(PTRACE_SEIZE, getppid(), 1, 0), EIO));
    CHECK("an unknown request: EIO", FAILS(xptrace(0x999, pid, 0, 0), EIO));
    CHECK("memory that is not there: EIO", FAILS(xptrace(PEEKDATA, pid, 0x10, (long)&data), EIO));
    CHECK("poke, too: EIO", FAILS(xptrace(POKEDATA, pid, 0x10, 1), EIO));
    CHECK("an odd register: EIO", FAILS(xptrace(PEEKUSER, pid, 3, (long)&data), EIO));
    CHECK("behind struct user: EIO", FAILS(xptrace(PEEKUSER, pid, 928, (long)&data), EIO));
    CHECK("between the registers: zero", xptrace(PEEKUSER, pid, 240, (long)&data) == 0 && data == 0);
    CHECK("and read-only: EIO", FAILS(xptrace(POKEUSER, pid, 240, 1), EIO));
    CHECK("no such signal: EIO", FAILS(xptrace(PT_CONT, pid, 0, 65), EIO));
    CHECK("unknown options: EINVAL", FAILS(xptrace(PTRACE_SETOPTIONS, pid, 0, 0x10000000), EINVAL));
    struct iovec iov = {&data, 8};
    CHECK("unknown registers: EINVAL", FAILS(xptrace(PTRACE_GETREGSET, pid, 0x7777, (long)&iov), EINVAL));
    iov.iov_len = 7;
    CHECK("part of a register: EINVAL", FAILS(xptrace(PTRACE_GETREGSET, pid, 1, (long)&iov), EINVAL));
    CHECK("where the answer goes: EFAULT", FAILS(xptrace(PEEKDATA, pid, (long)&word, 8), EFAULT));
    CHECK("interrupt needs seize: EIO", FAILS(xptrace(PTRACE_INTERRUPT, pid, 0, 0), EIO));
    CHECK("listen needs seize: EIO", FAILS(xptrace(PTRACE_LISTEN, pid, 0, 0), EIO));
    CHECK("a signal mask has 8 bytes: EINVAL", FAILS(xptrace(PTRACE_GETSIGMASK, pid, 4, (long)&data), EINVAL));
    CHECK("fs base in the kernel: EIO", FAILS(xptrace(POKEUSER, pid, USER(fs_base), 1UL << 63), EIO));
    CHECK("a wrong code segment: EIO", FAILS(xptrace(POKEUSER, pid, USER(cs), 0), EIO));
    CHECK("tracing stop in stat", state_of(pid) == 't');
    CHECK("the tracer in status", tracer_of(pid) == getpid());
    CHECK("it goes on", xptrace(PT_CONT, pid, 0, 0) == 0);
    CHECK("and exits", wait_status(pid) == 5 << 8);
    CHECK("then it is gone: ESRCH", FAILS(xptrace(PT_CONT, pid, 0, 0), ESRCH));
}

static void registers_and_memory(void)
{
    pid_t pid = tracee(breaks);
    struct user_regs_struct regs, again;
    struct iovec iov = {&again, sizeof again};
    CHECK("all registers", xptrace(PTRACE_GETREGS, pid, 0, (long)&regs) == 0);
    CHECK("as a set", xptrace(PTRACE_GETREGSET, pid, 1, (long)&iov) == 0 && iov.iov_len == sizeof regs);
    CHECK("both say the same", memcmp(&regs, &again, sizeof regs) == 0);
    CHECK("selectors", regs.cs == 0x33 && regs.ss == 0x2b && regs.ds == 0);
    CHECK("one by one", peekuser(pid, USER(rip)) == regs.rip && peekuser(pid, USER(fs_base)) == regs.fs_base);
    CHECK("in the call that stopped it", regs.orig_rax == SYS_tgkill && regs.rax == 0);
    CHECK("a word of data", peek(pid, &word) == 42);
    CHECK("changed", xptrace(POKEDATA, pid, (long)&word, 41) == 0 && peek(pid, &word) == 41 && word == 42);
    xptrace(POKEDATA, pid, (long)&word, 42);
    CHECK("a constant can be changed", xptrace(POKEDATA, pid, (long)&constant, 8) == 0 && peek(pid, &constant) == 8);
    CHECK("in the tracee only", *(volatile const long *)&constant == 7);
    unsigned long code = peek(pid, here);
    CHECK("a breakpoint in its text", xptrace(POKEDATA, pid, (long)here, (code & ~0xffUL) | 0xcc) == 0);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("is hit", stopped_by(wait_status(pid), SIGTRAP));
    CHECK("behind the int3", peekuser(pid, USER(rip)) == (unsigned long)here + 1);
    CHECK("by the kernel", info_of(pid).si_code == SI_KERNEL);
    xptrace(POKEDATA, pid, (long)here, code);
    CHECK("rip goes back", xptrace(POKEUSER, pid, USER(rip), (long)here) == 0);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("the tracee never noticed", wait_status(pid) == 0);
}

static void floating_point(void)
{
    pid_t pid = tracee(vector);
    struct user_fpregs_struct fp, again;
    struct iovec iov = {&again, sizeof again};
    double value = 2.5;
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("stops between", stopped_by(wait_status(pid), SIGTRAP));
    CHECK("FPU registers", xptrace(PTRACE_GETFPREGS, pid, 0, (long)&fp) == 0 && fp.cwd == 0x37f && fp.mxcsr == 0x1f80);
    CHECK("as a set", xptrace(PTRACE_GETREGSET, pid, 2, (long)&iov) == 0 && iov.iov_len == 512);
    memcpy(&fp.xmm_space[5 * 4], &value, 8);
    CHECK("set", xptrace(PTRACE_SETFPREGS, pid, 0, (long)&fp) == 0);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("seen by the tracee", wait_status(pid) == 0);
}

static void system_calls(void)
{
    pid_t pid = tracee(calls);
    struct ptrace_syscall_info info;
    CHECK("sysgood", xptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD) == 0);
    CHECK("no call here", xptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, (long)&info) == 24
          && info.op == PTRACE_SYSCALL_INFO_NONE);
    for (int i = 0; i < 20; i++) {
        xptrace(PT_SYSCALL, pid, 0, 0);
        int status = wait_status(pid);
        if (!stopped_by(status, SIGTRAP | 0x80)) {
            CHECK("the tracee saw what it was to see", status == 0);
            return;
        }
        unsigned long nr = peekuser(pid, USER(orig_rax));
        int entry = message(pid) == 1;
        if (entry && nr == SYS_getpid) {
            CHECK("rax is -ENOSYS at entry", (long)peekuser(pid, USER(rax)) == -ENOSYS);
            CHECK("entry info", xptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, (long)&info) == 80
                  && info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_getpid && info.arch == 0xC000003E);
            CHECK("siginfo of a call", info_of(pid).si_code == (SIGTRAP | 0x80));
            CHECK("another call", xptrace(POKEUSER, pid, USER(orig_rax), SYS_getppid) == 0);
        } else if (entry && nr == SYS_getuid) {
            xptrace(POKEUSER, pid, USER(orig_rax), -1);
            xptrace(PT_SYSCALL, pid, 0, 0);
            CHECK("the exit of a call that was skipped", stopped_by(wait_status(pid), SIGTRAP | 0x80));
            CHECK("answers -ENOSYS", (long)peekuser(pid, USER(rax)) == -ENOSYS);
            xptrace(POKEUSER, pid, USER(rax), 1234);
        } else if (!entry && nr == SYS_getgid) {
            CHECK("exit info", xptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, (long)&info) == 33
                  && info.op == PTRACE_SYSCALL_INFO_EXIT && !info.exit.is_error);
            xptrace(POKEUSER, pid, USER(rax), 4321);
        }
    }
    CHECK("ends", 0);
}

static void emulated(void)
{
    pid_t pid = tracee(calls);
    int seen = 0;
    for (int i = 0; i < 20; i++) {
        xptrace(31, pid, 0, 0);                         /* PTRACE_SYSEMU: a stop at entry, and no call at all */
        int status = wait_status(pid);
        if (!stopped_by(status, SIGTRAP)) {
            CHECK("emulated calls", status == 3 << 8 && seen == 5);
            return;
        }
        unsigned long nr = peekuser(pid, USER(orig_rax));
        seen++;
        if (nr == SYS_exit_group) {
            xptrace(POKEUSER, pid, USER(rdi), 3);
            xptrace(POKEUSER, pid, USER(rip), peekuser(pid, USER(rip)) - 2);
            xptrace(POKEUSER, pid, USER(rax), SYS_exit_group);
            xptrace(PT_CONT, pid, 0, 0);
            continue;
        }
        xptrace(POKEUSER, pid, USER(rax), nr == SYS_getuid ? 1234 : nr == SYS_getgid ? 4321 : 7);
    }
    CHECK("ends", 0);
}

static void single_steps(void)
{
    pid_t pid = tracee(steps);
    int nops = 0, calls = 0, count = 0;
    siginfo_t info = {0};
    unsigned long sp_code;
    while (count++ < 5000) {
        xptrace(PT_SINGLESTEP, pid, 0, 0);
        int status = wait_status(pid);
        if (!stopped_by(status, SIGTRAP))
            break;
        unsigned long rip = peekuser(pid, USER(rip));
        sp_code = peek(pid, (void *)rip);
        if ((sp_code & 0xffffffffffffff) == 0x050f00000027b8)
            nops++, info = info_of(pid);
        if ((sp_code & 0xff) == 0x90 && (peek(pid, (void *)(rip - 2)) & 0xffff) == 0x050f) {
            calls++;
            CHECK("a step over a call ends behind it", (pid_t)peekuser(pid, USER(rax)) == pid);
            CHECK("with TRAP_BRKPT", info_of(pid).si_code == TRAP_BRKPT);
            CHECK("the trap flag is hidden", !(peekuser(pid, USER(eflags)) & 0x100));
            xptrace(PT_CONT, pid, 0, 0);
            CHECK("goes on without steps", wait_status(pid) == 0);
            break;
        }
    }
    CHECK("each instruction is one stop", nops == 1 && calls == 1);
    CHECK("with TRAP_TRACE", info.si_code == TRAP_TRACE && info.si_signo == SIGTRAP);

    pid = tracee(handles);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("its signal is shown first", stopped_by(wait_status(pid), SIGUSR1));
    xptrace(PT_SINGLESTEP, pid, 0, SIGUSR1);
    CHECK("a step into a handler", stopped_by(wait_status(pid), SIGTRAP));
    CHECK("stops at its first instruction", peekuser(pid, USER(rip)) == (unsigned long)on_usr1);
    CHECK("the signal in rdi", peekuser(pid, USER(rdi)) == SIGUSR1);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("and on", wait_status(pid) == 0);
}

static void hardware_breakpoints(void)
{
    pid_t pid = tracee(writes);
    CHECK("an address in the kernel: EINVAL", FAILS(xptrace(POKEUSER, pid, DR(0), 1UL << 63), EINVAL));
    CHECK("DR4 does not exist: EIO", FAILS(xptrace(POKEUSER, pid, DR(4), 1), EIO));
    CHECK("DR0", xptrace(POKEUSER, pid, DR(0), (long)&word) == 0 && peekuser(pid, DR(0)) == (unsigned long)&word);
    CHECK("DR7: 8 bytes, writes", xptrace(POKEUSER, pid, DR(7), 1 | 0x1 << 16 | 0x2 << 18) == 0);
    xptrace(PT_CONT, pid, 0, 0);
    int status = wait_status(pid);
    if (stopped_by(status, SIGTRAP) && peek(pid, &word) == 42) {   /* a CPU also sees a write that changes nothing */
        xptrace(PT_CONT, pid, 0, 0);
        status = wait_status(pid);
    }
    CHECK("a write is a hit", stopped_by(status, SIGTRAP) && info_of(pid).si_code == TRAP_HWBKPT);
    CHECK("DR6 says which", (peekuser(pid, DR(6)) & 0xf) == 1);
    CHECK("after the instruction", peek(pid, &word) == 77);
    CHECK("off", xptrace(POKEUSER, pid, DR(7), 0) == 0);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("ends", wait_status(pid) == 0);

    pid = tracee(breaks);
    CHECK("DR1", xptrace(POKEUSER, pid, DR(1), (long)here) == 0);
    CHECK("DR7: execution", xptrace(POKEUSER, pid, DR(7), 1 << 2) == 0);
    xptrace(PT_CONT, pid, 0, 0);
    CHECK("is a hit", stopped_by(wait_status(pid), SIGTRAP) && info_of(pid).si_code == TRAP_HWBKPT);
    CHECK("before the instruction", peekuser(pid, USER(rip)) == (unsigned long)here);
    CHECK("detach takes it away", xptrace(PT_DETACH, pid, 0, 0) == 0);
    CHECK("ends", wait_status(pid) == 0);
}

int main(void)
{
    errors();
    registers_and_memory();
    floating_point();
    system_calls();
    emulated();
    single_steps();
    hardware_breakpoints();
    DONE();
}
