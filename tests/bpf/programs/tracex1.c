/* Lab B62: prints a line for each packet that arrives through lo. The kernel's objects are read at fixed offsets. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>

#define SKB_DEV 16
#define SKB_LEN 112

const char fmt[] = "skb %p len %d\n";

SEC("kprobe/__netif_receive_skb_core")
int packet(struct pt_regs *ctx)
{
	char *skb = (char *)ctx->rdi, *dev = 0, name[16];
	unsigned int len = 0;

	bpf_probe_read(&dev, sizeof(dev), skb + SKB_DEV);
	bpf_probe_read(&len, sizeof(len), skb + SKB_LEN);
	bpf_probe_read(name, sizeof(name), dev);
	if (name[0] == 'l' && name[1] == 'o')
		bpf_trace_printk(fmt, sizeof(fmt), skb, len);
	return 0;
}

char _license[] SEC("license") = "GPL";
__u32 _version SEC("version") = 328448;
