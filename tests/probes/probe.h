/* What the probes share: addresses and options as text, and the line to the outside (readback.c). */
#ifndef PROBE_H
#define PROBE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* What musl 1.2.3 and glibc before 2.34 have not. */
#if !defined __GLIBC__ || __GLIBC_MINOR__ < 34 || defined OLD_LIBC
#include <sys/syscall.h>
#define strerrorname_np(error) ((const char *)NULL)
#define close_range(first, last, flags) ((int)syscall(SYS_close_range, first, last, flags))
#endif

/* High and fixed, so that a probe's own descriptors have the numbers that they would have anyway. */
enum { OUTSIDE = 198 };

#define UNUSED __attribute__((unused))

/* "127.0.0.1:80", "[::1]:80", "unix:NAME" (abstract), "unspec", "unspec:80". */
UNUSED static socklen_t address(const char *text, struct sockaddr_storage *to) {
    char host[64];
    const char *colon = strrchr(text, ':');
    memset(to, 0, sizeof *to);
    if (!strncmp(text, "unix:", 5)) {
        struct sockaddr_un *un = (void *)to;
        un->sun_family = AF_UNIX;
        strncpy(un->sun_path + 1, text + 5, sizeof un->sun_path - 2);
        return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(un->sun_path + 1);
    }
    if (!colon) {
        to->ss_family = AF_UNSPEC;
        return sizeof(struct sockaddr_in);
    }
    if (*text == '[') {
        struct sockaddr_in6 *in6 = (void *)to;
        snprintf(host, sizeof host, "%.*s", (int)(colon - text) - 2, text + 1);
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(atoi(colon + 1));
        if (inet_pton(AF_INET6, host, &in6->sin6_addr) != 1) abort();
        return sizeof *in6;
    }
    struct sockaddr_in *in = (void *)to;
    snprintf(host, sizeof host, "%.*s", (int)(colon - text), text);
    in->sin_port = htons(atoi(colon + 1));
    if (!strcmp(host, "unspec")) return sizeof *in;
    in->sin_family = AF_INET;
    if (inet_pton(AF_INET, host, &in->sin_addr) != 1) abort();
    return sizeof *in;
}

#ifndef SO_MAX_PACING_RATE
#define SO_MAX_PACING_RATE 47
#endif
#define O(level, name) { #name, level, name }
UNUSED static const struct { const char *name; int level, number; } OPTIONS[] = {
    O(SOL_SOCKET, SO_KEEPALIVE), O(SOL_SOCKET, SO_LINGER), O(SOL_SOCKET, SO_REUSEADDR), O(SOL_SOCKET, SO_REUSEPORT),
    O(SOL_SOCKET, SO_RXQ_OVFL),
    O(SOL_SOCKET, SO_BROADCAST),
    O(SOL_SOCKET, SO_RCVTIMEO), O(SOL_SOCKET, SO_SNDTIMEO), O(SOL_SOCKET, SO_RCVBUF), O(SOL_SOCKET, SO_SNDBUF),
    O(SOL_SOCKET, SO_RCVLOWAT), O(SOL_SOCKET, SO_PRIORITY), O(SOL_SOCKET, SO_MARK), O(SOL_SOCKET, SO_BINDTODEVICE),
    O(SOL_SOCKET, SO_MAX_PACING_RATE), O(SOL_TCP, TCP_NODELAY), O(SOL_TCP, TCP_MAXSEG), O(SOL_TCP, TCP_KEEPIDLE),
    O(SOL_TCP, TCP_KEEPINTVL), O(SOL_TCP, TCP_KEEPCNT), O(SOL_TCP, TCP_SYNCNT), O(SOL_TCP, TCP_LINGER2),
    O(SOL_TCP, TCP_DEFER_ACCEPT), O(SOL_TCP, TCP_QUICKACK), O(SOL_TCP, TCP_CONGESTION), O(SOL_TCP, TCP_USER_TIMEOUT),
    O(SOL_TCP, TCP_FASTOPEN), O(SOL_TCP, TCP_NOTSENT_LOWAT), O(SOL_TCP, TCP_FASTOPEN_CONNECT), O(SOL_IP, IP_TOS),
    O(SOL_IP, IP_TTL), O(SOL_IP, IP_FREEBIND), O(SOL_IP, IP_TRANSPARENT), O(SOL_IP, IP_BIND_ADDRESS_NO_PORT), O(SOL_IPV6, IPV6_UNICAST_HOPS), O(SOL_IPV6, IPV6_TCLASS), O(SOL_IPV6, IPV6_V6ONLY),
};

/* By name, or LEVEL/NUMBER. Anything behind '=' is ignored. */
UNUSED static void option(const char *text, int *level, int *number) {
    size_t length = strcspn(text, "=");
    if (sscanf(text, "%d/%d", level, number) == 2) return;
    for (size_t i = 0; i < sizeof OPTIONS / sizeof *OPTIONS; i++)
        if (strlen(OPTIONS[i].name) == length && !strncmp(OPTIONS[i].name, text, length)) {
            *level = OPTIONS[i].level;
            *number = OPTIONS[i].number;
            return;
        }
    fprintf(stderr, "\nno option %s in OPTIONS of tests/probes/probe.h: add it there\n", text);
    abort();
}

UNUSED static const char *error_name(int error) {
    static __thread char number[16];
    snprintf(number, sizeof number, "%d", error);
    return strerrorname_np(error) ? strerrorname_np(error) : number;
}

/* Asks the outside for something and waits until it is done; the descriptor that it passes, or -1. */
UNUSED static int outside(const char *request) {
    char line[1024], answer, control[CMSG_SPACE(sizeof(int))];
    int fd = -1;
    snprintf(line, sizeof line, "%d %s", (int)getpid(), request);
    if (write(OUTSIDE, line, strlen(line) + 1) < 0) abort();
    struct iovec data = {&answer, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(OUTSIDE, &message, 0) != 1) abort();
    if (CMSG_FIRSTHDR(&message)) memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}
#endif
