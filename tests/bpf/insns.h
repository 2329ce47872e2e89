/* Instructions and calls of bpf(2) for the tests: every test program has this in front. */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define I(c, d, s, o, i) ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define MOV(d, i) I(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define MOVR(d, s) I(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define MOV32R(d, s) I(BPF_ALU | BPF_MOV | BPF_X, d, s, 0, 0)
#define ALU(op, d, i) I(BPF_ALU64 | (op) | BPF_K, d, 0, 0, i)
#define ALUR(op, d, s) I(BPF_ALU64 | (op) | BPF_X, d, s, 0, 0)
#define ALU32(op, d, i) I(BPF_ALU | (op) | BPF_K, d, 0, 0, i)
#define ALU32R(op, d, s) I(BPF_ALU | (op) | BPF_X, d, s, 0, 0)
#define LDX(sz, d, s, o) I(BPF_LDX | BPF_MEM | (sz), d, s, o, 0)
#define STX(sz, d, s, o) I(BPF_STX | BPF_MEM | (sz), d, s, o, 0)
#define ST(sz, d, o, i) I(BPF_ST | BPF_MEM | (sz), d, 0, o, i)
#define XADD(sz, d, s, o) I(BPF_STX | BPF_XADD | (sz), d, s, o, 0)
#define JMP(op, d, i, o) I(BPF_JMP | (op) | BPF_K, d, 0, o, i)
#define JMPR(op, d, s, o) I(BPF_JMP | (op) | BPF_X, d, s, o, 0)
#define JMP32K(op, d, i, o) I(0x06 | (op) | BPF_K, d, 0, o, i)
#define JA(o) I(BPF_JMP | BPF_JA, 0, 0, o, 0)
#define CALL(f) I(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define CALLREL(o) I(BPF_JMP | BPF_CALL, 0, 1, 0, o)
#define EXIT() I(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define LDMAP(d, fd) I(BPF_LD | BPF_DW | BPF_IMM, d, 1, 0, fd), I(0, 0, 0, 0, 0)
#define LDVALUE(d, fd, off) I(BPF_LD | BPF_DW | BPF_IMM, d, 2, 0, fd), I(0, 0, 0, 0, off)
#define LD64(d, v) I(BPF_LD | BPF_DW | BPF_IMM, d, 0, 0, (uint32_t)(v)), I(0, 0, 0, 0, (uint64_t)(v) >> 32)

static char text[1 << 20];
static int log_level;
static const char *license = "GPL";

static long sys_bpf(int cmd, union bpf_attr *a, unsigned n) { return syscall(SYS_bpf, cmd, a, n); }

static int map_new(int type, int key, int value, int max, int flags) {
    union bpf_attr a = {.map_type = type, .key_size = key, .value_size = value, .max_entries = max, .map_flags = flags};
    return sys_bpf(BPF_MAP_CREATE, &a, sizeof a);
}
static int map_do(int cmd, int fd, const void *k, const void *v, long flags) {
    union bpf_attr a = {.map_fd = fd, .key = (uint64_t)k, .value = (uint64_t)v, .flags = flags};
    return sys_bpf(cmd, &a, 32);
}
#define map_set(fd, k, v) map_do(BPF_MAP_UPDATE_ELEM, fd, k, v, 0)
#define map_get(fd, k, v) map_do(BPF_MAP_LOOKUP_ELEM, fd, k, v, 0)
#define map_del(fd, k) map_do(BPF_MAP_DELETE_ELEM, fd, k, 0, 0)
#define map_next(fd, k, n) map_do(BPF_MAP_GET_NEXT_KEY, fd, k, n, 0)

static int prog_load(int type, struct bpf_insn *insns, int n) {
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.prog_type = type, a.insn_cnt = n, a.insns = (uint64_t)insns, a.license = (uint64_t)license;
    if (log_level) a.log_level = log_level, a.log_buf = (uint64_t)text, a.log_size = sizeof text;
    text[0] = 0;
    return sys_bpf(BPF_PROG_LOAD, &a, 112);
}
/* Runs a socket filter, or whatever type says, on 64 bytes: what it answers; -1: errno. */
static long long prog_run(int fd) {
    static char packet[64];
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.test.prog_fd = fd, a.test.data_in = (uint64_t)packet, a.test.data_size_in = sizeof packet, a.test.repeat = 1;
    if (sys_bpf(BPF_PROG_TEST_RUN, &a, 64)) return -1;
    return a.test.retval;
}
#define LOAD(...) prog_load(BPF_PROG_TYPE_SOCKET_FILTER, (struct bpf_insn[]){__VA_ARGS__}, \
                            sizeof((struct bpf_insn[]){__VA_ARGS__}) / sizeof(struct bpf_insn))
/* The answer of a program of one expression of r0; loads it, runs it, closes it. */
#define RUN(...) ({ int fd_ = LOAD(__VA_ARGS__); long long r_ = fd_ < 0 ? -1000 - errno : prog_run(fd_); close(fd_); r_; })
static void free_memlock(void) { struct rlimit r = {1ul << 30, 1ul << 30}; setrlimit(RLIMIT_MEMLOCK, &r); }
