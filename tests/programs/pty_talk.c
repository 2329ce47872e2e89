/* Talks to a program on a pseudo terminal, as a person would: waits for a text, types an answer.
 *
 *   pty_talk ROWSxCOLS PROGRAM ARG... -- EXPECT TYPE EXPECT TYPE ...
 *
 * EXPECT "" types at once. In TYPE and EXPECT, \n \t \e \\ and ^X are what they look like; in TYPE, \p is a pause of
 * 0.3 s, in which what the program shows is taken. What the program wrote
 * goes to stdout; the status is the program's own (128 + signal), or 99 if an expected text never came in 20 s. */
#include "check.h"
#include <poll.h>
#include <sys/ioctl.h>

enum { PAUSE = 1 };
static char seen[1 << 20];
static size_t used, from;

static char *decode(const char *text)
{
    char *out = malloc(strlen(text) + 1), *p = out;
    for (; *text; text++) {
        if (*text == '\\' && text[1]) {
            text++;
            *p++ = *text == 'n' ? '\n' : *text == 't' ? '\t' : *text == 'e' ? 27 : *text == 'p' ? PAUSE : *text;
        } else if (*text == '^' && text[1] >= '@' && text[1] <= '_') {
            *p++ = *++text & 0x1f;
        } else {
            *p++ = *text;
        }
    }
    *p = 0;
    return out;
}

static int more(int fd, int timeout_ms) /* 0: nothing more comes */
{
    struct pollfd ready = {fd, POLLIN};
    if (poll(&ready, 1, timeout_ms) <= 0)
        return 0;
    ssize_t n = read(fd, seen + used, sizeof seen - 1 - used);
    if (n <= 0)
        return 0;
    (void)!write(1, seen + used, n);
    used += n;
    seen[used] = 0;
    return 1;
}

int main(int argc, char **argv)
{
    struct winsize size = {24, 80};
    sscanf(argv[1], "%hux%hu", &size.ws_row, &size.ws_col);
    int dialog = 2;
    while (dialog < argc && strcmp(argv[dialog], "--"))
        dialog++;
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    char name[64];
    if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, name, sizeof name))
        return 98;
    ioctl(master, TIOCSWINSZ, &size);
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        int slave = open(name, O_RDWR);
        for (int i = 0; i < 3; i++)
            dup2(slave, i);
        if (slave > 2)
            close(slave);
        close(master);
        argv[dialog] = NULL;
        execvp(argv[2], argv + 2);
        _exit(127);
    }
    int missed = 0;
    for (int i = dialog + 1; i + 1 < argc && !missed; i += 2) {
        char *expect = decode(argv[i]), *found;
        while (!(found = strstr(seen + from, expect)) && !missed)
            missed = !more(master, 20000);
        if (found) {
            from = found - seen + strlen(expect);
            char *answer = decode(argv[i + 1]);
            for (size_t n; *answer; answer += n) {
                n = strcspn(answer, "\1");
                if (n) {
                    (void)!write(master, answer, n);
                    continue;
                }
                long long end = now_ns(CLOCK_MONOTONIC) + 300000000;
                while (now_ns(CLOCK_MONOTONIC) < end)
                    more(master, 50);
                n = 1;
            }
        }
    }
    while (more(master, missed ? 100 : 20000))
        ;
    if (missed)
        kill(pid, SIGKILL);
    int status;
    waitpid(pid, &status, 0); /* first: closing the master would hang up on a program that is about to end */
    close(master);
    if (missed)
        return 99;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
