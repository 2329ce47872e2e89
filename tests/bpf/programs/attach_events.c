/* attach_events OBJECT COMMAND: prints the records of events.c, and the functions of their stacks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

struct record {
	__u32 pid, uid;
	int stack;
	char comm[16];
	char path[16];
};

static int stacks;

static void symbol(unsigned long long ip)
{
	static char name[128], best[128];
	unsigned long long address, low = 0;
	FILE *file = fopen("/proc/kallsyms", "r");

	while (fscanf(file, "%llx %*c %127s%*[^\n]", &address, name) == 2)
		if (address <= ip && address >= low) {
			low = address;
			strcpy(best, name);
		}
	fclose(file);
	printf(" %s", best);
}

static void sample(void *ctx, int cpu, void *data, __u32 size)
{
	struct record *record = data;
	unsigned long long ips[32] = {};

	if (record->stack == -1) {
		printf("%s %u %s\n", record->comm, record->uid, record->path);
		return;
	}
	if (bpf_map_lookup_elem(stacks, &record->stack, ips))
		exit(9);
	printf("stack");
	for (int i = 0; i < 3 && ips[i]; i++)
		symbol(ips[i]);
	printf("\n");
}

int main(int argc, char **argv)
{
	struct bpf_object *object = bpf_object__open(argv[1]);
	struct perf_buffer *buffer;
	struct bpf_program *prog;

	if (!object || bpf_object__load(object))
		return 2;
	stacks = bpf_object__find_map_fd_by_name(object, "stacks");
	buffer = perf_buffer__new(bpf_object__find_map_fd_by_name(object, "records"), 8, sample, NULL, NULL, NULL);
	if (!buffer)
		return 3;
	bpf_object__for_each_program(prog, object)
		if (!bpf_program__attach(prog))
			return 4;
	if (system(argv[2]))
		return 5;
	return perf_buffer__poll(buffer, 100) < 0;
}
