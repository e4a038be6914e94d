// What the workloads share. Each does batches of one operation. It waits for a byte on standard input before a batch, and
// answers with a line: nanoseconds of wall clock and of processor time for each operation. So two of them can be run
// in turn, a batch each, and what else the machine does disturbs both alike.
// With BATCHES in the environment they do so many, unasked and without looking at a clock: for counting.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static inline void need(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static double wall, cpu;
static int batches, answers;

static double clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1e9 + now.tv_nsec;
}

// Whether there is a batch to do; the answer for the last one is given here, after it was cleared away.
static inline int next(void) {
    static int is_started;
    char byte;
    if (!is_started) {
        is_started = 1;
        batches = getenv("BATCHES") ? atoi(getenv("BATCHES")) : -1;
    }
    if (batches >= 0) return batches-- > 0;
    if (answers) {
        printf("%.1f %.1f\n", wall, cpu);
        fflush(stdout);
    }
    answers = 1;
    return read(0, &byte, 1) == 1;
}

static inline void begin(void) {
    if (batches >= 0) return;
    cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    wall = clock_ns(CLOCK_MONOTONIC);
}

static inline void end(int operations) {
    if (batches >= 0) return;
    wall = (clock_ns(CLOCK_MONOTONIC) - wall) / operations;
    cpu = (clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / operations;
}

// A TCP listener on a port that the kernel chooses.
static inline int listener(struct sockaddr_in *address, int backlog) {
    socklen_t length = sizeof *address;
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    need(fd >= 0 && bind(fd, (struct sockaddr *)address, length) == 0 && listen(fd, backlog) == 0, "listen");
    need(getsockname(fd, (struct sockaddr *)address, &length) == 0, "getsockname");
    return fd;
}
