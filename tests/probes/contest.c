/* Threads that take each other's listeners away: contest MILLISECONDS plain|set
 *
 * They close, replace, copy and listen on the same few numbers, hand them through a socket, start children by vfork that close them, and
 * accept. Half of the listeners come by system calls that nobody interposes. Each connection that was accepted is looked at by
 * the thread that has it: one on port 4010 to 4019 must have TCP_KEEPIDLE=11, on 4020 to 4029, which a rule has for some peers, 13, or 12
 * if it comes from 127.0.0.2. Afterwards every listener that is left is connected to once more.
 * Prints how many were looked at ("enough"), and those that have something else. */
#include "probe.h"

#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { THREADS = 5, NUMBERS = 6 };
/* The first three share a row of the library's table. */
static const int numbers[NUMBERS] = {100, 4196, 8292, 101, 102, 103};
static atomic_int stop, looked, wrong;
static int under_library;

static int wanted(int port, int is_second) {
    return !under_library ? 7200 : port < 4020 ? 11 : is_second ? 12 : 13;
}

static void look(int fd, const char *when) {
    struct sockaddr_in local, peer;
    socklen_t length = sizeof local, size = sizeof peer, four = 4;
    int idle = -1;
    /* The peer may be gone already. */
    if (getsockname(fd, (void *)&local, &length) || getpeername(fd, (void *)&peer, &size)) return;
    if (syscall(SYS_getsockopt, fd, SOL_TCP, TCP_KEEPIDLE, &idle, &four)) return;
    int port = ntohs(local.sin_port), is_second = (ntohl(peer.sin_addr.s_addr) & 255) == 2;
    looked++;
    if (idle != wanted(port, is_second) && wrong++ < 10) printf("WRONG %s: port %d idle %d, not %d\n", when, port, idle, wanted(port, is_second));
}

static int listener(int port, int is_foreign) {
    struct sockaddr_storage to;
    char text[32];
    int one = 1;
    snprintf(text, sizeof text, "127.0.0.1:%d", port);
    socklen_t length = address(text, &to);
    int fd = syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    int failed = is_foreign ? syscall(SYS_bind, fd, &to, length) || syscall(SYS_listen, fd, 64) : bind(fd, (void *)&to, length) || listen(fd, 64);
    if (!failed) return fd;
    syscall(SYS_close, fd);
    return -1;
}

static int client(int port, int is_second) {
    struct sockaddr_storage to, from;
    char text[32];
    socklen_t length = address("127.0.0.2:0", &from);
    int fd = syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (is_second) syscall(SYS_bind, fd, &from, length);
    snprintf(text, sizeof text, "127.0.0.1:%d", port);
    length = address(text, &to);
    syscall(SYS_connect, fd, &to, length);
    return fd;
}

static void *work(void *seed) {
    unsigned state = 2463534242u + 7919u * (unsigned)(long)seed;
    int clients[16], next = 0;
    for (int i = 0; i < 16; i++) clients[i] = -1;
    while (!stop) {
        state ^= state << 13, state ^= state >> 17, state ^= state << 5;
        int at = numbers[state % NUMBERS], other = numbers[(state >> 4) % NUMBERS], how = (state >> 8) % 32;
        int port = 4010 + 10 * (state >> 16 & 1) + (state >> 17) % 4, fd;
        if (how < 2) {
            close(at);
        } else if (how < 7) {
            if ((fd = listener(port, how & 1)) < 0) continue;
            dup2(fd, at);
            syscall(SYS_close, fd);
        } else if (how < 8) {
            dup2(at, other);
        } else if (how < 9) {
            close_range(at, at, 0);
        } else if (how < 10) {
            listen(at, 32);
        } else if (how < 11 && state % 7 == 0) {
            pid_t child = vfork();
            if (!child) {
                close(at);
                close_range(3, ~0U, 0);
                _exit(0);
            }
            waitpid(child, NULL, 0);
        } else if (how < 20) {
            if (clients[next] >= 0) syscall(SYS_close, clients[next]);
            clients[next] = client(port, state >> 20 & 1);
            next = (next + 1) % 16;
        } else {
            fd = how & 1 ? accept(at, NULL, NULL) : accept4(at, NULL, NULL, SOCK_CLOEXEC);
            if (fd < 0) continue;
            look(fd, "meanwhile");
            syscall(SYS_close, fd);
        }
    }
    for (int i = 0; i < 16; i++)
        if (clients[i] >= 0) syscall(SYS_close, clients[i]);
    return NULL;
}

int main(int count, char **arguments) {
    pthread_t threads[THREADS];
    if (count != 3) return 2;
    under_library = !strcmp(arguments[2], "set");
    alarm(atoi(arguments[1]) / 1000 + 50);
    for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)i);
    usleep(atoi(arguments[1]) * 1000);
    stop = 1;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < NUMBERS; i++) {
        struct sockaddr_in local;
        socklen_t length = sizeof local;
        int fd;
        if (getsockname(numbers[i], (void *)&local, &length)) continue;
        while ((fd = accept(numbers[i], NULL, NULL)) >= 0) {
            look(fd, "waiting");
            close(fd);
        }
        int peer = client(ntohs(local.sin_port), i & 1);
        if ((fd = accept(numbers[i], NULL, NULL)) >= 0) look(fd, "afterwards");
        close(fd);
        close(peer);
    }
    printf("looked at %s, wrong %d\n", looked > 200 ? "enough" : "too few", wrong);
    return 0;
}
