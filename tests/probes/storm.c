/* Connects where it is hardest: storm MODE ADDRESS '@look MODE TCP_KEEPIDLE=N'
 *
 * fork: 200 children of a process with busy threads. vfork, spawn: children that exec this probe again. signal: in a
 * signal handler that interrupts connects and mallocs. many: 4,000 sockets at once. threads: eight at once. The value
 * is read by the connecting process itself, and every one must be the same. */
#include "probe.h"

#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>

extern char **environ;
static struct sockaddr_storage to;
static socklen_t length;
static atomic_int idle_seen = -1, mixed, connects, stop;

/* TCP_KEEPIDLE after connect, or less than 0. */
static int connected(int *keep) {
    int value = -1, fd = socket(to.ss_family, SOCK_STREAM, 0);
    socklen_t size = sizeof value;
    if (connect(fd, (void *)&to, length) && errno != EINTR) value = -2;
    else if (getsockopt(fd, SOL_TCP, TCP_KEEPIDLE, &value, &size)) value = -3;
    if (keep) *keep = fd;
    else close(fd);
    return value;
}

static void saw(int value) {
    int none = -1;
    if (!atomic_compare_exchange_strong(&idle_seen, &none, value) && none != value) mixed = 1;
    connects++;
}

static void *busy(void *nothing) {
    while (!stop) {
        saw(connected(NULL));
        free(malloc(1 << 12));
        usleep(500);
    }
    return nothing;
}

static void *many(void *nothing) {
    for (int i = 0; i < 200; i++) saw(connected(NULL));
    return nothing;
}

static void on_alarm(int number) {
    int error = errno;
    saw(connected(NULL));
    errno = error;
    (void)number;
}

/* Exit statuses have eight bits, so the children say whether it was what they were told. */
static void await(pid_t child, int expected) {
    int status;
    waitpid(child, &status, 0);
    saw(WIFEXITED(status) && WEXITSTATUS(status) == 0 ? expected : -4);
}

int main(int count, char **arguments) {
    const char *mode = arguments[1];
    length = address(arguments[2], &to);
    alarm(200);
    if (!strcmp(mode, "child")) {
        int value = connected(NULL);
        return value == atoi(arguments[3]) ? 0 : 1;
    }
    if (!strcmp(mode, "fork")) {
        pthread_t threads[4];
        int children = 0, statuses = 0;
        for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, busy, NULL);
        for (; children < 200; children++) {
            int ends[2], value = -5, status;
            if (pipe(ends)) return 1;
            pid_t child = fork();
            if (!child) {
                alarm(40);
                value = connected(NULL);
                if (write(ends[1], &value, sizeof value) < 0) _exit(1);
                _exit(0);
            }
            close(ends[1]);
            if (read(ends[0], &value, sizeof value) < 0) value = -6;
            close(ends[0]);
            waitpid(child, &status, 0);
            statuses |= status;
            saw(value);
        }
        stop = 1;
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
        printf("%d children, status %d\n", children, statuses);
    } else if (!strcmp(mode, "vfork") || !strcmp(mode, "spawn")) {
        int expected = connected(NULL);
        char number[16];
        snprintf(number, sizeof number, "%d", expected);
        char *words[] = {arguments[0], "child", arguments[2], number, NULL};
        saw(expected);
        for (int i = 0; i < 20; i++) {
            pid_t child;
            if (*mode == 's') {
                if (posix_spawn(&child, arguments[0], NULL, NULL, words, environ)) return 1;
            } else if (!(child = vfork())) {
                execv(arguments[0], words);
                _exit(127);
            }
            await(child, expected);
        }
    } else if (!strcmp(mode, "signal")) {
        struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
        struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
        /* The library is set up by the first connect, and a handler that interrupts just that goes without. */
        saw(connected(NULL));
        sigaction(SIGALRM, &action, NULL);
        setitimer(ITIMER_REAL, &often, NULL);
        for (int i = 0; i < 1500 && connects < 100; i++) {
            usleep(100);
            free(malloc(1 << (i % 16)));
            int value = connected(NULL);
            if (value != idle_seen && idle_seen >= 0) mixed = 1;
        }
        setitimer(ITIMER_REAL, &never, NULL);
        printf("in handlers: %s\n", connects >= 20 ? "enough" : "too few");
    } else if (!strcmp(mode, "many")) {
        struct rlimit limit;
        static int kept[4000];
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        for (int i = 0; i < 4000; i++) saw(connected(&kept[i]));
        for (int i = 0; i < 4000; i++) close(kept[i]);
        printf("%d connects\n", connects);
    } else if (!strcmp(mode, "threads")) {
        pthread_t threads[8];
        for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, many, NULL);
        for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
        printf("%d connects\n", connects);
    }
    printf("@look %s TCP_KEEPIDLE=%d\n", mode, mixed ? -7 : idle_seen);
    return count != 4;
}
