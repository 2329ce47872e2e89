#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHOW(call) do { errno = 0; long r_ = (long)(call); if (r_ < 0) printf("%s: -1 %s\n", #call, strerrorname_np(errno)); else printf("%s: %ld\n", #call, r_); fflush(stdout); } while (0)

static socklen_t un(struct sockaddr_un *a, const char *name)   /* "@x": abstract */
{
	memset(a, 0, sizeof *a);
	a->sun_family = AF_UNIX;
	strcpy(a->sun_path, name);
	if (name[0] == '@') { a->sun_path[0] = 0; return offsetof(struct sockaddr_un, sun_path) + strlen(name); }
	return sizeof *a;
}
static void name(const char *label, struct sockaddr_un *a, socklen_t l)
{
	printf("%s: len %d family %d \"", label, (int)l, l >= 2 ? a->sun_family : -1);
	for (int i = 0; i < (int)l - 2 && i < 40; i++) putchar(a->sun_path[i] ? a->sun_path[i] : '.');
	printf("\"\n");
}
