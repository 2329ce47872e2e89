/* Counts samples of a clock by whether they found the user's code, and calls of a user's function. */
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __always_inline int count(__u32 slot, __u64 by)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &slot);

	if (value)
		__sync_fetch_and_add(value, by);
	return 0;
}

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	count(ctx->regs.rip >> 63, 1);
	return count(2, ctx->sample_period);
}

SEC("uprobe//bpf/attach_samples:called")
int user(struct pt_regs *ctx)
{
	return count(3, ctx->rdi);
}

char _license[] SEC("license") = "GPL";
