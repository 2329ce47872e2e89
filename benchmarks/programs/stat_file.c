/* stat_file PATH N: stat by path. */
#include "common.h"

int main(int argc, char **argv)
{
    struct stat st;
    for (long n = count(argc, argv); n > 0; n--)
        check(stat(argv[1], &st) == 0, argv[1]);
    return done();
}
