// Calls that no rule is about:
//     calls close          close of what is no socket
//     calls socket-unix    socket(AF_UNIX)
//     calls socket-udp     socket(AF_INET, SOCK_DGRAM)
//     calls connect-unix   connect of a UNIX socket
//     calls setsockopt     setsockopt(TCP_NODELAY) of a connected TCP socket
//     calls open COUNT     socket + close of one more TCP socket, COUNT being open
#include "measure.h"
#include <fcntl.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/un.h>

#define BATCH 256

int main(int count, char **arguments) {
    need(count > 1, "usage");
    const char *call = arguments[1];
    int fds[BATCH], null = open("/dev/null", O_RDONLY);
    int sets = strcmp(call, "setsockopt") == 0, one = 1, closes = strcmp(call, "close") == 0, connects = strcmp(call, "connect-unix") == 0;
    struct sockaddr_in address;
    int from = listener(&address, 1), first = socket(AF_INET, SOCK_STREAM, 0);
    // The library compiles its configuration for the first socket.
    need(connect(first, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    // In the abstract name space, so that there is no file.
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    socklen_t length = offsetof(struct sockaddr_un, sun_path) +
                       snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "sockopt-bench-%d", getpid()) + 1;
    int receiver = socket(AF_UNIX, SOCK_DGRAM, 0);
    need(bind(receiver, (struct sockaddr *)&name, length) == 0, "bind");
    int more = count > 2 ? atoi(arguments[2]) : -1;
    if (more >= 0) {
        struct rlimit limit;
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        for (int i = 0; i < more; i++) need(socket(AF_INET, SOCK_STREAM, 0) >= 0, "socket");
    }
    int domain = strcmp(call, "socket-udp") == 0 ? AF_INET : AF_UNIX;
    while (next()) {
        if (more >= 0) {
            begin();
            for (int i = 0; i < BATCH; i++) close(socket(AF_INET, SOCK_STREAM, 0));
            end(BATCH);
        } else if (sets) {
            begin();
            for (int i = 0; i < BATCH; i++) setsockopt(first, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            end(BATCH);
        } else if (closes) {
            for (int i = 0; i < BATCH; i++) fds[i] = dup(null);
            begin();
            for (int i = 0; i < BATCH; i++) close(fds[i]);
            end(BATCH);
        } else if (connects) {
            int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
            begin();
            for (int i = 0; i < BATCH; i++) connect(fd, (struct sockaddr *)&name, length);
            end(BATCH);
            close(fd);
        } else {
            begin();
            for (int i = 0; i < BATCH; i++) fds[i] = socket(domain, SOCK_DGRAM, 0);
            end(BATCH);
            for (int i = 0; i < BATCH; i++) close(fds[i]);
        }
    }
    return from < 0;
}
