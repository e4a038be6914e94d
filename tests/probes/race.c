/* Races: race MODE ...
 *
 * churn ROUNDS: threads connect, close, listen on, accept from and dup2 the same descriptors, and one more goes on
 *   with setenv(3); prints what is left of them, and whether a connect afterwards has its option.
 * first: 64 threads whose first use comes at once; prints how many sockets have the option.
 * fork: a thread connects for the first time while 100 children are forked that connect.
 * times N MODE: the same in N processes. The option is TCP_KEEPIDLE=5, on connects to 127.0.0.1:1. */
#include "probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { FIRST = 64, SLOTS = 8, THREADS = 6, MANY = 64, CHILDREN = 100, WANTED = 5 };

extern char **environ;
static struct sockaddr_storage to;
static atomic_long rounds;
static atomic_int kept, stop;
static long limit;
static pthread_barrier_t start;

static int connected(void) {
    int value = -1, fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t size = sizeof value;
    connect(fd, (void *)&to, sizeof(struct sockaddr_in));
    getsockopt(fd, SOL_TCP, TCP_KEEPIDLE, &value, &size);
    close(fd);
    return value == WANTED;
}

static void *churn(void *seed) {
    unsigned state = 2463534242u + (unsigned)(long)seed;
    struct sockaddr_in any = {.sin_family = AF_INET};
    int one = 1;
    while (rounds++ < limit) {
        state ^= state << 13, state ^= state >> 17, state ^= state << 5;
        int slot = FIRST + state % SLOTS, other = FIRST + (state >> 8) % SLOTS;
        switch ((state >> 16) % 8) {
        case 0: case 1: {
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
            dup2(fd, slot);
            close(fd);
            break;
        }
        case 2: case 3: connect(slot, (void *)&to, sizeof(struct sockaddr_in)); break;
        case 4: close(slot); break;
        case 5: dup2(slot, other); break;
        case 6:
            bind(slot, (void *)&any, sizeof any);
            listen(slot, 4);
            break;
        case 7: {
            setsockopt(slot, SOL_TCP, TCP_KEEPIDLE, &one, sizeof one);
            int fd = accept4(slot, NULL, NULL, SOCK_NONBLOCK);
            if (fd >= 0) close(fd);
        }
        }
    }
    return NULL;
}

static void *environment(void *nothing) {
    for (int i = 0; !stop; i++) {
        char name[32];
        snprintf(name, sizeof name, "OTHER_%d", i % 100);
        setenv(name, "value", 1);
        if (i % 3 == 0) unsetenv(name);
    }
    return nothing;
}

static void *first(void *nothing) {
    pthread_barrier_wait(&start);
    kept += connected();
    return nothing;
}

static int descriptors(void) {
    DIR *folder = opendir("/proc/self/fd");
    int found = 0;
    while (readdir(folder)) found++;
    closedir(folder);
    return found;
}

static void run(pthread_t *threads, int number, void *(*work)(void *)) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    for (long i = 0; i < number; i++)
        if (pthread_create(&threads[i], &small, work, (void *)i)) exit(4);
}

static void join(pthread_t *threads, int number) {
    for (int i = 0; i < number; i++) pthread_join(threads[i], NULL);
}

int main(int count, char **arguments) {
    const char *mode = count > 1 ? arguments[1] : "";
    pthread_t threads[MANY], setter;
    alarm(count > 2 && atol(arguments[2]) > 1000000 ? 1500 : 50);
    address("127.0.0.1:1", &to);
    if (!strcmp(mode, "times") && count > 3) {
        for (int i = 0; i < atoi(arguments[2]); i++) {
            pid_t child;
            int status;
            if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments + 2, environ)) return 1;
            waitpid(child, &status, 0);
            if (status) printf("status %d\n", status);
        }
        return 0;
    }
    if (!strcmp(mode, "churn") && count == 3) {
        int before = descriptors();
        limit = atol(arguments[2]);
        pthread_create(&setter, NULL, environment, NULL);
        run(threads, THREADS, churn);
        join(threads, THREADS);
        stop = 1;
        pthread_join(setter, NULL);
        for (int i = 0; i < SLOTS; i++) close(FIRST + i);
        printf("descriptors left %d, option %d\n", descriptors() - before, connected());
    } else if (!strcmp(mode, "first")) {
        pthread_barrier_init(&start, NULL, MANY);
        run(threads, MANY, first);
        join(threads, MANY);
        printf("%d of %d\n", kept, MANY);
    } else if (!strcmp(mode, "fork")) {
        int well = 0;
        pid_t children[CHILDREN];
        pthread_barrier_init(&start, NULL, 2);
        run(threads, 1, first);
        pthread_barrier_wait(&start);
        for (int i = 0; i < CHILDREN; i++)
            if (!(children[i] = fork())) {
                alarm(20);
                _exit(connected() ? 0 : 1);
            }
        for (int i = 0; i < CHILDREN; i++) {
            int status;
            waitpid(children[i], &status, 0);
            well += status == 0;
        }
        join(threads, 1);
        printf("%d of %d children, thread %d\n", well, CHILDREN, kept);
    } else {
        return 2;
    }
    return 0;
}
