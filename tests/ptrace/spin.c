#include <stdio.h>
#include <unistd.h>
volatile int go = 1;
static int deep(int n)
{
    while (go)
        usleep(1000);
    return n + 1;
}
int main(void)
{
    int result = deep(41);
    printf("done %d\n", result);
    return result != 42;
}
