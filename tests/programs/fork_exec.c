/* C06: fork, execv of a relative path, wait; five lines. In a directory without `ls` the execv fails. */
#include "check.h"

int main(void)
{
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        return 1;
    }
    if (pid == 0) {
        char *argv[] = {"ls", "-lart", "/home", NULL};
        printf("child process, pid = %d\n", getpid());
        printf("parent of child process, pid = %d\n", getppid());
        fflush(stdout);
        execv("ls", argv);
        exit(0);
    }
    printf("Parent Of parent process, pid = %d\n", getppid());
    printf("parent process, pid = %d\n", getpid());
    int status;
    if (waitpid(pid, &status, 0) < 0)
        return 1;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        printf("program execution successful\n");
    else if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        printf("execv failed\n");
    else if (WIFEXITED(status))
        printf("program terminated normally, but returned a non-zero status\n");
    else
        printf("program didn't terminate normally\n");
    return 0;
}
