/* A filter for sockets: only packets whose first byte is odd; counts the others. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} refused SEC(".maps");

SEC("socket")
int odd(struct __sk_buff *skb)
{
	__u32 key = 0;
	__u64 *value;
	char first = 0;

	bpf_skb_load_bytes(skb, 8, &first, 1);	/* behind the UDP header */
	if (first & 1)
		return skb->len;
	value = bpf_map_lookup_elem(&refused, &key);
	if (value)
		__sync_fetch_and_add(value, 1);
	return 0;
}

char _license[] SEC("license") = "GPL";
