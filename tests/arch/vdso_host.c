/* Calls the functions of a vDSO image natively. Usage: vdso_host IMAGE VVAR
 * Prints "name value..." lines. The page before the image is the content of VVAR. */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

static char *base;

static unsigned long tag(long wanted)
{
    Elf64_Ehdr *e = (void *)base;
    Elf64_Phdr *p = (void *)(base + e->e_phoff);
    for (int i = 0; i < e->e_phnum; i++)
        if (p[i].p_type == PT_DYNAMIC)
            for (Elf64_Dyn *d = (void *)(base + p[i].p_offset); d->d_tag; d++)
                if (d->d_tag == wanted)
                    return d->d_un.d_val;
    printf("no tag %lx\n", wanted);
    exit(1);
}

static int version_is(unsigned index, const char *wanted)
{
    char *strings = base + tag(DT_STRTAB);
    Elf64_Verdef *def = (void *)(base + tag(DT_VERDEF));
    for (;; def = (void *)((char *)def + def->vd_next)) {
        Elf64_Verdaux *aux = (void *)((char *)def + def->vd_aux);
        if (def->vd_ndx == index)
            return !(def->vd_flags & VER_FLG_BASE) && !strcmp(strings + aux->vda_name, wanted);
        if (!def->vd_next)
            return 0;
    }
}

/* What the dynamic linkers do: glibc through DT_GNU_HASH, musl through DT_HASH. */
static void *lookup(const char *name)
{
    Elf64_Sym *symbols = (void *)(base + tag(DT_SYMTAB));
    unsigned *table = (void *)(base + tag(DT_HASH)), *gnu = (void *)(base + tag(DT_GNU_HASH));
    unsigned short *versions = (void *)(base + tag(DT_VERSYM));
    char *strings = base + tag(DT_STRTAB);
    unsigned h = 0, g = 5381, high, by_hash = 0, by_gnu = 0, i;
    for (const unsigned char *c = (void *)name; *c; c++) {
        h = (h << 4) + *c;
        if ((high = h & 0xf0000000))
            h ^= high >> 24;
        h &= ~high;
        g = g * 33 + *c;
    }
    for (i = table[2 + h % table[0]]; i; i = table[2 + table[0] + i])
        if (!strcmp(strings + symbols[i].st_name, name))
            by_hash = i;
    unsigned long bloom = *(unsigned long *)(gnu + 4);
    unsigned *buckets = gnu + 4 + 2 * gnu[2], *chain = buckets + gnu[0];
    if (bloom >> g % 64 & bloom >> (g >> gnu[3]) % 64 & 1)
        for (i = buckets[g % gnu[0]];; i++) {
            if ((chain[i - gnu[1]] | 1) == (g | 1) && !strcmp(strings + symbols[i].st_name, name))
                by_gnu = i;
            if (chain[i - gnu[1]] & 1)
                break;
        }
    if (!by_hash || by_hash != by_gnu || !version_is(versions[by_hash], "LINUX_2.6")) {
        printf("lookup of %s failed: %u %u\n", name, by_hash, by_gnu);
        exit(1);
    }
    return base + symbols[by_hash].st_value;
}

int main(int argc, char **argv)
{
    long size;
    int image = open(argv[1], O_RDONLY), vvar = open(argv[2], O_RDONLY);
    size = lseek(image, 0, SEEK_END);
    char *pages = mmap(0, 4096 + size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mmap(pages, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, vvar, 0);
    base = mmap(pages + 4096, size, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, image, 0);
    if (base == MAP_FAILED)
        return perror("mmap"), 1;

    int (*gettime)(clockid_t, struct timespec *) = lookup("__vdso_clock_gettime");
    int (*getres)(clockid_t, struct timespec *) = lookup("__vdso_clock_getres");
    int (*timeofday)(struct timeval *, struct timezone *) = lookup("__vdso_gettimeofday");
    time_t (*now)(time_t *) = lookup("__vdso_time");
    int (*cpu)(unsigned *, unsigned *, void *) = lookup("__vdso_getcpu");
    if (lookup("clock_gettime") != (void *)gettime || lookup("getcpu") != (void *)cpu)
        return 1;

    for (int clock = -7; clock < 14; clock++) {
        struct timespec t = {-1, -1}, res = {-1, -1};
        unsigned long before = __rdtsc();
        int r = gettime(clock, &t), s = getres(clock, &res);
        unsigned long after = __rdtsc();
        printf("clock %d %d %ld %ld %lu %lu %d %ld %ld\n", clock, r, t.tv_sec, t.tv_nsec, before, after, s,
               res.tv_sec, res.tv_nsec);
    }
    /* Bits above the int argument are not the kernel's business. */
    struct timespec odd;
    int (*wide)(long, struct timespec *) = (void *)gettime;
    printf("wide %d\n", wide(0x700000001, &odd));

    struct timeval tv = {-1, -1};
    struct timezone tz = {-1, -1};
    unsigned long before = __rdtsc();
    int r = timeofday(&tv, &tz);
    time_t there, got = now(&there);
    unsigned long after = __rdtsc();
    printf("gettimeofday %d %ld %ld %d %d %lu %lu\n", r, tv.tv_sec, tv.tv_usec, tz.tz_minuteswest, tz.tz_dsttime,
           before, after);
    printf("time %ld %ld\n", got, there);
    printf("null %d %d %d %d\n", timeofday(0, 0), now(0) >= got, getres(CLOCK_REALTIME, 0), cpu(0, 0, 0));
    unsigned c = -1, node = -1;
    r = cpu(&c, &node, 0);
    printf("getcpu %d %d\n", r, c < 4096 && node < 4096);
    return 0;
}
