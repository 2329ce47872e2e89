/* Lab B38: how long disk requests take, as a histogram of powers of two (in ns). */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, long);
	__type(value, __u64);
} started SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} latencies SEC(".maps");

SEC("kprobe/blk_mq_start_request")
int start(struct pt_regs *ctx)
{
	long rq = ctx->rdi;
	__u64 now = bpf_ktime_get_ns();

	bpf_map_update_elem(&started, &rq, &now, BPF_ANY);
	return 0;
}

SEC("kprobe/blk_account_io_done")
int done(struct pt_regs *ctx)
{
	long rq = ctx->rdi;
	__u64 *since = bpf_map_lookup_elem(&started, &rq), delta, *count;
	__u32 slot = 0;

	if (!since)
		return 0;
	delta = bpf_ktime_get_ns() - *since;
	bpf_map_delete_elem(&started, &rq);
#pragma unroll
	for (int bit = 32; bit; bit >>= 1)
		if (delta >> bit) {
			delta >>= bit;
			slot += bit;
		}
	count = bpf_map_lookup_elem(&latencies, &slot);
	if (count)
		*count += 1;
	return 0;
}

char _license[] SEC("license") = "GPL";
__u32 _version SEC("version") = 328448;
