/* Connects in so many threads at once, fault THREADS: for panics of the library in all of them, which waits for all
 * itself. */
#include "probe.h"

#include <stdatomic.h>

static atomic_int refused;
static pthread_barrier_t start;
static struct sockaddr_storage to;

static void *first(void *nothing) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    pthread_barrier_wait(&start);
    refused += connect(fd, (void *)&to, sizeof(struct sockaddr_in)) == -1 && errno == ECONNREFUSED;
    close(fd);
    return nothing;
}

int main(int count, char **arguments) {
    pthread_t thread[256];
    int threads = count == 2 ? atoi(arguments[1]) : 0;
    if (threads < 1 || threads > 256) return 2;
    alarm(100);
    address("127.0.0.1:1", &to);
    pthread_barrier_init(&start, NULL, threads);
    for (int i = 0; i < threads; i++) pthread_create(&thread[i], NULL, first, NULL);
    for (int i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    printf("%d refused\n", refused);
    return 3;
}
