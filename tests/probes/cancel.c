/* Cancels a thread that is blocked in accept, accept4 or connect, and goes on:
 *
 *   cancel accept|accept4|connect SILENT ADDRESS '@look s OPTION=VALUE'
 *
 * SILENT is the listener's address, or one that never answers. */
#include "probe.h"

static int fd, cleaned;
static const char *call;
static struct sockaddr_storage to;
static socklen_t length;

static void clean(void *nothing) {
    (void)nothing;
    cleaned = 1;
}

static void *blocked(void *nothing) {
    pthread_cleanup_push(clean, nothing);
    if (!strcmp(call, "accept")) accept(fd, NULL, NULL);
    else if (!strcmp(call, "accept4")) accept4(fd, NULL, NULL, 0);
    else connect(fd, (void *)&to, length);
    pthread_cleanup_pop(0);
    return NULL;
}

int main(int count, char **arguments) {
    call = arguments[1];
    length = address(arguments[2], &to);
    alarm(100);
    for (int round = 0; round < 3; round++) {
        pthread_t thread;
        void *result;
        fd = socket(to.ss_family, SOCK_STREAM, 0);
        if (*call == 'a' && (bind(fd, (void *)&to, length) || listen(fd, 8))) perror("listen");
        cleaned = 0;
        pthread_create(&thread, NULL, blocked, NULL);
        usleep(100 * 1000);
        pthread_cancel(thread);
        pthread_join(thread, &result);
        printf("%s: %s, %s\n", call, result == PTHREAD_CANCELED ? "cancelled" : "returned", cleaned ? "cleaned up" : "not cleaned up");
        close(fd);
    }
    fflush(stdout);
    char request[256];
    struct sockaddr_storage other;
    int size = address(arguments[3], &other), s = socket(other.ss_family, SOCK_STREAM, 0);
    printf("connect %d\n", connect(s, (void *)&other, size));
    fflush(stdout);
    snprintf(request, sizeof request, "look s %d %s", s, arguments[4] + strlen("@look s "));
    outside(request);
    return count != 5;
}
