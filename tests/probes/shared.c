/* Sockets that somebody else has as well, or whose number another socket had: `linger = "reset-when-drained"` must not
 * reach them.
 *
 *   shared HOW   connects, shares, closes one of both, and prints the SO_LINGER that the kernel has for the other
 *   shared paths an upload by Multipath TCP over two paths, closed while only the first is idle */
#include "probe.h"

#include <fcntl.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static struct sockaddr_in to = {.sin_family = AF_INET};
static int l, end;

static int new_socket(int flags) {
    return socket(AF_INET, SOCK_STREAM | flags, 0);
}

static int connected(int flags) {
    int fd = new_socket(flags);
    if (connect(fd, (void *)&to, sizeof to)) perror("connect");
    end = accept(l, NULL, NULL);
    return fd;
}

/* A copy that nobody can see being made: what becomes of the socket is seen through it. */
static int unseen(int fd) {
    return syscall(SYS_dup, fd);
}

static void forget_by_stdio(int fd) {
    FILE *stream = fdopen(fd, "r+");
    fclose(stream);
}

static void *unshare_and_close(void *fd) {
    if (close_range(*(int *)fd, *(int *)fd, CLOSE_RANGE_UNSHARE)) perror("close_range");
    return NULL;
}

static int wait_for_the_end(void *unused) {
    (void)unused;
    pause();
    return 0;
}

static int left_by(const char *how, pid_t *child) {
    static char stack[65536] __attribute__((aligned(16)));
    pthread_t thread;
    int fd, other, terminal;
    if (!strcmp(how, "copied before it is connected")) {
        other = dup(fd = new_socket(SOCK_CLOEXEC));
        connect(fd, (void *)&to, sizeof to);
        return close(fd), other;
    }
    if (!strcmp(how, "connected again after it was copied")) {
        other = dup(fd = connected(SOCK_CLOEXEC));
        connect(fd, (void *)&to, sizeof to);
        return close(fd), other;
    }
    if (!strcmp(how, "forked before it is connected")) {
        fd = new_socket(SOCK_CLOEXEC);
        if (!(*child = fork())) pause();
        connect(fd, (void *)&to, sizeof to);
        return other = unseen(fd), close(fd), other;
    }
    if (!strcmp(how, "a copy where another was closed by stdio")) {
        forget_by_stdio(connected(SOCK_CLOEXEC));
        int placeholder = open("/dev/null", O_RDONLY | O_CLOEXEC);
        fd = connected(SOCK_CLOEXEC);
        syscall(SYS_close, placeholder);
        return close(dup(fd)), fd;
    }
    if (!strcmp(how, "accepted where another was closed by stdio")) {
        fd = new_socket(SOCK_CLOEXEC);
        forget_by_stdio(connected(SOCK_CLOEXEC));
        connect(fd, (void *)&to, sizeof to);
        end = accept(l, NULL, NULL);
        return other = unseen(end), close(end), other;
    }
    if (!strcmp(how, "closed in a thread with a table of its own")) {
        fd = connected(SOCK_CLOEXEC);
        pthread_create(&thread, NULL, unshare_and_close, &fd);
        return pthread_join(thread, NULL), fd;
    }
    if (!strcmp(how, "close_range refuses")) return fd = connected(SOCK_CLOEXEC), close_range(fd, fd, 0x100), fd;
    if (!strcmp(how, "dup3 refuses")) return fd = connected(SOCK_CLOEXEC), dup3(l, fd, 0x100), fd;
    if (!strcmp(how, "left behind")) {
        fd = connected(0);
        if (system("sleep 1 >/dev/null 2>&1 &")) perror("system");
        return other = unseen(fd), close(fd), other;
    }
    if (!strcmp(how, "left behind unseen")) {
        signal(SIGCHLD, SIG_IGN);
        fd = connected(0);
        /* Its status is gone as well. */
        if (!system("sleep 1 >/dev/null 2>&1 &")) perror("system");
        return other = unseen(fd), close(fd), other;
    }
    fd = connected(SOCK_CLOEXEC);
    if (!strcmp(how, "forkpty")) *child = forkpty(&terminal, NULL, NULL, NULL);
    if (!strcmp(how, "_Fork")) *child = _Fork();
    if (!strcmp(how, "clone")) *child = clone(wait_for_the_end, stack + sizeof stack, SIGCHLD, NULL);
    if (!*child) pause();
    return other = unseen(fd), close(fd), other;
}

/* Of one path the kernel says that nothing is under way while the other has all of it. */
static void by_two_paths(void) {
    enum { PIECE = 30000, PIECES = 60, ATTEMPTS = 8 };
    static char data[1 << 20];
    if (system("ip addr add 10.0.1.1/32 dev lo && ip addr add 10.0.2.1/32 dev lo &&"
               "ip mptcp limits set subflow 2 add_addr_accepted 2 && ip mptcp endpoint add 10.0.2.1 dev lo subflow"))
        return;
    inet_pton(AF_INET, "10.0.1.1", &to.sin_addr);
    long lost = 0;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 262), queued = 0;
        if (connect(fd, (void *)&to, sizeof to)) perror("connect");
        end = accept(l, NULL, NULL);
        long sent = send(fd, data, 1, 0), read = recv(end, data, 1, 0);
        usleep(300000); /* The second path. */
        for (int i = 0; i < PIECES; i++) {
            ssize_t size = send(fd, data, PIECE, MSG_DONTWAIT);
            if (size > 0) sent += size;
        }
        for (int i = 0; i < 5000; i++) {
            ssize_t size = recv(end, data, sizeof data, MSG_DONTWAIT);
            if (size > 0) read += size;
            unsigned info[40] = {0};
            socklen_t length = sizeof info;
            getsockopt(fd, SOL_TCP, TCP_INFO, info, &length);
            ioctl(fd, TIOCOUTQ, &queued);
            if (!info[6] && !info[36]) break;
        }
        close(fd);
        for (ssize_t size; (size = recv(end, data, sizeof data, 0)) > 0;) read += size;
        close(end);
        lost += sent - read;
    }
    printf("%ld bytes are lost\n", lost);
}

int main(int count, char **arguments) {
    pid_t child = -1;
    int is_mptcp = count > 1 && !strcmp(arguments[1], "paths");
    socklen_t length = sizeof to;
    alarm(30);
    l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, is_mptcp ? 262 : 0);
    to.sin_port = htons(4001);
    if (!is_mptcp) to.sin_port = htons(4000), to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(l, (void *)&to, sizeof to) || listen(l, 8) || getsockname(l, (void *)&to, &length)) perror("listen");
    if (is_mptcp) return by_two_paths(), 0;
    int fd = left_by(arguments[1], &child);
    struct linger linger = {-1, -1};
    length = sizeof linger;
    syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_LINGER, &linger, &length);
    printf("SO_LINGER %d,%d\n", linger.l_onoff, linger.l_linger);
    if (child > 0) kill(child, SIGKILL);
    return 0;
}
