/* mmap_munmap N: map one anonymous page and unmap it untouched. */
#include "common.h"

int main(int argc, char **argv)
{
    for (long n = count(argc, argv); n > 0; n--) {
        void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check(p != MAP_FAILED && munmap(p, 4096) == 0, "mmap");
    }
    return done();
}
