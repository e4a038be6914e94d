/* Connections and what they have; for each file its own. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef int connects(int, const struct sockaddr *, socklen_t);

/* Connects, and then asks for a user timeout of its own. */
static inline int connected(int port, connects *how) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int timeout = 96000, fd = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (how(fd, (void *)&to, sizeof to)) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
    return fd;
}

/* Closes it. */
static inline const char *options_of(int fd, char *text, size_t size) {
    int time = -1, timeout = -1;
    socklen_t length = sizeof time;
    getsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &time, &length);
    getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, &length);
    snprintf(text, size, "%d %d", time, timeout);
    close(fd);
    return text;
}
