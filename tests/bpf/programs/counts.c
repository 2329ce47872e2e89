/* Programs at functions, their returns, tracepoints, raw tracepoints: each counts in its slot. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __always_inline void count(__u32 slot, __u64 by)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &slot);

	if (value)
		__sync_fetch_and_add(value, by);
}

SEC("kprobe/vfs_mkdir")
int entry(struct pt_regs *ctx)
{
	count(0, 1);
	return 0;
}

SEC("kretprobe/do_mkdirat")
int leave(struct pt_regs *ctx)
{
	count(1, 1);
	count(2, -(int)ctx->rax);
	return 0;
}

struct enter_mkdir {
	__u64 common;
	int nr;
	__u64 pathname, mode;
};

SEC("tracepoint/syscalls/sys_enter_mkdir")
int tracepoint(struct enter_mkdir *ctx)
{
	char name[8] = {};

	count(3, 1);
	bpf_probe_read_str(name, sizeof(name), (void *)ctx->pathname);
	if (name[0] == '/' && name[4] == '/')
		count(4, ctx->mode);
	return 0;
}

SEC("raw_tp/sched_process_exec")
int raw(struct bpf_raw_tracepoint_args *ctx)
{
	count(5, ctx->args[0] != 0);
	return 0;
}

char _license[] SEC("license") = "GPL";
