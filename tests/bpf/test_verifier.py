"""bpf(2): what the verifier accepts, what it refuses, and in which words (Linux's tools/testing/selftests/bpf in spirit)."""
from __future__ import annotations

import pytest

LOOKUP = "ST(BPF_DW,10,-8,0), MOVR(2,10), ALU(BPF_ADD,2,-8), LDMAP(1,h), CALL(1),"
REFUSED = {
    "uninitialized register": ("MOVR(0,2), EXIT()", "R2 !read_ok"),
    "no exit value": ("EXIT()", "R0 !read_ok"),
    "writing the frame pointer": ("MOV(10,0), EXIT()", "frame pointer is read only"),
    "no NULL check": (LOOKUP + "ST(BPF_DW,0,0,0), EXIT()", "R0 invalid mem access 'map_value_or_null'"),
    "behind a value": (LOOKUP + "JMP(BPF_JEQ,0,0,1), ST(BPF_DW,0,48,0), EXIT()",
                       "invalid access to map value, value_size=48 off=48 size=8"),
    "in front of a value": (LOOKUP + "JMP(BPF_JEQ,0,0,1), ST(BPF_DW,0,-8,0), EXIT()",
                            "R0 min value is outside of the array range"),
    "index without a bound": (LOOKUP + "JMP(BPF_JEQ,0,0,4), LDX(BPF_W,1,0,0), ALUR(BPF_ADD,0,1), ST(BPF_DW,0,0,0), "
                              "MOV(0,0), EXIT()", "R0 unbounded memory access"),
    "below the stack": ("ST(BPF_DW,10,-520,0), MOV(0,0), EXIT()", "invalid stack off=-520 size=8"),
    "above the stack": ("ST(BPF_DW,10,0,0), MOV(0,0), EXIT()", "invalid stack off=0 size=8"),
    "misaligned stack": ("ST(BPF_DW,10,-12,0), MOV(0,0), EXIT()", "misaligned stack access off (0x0; 0x0)+0+-12 size 8"),
    "stack never written": ("LDX(BPF_DW,0,10,-8), EXIT()", "invalid read from stack off -8+0 size 8"),
    "key never written": ("MOVR(2,10), ALU(BPF_ADD,2,-8), LDMAP(1,h), CALL(1), MOV(0,0), EXIT()",
                          "invalid indirect read from stack off -8+0 size 8"),
    "unreachable": ("MOV(0,0), EXIT(), MOV(0,1), EXIT()", "unreachable insn 2"),
    "jump out": ("MOV(0,0), JA(5), EXIT()", "jump out of range from insn 1 to 7"),
    "falls off the end": ("MOV(0,0)", "last insn is not an exit or jmp"),
    "unknown opcode": ("I(0xf0,0,0,0,0), EXIT()", "unknown opcode f0"),
    "reserved fields": ("I(0xb7,0,3,0,0), EXIT()", "BPF_MOV uses reserved fields"),
    "division by zero": ("MOV(0,1), ALU(BPF_DIV,0,0), EXIT()", "div by zero"),
    "shift too far": ("MOV(0,1), ALU(BPF_LSH,0,64), EXIT()", "invalid shift 64"),
    "unknown helper": ("CALL(9999), EXIT()", "invalid func unknown#9999"),
    "helper not for this type": ("CALL(44), EXIT()", "unknown func bpf_xdp_adjust_head#44"),
    "wrong argument": ("MOV(1,0), MOV(2,0), CALL(1), EXIT()", "R1 type=inv expected=map_ptr"),
    "arithmetic on a map": ("LDMAP(1,h), ALU(BPF_ADD,1,8), MOV(0,0), EXIT()",
                            "R1 pointer arithmetic on map_ptr prohibited"),
    "arithmetic before the NULL check": (LOOKUP + "ALU(BPF_ADD,0,8), EXIT()",
                                         "pointer arithmetic on map_value_or_null prohibited, null-check it first"),
    "32-bit pointer arithmetic": ("MOVR(0,10), ALU32(BPF_ADD,0,-8), EXIT()", "32-bit pointer arithmetic prohibited"),
    "subtracting from the stack pointer": ("MOVR(0,10), ALU(BPF_SUB,0,8), MOV(0,0), EXIT()",
                                           "subtraction from stack pointer prohibited"),
    "bits of a pointer": ("MOVR(0,10), ALU(BPF_AND,0,8), MOV(0,0), EXIT()",
                          "bitwise operator &= on pointer prohibited"),
    "a context that moved": ("MOVR(2,1), ALU(BPF_ADD,2,4), LDX(BPF_W,0,2,0), EXIT()",
                             "dereference of modified ctx ptr R2 off=4 disallowed"),
    "context out of range": ("LDX(BPF_W,0,1,4000), EXIT()", "invalid bpf_context access off=4000 size=4"),
    "storing a constant to the context": ("ST(BPF_W,1,48,0), MOV(0,0), EXIT()", "BPF_ST stores into R1 ctx is not allowed"),
    "endless loop": ("LDX(BPF_W,0,1,0), JMP(BPF_JEQ,0,5,-1), EXIT()", "infinite loop detected at insn 1"),
    "part of a pointer": ("STX(BPF_DW,10,1,-8), LDX(BPF_W,0,10,-8), EXIT()", "invalid size of register fill"),
    "not a map": ("LDMAP(1,1), MOV(0,0), EXIT()", "fd 1 is not pointing to valid bpf_map"),
    "spill in part": ("STX(BPF_W,10,1,-8), MOV(0,0), EXIT()", "invalid size of register spill"),
    "recursion": ("CALLREL(-1), EXIT()", "back-edge from insn 0 to 0"),
    "too large a stack": ("ST(BPF_DW,10,-264,0), CALLREL(2), MOV(0,0), EXIT(), ST(BPF_DW,10,-264,0), MOV(0,0), EXIT()",
                          "combined stack size of 2 calls is"),
    "stack pointer to the caller": ("CALLREL(1), EXIT(), MOVR(0,10), EXIT()", "cannot return stack pointer to the caller"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsafe_program_is_refused(bpf_c, name):
    code, words = REFUSED[name]
    result = bpf_c(f'int fd = LOAD({code}); printf("%d %s\\n", fd, text);')
    assert result.stdout.startswith(b"-1 ")
    assert words in result.stdout.decode()


ACCEPTED = {
    "a constant": ("MOV(0,42), EXIT()", 42),
    "arithmetic": ("MOV(0,7), ALU(BPF_MUL,0,6), ALU(BPF_SUB,0,2), ALU(BPF_DIV,0,4), EXIT()", 10),
    "remainder by a register that is 0": ("MOV(0,7), MOV(1,0), ALUR(BPF_MOD,0,1), EXIT()", 7),
    "division by a register that is 0": ("MOV(0,7), MOV(1,0), ALUR(BPF_DIV,0,1), EXIT()", 0),
    "sign of an immediate": ("MOV(0,-1), ALU(BPF_RSH,0,32), EXIT()", 0xFFFFFFFF),
    "byte order": ("MOV(0,0x1234), I(0xdc,0,0,0,16), EXIT()", 0x3412),
    "the stack": ("ST(BPF_DW,10,-8,5), LDX(BPF_DW,0,10,-8), EXIT()", 5),
    "atomic add on the stack": ("ST(BPF_DW,10,-8,5), MOV(1,3), XADD(BPF_DW,10,1,-8), LDX(BPF_DW,0,10,-8), EXIT()", 8),
    "spill and fill": ("STX(BPF_DW,10,1,-8), LDX(BPF_DW,2,10,-8), LDX(BPF_W,0,2,0), EXIT()", 50),
    "a loop with a bound": ("MOV(0,0), MOV(1,0), ALU(BPF_ADD,0,3), ALU(BPF_ADD,1,1), JMP(BPF_JLT,1,10,-3), EXIT()", 30),
    "a function": ("MOV(1,20), CALLREL(2), ALU(BPF_ADD,0,1), EXIT(), MOVR(0,1), ALU(BPF_ADD,0,20), EXIT()", 41),
    "a function that writes its caller's stack": (
        "ST(BPF_DW,10,-8,1), MOVR(1,10), ALU(BPF_ADD,1,-8), CALLREL(2), LDX(BPF_DW,0,10,-8), EXIT(), "
        "ST(BPF_DW,1,0,9), MOV(0,0), EXIT()", 9),
    "an element": (LOOKUP + "JMP(BPF_JNE,0,0,2), MOV(0,1), EXIT(), MOV(0,2), EXIT()", 1),
    "a bounded index": (
        "ST(BPF_W,10,-4,0), MOVR(2,10), ALU(BPF_ADD,2,-4), LDMAP(1,m), CALL(1), JMP(BPF_JNE,0,0,1), EXIT(), "
        "LDX(BPF_B,1,0,0), ALU(BPF_AND,1,7), ALUR(BPF_ADD,0,1), ST(BPF_B,0,0,6), LDX(BPF_B,0,0,0), EXIT()", 6),
    "a variable of the map": ("LDVALUE(1,m,4), ST(BPF_W,1,0,77), LDX(BPF_W,0,1,0), EXIT()", 77),
    "32-bit comparison": ("LD64(1,0x100000005ull), MOV(0,0), JMP32K(BPF_JEQ,1,5,1), EXIT(), MOV(0,1), EXIT()", 1),
    "signed comparison": ("MOV(1,-5), MOV(0,0), JMP(BPF_JSGT,1,-6,1), EXIT(), MOV(0,1), EXIT()", 1),
    "dead branch": ("MOV(1,1), JMP(BPF_JEQ,1,1,1), LDX(BPF_DW,0,9,0), MOV(0,3), EXIT()", 3),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_safe_program_runs(bpf_c, name):
    code, answer = ACCEPTED[name]
    result = bpf_c(f'long long r = RUN({code}); printf("%lld\\n", r); if (r < 0) puts(text);')
    assert result.stdout.decode().split("\n")[0] == str(answer), result.stdout.decode()


def test_without_rights(bpf_c):
    """bpf(2): without CAP_SYS_ADMIN: socket filters of 4096 instructions, no loops, no calls, no pointers to numbers"""
    functions = """
static void try(const char *what, int fd) { printf("%s %d %s\\n", what, fd < 0 ? -errno : 0, fd < 0 ? text : ""); }
"""
    result = bpf_c("""
setuid(1000);
try("filter", LOAD(MOV(0,0), EXIT()));
try("kprobe", prog_load(BPF_PROG_TYPE_KPROBE, (struct bpf_insn[]){MOV(0,0), EXIT()}, 2));
try("leak", LOAD(MOVR(0,10), EXIT()));
try("compare", LOAD(MOV(0,0), JMP(BPF_JEQ,10,0,0), EXIT()));
try("loop", LOAD(MOV(0,0), ALU(BPF_ADD,0,1), JMP(BPF_JLT,0,10,-2), EXIT()));
try("call", LOAD(CALLREL(1), EXIT(), MOV(0,0), EXIT()));
try("mapleak", LOAD(ST(BPF_W,10,-4,0), MOVR(2,10), ALU(BPF_ADD,2,-4), LDMAP(1,m), CALL(1), JMP(BPF_JEQ,0,0,1),
                    STX(BPF_DW,0,10,0), MOV(0,0), EXIT()));
struct bpf_insn *many = calloc(4097, 8);
for (int i = 0; i < 4096; i++) many[i] = MOV(0,0);
many[4096] = EXIT();
try("many", prog_load(BPF_PROG_TYPE_SOCKET_FILTER, many, 4097));
""", functions)
    lines = result.stdout.decode()
    for expected in ("filter 0", "kprobe -1 ", "leak -13 0: ", "R0 leaks addr as return value", "R10 pointer comparison prohibited",
                     "back-edge from insn 2 to 1", "function calls to other bpf functions are allowed for root only",
                     "R10 leaks addr into map", "many -7"):
        assert expected in lines, lines


def test_a_program_that_needs_gpl(bpf_c):
    """bpf(2): ktime_get_ns() is for GPL-compatible programs only"""
    result = bpf_c("""license = "Proprietary"; int fd = LOAD(CALL(5), EXIT()); puts(text);
license = "Dual BSD/GPL"; printf("%d\\n", LOAD(CALL(5), EXIT()) > 0);""")
    assert b"cannot call GPL-restricted function from non-GPL compatible program" in result.stdout
    assert result.stdout.endswith(b"1\n")


def test_a_log_that_does_not_fit(bpf_c):
    """bpf(2): ENOSPC, and the buffer has as much of the text as fits"""
    result = bpf_c("""
union bpf_attr a; memset(&a, 0, sizeof a);
struct bpf_insn p[200]; for (int i = 0; i < 199; i++) p[i] = MOV(0,i); p[199] = EXIT();
a.prog_type = 1; a.insn_cnt = 200; a.insns = (long)p; a.license = (long)"GPL"; a.log_level = 2; a.log_buf = (long)text;
a.log_size = 200;
long r = sys_bpf(BPF_PROG_LOAD, &a, 112); printf("%ld %d %zu\\n", r, errno, strlen(text));
a.log_size = 100; r = sys_bpf(BPF_PROG_LOAD, &a, 112); printf("%ld %d\\n", r, errno);
a.log_size = 1 << 20; a.log_buf = 8; r = sys_bpf(BPF_PROG_LOAD, &a, 112); printf("%ld %d\\n", r, errno);""")
    assert result.stdout == b"-1 28 199\n-1 22\n-1 14\n"


@pytest.mark.patience(240)
@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_accepted_does_no_harm(bpf_c, seed):
    """Random programs with pointers, loops and branches: the kernel runs those that it accepts without an oops."""
    functions = """
static uint64_t x;
static unsigned rnd(unsigned n) { x ^= x << 13; x ^= x >> 7; x ^= x << 17; return (x >> 20) % n; }
static int width(void) { return (int[]){BPF_B, BPF_H, BPF_W, BPF_DW}[rnd(4)]; }
static int number(void) { return (int[]){0, 1, 7, 8, -8, 48, 255, -1, 0x7fffffff, -4, 16, 40}[rnd(12)]; }
"""
    result = bpf_c(f"x = {seed * 7919}ull << 20 | 12345; log_level = 0; int accepted = 0;" """
for (int round = 0; round < 4000; round++) {
    struct bpf_insn p[64]; int n = 0, body = 1 + rnd(6);
    p[n++] = ST(BPF_DW,10,-8,rnd(8)); p[n++] = MOVR(6,1); p[n++] = MOVR(2,10); p[n++] = ALU(BPF_ADD,2,-8);
    struct bpf_insn map[] = {LDMAP(1, rnd(2) ? h : m)}; p[n++] = map[0]; p[n++] = map[1];
    p[n++] = CALL(1); p[n++] = JMP(BPF_JNE,0,0,1); p[n++] = EXIT();
    p[n++] = MOVR(7,0); p[n++] = LDX(width(),8,7,0); p[n++] = MOV(9,number());
    for (int i = 0; i < body; i++) {
        int a = (int[]){7, 8, 9, 8, 9, 8}[rnd(6)], b = (int[]){8, 7, 8, 9, 10}[rnd(5)];
        switch (rnd(9)) {
        case 0: p[n++] = ALU(16 * rnd(13), a, number()); break;
        case 1: p[n++] = ALUR(((int[]){BPF_ADD, BPF_SUB, BPF_AND, BPF_MOV, BPF_RSH}[rnd(5)]), a, b); break;
        case 2: p[n++] = JMP(((int[]){BPF_JGT, BPF_JLT, BPF_JEQ, BPF_JSGT, BPF_JSLE, BPF_JSET}[rnd(6)]), a,
            number(), (int)rnd(4) - 1); break;
        case 3: p[n++] = LDX(width(), a, 7, number() & 63); break;
        case 4: p[n++] = STX(width(), 7, a, number()); break;
        case 5: p[n++] = ALU(BPF_AND, a, (1 << rnd(7)) - 1); break;
        case 6: p[n++] = STX(BPF_DW, 10, a, -8 * (1 + (int)rnd(4))); break;
        case 7: p[n++] = LDX(BPF_DW, a, 10, -8 * (1 + (int)rnd(4))); break;
        case 8: p[n++] = JMP32K(((int[]){BPF_JGT, BPF_JLT, BPF_JEQ, BPF_JSLE}[rnd(4)]), a, number(), 1); break;
        }
    }
    p[n++] = MOV(0,0); p[n++] = EXIT();
    int fd = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, p, n);
    if (fd >= 0) { accepted++; prog_run(fd); close(fd); }
}
printf("%d\\n", accepted);""", functions)
    assert result.status == 0
    assert int(result.stdout) > 50
