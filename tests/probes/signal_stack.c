/* How much of an alternate stack (sigaltstack(2)) a handler takes that makes one call:
 *
 *   signal_stack CALL
 *
 * Two numbers, in bytes: the process's first socket call, and the same once more. They include what the kernel puts there for
 * the handler. `nothing` makes no call. What the call needs is made by system calls that no library sees. */
#include "probe.h"

#include <netdb.h>
#include <signal.h>
#include <sys/syscall.h>

enum { SIZE = 256 << 10, PAINT = 0xa5 };

static unsigned char stack[SIZE] __attribute__((aligned(4096)));
static const char *call;
static struct sockaddr_in to;
static int listener, fd, result;

static void handle(int number) {
    socklen_t length = sizeof to;
    int value = 99;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    struct iovec data = {"hi", 2};
    struct msghdr message = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &data, .msg_iovlen = 1};
    (void)number;
    if (!strcmp(call, "connect")) result = connect(fd, (void *)&to, sizeof to);
    else if (!strcmp(call, "bind")) result = bind(fd, (void *)&to, sizeof to);
    else if (!strcmp(call, "listen")) result = listen(fd, 8);
    else if (!strcmp(call, "accept")) result = accept(listener, (void *)&to, &length);
    else if (!strcmp(call, "setsockopt")) result = setsockopt(fd, SOL_TCP, TCP_KEEPIDLE, &value, sizeof value);
    else if (!strcmp(call, "getsockopt")) result = getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &length);
    else if (!strcmp(call, "sendto")) result = sendto(fd, "hi", 2, MSG_FASTOPEN, (void *)&to, sizeof to);
    else if (!strcmp(call, "sendmsg")) result = sendmsg(fd, &message, MSG_FASTOPEN);
    else if (!strcmp(call, "close")) result = close(fd);
    else if (!strcmp(call, "getaddrinfo")) result = getaddrinfo("localhost", NULL, &hints, &found);
    else result = 0;
}

static int tcp(void) { return syscall(SYS_socket, AF_INET, SOCK_STREAM, 0); }

/* The deepest byte that was written. */
static long taken(int is_first) {
    long untouched = 0;
    socklen_t length = sizeof to;
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd = tcp();
    if (strcmp(call, "bind") && strcmp(call, "listen")) {
        listener = tcp();
        syscall(SYS_bind, listener, &to, length);
        syscall(SYS_getsockname, listener, &to, &length);
        syscall(SYS_listen, listener, 8);
        /* From the second time on a library has seen this, and may keep the program's setsockopt from what it has set. */
        if (!strcmp(call, "setsockopt") && !is_first) connect(fd, (void *)&to, length);
        if (!strcmp(call, "accept")) syscall(SYS_connect, fd, &to, length);
    }
    memset(stack, PAINT, SIZE);
    raise(SIGUSR1);
    if (result < 0) perror(call);
    while (untouched < SIZE && stack[untouched] == PAINT) untouched++;
    return SIZE - untouched;
}

int main(int count, char **words) {
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK};
    stack_t alternate = {.ss_sp = stack, .ss_size = SIZE};
    if (count < 2) return 2;
    call = words[1];
    sigaltstack(&alternate, NULL);
    sigaction(SIGUSR1, &action, NULL);
    long first = taken(1);
    printf("%ld %ld\n", first, taken(0));
    return result < 0;
}
