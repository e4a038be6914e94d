// Leaves a call that is blocked from within a signal handler, by an exception or by longjmp, three times; then makes
// the round of situation.c:
//
//   situation_jump throw|jump accept|accept4|connect|sendto|sendmsg|sendmmsg
//
// Compiled with -fnon-call-exceptions.
#include <arpa/inet.h>
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

extern "C" void situation_round();

namespace {
bool by_jump;
sigjmp_buf back;

struct Left {
    int number;
};

void leave(int number) {
    if (by_jump) siglongjmp(back, number);
    throw Left{number};
}

struct Guard {
    int &count;
    ~Guard() { count++; }
};

sockaddr_in address;

int listener(int backlog) {
    socklen_t length = sizeof address;
    address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    syscall(SYS_bind, fd, &address, length);
    syscall(SYS_listen, fd, backlog);
    getsockname(fd, reinterpret_cast<sockaddr *>(&address), &length);
    return fd;
}

long call(const char *name, int fd) {
    auto *to = reinterpret_cast<sockaddr *>(&address);
    char text[] = "hi";
    iovec data = {text, 2};
    mmsghdr message = {};
    message.msg_hdr.msg_name = to;
    message.msg_hdr.msg_namelen = sizeof address;
    message.msg_hdr.msg_iov = &data;
    message.msg_hdr.msg_iovlen = 1;
    if (!strcmp(name, "accept")) return accept(fd, nullptr, nullptr);
    if (!strcmp(name, "accept4")) return accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
    if (!strcmp(name, "connect")) return connect(fd, to, sizeof address);
    if (!strcmp(name, "sendto")) return sendto(fd, text, 2, MSG_FASTOPEN, to, sizeof address);
    if (!strcmp(name, "sendmsg")) return sendmsg(fd, &message.msg_hdr, MSG_FASTOPEN);
    if (!strcmp(name, "sendmmsg")) return sendmmsg(fd, &message, 1, MSG_FASTOPEN);
    abort();
}

void blocked(const char *name, int fd, int &destroyed) {
    itimerval soon = {{0, 0}, {0, 50 * 1000}};
    Guard guard{destroyed};
    setitimer(ITIMER_REAL, &soon, nullptr);
    printf("returned %ld\n", call(name, fd));
}
} // namespace

int main(int count, char **arguments) {
    if (count != 3) return 2;
    const char *name = arguments[2];
    by_jump = !strcmp(arguments[1], "jump");
    bool accepts = *name == 'a';
    struct sigaction action = {};
    action.sa_handler = leave;
    action.sa_flags = SA_NODEFER | SA_RESTART;
    sigaction(SIGALRM, &action, nullptr);
    int server = listener(accepts ? 8 : 0), destroyed = 0;
    // A full queue answers no SYN.
    for (int i = 0; !accepts && i < 3; i++)
        syscall(SYS_connect, socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), &address, sizeof address);
    for (int i = 0; i < 3; i++) {
        int fd = accepts ? server : socket(AF_INET, SOCK_STREAM, 0);
        if (by_jump) {
            if (int number = sigsetjmp(back, 1)) printf("%s left by longjmp %d\n", name, number);
            else blocked(name, fd, destroyed);
        } else {
            try {
                blocked(name, fd, destroyed);
            } catch (const Left &left) {
                printf("%s left by exception %d\n", name, left.number);
            }
        }
        if (!accepts) close(fd);
    }
    printf("destroyed %d\n", by_jump ? 0 : destroyed);
    fflush(stdout);
    situation_round();
    return 0;
}
