/* A value with a lock: all of it changes at once. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct counter {
	struct bpf_spin_lock lock;
	int packets;
	long bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, int);
	__type(value, struct counter);
	__uint(max_entries, 4);
} counters SEC(".maps");

static int seen = 0;

static __noinline unsigned int half(unsigned int size)
{
	return size / 2;
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	struct counter zero = {}, *value;
	unsigned int key = 7, size = ctx->data_end - ctx->data;

	seen++;
	value = bpf_map_lookup_elem(&counters, &key);
	if (!value) {
		bpf_map_update_elem(&counters, &key, &zero, BPF_NOEXIST);
		value = bpf_map_lookup_elem(&counters, &key);
		if (!value)
			return XDP_ABORTED;
	}
	size = half(size);
	bpf_spin_lock(&value->lock);
	value->packets++;
	value->bytes += size;
	bpf_spin_unlock(&value->lock);
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
