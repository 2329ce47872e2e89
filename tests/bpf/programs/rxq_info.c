/* Lab B60: packets by receive queue and CPU. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} config SEC(".maps");

struct record {
	__u64 processed, issue;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct record);
} stats_global SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct record);
} rx_queues SEC(".maps");

SEC("xdp")
int rxq_info(struct xdp_md *ctx)
{
	__u32 key = 0, queue = ctx->rx_queue_index;
	__u32 *ifindex = bpf_map_lookup_elem(&config, &key);
	struct record *record;

	if (!ifindex)
		return XDP_ABORTED;
	record = bpf_map_lookup_elem(&stats_global, &key);
	if (!record)
		return XDP_ABORTED;
	record->processed++;
	if (ctx->ingress_ifindex != *ifindex)
		record->issue++;
	record = bpf_map_lookup_elem(&rx_queues, &queue);
	if (!record)
		return XDP_ABORTED;
	record->processed++;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
