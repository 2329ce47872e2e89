/* C31: an access outside every VMA. Without arguments it must die: SIGSEGV, status 139 in a shell. */
#include "check.h"

int main(int argc, char **argv)
{
    volatile int *p = (int *)(argc > 1 ? strtoul(argv[1], NULL, 0) : 0x10);
    printf("touching %p\n", (void *)p);
    fflush(stdout);
    *p = 1;
    return 0;
}
