/* C03: a child that nobody waits for is a zombie: state Z, no memory, immune to SIGKILL. Argument: seconds. */
#include "check.h"

static char state_of(pid_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    char *end = strrchr(text, ')');
    return end ? end[2] : 0;
}

int main(int argc, char **argv)
{
    int seconds = argc > 1 ? atoi(argv[1]) : 1;
    pid_t child = fork();
    if (child == 0)
        exit(0);
    sleep(seconds);
    CHECK("the dead child is in state Z", state_of(child) == 'Z');
    char path[64], text[16];
    snprintf(path, sizeof path, "/proc/%d/cmdline", child);
    int fd = open(path, O_RDONLY);
    CHECK("it has no memory, so no command line", read(fd, text, sizeof text) == 0);
    CHECK("kill -9 reports success", kill(child, SIGKILL) == 0);
    CHECK("and changes nothing", state_of(child) == 'Z');
    int status;
    CHECK("wait reaps it", waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK("then it is gone", FAILS(kill(child, 0), ESRCH));
    DONE();
}
