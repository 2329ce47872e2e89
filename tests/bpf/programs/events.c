/* Records for user space, stack traces, and samples of a clock. */
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 64);
	__uint(key_size, 4);
	__uint(value_size, 8 * 32);
} stacks SEC(".maps");

struct record {
	__u32 pid, uid;
	int stack;
	char comm[16];
	char path[16];
};

SEC("tracepoint/syscalls/sys_enter_mkdir")
int made(struct { __u64 common; long nr; const char *path; } *ctx)
{
	struct record record = {};

	record.pid = bpf_get_current_pid_tgid() >> 32;
	record.uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(record.comm, sizeof(record.comm));
	bpf_probe_read_str(record.path, sizeof(record.path), ctx->path);
	record.stack = -1;
	bpf_perf_event_output(ctx, &records, BPF_F_CURRENT_CPU, &record, sizeof(record));
	return 0;
}

SEC("kprobe/vfs_mkdir")
int stack(struct pt_regs *ctx)
{
	struct record record = {};

	record.stack = bpf_get_stackid(ctx, &stacks, 0);
	bpf_perf_event_output(ctx, &records, BPF_F_CURRENT_CPU, &record, sizeof(record));
	return 0;
}

char _license[] SEC("license") = "GPL";
