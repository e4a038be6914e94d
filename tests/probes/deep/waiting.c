/* What a program loads that connects, and waits for it with poll. */
#include <poll.h>
#include <sys/socket.h>

int wait_connected(const struct sockaddr *to, socklen_t length);
int wait_connected(const struct sockaddr *to, socklen_t length) {
    struct pollfd entry = {.fd = socket(to->sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0), .events = POLLOUT};
    connect(entry.fd, to, length);
    return poll(&entry, 1, 1000);
}
