/* attach_samples OBJECT: what samples.c counts of this program. */
#include <linux/perf_event.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

__attribute__((noinline)) int called(int number)
{
	__asm__ volatile("" : "+r"(number));
	return number;
}

int main(int argc, char **argv)
{
	struct bpf_object *object = bpf_object__open(argv[1]);
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof(attr),
					.config = PERF_COUNT_SW_CPU_CLOCK, .sample_period = 100000 };
	struct { __u32 ids_len, prog_cnt, ids[4]; } query = { .ids_len = 4 };
	struct bpf_link *link;
	int event;

	if (!object || bpf_object__load(object))
		return 2;
	event = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	if (!bpf_program__attach_perf_event(bpf_object__find_program_by_name(object, "sample"), event))
		return 3;
	link = bpf_program__attach(bpf_object__find_program_by_name(object, "user"));
	if (!link)
		return 4;
	if (ioctl(bpf_link__fd(link), PERF_EVENT_IOC_QUERY_BPF, &query) || query.prog_cnt != 1)
		return 5;
	for (volatile long i = 0; i < 3000000; i++)
		;
	for (int i = 1; i <= 4; i++)
		called(i);
	for (__u32 key = 0; key < 4; key++) {
		__u64 value;

		if (bpf_map_lookup_elem(bpf_object__find_map_fd_by_name(object, "counts"), &key, &value))
			return 6;
		printf("%llu\n", (unsigned long long)value);
	}
	return 0;
}
