/* page_fault N: touch N fresh anonymous pages (in areas of 512, without huge pages). */
#include "common.h"

int main(int argc, char **argv)
{
    long n = count(argc, argv), area = 512;
    while (n > 0) {
        long pages = n < area ? n : area;
        char *p = mmap(NULL, area << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        check(p != MAP_FAILED, "mmap");
        madvise(p, area << 12, MADV_NOHUGEPAGE);
        for (long i = 0; i < pages; i++)
            ((volatile char *)p)[i << 12] = 1;
        check(munmap(p, area << 12) == 0, "munmap");
        n -= pages;
    }
    return done();
}
