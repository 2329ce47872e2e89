/* C11: print a file through a shared mapping, then zero its first 16 bytes. Argument: the file. */
#include "check.h"

int main(int argc, char **argv)
{
    struct stat st;
    int fd = open(argc > 1 ? argv[1] : "hello_mmap.dat", O_RDWR | O_CREAT, 0644);
    if (fd < 0) {
        printf("File Open Error\n");
        return 1;
    }
    if (fstat(fd, &st) < 0) {
        printf("fstat error\n");
        return 1;
    }
    if (st.st_size == 0) { /* not in the original: without it an empty file would be SIGBUS */
        if (pwrite(fd, "hello from a mapped file\n", 25, 0) != 25)
            return 1;
    }
    char *p = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        printf("mmap error\n");
        return 1;
    }
    puts(p);
    memset(p, 0, 16);
    munmap(p, 16);
    char head[16], zero[16] = {0};
    if (pread(fd, head, 16, 0) != 16 || memcmp(head, zero, 16))
        return 2;
    close(fd);
    return 0;
}
