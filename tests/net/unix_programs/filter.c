#include "t.h"
#include <linux/filter.h>
int main(void)
{
	int s[2], v; char b[100]; struct timeval tv; socklen_t l;
	/* keep 4 bytes of what begins with 'k', drop what begins with 'd', all of the rest */
	struct sock_filter f[] = { BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'k', 0, 1), BPF_STMT(BPF_RET | BPF_K, 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'd', 0, 1), BPF_STMT(BPF_RET | BPF_K, 0), BPF_STMT(BPF_RET | BPF_K, 0xffffffff) };
	struct sock_fprog p = {6, f}; socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, s);
	SHOW(setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p));
	SHOW(write(s[0], "keep me", 7)); SHOW(read(s[1], b, 100)); SHOW(write(s[0], "drop me", 7)); SHOW(read(s[1], b, 100)); SHOW(write(s[0], "other", 5)); SHOW(read(s[1], b, 100)); SHOW(write(s[0], "", 0)); SHOW(read(s[1], b, 100));
	f[0].code = BPF_LD | BPF_H | BPF_ABS; f[1].k = 'k' << 8 | 'k'; SHOW(setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p)); SHOW(write(s[0], "kk234567", 8)); SHOW(read(s[1], b, 100)); SHOW(write(s[0], "1", 1)); SHOW(read(s[1], b, 100));
	f[0].code = BPF_LD | BPF_W | BPF_LEN; f[1].k = 3; SHOW(setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p)); SHOW(write(s[0], "abc", 3)); SHOW(read(s[1], b, 100)); SHOW(write(s[0], "abcde", 5)); SHOW(read(s[1], b, 100));
	p.len = 5; SHOW(setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p)); p.len = 0; SHOW(setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p)); p.len = 6; f[1].jt = 200; SHOW(setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p)); f[1].jt = 0;
	SHOW(setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, &p, 8)); SHOW(setsockopt(s[1], SOL_SOCKET, SO_ATTACH_FILTER, (void *)1, 16));
	l = 10; SHOW(getsockopt(s[1], SOL_SOCKET, SO_GET_FILTER, b, &l)); printf("%d\n", (int)l); l = 2; SHOW(getsockopt(s[1], SOL_SOCKET, SO_GET_FILTER, b, &l));
	v = 1; SHOW(setsockopt(s[1], SOL_SOCKET, SO_LOCK_FILTER, &v, 4)); SHOW(setsockopt(s[1], SOL_SOCKET, SO_DETACH_FILTER, &v, 4)); v = 0; SHOW(setsockopt(s[1], SOL_SOCKET, SO_LOCK_FILTER, &v, 4));
	SHOW(setsockopt(s[0], SOL_SOCKET, SO_DETACH_FILTER, &v, 4));
	/* stamps */
	v = 1; setsockopt(s[0], SOL_SOCKET, SO_TIMESTAMP, &v, 4); write(s[1], "t", 1); char ctl[64]; struct iovec iv = {b, 10}; struct msghdr m = {0, 0, &iv, 1, ctl, 64, 0}; SHOW(recvmsg(s[0], &m, 0)); struct cmsghdr *c = (void *)ctl; printf("%d %d %d %d\n", (int)m.msg_controllen, (int)c->cmsg_len, c->cmsg_level, c->cmsg_type);
	struct timeval now; gettimeofday(&now, 0); memcpy(&tv, CMSG_DATA(c), sizeof tv); printf("near %d\n", now.tv_sec - tv.tv_sec < 2);
	return 0;
}
