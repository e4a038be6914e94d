/* What the library reads of the program's memory, and when: memory MODE ...
 *
 * exact: connect, bind, sendto, sendmsg, sendmmsg, setsockopt and accept with arguments that are blocks of malloc's by
 *   themselves, no byte longer than the kernel needs; prints what each answered. For sanitizers and valgrind, which know
 *   where such a block ends.
 * unmapped COUNT: accepts into memory that another thread takes away as soon as the kernel has written there.
 * message COUNT: sends messages that another thread takes away as soon as it has received them. */
#include "probe.h"

#include <poll.h>
#include <sys/mman.h>

static int say(const char *call, long result) {
    int error = errno;
    printf("%s = %ld", call, result);
    if (result < 0) printf(" %s", error_name(error));
    puts("");
    return (int)result;
}

static struct sockaddr_in local(int port) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

static int listener(struct sockaddr_in *at) {
    socklen_t length = sizeof *at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    *at = local(0);
    if (bind(fd, (void *)at, length) || listen(fd, 64) || getsockname(fd, (void *)at, &length)) exit(2);
    return fd;
}

static void *block(const void *content, size_t size) {
    return memcpy(malloc(size), content, size);
}

static int keepidle(int fd) {
    int value = -1;
    socklen_t length = sizeof value;
    getsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &value, &length);
    return value;
}

static int tcp(void) {
    return socket(AF_INET, SOCK_STREAM, 0);
}

static void exact(void) {
    struct sockaddr_in at;
    struct sockaddr_in6 at6 = {.sin6_family = AF_INET6};
    int l = listener(&at), value = 99, fd, other;
    at6.sin6_port = at.sin_port;
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &at6.sin6_addr);
    void *v4 = block(&at, sizeof at), *v6 = block(&at6, sizeof at6), *two = block(&(short){AF_UNSPEC}, 2);
    fd = tcp();
    say("connect IPv4", connect(fd, v4, sizeof at));
    say("option", keepidle(fd));
    int *number = block(&value, sizeof value);
    say("setsockopt", setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, number, sizeof value));
    say("option", keepidle(fd));
    struct linger *linger = block(&(struct linger){0, 0}, sizeof *linger);
    say("setsockopt", setsockopt(fd, SOL_SOCKET, SO_LINGER, linger, sizeof *linger));
    /* Longer than what is there, as programs say that give the size of a larger structure. */
    fd = tcp();
    say("connect longer", connect(fd, v4, sizeof at6));
    say("option", keepidle(fd));
    say("connect too long", connect(tcp(), v4, 129));
    fd = socket(AF_INET6, SOCK_STREAM, 0);
    say("connect IPv6", connect(fd, v6, sizeof at6));
    say("option", keepidle(fd));
    say("connect short", connect(tcp(), two, 2));
    fd = tcp();
    say("bind", bind(fd, block(&(struct sockaddr_in){.sin_family = AF_INET}, sizeof at), sizeof at));
    fd = tcp();
    char *hi = block("hi", 2);
    say("sendto", sendto(fd, hi, 2, MSG_FASTOPEN | MSG_NOSIGNAL, v4, sizeof at));
    say("option", keepidle(fd));
    struct iovec *data = block(&(struct iovec){hi, 2}, sizeof *data);
    struct msghdr message = {.msg_name = v4, .msg_namelen = sizeof at, .msg_iov = data, .msg_iovlen = 1};
    fd = tcp();
    say("sendmsg", sendmsg(fd, block(&message, sizeof message), MSG_FASTOPEN | MSG_NOSIGNAL));
    say("option", keepidle(fd));
    struct mmsghdr *batch = block(&(struct mmsghdr){message, 0}, sizeof *batch);
    fd = tcp();
    say("sendmmsg", sendmmsg(fd, batch, 1, MSG_FASTOPEN | MSG_NOSIGNAL));
    say("option", keepidle(fd));
    for (int room = 0; room < 3; room++) { /* All of it, the half, nothing. */
        socklen_t *length = malloc(sizeof *length);
        *length = room == 0 ? sizeof at : room == 1 ? sizeof at / 2 : 0;
        void *peer = malloc(*length ? *length : 1);
        say("accept", (other = accept(l, peer, length)) >= 0);
        say("length", *length);
        say("option", keepidle(other));
        free(peer), free(length);
    }
}

static char *volatile taken;

/* Takes the memory away when there is something in it. */
static void *takes(void *what) {
    for (;;) {
        char *page = taken;
        if (!page || !*(volatile short *)page) continue;
        munmap(page, 4096);
        taken = NULL;
    }
    return what;
}

static char *page(void) {
    return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void unmapped(int count) {
    struct sockaddr_in at;
    int l = listener(&at), done = 0;
    pthread_t other;
    pthread_create(&other, NULL, takes, NULL);
    for (int i = 0; i < count; i++) {
        int reset[] = {1, 0}, fd = tcp();
        socklen_t length = sizeof at;
        setsockopt(fd, SOL_SOCKET, SO_LINGER, reset, sizeof reset);
        if (connect(fd, (void *)&at, sizeof at)) exit(3);
        char *where = page();
        taken = where;
        int accepted = accept(l, (void *)where, &length);
        done += accepted >= 0 && keepidle(accepted) == 5;
        while (taken) {}
        close(accepted), close(fd);
    }
    printf("%d of %d\n", done, count);
}

static int ends[2];

static void *receives(void *what) {
    char byte;
    while (recv(ends[1], &byte, 1, 0) == 1) {
        munmap(taken, 4096);
        taken = NULL;
    }
    return what;
}

static void message(int count) {
    pthread_t other;
    int done = 0, fd = tcp();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) exit(2);
    pthread_create(&other, NULL, receives, NULL);
    for (int i = 0; i < count; i++) {
        struct all { struct msghdr message; struct iovec data; char control[CMSG_SPACE(sizeof fd)]; char byte; } *all = (void *)page();
        all->data = (struct iovec){&all->byte, 1};
        all->message = (struct msghdr){.msg_iov = &all->data, .msg_iovlen = 1, .msg_control = all->control, .msg_controllen = sizeof all->control};
        struct cmsghdr *header = CMSG_FIRSTHDR(&all->message);
        *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
        taken = (char *)all;
        done += sendmsg(ends[0], &all->message, 0) == 1;
        while (taken) {}
    }
    printf("%d of %d\n", done, count);
}

int main(int count, char **arguments) {
    const char *mode = count > 1 ? arguments[1] : "";
    alarm(250);
    if (!strcmp(mode, "exact")) exact();
    else if (!strcmp(mode, "unmapped") && count == 3) unmapped(atoi(arguments[2]));
    else if (!strcmp(mode, "message") && count == 3) message(atoi(arguments[2]));
    else return 2;
    fflush(stdout);
    _exit(0);
}
