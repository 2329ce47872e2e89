#include <pthread.h>
#include <stdio.h>
static pthread_barrier_t barrier;
static void meet(void)
{
    pthread_barrier_wait(&barrier);
}
static void *work(void *arg)
{
    long n = (long)arg;
    meet();
    return (void *)(n * 2);
}
int main(void)
{
    pthread_t t[3];
    long sum = 0;
    pthread_barrier_init(&barrier, NULL, 3);
    for (long i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, work, (void *)i);
    for (int i = 0; i < 3; i++) {
        void *result;
        pthread_join(t[i], &result);
        sum += (long)result;
    }
    printf("sum %ld\n", sum);
    return 0;
}
