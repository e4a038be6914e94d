// TCP connections over the loopback, both ends in this one thread, so that nothing depends on a second one being
// scheduled:
//     tcp connect OPTIONS   socket + connect + close; the program itself sets so many options before connect
//     tcp heap OPTIONS      the same, the address on the heap
//     tcp accept OPTIONS    accept + close, the peer's address asked for as servers do; the program itself sets so many
//                           options after accept
//     tcp untold OPTIONS    the same without asking for the address
//     tcp first             the first call of the process that concerns a socket: a connect that is refused
#include "measure.h"
#include <alloca.h>

#define BATCH 32

// Those that libsockopt.so sets by dead_peer_timeout = "15s" and linger = "reset", in its order.
static void set_options(int fd, int count) {
    static const struct { int level, name, value; } OPTIONS[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},     {IPPROTO_TCP, TCP_KEEPIDLE, 5},        {IPPROTO_TCP, TCP_KEEPINTVL, 3},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},     {IPPROTO_TCP, TCP_USER_TIMEOUT, 14000},
    };
    for (int i = 0; i < count && i < 5; i++)
        need(setsockopt(fd, OPTIONS[i].level, OPTIONS[i].name, &OPTIONS[i].value, sizeof(int)) == 0, "setsockopt");
    if (count > 5) {
        struct linger reset = {1, 0};
        need(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0, "setsockopt");
    }
}

static int connected(const struct sockaddr_in *address, int options) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    set_options(fd, options);
    need(connect(fd, (const struct sockaddr *)address, sizeof *address) == 0, "connect");
    return fd;
}

static int is_told = 1;

static int accepted(int from, int options) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    int fd = is_told ? accept(from, (struct sockaddr *)&peer, &length) : accept(from, NULL, NULL);
    need(fd >= 0, "accept");
    set_options(fd, options);
    return fd;
}

// A configuration that is not in force would be measured as fast: EXPECT is the user timeout that a socket has to have.
static int checked(int fd) {
    const char *expected = getenv("EXPECT");
    unsigned value = 0;
    socklen_t length = sizeof value;
    getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, &length);
    if (expected && value != (unsigned)atoi(expected)) {
        fprintf(stderr, "TCP_USER_TIMEOUT is %u\n", value);
        exit(1);
    }
    return fd;
}

__attribute__((noinline)) static int run(int count, char **arguments) {
    need(count > 1, "usage");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (strcmp(arguments[1], "first") == 0) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        while (next()) {
            begin();
            need(connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno == ECONNREFUSED, "connect");
            end(1);
        }
        return 0;
    }
    need(count == 3, "usage");
    is_told = strcmp(arguments[1], "untold") != 0;
    int accepts = !is_told || strcmp(arguments[1], "accept") == 0, options = atoi(arguments[2]);
    int from = listener(&address, BATCH * 2), clients[BATCH];
    // The library compiles its configuration for the first socket.
    int client = connected(&address, 0), server = accepted(from, 0);
    close(checked(accepts ? server : client));
    close(accepts ? client : server);
    const struct sockaddr_in *to = &address;
    if (strcmp(arguments[1], "heap") == 0) to = memcpy(malloc(sizeof address), &address, sizeof address);
    while (next()) {
        if (!accepts) {
            begin();
            for (int i = 0; i < BATCH; i++) close(connected(to, options));
            end(BATCH);
            for (int i = 0; i < BATCH; i++) close(accepted(from, 0));
        } else {
            for (int i = 0; i < BATCH; i++) clients[i] = connected(&address, 0);
            begin();
            for (int i = 0; i < BATCH; i++) close(accepted(from, options));
            end(BATCH);
            for (int i = 0; i < BATCH; i++) close(clients[i]);
        }
    }
    return 0;
}

// Where a stack begins is chance, and with it whether an address lies in the same page as the hook: here it does.
int main(int count, char **arguments) {
    char *volatile top = alloca(((unsigned long)__builtin_frame_address(0) - 3000) % 4096 + 1);
    *top = 0;
    return run(count, arguments);
}
