/* attach OBJECT [-q] COMMAND...: loads and attaches every program of an object, runs the command, prints its maps
 * (arrays of 64-bit numbers: what is not 0, summed over the CPUs). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, args) : 0;
}

int main(int argc, char **argv)
{
	struct bpf_object *object;
	struct bpf_program *prog;
	struct bpf_map *map;
	int status;
	pid_t child;

	libbpf_set_print(quiet);
	object = bpf_object__open(argv[1]);
	if (!object || bpf_object__load(object)) {
		fprintf(stderr, "load: %s\n", strerror(errno));
		return 2;
	}
	bpf_object__for_each_program(prog, object)
		if (!bpf_program__attach(prog)) {
			fprintf(stderr, "attach %s: %s\n", bpf_program__name(prog), strerror(errno));
			return 3;
		}
	child = fork();
	if (!child) {
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	waitpid(child, &status, 0);
	bpf_object__for_each_map(map, object) {
		__u64 values[256];
		__u32 entries = bpf_map__max_entries(map);
		int cpus = bpf_map__type(map) == BPF_MAP_TYPE_PERCPU_ARRAY ? libbpf_num_possible_cpus() : 1;

		if (bpf_map__key_size(map) != 4)
			continue;
		for (__u32 key = 0; key < entries; key++) {
			__u64 sum = 0;

			if (bpf_map_lookup_elem(bpf_map__fd(map), &key, values))
				return 4;
			for (int cpu = 0; cpu < cpus; cpu++)
				sum += values[cpu];
			if (sum)
				printf("%s %u %llu\n", bpf_map__name(map), key, (unsigned long long)sum);
		}
	}
	return WEXITSTATUS(status);
}
