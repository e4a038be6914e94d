/* What the library needs that a program loads: it connects by an address in its data, and it listens. */
#include "connections.h"

static struct {
    connects *volatile connects;
} table = {connect};

static int accepted(void) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t size = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 1)) return -1;
    getsockname(listener, (void *)&at, &size);
    if (connect(client, (void *)&at, sizeof at)) return -1;
    int fd = accept(listener, NULL, NULL), timeout = 96000;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
    close(client);
    close(listener);
    return fd;
}

void dependency(int port, char *text, size_t size);
void dependency(int port, char *text, size_t size) {
    char by_table[64], by_accept[64];
    options_of(connected(port, table.connects), by_table, sizeof by_table);
    snprintf(text, size, "table %s, accepted %s", by_table, options_of(accepted(), by_accept, sizeof by_accept));
}
