/* One byte as soon as user mode is reached, without a C library: the harness takes the time until it arrives. */
static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

void _start(void)
{
    call(1, 1, (long)"x", 1);
    call(231, 0, 0, 0);
    __builtin_unreachable();
}
