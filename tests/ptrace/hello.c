#include <stdio.h>
#include <stdlib.h>
int counter;
static int add(int a, int b)
{
    int sum = a + b;
    counter += sum;
    return sum;
}
int main(int argc, char **argv)
{
    int i, total = argc - 1;
    for (i = 0; i < 3; i++)
        total += add(i, 10);
    printf("hello %d\n", total);
    return 0;
}
