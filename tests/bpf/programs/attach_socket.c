/* attach_socket OBJECT: a UDP socket with a filter; prints what arrives of "a".."f" sent to it, and the refused. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

int main(int argc, char **argv)
{
	struct bpf_object *object = bpf_object__open(argv[1]);
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(4242) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), prog;
	__u32 key = 0;
	__u64 refused = 0;
	char text[8];

	if (!object || bpf_object__load(object))
		return 2;
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	prog = bpf_program__fd(bpf_object__next_program(object, NULL));
	if (bind(fd, (void *)&address, sizeof(address)) ||
	    setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &prog, sizeof(prog)))
		return 3;
	for (char c = 'a'; c <= 'f'; c++)
		sendto(fd, &c, 1, 0, (void *)&address, sizeof(address));
	while (recv(fd, text, sizeof(text), 0) == 1)
		putchar(text[0]);
	bpf_map_lookup_elem(bpf_object__find_map_fd_by_name(object, "refused"), &key, &refused);
	printf(" %llu\n", (unsigned long long)refused);
	if (setsockopt(fd, SOL_SOCKET, SO_DETACH_BPF, &prog, sizeof(prog)))
		return 4;
	sendto(fd, "b", 1, 0, (void *)&address, sizeof(address));
	printf("%zd\n", recv(fd, text, sizeof(text), 0));
	return 0;
}
