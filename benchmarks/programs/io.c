/* io read|write FILE SIZE N: one read or write of SIZE bytes; a regular file stays at offset 0. */
#include "common.h"

int main(int argc, char **argv)
{
    long n = count(argc, argv), size = atol(argv[3]);
    int reading = argv[1][0] == 'r', fd = open(argv[2], O_RDWR | O_CREAT, 0600);
    check(fd >= 0, argv[2]);
    struct stat st;
    check(fstat(fd, &st) == 0, "fstat");
    char *buffer = malloc(size);
    memset(buffer, 'x', size);
    if (S_ISREG(st.st_mode)) {
        check(pwrite(fd, buffer, size, 0) == size, "pwrite");
        while (n--)
            check((reading ? pread(fd, buffer, size, 0) : pwrite(fd, buffer, size, 0)) == size, argv[1]);
        unlink(argv[2]);
    } else {
        while (n--)
            check((reading ? read(fd, buffer, size) : write(fd, buffer, size)) == size, argv[1]);
    }
    return done();
}
