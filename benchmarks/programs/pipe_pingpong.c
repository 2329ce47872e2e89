/* pipe_pingpong N: one byte to another process and back. */
#include "common.h"

int main(int argc, char **argv)
{
    long n = count(argc, argv);
    int there[2], back[2], status;
    char c = 'x';
    check(pipe(there) == 0 && pipe(back) == 0, "pipe");
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        while (n--)
            check(read(there[0], &c, 1) == 1 && write(back[1], &c, 1) == 1, "echo");
        _exit(0);
    }
    while (n--)
        check(write(there[1], &c, 1) == 1 && read(back[0], &c, 1) == 1, "ping");
    check(waitpid(child, &status, 0) == child && status == 0, "waitpid");
    return done();
}
