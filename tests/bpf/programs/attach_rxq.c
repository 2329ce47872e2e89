/* attach_rxq OBJECT DEV COMMAND...: what rxq_info.c counts while a command runs, as xdp_rxq_info shows it. */
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

struct record {
	__u64 processed, issue;
};

int main(int argc, char **argv)
{
	struct bpf_object *object = bpf_object__open(argv[1]);
	int cpus = libbpf_num_possible_cpus(), prog, map;
	__u32 key = 0, ifindex = if_nametoindex(argv[2]);
	struct record values[cpus];
	__u64 sum = 0, issue = 0;

	if (!object || bpf_object__load(object))
		return 2;
	prog = bpf_program__fd(bpf_object__next_program(object, NULL));
	map = bpf_object__find_map_fd_by_name(object, "config");
	if (bpf_map_update_elem(map, &key, &ifindex, 0) || bpf_xdp_attach(ifindex, prog, 0, NULL)) {
		fprintf(stderr, "attach: %s\n", strerror(errno));
		return 3;
	}
	if (system(argv[3]))
		return 4;
	printf("Running XDP on dev:%s (ifindex:%u)\n", argv[2], ifindex);
	map = bpf_object__find_map_fd_by_name(object, "stats_global");
	if (bpf_map_lookup_elem(map, &key, values))
		return 5;
	for (int cpu = 0; cpu < cpus; cpu++)
		if (values[cpu].processed)
			printf("XDP-RX CPU %d %llu %llu\n", cpu, values[cpu].processed, values[cpu].issue);
	map = bpf_object__find_map_fd_by_name(object, "rx_queues");
	if (bpf_map_lookup_elem(map, &key, values))
		return 6;
	for (int cpu = 0; cpu < cpus; cpu++) {
		sum += values[cpu].processed;
		issue += values[cpu].issue;
	}
	printf("rx_queue_index 0:sum %llu %llu\n", sum, issue);
	return bpf_xdp_detach(ifindex, 0, NULL) != 0;
}
