/* System V semaphores, shared memory and message queues. */
#include "check.h"
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/time.h>
#include <time.h>

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
};

static int op(int id, int num, int value, int flags)
{
    struct sembuf b = {num, value, flags};
    return semop(id, &b, 1);
}

static int get(int id, int num)
{
    return semctl(id, num, GETVAL);
}

static int set(int id, int num, int value)
{
    union semun u = {.val = value};
    return semctl(id, num, SETVAL, u);
}

static int sem;

static int takes_two(void *arg)
{
    struct sembuf both[2] = {{0, -1, 0}, {1, -1, 0}};
    return semop(sem, both, 2) == 0 ? 7 : 1;
}

static int takes_with_undo(void *arg)
{
    return op(sem, 0, -2, SEM_UNDO) == 0 && op(sem, 1, 3, SEM_UNDO) == 0 ? 7 : 1;
}

static int waits_for_removal(void *arg)
{
    return FAILS(op(sem, 0, -100, 0), EIDRM) ? 7 : 1;
}

static void alarmed(int signo)
{
}

static int counter(void *arg)
{
    int *shared = arg;
    for (int i = 0; i < 200; i++) {
        op(sem, 0, -1, 0);
        int seen = *shared;
        if (i % 50 == 0)
            sched_yield();
        *shared = seen + 1;
        op(sem, 0, 1, 0);
    }
    return 0;
}

static void semaphores(void)
{
    sem = semget(IPC_PRIVATE, 2, 0600);
    CHECK("semget", sem >= 0);
    CHECK("they begin at 0", get(sem, 0) == 0 && get(sem, 1) == 0);
    CHECK("IPC_NOWAIT is EAGAIN", FAILS(op(sem, 0, -1, IPC_NOWAIT), EAGAIN));
    CHECK("up and down", op(sem, 0, 2, 0) == 0 && op(sem, 0, -1, 0) == 0 && get(sem, 0) == 1);
    CHECK("GETPID is the last who changed it", semctl(sem, 0, GETPID) == getpid());
    struct sembuf both[2] = {{0, -1, 0}, {1, -1, IPC_NOWAIT}};
    CHECK("all or nothing", FAILS(semop(sem, both, 2), EAGAIN) && get(sem, 0) == 1);
    CHECK("waiting for zero", FAILS(op(sem, 0, 0, IPC_NOWAIT), EAGAIN) && op(sem, 1, 0, 0) == 0);
    CHECK("a number too high is EFBIG", FAILS(op(sem, 2, 1, 0), EFBIG));
    CHECK("no operation is EINVAL", FAILS(semop(sem, both, 0), EINVAL));
    static struct sembuf many[501];
    CHECK("too many are E2BIG", FAILS(semop(sem, many, 501), E2BIG));
    CHECK("more than SEMVMX is ERANGE", FAILS(op(sem, 0, 32767, 0), ERANGE) && FAILS(set(sem, 0, -1), ERANGE));
    CHECK("SETVAL", set(sem, 0, 0) == 0 && get(sem, 0) == 0);

    pid_t pid = fork();
    if (pid == 0)
        _exit(takes_two(NULL));
    for (int i = 0; i < 200 && semctl(sem, 0, GETNCNT) != 1; i++)
        sleep_ms(5);
    CHECK("GETNCNT counts the sleeper", semctl(sem, 0, GETNCNT) == 1 && semctl(sem, 1, GETNCNT) == 0);
    op(sem, 0, 1, 0);
    for (int i = 0; i < 200 && semctl(sem, 1, GETNCNT) != 1; i++)
        sleep_ms(5);
    CHECK("half is not enough", semctl(sem, 1, GETNCNT) == 1 && get(sem, 0) == 1);
    op(sem, 1, 1, 0);
    int status;
    CHECK("both wake it", waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7 && get(sem, 0) == 0);

    union semun all = {.array = (unsigned short[2]){5, 6}};
    CHECK("SETALL", semctl(sem, 0, SETALL, all) == 0 && get(sem, 0) == 5 && get(sem, 1) == 6);
    CHECK("SEM_UNDO is undone at exit", WEXITSTATUS(run_child(takes_with_undo, NULL)) == 7 && get(sem, 0) == 5 && get(sem, 1) == 6);
    struct timespec soon = {0, 20000000};
    struct sembuf down = {0, -100, 0};
    CHECK("semtimedop ends with EAGAIN", FAILS(semtimedop(sem, &down, 1, &soon), EAGAIN));
    struct sigaction sa = {.sa_handler = alarmed, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &sa, NULL);
    struct itimerval in = {.it_value = {0, 20000}};
    setitimer(ITIMER_REAL, &in, NULL);
    CHECK("a signal ends it with EINTR, SA_RESTART or not", FAILS(semop(sem, &down, 1), EINTR));

    struct semid_ds ds;
    union semun stat = {.buf = &ds};
    CHECK("IPC_STAT", semctl(sem, 0, IPC_STAT, stat) == 0 && ds.sem_nsems == 2 && ds.sem_perm.mode == 0600 && ds.sem_otime);
    int segment = shmget(IPC_PRIVATE, 4096, 0600);
    int *shared = shmat(segment, NULL, 0);
    shmctl(segment, IPC_RMID, NULL);
    set(sem, 0, 1);
    pid_t pids[4];
    for (int i = 0; i < 4; i++)
        if ((pids[i] = fork()) == 0)
            _exit(counter(shared));
    for (int i = 0; i < 4; i++)
        waitpid(pids[i], &status, 0);
    CHECK("a semaphore keeps a counter exact", *shared == 800);
    shmdt(shared);

    pid = fork();
    if (pid == 0)
        _exit(waits_for_removal(NULL));
    for (int i = 0; i < 200 && semctl(sem, 0, GETNCNT) != 1; i++)
        sleep_ms(5);
    CHECK("IPC_RMID", semctl(sem, 0, IPC_RMID) == 0);
    CHECK("sleepers get EIDRM", waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
    CHECK("then it is EINVAL", FAILS(op(sem, 0, 1, 0), EINVAL));
    key_t key = 0x7e57000 + getpid();
    int id = semget(key, 1, IPC_CREAT | IPC_EXCL | 0600);
    CHECK("a key finds it again", id >= 0 && semget(key, 0, 0) == id && semget(key, 1, IPC_CREAT) == id);
    CHECK("IPC_EXCL is EEXIST", FAILS(semget(key, 1, IPC_CREAT | IPC_EXCL), EEXIST));
    CHECK("a larger set is EINVAL", FAILS(semget(key, 2, 0), EINVAL));
    semctl(id, 0, IPC_RMID);
    CHECK("no such key is ENOENT", FAILS(semget(key, 1, 0), ENOENT));
}

static int sees(void *arg)
{
    char *p = arg;
    if (strcmp(p, "hello"))
        return 1;
    strcpy(p, "world");
    return 7;
}

static void shared_memory(void)
{
    int id = shmget(IPC_PRIVATE, 6000, 0600);
    CHECK("shmget", id >= 0);
    CHECK("size 0 is EINVAL", FAILS(shmget(IPC_PRIVATE, 0, 0600), EINVAL));
    char *p = shmat(id, NULL, 0);
    CHECK("shmat", p != (void *)-1 && p[0] == 0 && p[5999] == 0);
    strcpy(p, "hello");
    CHECK("fork shares it", WEXITSTATUS(run_child(sees, p)) == 7 && !strcmp(p, "world"));
    char *r = shmat(id, NULL, SHM_RDONLY);
    CHECK("a second place, read-only", r != (void *)-1 && r != p && !strcmp(r, "world"));
    int fds[2];
    (void)!pipe(fds);
    (void)!write(fds[1], "x", 1);
    CHECK("not to be written", FAILS(read(fds[0], r, 1), EFAULT));
    struct shmid_ds ds;
    CHECK("IPC_STAT", shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 2 && ds.shm_segsz == 6000 && ds.shm_cpid == getpid());
    CHECK("shmdt", shmdt(r) == 0 && FAILS(shmdt(r), EINVAL));
    CHECK("an address that is taken is EINVAL", FAILS((long)shmat(id, p, 0), EINVAL));
    CHECK("not a page is EINVAL", FAILS((long)shmat(id, r + 1, 0), EINVAL));
    char *rounded = shmat(id, r + 1, SHM_RND);
    CHECK("SHM_RND rounds down", rounded == r);
    munmap(rounded, 8192);
    CHECK("munmap detaches, too", shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 1);
    CHECK("SHM_REMAP puts it over another", shmat(id, p, SHM_REMAP) == p && shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 1);
    CHECK("IPC_RMID", shmctl(id, IPC_RMID, NULL) == 0);
    CHECK("it lives on while attached", !strcmp(p, "world") && shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_perm.mode & 01000);
    shmdt(p);
    CHECK("the last detachment frees it", FAILS(shmctl(id, IPC_STAT, &ds), EINVAL) || errno == EIDRM);
}

struct message {
    long type;
    char text[100];
};

static int queue;

static int receives(void *arg)
{
    struct message m;
    return msgrcv(queue, &m, sizeof m.text, 5, 0) == 4 && m.type == 5 && !strcmp(m.text, "abc") ? 7 : 1;
}

static int sends(void *arg)
{
    struct message m = {1, "late"};
    return msgsnd(queue, &m, 90, 0) == 0 ? 7 : 1;
}

static void queues(void)
{
    queue = msgget(IPC_PRIVATE, 0600);
    struct message m = {3, "three"}, n;
    CHECK("msgget", queue >= 0);
    CHECK("nothing there is ENOMSG", FAILS(msgrcv(queue, &n, 100, 0, IPC_NOWAIT), ENOMSG));
    CHECK("msgsnd", msgsnd(queue, &m, 6, 0) == 0);
    m = (struct message){1, "one"};
    msgsnd(queue, &m, 4, 0);
    m = (struct message){2, "two"};
    msgsnd(queue, &m, 4, 0);
    m.type = 0;
    CHECK("type 0 is EINVAL", FAILS(msgsnd(queue, &m, 4, 0), EINVAL));
    CHECK("too long is EINVAL", FAILS(msgsnd(queue, &m, 1 << 20, 0), EINVAL));
    struct msqid_ds ds;
    CHECK("IPC_STAT", msgctl(queue, IPC_STAT, &ds) == 0 && ds.msg_qnum == 3 && ds.msg_lspid == getpid());
    CHECK("a buffer too small is E2BIG", FAILS(msgrcv(queue, &n, 2, 3, 0), E2BIG));
    CHECK("up to a type: the lowest", msgrcv(queue, &n, 100, -2, 0) == 4 && n.type == 1 && !strcmp(n.text, "one"));
    CHECK("MSG_EXCEPT", msgrcv(queue, &n, 100, 3, MSG_EXCEPT) == 4 && n.type == 2);
    CHECK("MSG_NOERROR cuts it", msgrcv(queue, &n, 2, 0, MSG_NOERROR) == 2 && n.type == 3 && !memcmp(n.text, "th", 2));
    pid_t pid = fork();
    if (pid == 0)
        _exit(receives(NULL));
    sleep_ms(20);
    m = (struct message){4, "no"};
    msgsnd(queue, &m, 3, 0);
    m = (struct message){5, "abc"};
    msgsnd(queue, &m, 4, 0);
    int status;
    CHECK("a receiver waits for its type", waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
    CHECK("the other is left", msgrcv(queue, &n, 100, 0, IPC_NOWAIT) == 3 && n.type == 4);
    msgctl(queue, IPC_STAT, &ds);
    ds.msg_qbytes = 100;
    CHECK("IPC_SET", msgctl(queue, IPC_SET, &ds) == 0);
    m.type = 9;
    CHECK("a full queue is EAGAIN", msgsnd(queue, &m, 50, 0) == 0 && FAILS(msgsnd(queue, &m, 90, IPC_NOWAIT), EAGAIN));
    pid = fork();
    if (pid == 0)
        _exit(sends(NULL));
    sleep_ms(20);
    msgrcv(queue, &n, 100, 9, 0);
    CHECK("room lets the sender go on", waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 7);
    CHECK("and its message is there", msgrcv(queue, &n, 100, 1, IPC_NOWAIT) == 90);
    CHECK("IPC_RMID", msgctl(queue, IPC_RMID, NULL) == 0 && FAILS(msgsnd(queue, &m, 1, 0), EINVAL));
}

int main(void)
{
    semaphores();
    shared_memory();
    queues();
    DONE();
}
