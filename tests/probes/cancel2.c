/* Cancellation in every call that is interposed:
 *
 *   cancel2 calls SILENT FULL ADDRESS '@look s OPTION=VALUE ...'
 *   cancel2 running ADDRESS ROUNDS '@look ...'
 *
 * calls: deferred and asynchronous, while blocked and pending before; then those that are no cancellation points.
 * running: a thread that is cancelled asynchronously at any moment of its connects. SILENT is for a listener of our
 * own, FULL never answers, ADDRESS takes connections and never reads. */
#include "probe.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>

static const char *call;
static struct sockaddr_storage silent, full, other;
static socklen_t length;
static int fd, cleaned, type, pending, passed;
static atomic_int ready, go;

static void clean(void *nothing) {
    (void)nothing;
    cleaned++;
}

static long perform(void) {
    struct iovec data = {"hi", 2};
    struct mmsghdr message = {{.msg_iov = &data, .msg_iovlen = 1}, 0};
    int flags = strchr(call, '+') ? MSG_FASTOPEN : 0, one = 1;
    size_t name = strcspn(call, "+");
    if (flags) {
        message.msg_hdr.msg_name = &full;
        message.msg_hdr.msg_namelen = length;
    }
    if (!strcmp(call, "accept")) return accept(fd, NULL, NULL);
    if (!strcmp(call, "accept4")) return accept4(fd, NULL, NULL, 0);
    if (!strcmp(call, "connect")) return connect(fd, (void *)&full, length);
    if (!strcmp(call, "close")) return close(fd);
    if (name == 6 && !strncmp(call, "sendto", 6)) return sendto(fd, "hi", 2, flags, flags ? (void *)&full : NULL, flags ? length : 0);
    if (name == 7 && !strncmp(call, "sendmsg", 7)) return sendmsg(fd, &message.msg_hdr, flags);
    if (name == 8 && !strncmp(call, "sendmmsg", 8)) return sendmmsg(fd, &message, 1, flags);
    struct pollfd one_of = {fd, POLLOUT, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    if (!strcmp(call, "poll")) return poll(&one_of, 1, -1);
    if (!strcmp(call, "ppoll")) return ppoll(&one_of, 1, NULL, NULL);
    if (!strcmp(call, "select")) return select(fd + 1, NULL, &set, NULL, NULL);
    if (!strcmp(call, "pselect")) return pselect(fd + 1, NULL, &set, NULL, NULL, NULL);
    if (!strcmp(call, "setsockopt")) return setsockopt(fd, SOL_TCP, TCP_KEEPIDLE, &one, sizeof one);
    if (!strcmp(call, "bind")) return bind(fd, (void *)&silent, length);
    if (!strcmp(call, "listen")) return listen(fd, 8);
    if (!strcmp(call, "dup2")) return dup2(fd, 190);
    if (!strcmp(call, "dup3")) return dup3(fd, 190, 0);
    if (!strcmp(call, "close_range")) return close_range(190, 190, 0);
    abort();
}

static void *victim(void *nothing) {
    int old;
    pthread_cleanup_push(clean, nothing);
    pthread_setcanceltype(type, &old);
    if (pending) {
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
        ready = 1;
        while (!go) usleep(100);
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
    }
    perform();
    passed = 1;
    pthread_testcancel();
    pthread_cleanup_pop(0);
    return NULL;
}

/* A socket on which the call blocks. */
static void prepare(void) {
    int one = 1;
    fd = socket(full.ss_family, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (strstr(call, "poll") || strstr(call, "select")) {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        connect(fd, (void *)&full, length);
    } else if (!strncmp(call, "accept", 6)) {
        if (bind(fd, (void *)&silent, length) || listen(fd, 8)) perror("listen");
    } else if (!strcmp(call, "close") || (!strncmp(call, "send", 4) && !strchr(call, '+'))) {
        static char block[1 << 16];
        struct linger linger = {1, 20};
        /* A buffer that is set does not grow by itself. */
        int small = 8192;
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
        if (connect(fd, (void *)&other, length)) perror("connect");
        if (!strcmp(call, "close")) setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        /* Full is what stays full: acknowledgements that are still under way make room again. */
        for (int still = 0; still < 5; still++) {
            while (send(fd, block, sizeof block, MSG_DONTWAIT) > 0) still = 0;
            usleep(2 * 1000);
        }
    }
}

static void round_of(const char *name) {
    pthread_t thread;
    void *result;
    call = name;
    prepare();
    cleaned = passed = ready = go = 0;
    pthread_create(&thread, NULL, victim, NULL);
    if (pending) while (!ready) usleep(100);
    else usleep(50 * 1000);
    pthread_cancel(thread);
    go = 1;
    pthread_join(thread, &result);
    printf("%s %s %s: %s, %s the call, cleaned up %d\n", name, type == PTHREAD_CANCEL_DEFERRED ? "deferred" : "asynchronous",
           pending ? "pending" : "blocked", result == PTHREAD_CANCELED ? "cancelled" : "returned", passed ? "after" : "in", cleaned);
    /* A close that was cancelled may have closed or not; nobody else has opened anything. */
    struct linger none = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(fd);
}

static void *running(void *nothing) {
    int old;
    pthread_cleanup_push(clean, nothing);
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old);
    ready = 1;
    for (;;) connect(fd, (void *)&full, length);
    pthread_cleanup_pop(0);
    return NULL;
}

static void works(const char *to, const char *look) {
    char request[256];
    fflush(stdout);
    socklen_t size = address(to, &other);
    int s = socket(other.ss_family, SOCK_STREAM, 0);
    printf("connect %d\n", connect(s, (void *)&other, size));
    fflush(stdout);
    snprintf(request, sizeof request, "look s %d %s", s, look + strlen("@look s "));
    outside(request);
}

int main(int count, char **arguments) {
    alarm(200);
    if (count == 6 && !strcmp(arguments[1], "calls")) {
        static const char *points[] = {"connect", "accept", "accept4", "close", "sendto", "sendmsg", "sendmmsg",
                                       "sendto+", "sendmsg+", "sendmmsg+", "poll", "ppoll", "select", "pselect"};
        static const char *none[] = {"setsockopt", "bind", "listen", "dup2", "dup3", "close_range"};
        address(arguments[2], &silent);
        address(arguments[4], &other);
        length = address(arguments[3], &full);
        for (unsigned i = 0; i < sizeof points / sizeof *points; i++)
            for (int way = 0; way < 4; way++) {
                type = way & 1 ? PTHREAD_CANCEL_ASYNCHRONOUS : PTHREAD_CANCEL_DEFERRED;
                pending = way >> 1;
                round_of(points[i]);
            }
        type = PTHREAD_CANCEL_DEFERRED;
        pending = 1;
        for (unsigned i = 0; i < sizeof none / sizeof *none; i++) round_of(none[i]);
        works(arguments[4], arguments[5]);
        return 0;
    }
    if (count == 5 && !strcmp(arguments[1], "running")) {
        int rounds = atoi(arguments[3]), well = 0;
        length = address("127.0.0.1:1", &full);
        for (int i = 0; i < rounds; i++) {
            pthread_t thread;
            void *result;
            fd = socket(AF_INET, SOCK_STREAM, 0);
            ready = cleaned = 0;
            pthread_create(&thread, NULL, running, NULL);
            while (!ready) sched_yield();
            usleep(rand() % 300);
            pthread_cancel(thread);
            pthread_join(thread, &result);
            well += result == PTHREAD_CANCELED && cleaned == 1;
            close(fd);
        }
        printf("%d of %d\n", well, rounds);
        works(arguments[2], arguments[4]);
        return 0;
    }
    return 2;
}
