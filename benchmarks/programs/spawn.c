/* spawn fork N: fork, exit, wait.    spawn PROGRAM ARGS... N: fork, execve, exit, wait. */
#include "common.h"

int main(int argc, char **argv)
{
    char *child_env[] = {NULL};
    int exec = strcmp(argv[1], "fork") != 0, status;
    long n = count(argc, argv);
    argv[argc - 1] = NULL;
    for (; n > 0; n--) {
        pid_t child = fork();
        check(child >= 0, "fork");
        if (child == 0) {
            if (exec) {
                execve(argv[1], argv + 1, child_env);
                _exit(127);
            }
            _exit(0);
        }
        check(waitpid(child, &status, 0) == child && status == 0, "waitpid");
    }
    return done();
}
