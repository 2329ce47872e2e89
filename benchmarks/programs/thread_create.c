/* thread_create N: pthread_create and pthread_join. */
#include "common.h"
#include <pthread.h>

static void *body(void *argument)
{
    return argument;
}

int main(int argc, char **argv)
{
    for (long n = count(argc, argv); n > 0; n--) {
        pthread_t thread;
        check(pthread_create(&thread, NULL, body, NULL) == 0, "pthread_create");
        check(pthread_join(thread, NULL) == 0, "pthread_join");
    }
    return done();
}
