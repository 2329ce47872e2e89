/* compute N: user code only: sieve, matrix product, hash and qsort, N times. Prints a checksum. */
#include "common.h"
#include <stdint.h>

enum { PRIMES = 100000, DIM = 64, BYTES = 200000, ITEMS = 20000 };

static unsigned char composite[PRIMES], text[BYTES];
static double a[DIM][DIM], b[DIM][DIM], c[DIM][DIM];
static int items[ITEMS];

static uint64_t sieve(void)
{
    uint64_t found = 0;
    memset(composite, 0, sizeof composite);
    for (long i = 2; i < PRIMES; i++) {
        if (composite[i])
            continue;
        found++;
        for (long j = i * i; j < PRIMES; j += i)
            composite[j] = 1;
    }
    return found;
}

static uint64_t matrix(void)
{
    for (int i = 0; i < DIM; i++)
        for (int j = 0; j < DIM; j++) {
            double sum = 0;
            for (int k = 0; k < DIM; k++)
                sum += a[i][k] * b[k][j];
            c[i][j] = sum;
        }
    return (uint64_t)c[DIM / 2][DIM / 3];
}

static uint64_t hash(uint64_t h)
{
    for (int i = 0; i < BYTES; i++)
        h = (h ^ text[i]) * 0x100000001b3;
    return h;
}

static int by_value(const void *x, const void *y)
{
    int l = *(const int *)x, r = *(const int *)y;
    return (l > r) - (l < r);
}

static uint64_t sort(uint32_t seed)
{
    for (int i = 0; i < ITEMS; i++)
        items[i] = seed = seed * 1664525 + 1013904223;
    qsort(items, ITEMS, sizeof *items, by_value);
    return items[0] ^ items[ITEMS - 1];
}

int main(int argc, char **argv)
{
    uint64_t h = 14695981039346656037u;
    for (int i = 0; i < DIM; i++)
        for (int j = 0; j < DIM; j++)
            a[i][j] = i + j, b[i][j] = i - j;
    for (int i = 0; i < BYTES; i++)
        text[i] = i * 7;
    for (long n = count(argc, argv); n > 0; n--)
        h = hash(h ^ sieve() ^ matrix() ^ sort(n));
    printf("%016lx\n", h);
    return 0;
}
