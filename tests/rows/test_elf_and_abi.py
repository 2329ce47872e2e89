"""Inventory A3: ELF and the system-call ABI."""
import re

from tests.conftest import PROGRAMS, watch_calls


def text(result):
    assert (result.status, result.stderr) == (0, b""), result
    return result.stdout.decode()


def test_load_segments_are_mapped_with_their_flags(run):
    """A042, A043: text r-xp, read-only data r--p, data rw-p, and zero-filled bss behind it."""
    lines = [line.split() for line in text(run("cat /proc/self/maps")).splitlines()]
    flags = [line[1] for line in lines if line[-1] == "/usr/bin/cat"]
    assert flags == ["r--p", "r-xp", "r--p", "r--p", "rw-p"]
    assert [line[-1] for line in lines if line[-1].startswith("[")] == ["[heap]", "[stack]", "[vvar]", "[vdso]", "[vsyscall]"]
    assert any(line[-1].endswith("/ld-linux-x86-64.so.2") for line in lines), "PT_INTERP"


def test_bss_is_zero_and_the_stack_is_aligned(run_c):
    """A042, A045: argc, argv, envp and auxv are where libc expects them, rsp is a multiple of 16."""
    result = run_c("""
#include "check.h"
#include <elf.h>
#include <sys/auxv.h>
static char bss[100000];
extern char **environ;
int main(int argc, char **argv) {
    int sum = 0;
    for (unsigned i = 0; i < sizeof bss; i++) sum |= bss[i];
    CHECK("bss is zero", sum == 0);
    CHECK("argv ends with NULL", argc == 3 && !strcmp(argv[2], "b c") && argv[3] == NULL);
    CHECK("envp follows", (char **)environ == argv + argc + 1);
    long *aux = (long *)environ;
    while (*aux++);
    CHECK("then auxv", getauxval(AT_PAGESZ) == 4096 && aux[0] != 0);
    CHECK("with program headers", getauxval(AT_PHNUM) > 3 && getauxval(AT_PHENT) == sizeof(Elf64_Phdr));
    CHECK("the entry point", *(unsigned char *)getauxval(AT_ENTRY) == 0x31 || *(unsigned char *)getauxval(AT_ENTRY) == 0xf3);
    CHECK("random bytes", getauxval(AT_RANDOM) && *(long *)getauxval(AT_RANDOM) != 0);
    CHECK("the name of the file", strstr((char *)getauxval(AT_EXECFN), "/programs/"));
    CHECK("the vDSO", !memcmp((void *)getauxval(AT_SYSINFO_EHDR), ELFMAG, 4));
    CHECK("argc lay at a 16-byte boundary", ((unsigned long)(argv - 1) & 15) == 0);
    CHECK("x86_64", !strcmp((char *)getauxval(AT_PLATFORM), "x86_64"));
    DONE();
}""", "a", "b c", flags=("-O0", "-static", "-fno-pie", "-no-pie"))
    assert result.status == 0, result.stdout.decode()


def test_two_runs_of_a_pie_have_different_bases_and_the_same_offsets(run):
    """A046."""
    out = text(run("for i in 1 2; do head -3 /proc/self/maps; done"))
    rows = [line.split() for line in out.splitlines()]
    assert [row[2] for row in rows[:3]] == [row[2] for row in rows[3:]]
    assert all(a[0] != b[0] for a, b in zip(rows[:3], rows[3:], strict=True))
    sizes = [[int(b, 16) - int(a, 16) for a, b in (row[0].split("-") for row in half)] for half in (rows[:3], rows[3:])]
    assert sizes[0] == sizes[1]


def test_int_0x80_with_eax_4_writes_to_stdout(run_c):
    """A049."""
    result = run_c("""
static char text[] __attribute__((section(".data"))) = "written by int 0x80\\n";
int main(void) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(4), "b"(1), "c"(text), "d"(sizeof text - 1)
                     : "memory", "r8", "r9", "r10", "r11");
    return result != sizeof text - 1;
}""", flags=("-O1", "-static", "-no-pie", "-fno-pie"))
    assert (result.status, result.stdout) == (0, b"written by int 0x80\n")


def test_each_argument_register_arrives_and_the_rest_is_kept(run_c):
    """A048: rdi rsi rdx r10 r8 r9; rcx and r11 are overwritten, everything else survives."""
    result = run_c("""
#include "check.h"
int main(void) {
    int fd = open("/tmp/six", O_RDWR | O_CREAT, 0600);
    ftruncate(fd, 3 * 4096);
    pwrite(fd, "third", 5, 2 * 4096);
    register long r10 __asm__("r10") = MAP_SHARED, r8 __asm__("r8") = fd, r9 __asm__("r9") = 2 * 4096;
    long p;
    __asm__ volatile("syscall" : "=a"(p) : "a"(SYS_mmap), "D"(0), "S"(4096), "d"(PROT_READ), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    CHECK("all six arguments of mmap", !memcmp((char *)p, "third", 5));
    unsigned long k[8];
    __asm__ volatile("mov $0x1111, %%rbx; mov $0x2222, %%r12; mov $0x3333, %%r13; mov $0x4444, %%r14; mov $0x5555, %%r15\\n"
                     "mov $39, %%eax; syscall\\n1: mov %%rcx, 40(%%rdi); mov %%r11, 48(%%rdi)\\n"
                     "mov %%rbx, (%%rdi); mov %%r12, 8(%%rdi); mov %%r13, 16(%%rdi); mov %%r14, 24(%%rdi)\\n"
                     "mov %%r15, 32(%%rdi); lea 1b(%%rip), %%rax; mov %%rax, 56(%%rdi)" : : "D"(k)
                     : "rax", "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory");
    CHECK("rbx survives", k[0] == 0x1111);
    CHECK("r12 to r15 survive", k[1] == 0x2222 && k[2] == 0x3333 && k[3] == 0x4444 && k[4] == 0x5555);
    CHECK("rcx is the return address", k[5] == k[7]);
    CHECK("r11 holds the flags", (k[6] & 0x202) == 0x202);
    DONE();
}""", flags=("-O1", "-static", "-fno-omit-frame-pointer"))
    assert result.status == 0, result.stdout.decode()


def test_numbers_out_of_range_are_enosys_and_errors_are_small_negatives(run_c):
    """A052, A053, A055: -4095..-1 in rax."""
    result = run_c("""
#include "check.h"
static long raw(long nr) { long r; __asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(-1L), "S"(0L), "d"(0L) : "rcx", "r11", "memory"); return r; }
int main(void) {
    CHECK("548", raw(548) == -ENOSYS);
    CHECK("a million", raw(1000000) == -ENOSYS);
    CHECK("-1", raw(-1) == -ENOSYS);
    CHECK("the 64-bit number counts", raw(0x100000027L) == -ENOSYS || raw(0x100000027L) == getpid());
    int good = 1, known = 0;
    for (long nr = 72; nr < 110; nr++)
        if (nr != SYS_umask) {
            long r = raw(nr);
            good &= r >= -4095;
            known += r != -ENOSYS;
        }
    CHECK("errors lie in -4095..-1", good);
    CHECK("the table is full there", known >= 36);
    CHECK("rename is 82: EFAULT for a bad path", raw(82) == -EFAULT);
    CHECK("getcwd is 79", raw(79) == -ERANGE || raw(79) == -EFAULT);
    CHECK("fchdir is 81", raw(81) == -EBADF);
    CHECK("ftruncate is 77", raw(77) == -EBADF || raw(77) == -EINVAL);
    CHECK("getdents is 78", raw(78) == -EBADF);
    DONE();
}""")
    assert result.status == 0, result.stdout.decode()


def test_every_implemented_call_is_called_x64_sys(boot):
    """A053: SYSCALL_DEFINE: names appear as __x64_sys_* in traces; the table leads to them."""
    kernel = boot()
    from glasskernel.arch.x86.syscalls_64 import SYSCALL_NAMES, SYSCALL_NUMBERS
    from glasskernel.lib.syscalls import DECLARED, find_syscall

    assert SYSCALL_NUMBERS["rename"] == 82
    named = [nr for nr, name in SYSCALL_NAMES.items()
             if name in DECLARED and find_syscall(name).entry.__name__.endswith(f"sys_{name}")]
    missing = [nr for nr in SYSCALL_NAMES if kernel.sys_call_table[nr].__name__ == "sys_ni_syscall"]
    assert len(named) > 230
    assert len(named) + len(missing) == len(SYSCALL_NAMES)


def test_a_backtrace_of_a_system_call_ends_in_do_syscall_64(boot):
    """A051."""
    import traceback

    kernel = boot()
    stacks = []

    class Look:
        def enter(self, task, nr):
            stacks.append([f.name for f in traceback.extract_stack()])

        def exit(self, task, nr, result):
            pass

    watch_calls(kernel, Look())
    kernel.run(["/bin/true"])
    assert stacks and all("do_syscall_64" in stack for stack in stacks)


def test_a_call_into_the_vsyscall_page_is_emulated_and_a_read_is_not(run_c):
    """A056: vsyscall=xonly, as /proc/PID/maps says with --xp."""
    result = run_c("""
#include "check.h"
#include <sys/time.h>
static int peek(void *arg) { return *(volatile char *)0xffffffffff600000; }
static int between(void *arg) { ((void (*)(void))0xffffffffff600010)(); return 0; }
int main(void) {
    struct timeval tv = {0};
    long seconds = ((long (*)(struct timeval *, void *))0xffffffffff600000)(&tv, NULL) ? 0 : tv.tv_sec;
    CHECK("gettimeofday", seconds == time(NULL));
    CHECK("time", ((long (*)(long *))0xffffffffff600400)(NULL) == time(NULL));
    unsigned cpu = 99;
    CHECK("getcpu", ((long (*)(unsigned *, void *, void *))0xffffffffff600800)(&cpu, NULL, NULL) == 0 && cpu < 64);
    int status = run_child(peek, NULL);
    CHECK("reading is SIGSEGV", WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    status = run_child(between, NULL);
    CHECK("so is a jump between the functions", WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    DONE();
}""")
    assert result.status == 0, result.stdout.decode()


def test_clock_gettime_works_through_the_vdso_without_a_system_call(boot, build_c):
    """A056."""
    from glasskernel import Share

    binary = build_c("""
#include "check.h"
int main(void) {
    struct timespec a, b;
    for (int i = 0; i < 1000; i++) {
        clock_gettime(CLOCK_MONOTONIC, &a);
        syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &b);
        if (b.tv_sec * 1000000000L + b.tv_nsec < a.tv_sec * 1000000000L + a.tv_nsec) return 1;
    }
    for (int i = 0; i < 5000; i++) clock_gettime(CLOCK_REALTIME, &a);
    return 0;
}""")
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    assert kernel.run([f"/programs/{binary.name}"]).status == 0
    assert kernel.syscall_statistics()["clock_gettime"] == 1000


def test_hello_is_one_write_of_fourteen_bytes(boot, build_c):
    """A057, C04: write(1, "Hello, World!\\n", 14) as strace shows it."""
    from glasskernel import Share
    from glasskernel.cli.strace import attach_strace

    binary = build_c('#include <stdio.h>\nint main(void) { printf("Hello, World!\\n"); return 0; }')
    kernel = boot(shares=[Share(str(binary.parent), "/programs")])
    lines = []
    attach_strace(kernel, lines.append, False)
    assert kernel.run([f"/programs/{binary.name}"]).stdout == b"Hello, World!\n"
    writes = [line for line in "".join(lines).splitlines() if line.startswith("write")]
    assert writes == [f'{chr(119)}rite(1, "Hello, World!\\n", 14)         = 14']


def test_unmodified_hello_of_the_lab(run_c):
    """C27: void main(): the exit status is what puts left in eax."""
    result = run_c('#include <stdio.h>\nvoid main(void) { puts("hello"); }', flags=("-O0", "-w"))
    assert (result.status, result.stdout) == (6, b"hello\n")


def test_programs_linked_dynamically_start(run_c):
    assert run_c(PROGRAMS / "syscall_abi.c", flags=("-O1",)).status == 0


def test_readelf_h_prints_the_fields_of_the_header(run):
    """A041, B378."""
    out = text(run("readelf -h /bin/true"))
    assert re.search(r"Magic: +7f 45 4c 46 02 01 01", out) and "Advanced Micro Devices X86-64" in out
