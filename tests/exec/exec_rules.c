/* execve(2) by its manual page. Run with no argument in an empty writable directory; runs itself again as a child. */
#include "check.h"
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static char self[4096];
static char *no_env[] = {NULL};

/* Runs `call` in a child (it execs, or its errno is the exit status + 100); answers the exit status, -signal. */
static int wait_status(pid_t pid)
{
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
#define CHILD(...) ({ pid_t pid_ = fork(); if (!pid_) { __VA_ARGS__; _exit(100 + errno); } wait_status(pid_); })
#define EXEC(path, ...) CHILD({ char *av_[] = {__VA_ARGS__, NULL}; execve(path, av_, no_env); })

static void put(const char *name, const char *text, int mode)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0755);
    if (write(fd, text, strlen(text)) < 0)
        abort();
    close(fd);
    chmod(name, mode);
}

static void copy_self(const char *name, int mode)
{
    char buffer[65536];
    int in = open(self, O_RDONLY), out = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0755);
    ssize_t n;
    while ((n = read(in, buffer, sizeof buffer)) > 0)
        if (write(out, buffer, n) != n)
            abort();
    close(in);
    close(out);
    chmod(name, mode);
}

static char output[65536];
static char *run_and_read(char **argv)
{
    int p[2];
    if (pipe(p) < 0)
        abort();
    pid_t pid = fork();
    if (!pid) {
        dup2(p[1], 1);
        close(p[0]);
        close(p[1]);
        execve(argv[0], argv, no_env);
        _exit(99);
    }
    close(p[1]);
    size_t n = 0;
    ssize_t got;
    while ((got = read(p[0], output + n, sizeof output - 1 - n)) > 0)
        n += got;
    output[n] = 0;
    close(p[0]);
    wait_status(pid);
    return output;
}
#define OUT(...) run_and_read((char *[]){__VA_ARGS__, NULL})

static void handler(int sig) { (void)sig; }
static void *other_thread(void *arg) { for (;;) pause(); return arg; }
static void *exec_thread(void *arg)
{
    char *argv[] = {self, "child", "pid", arg, NULL};
    execve(self, argv, no_env);
    return NULL;
}

extern char _start[], __ehdr_start[];

static int child(int argc, char **argv)
{
    const char *mode = argv[2];
    char name[64];
    if (!strcmp(mode, "args")) {
        for (int i = 0; i < argc; i++)
            printf("[%s]", argv[i]);
        return 0;
    }
    if (!strcmp(mode, "status"))
        return atoi(argv[3]);
    if (!strcmp(mode, "fds"))
        return (fcntl(70, F_GETFD) >= 0) | (fcntl(71, F_GETFD) >= 0) << 1;
    if (!strcmp(mode, "signals")) {
        struct sigaction a;
        sigset_t set;
        int bits = 0;
        sigaction(SIGUSR1, NULL, &a);
        bits |= (a.sa_handler == SIG_DFL) << 0;
        sigaction(SIGUSR2, NULL, &a);
        bits |= (a.sa_handler == SIG_IGN) << 1;
        sigprocmask(0, NULL, &set);
        bits |= sigismember(&set, SIGTERM) << 2;
        sigpending(&set);
        bits |= sigismember(&set, SIGTERM) << 3;
        return bits;
    }
    if (!strcmp(mode, "name")) {
        prctl(PR_GET_NAME, name);
        printf("%s", name);
        return 0;
    }
    if (!strcmp(mode, "pid"))
        return getpid() != atoi(argv[3]);
    if (!strcmp(mode, "ids")) {
        printf("%d %d %d %d %lu", getuid(), geteuid(), getgid(), getegid(), getauxval(AT_SECURE));
        return 0;
    }
    if (!strcmp(mode, "layout")) {
        printf("%p %p", (void *)name, sbrk(0));
        return 0;
    }
    if (!strcmp(mode, "write-self"))
        return open(argv[3], O_WRONLY) < 0 ? errno : 0;
    if (!strcmp(mode, "aux")) {
        CHECK("AT_PAGESZ", getauxval(AT_PAGESZ) == 4096);
        CHECK("AT_CLKTCK", getauxval(AT_CLKTCK) == 100);
        CHECK("AT_PHENT", getauxval(AT_PHENT) == 56);
        CHECK("AT_PHDR", getauxval(AT_PHDR) == (unsigned long)__ehdr_start + 64);
        CHECK("AT_PHNUM", getauxval(AT_PHNUM) == *(unsigned short *)(__ehdr_start + 56));
        CHECK("AT_BASE", getauxval(AT_BASE) == 0);
        CHECK("AT_ENTRY", getauxval(AT_ENTRY) == (unsigned long)_start);
        CHECK("AT_FLAGS", getauxval(AT_FLAGS) == 0);
        CHECK("AT_UID", getauxval(AT_UID) == getuid() && getauxval(AT_EUID) == geteuid());
        CHECK("AT_GID", getauxval(AT_GID) == getgid() && getauxval(AT_EGID) == getegid());
        CHECK("AT_SECURE", getauxval(AT_SECURE) == 0);
        CHECK("AT_PLATFORM", !strcmp((char *)getauxval(AT_PLATFORM), "x86_64"));
        CHECK("AT_EXECFN", !strcmp((char *)getauxval(AT_EXECFN), argv[3]));
        const unsigned long *random = (unsigned long *)getauxval(AT_RANDOM);
        CHECK("AT_RANDOM", random && (random[0] | random[1]));
        CHECK("AT_SYSINFO_EHDR", !memcmp((char *)getauxval(AT_SYSINFO_EHDR), "\177ELF", 4));
        DONE();
    }
    return 98;
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "child"))
        return child(argc, argv);
    if (argc > 1)
        return 97;
    CHECK("/proc/self/exe", readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    copy_self("prog", 0755);
    char cwd[4096], path[8192];
    if (!getcwd(cwd, sizeof cwd))
        return 2;

    /* paths */
    CHECK("missing: ENOENT", EXEC("nothing", "x") == 100 + ENOENT);
    CHECK("empty name: ENOENT", EXEC("", "x") == 100 + ENOENT);
    CHECK("directory: EACCES", EXEC(".", "x") == 100 + EACCES);
    CHECK("through a file: ENOTDIR", EXEC("prog/x", "x") == 100 + ENOTDIR);
    put("noexec", "#!/bin/sh\n", 0644);
    CHECK("no x bit: EACCES, for root too", EXEC("noexec", "x") == 100 + EACCES);
    CHECK("symlink", !symlink("prog", "link") && EXEC("link", "x", "child", "status", "7") == 7);
    CHECK("symlink loop: ELOOP", !symlink("loop", "loop") && EXEC("loop", "x") == 100 + ELOOP);
    memset(path, 'a', 300), path[300] = 0;
    CHECK("long name: ENAMETOOLONG", EXEC(path, "x") == 100 + ENAMETOOLONG);

    /* pointers */
    char *one[] = {"x", NULL}, *bad[] = {"x", (char *)8, NULL};
    CHECK("bad path: EFAULT", CHILD(execve((char *)8, one, no_env)) == 100 + EFAULT);
    CHECK("bad argv: EFAULT", CHILD(execve("prog", (char **)8, no_env)) == 100 + EFAULT);
    CHECK("bad envp: EFAULT", CHILD(execve("prog", one, (char **)8)) == 100 + EFAULT);
    CHECK("bad string: EFAULT", CHILD(execve("prog", bad, no_env)) == 100 + EFAULT);

    /* sizes */
    char *big = malloc(200000);
    memset(big, 'x', 200000);
    big[131072] = 0;
    CHECK("a string of 128 KB: E2BIG", EXEC("prog", "x", big) == 100 + E2BIG);
    big[131071] = 0;
    CHECK("one byte less", EXEC("prog", "prog", "child", "status", "3", big) == 3);
    char *many[40];
    for (int i = 0; i < 38; i++)
        many[i] = big;
    many[0] = "prog", many[1] = "child", many[2] = "status", many[3] = "4";
    many[18] = NULL;
    CHECK("1.8 MB", CHILD(execve("prog", many, no_env)) == 4);
    for (int i = 18; i < 22; i++)
        many[i] = big;
    many[22] = NULL;
    CHECK("more than a quarter of the stack limit: E2BIG", CHILD(execve("prog", many, no_env)) == 100 + E2BIG);
    many[5] = NULL;
    CHECK("the quarter is of the limit as it is", CHILD({
        struct rlimit r = {600 << 10, 600 << 10};
        setrlimit(RLIMIT_STACK, &r);
        many[5] = big, many[6] = NULL;
        execve("prog", many, no_env);
    }) == 100 + E2BIG);
    CHECK("arguments and environment arrive", !strcmp(OUT("./prog", "child", "args", "", "a b", "c"),
                                                    "[./prog][child][args][][a b][c]"));

    /* what is no program */
    put("empty", "", 0755);
    CHECK("empty file: ENOEXEC", EXEC("./empty", "x") == 100 + ENOEXEC);
    put("text", "echo hi\n", 0755);
    CHECK("text: ENOEXEC", EXEC("./text", "x") == 100 + ENOEXEC);

    /* scripts */
    char want[8192];
    snprintf(path, sizeof path, "#! \t%s/prog\tchild \t\n", cwd);
    put("args", path, 0755);            /* argv of prog: its path, "child", the script's path, the arguments */
    snprintf(want, sizeof want, "[%s/prog][child][args][more]", cwd);
    CHECK("script: interpreter, its argument, the script's path, the arguments", !strcmp(OUT("args", "more"), want));
    put("nointerp", "#!/no/such/thing\n", 0755);
    CHECK("missing interpreter: ENOENT", EXEC("./nointerp", "x") == 100 + ENOENT);
    put("noname", "#!   \n", 0755);
    CHECK("no interpreter: ENOEXEC", EXEC("./noname", "x") == 100 + ENOEXEC);
    put("dirinterp", "#!/\n", 0755);
    CHECK("a directory as interpreter: EACCES", EXEC("./dirinterp", "x") == 100 + EACCES);
    strcpy(path, "#!/");
    memset(path + 3, 'a', 300), strcpy(path + 303, "\n");
    put("longname", path, 0755);
    CHECK("an interpreter's name that is cut off: ENOEXEC", EXEC("./longname", "x") == 100 + ENOEXEC);
    snprintf(path, sizeof path, "#!%s/prog child", cwd);
    put("args", path, 0755);
    snprintf(want, sizeof want, "[%s/prog][child][args][q]", cwd);
    CHECK("a first line without its end", !strcmp(OUT("args", "q"), want));
    for (int i = 0; i < 7; i++) {
        char name[16];
        snprintf(name, sizeof name, "r%d", i);
        if (i)
            snprintf(path, sizeof path, "#!%s/r%d\n", cwd, i - 1);
        else
            snprintf(path, sizeof path, "#!%s/prog\n", cwd);
        put(name, path, 0755);
    }
    CHECK("scripts as interpreters: five in a row work", EXEC("./r4", "x") == 97);
    CHECK("six do not: ELOOP", EXEC("./r6", "x") == 100 + ELOOP);

    /* who has it open */
    int fd = open("prog", O_WRONLY);
    CHECK("open for writing: ETXTBSY", EXEC("prog", "x") == 100 + ETXTBSY);
    close(fd);
    CHECK("a running program cannot be opened for writing",
          EXEC("prog", "prog", "child", "write-self", "prog") == ETXTBSY);
    CHECK("afterwards it can", (fd = open("prog", O_WRONLY)) >= 0 && !close(fd));

    /* what stays and what goes */
    fd = open("/dev/null", O_RDONLY);
    dup2(fd, 70);
    dup3(fd, 71, O_CLOEXEC);
    CHECK("close-on-exec", EXEC("prog", "prog", "child", "fds") == 1);
    CHECK("signals: handlers reset, ignored and blocked and pending stay", CHILD({
        char *av[] = {"prog", "child", "signals", NULL};
        sigset_t set;
        signal(SIGUSR1, handler);
        signal(SIGUSR2, SIG_IGN);
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigprocmask(SIG_BLOCK, &set, NULL);
        raise(SIGTERM);
        execve("prog", av, no_env);
    }) == 15);
    copy_self("a-name-of-more-than-15-bytes", 0755);
    CHECK("the name is cut at 15 bytes",
          !strcmp(OUT("./a-name-of-more-than-15-bytes", "child", "name"), "a-name-of-more-"));
    char pid[16];
    CHECK("a failed exec changes nothing", CHILD({
        char *av[] = {"x", NULL};
        signal(SIGUSR1, handler);
        execve("text", av, no_env);
        raise(SIGUSR1);
        _exit(fcntl(71, F_GETFD) == FD_CLOEXEC ? 5 : 6);
    }) == 5);
    CHECK("exec from a second thread: the others die, the number stays", CHILD({
        pthread_t t;
        snprintf(pid, sizeof pid, "%d", getpid());
        for (int i = 0; i < 3; i++)
            pthread_create(&t, NULL, other_thread, NULL);
        pthread_create(&t, NULL, exec_thread, pid);
        for (;;)
            pause();
    }) == 0);
    pid_t v = vfork();
    if (!v) {
        char *av[] = {"prog", "child", "status", "9", NULL};
        execve("prog", av, no_env);
        _exit(99);
    }
    CHECK("vfork and exec", wait_status(v) == 9);

    /* ids */
    if (!getuid()) {
        copy_self("suid", 0755);
        CHECK("set-user-ID", !chown("suid", 1000, 1001) && !chmod("suid", 04755)
              && !strcmp(OUT("./suid", "child", "ids"), "0 1000 0 0 1"));
        CHECK("set-group-ID", !chmod("suid", 02755) && !strcmp(OUT("./suid", "child", "ids"), "0 0 0 1001 1"));
        CHECK("set-group-ID without x for the group is a lock, not an id",
              !chmod("suid", 02745) && !strcmp(OUT("./suid", "child", "ids"), "0 0 0 0 0"));
        chmod("suid", 06755);
        CHECK("no_new_privs: no change", CHILD({
            prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            _exit(strcmp(OUT("./suid", "child", "ids"), "0 0 0 0 0") != 0);
        }) == 0);
        snprintf(path, sizeof path, "#!%s/prog\n", cwd);
        put("suidscript", path, 04755);
        CHECK("the bits of a script do not count", !chown("suidscript", 1000, 1000)
              && !chmod("suidscript", 06755) && EXEC("./suidscript", "x") == 97);
    }

    /* execveat */
    fd = open("prog", O_RDONLY | O_CLOEXEC);
    int dir = open(".", O_RDONLY | O_DIRECTORY);
    char *st[] = {"prog", "child", "status", "6", NULL};
    CHECK("execveat of a descriptor", CHILD(syscall(SYS_execveat, fd, "", st, no_env, AT_EMPTY_PATH)) == 6);
    CHECK("without AT_EMPTY_PATH: ENOENT", CHILD(syscall(SYS_execveat, fd, "", st, no_env, 0)) == 100 + ENOENT);
    CHECK("relative to a directory", CHILD(syscall(SYS_execveat, dir, "prog", st, no_env, 0)) == 6);
    CHECK("a symlink, not followed: ELOOP",
          CHILD(syscall(SYS_execveat, dir, "link", st, no_env, AT_SYMLINK_NOFOLLOW)) == 100 + ELOOP);
    CHECK("an unknown flag: EINVAL", CHILD(syscall(SYS_execveat, dir, "prog", st, no_env, 1)) == 100 + EINVAL);
    CHECK("a bad descriptor: EBADF", CHILD(syscall(SYS_execveat, 99, "prog", st, no_env, 0)) == 100 + EBADF);
    int script = open("args", O_RDONLY | O_CLOEXEC);
    CHECK("a script whose descriptor closes: ENOENT",
          CHILD(syscall(SYS_execveat, script, "", st, no_env, AT_EMPTY_PATH)) == 100 + ENOENT);

    /* address space */
    char first[64], second[64];
    strcpy(first, OUT("./prog", "child", "layout"));
    strcpy(second, OUT("./prog", "child", "layout"));
    CHECK("addresses differ from run to run", strcmp(first, second));
    personality(ADDR_NO_RANDOMIZE);
    strcpy(first, OUT("./prog", "child", "layout"));
    strcpy(second, OUT("./prog", "child", "layout"));
    CHECK("but not with ADDR_NO_RANDOMIZE", !strcmp(first, second));
    personality(0);
    fflush(stdout);
    CHECK("the auxiliary vector", EXEC("./prog", "prog", "child", "aux", "./prog") == 0);
    DONE();
}
