/* A048: the x86-64 system call ABI: each argument register; rcx and r11 are lost, all others kept. */
#include "check.h"

struct regs {
    unsigned long rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15;
};

/* Loads every register from *in, executes SYSCALL, stores every register to *out. */
void do_syscall(const struct regs *in, struct regs *out);
__asm__(".text\n"
        "do_syscall:\n"
        "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rsi\n"
        "  mov %rdi, %rax\n"
        "  mov 8(%rax), %rbx; mov 16(%rax), %rcx; mov 24(%rax), %rdx; mov 32(%rax), %rsi\n"
        "  mov 40(%rax), %rdi; mov 48(%rax), %rbp; mov 56(%rax), %r8; mov 64(%rax), %r9\n"
        "  mov 72(%rax), %r10; mov 80(%rax), %r11; mov 88(%rax), %r12; mov 96(%rax), %r13\n"
        "  mov 104(%rax), %r14; mov 112(%rax), %r15; mov 0(%rax), %rax\n"
        "  syscall\n"
        ".globl after_syscall\n"
        "after_syscall:\n"
        "  xchg %rax, (%rsp)\n" /* rax = out, the result is on the stack */
        "  mov %rbx, 8(%rax); mov %rcx, 16(%rax); mov %rdx, 24(%rax); mov %rsi, 32(%rax)\n"
        "  mov %rdi, 40(%rax); mov %rbp, 48(%rax); mov %r8, 56(%rax); mov %r9, 64(%rax)\n"
        "  mov %r10, 72(%rax); mov %r11, 80(%rax); mov %r12, 88(%rax); mov %r13, 96(%rax)\n"
        "  mov %r14, 104(%rax); mov %r15, 112(%rax)\n"
        "  pop %rcx; mov %rcx, (%rax)\n"
        "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "  ret\n");
extern char after_syscall[];

int main(void)
{
    struct regs in, out;
    unsigned char *fill = (unsigned char *)&in;
    for (size_t i = 0; i < sizeof in; i++)
        fill[i] = (unsigned char)(i / 8 * 17 + 3);
    struct regs odd = in;
    in.rax = SYS_getpid;
    do_syscall(&in, &out);
    CHECK("the result is in rax", (pid_t)out.rax == getpid());
    CHECK("rcx holds the return address", out.rcx == (unsigned long)after_syscall);
    CHECK("r11 holds the flags (bit 1, IF)", (out.r11 & 0x202) == 0x202);
    CHECK("rdi rsi rdx r10 r8 r9 are kept", out.rdi == in.rdi && out.rsi == in.rsi && out.rdx == in.rdx &&
                                                out.r10 == in.r10 && out.r8 == in.r8 && out.r9 == in.r9);
    CHECK("rbx rbp r12-r15 are kept", out.rbx == in.rbx && out.rbp == in.rbp && out.r12 == in.r12 &&
                                          out.r13 == in.r13 && out.r14 == in.r14 && out.r15 == in.r15);
    in = odd;
    in.rax = SYS_mmap; /* six arguments, each checked by what it does */
    in.rdi = 0x10000000;
    in.rsi = 8192;
    in.rdx = PROT_READ | PROT_WRITE;
    in.r10 = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    in.r8 = -1UL;
    in.r9 = 0;
    do_syscall(&in, &out);
    CHECK("arguments 1 to 5: mmap", out.rax == 0x10000000 && (*(volatile char *)0x10001fff = 1));
    in.r9 = 1; /* not a multiple of a page */
    do_syscall(&in, &out);
    CHECK("argument 6: an odd offset is EINVAL", out.rax == (unsigned long)-EINVAL);
    in.rax = 0x3fff;
    do_syscall(&in, &out);
    CHECK("an unknown number is -ENOSYS", out.rax == (unsigned long)-ENOSYS);
    in.rax = -1UL;
    do_syscall(&in, &out);
    CHECK("so is -1", out.rax == (unsigned long)-ENOSYS);
    DONE();
}
