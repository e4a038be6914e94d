/* Another preload library: says each call of its connect. With POLL it has poll in place of that. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef POLL
int poll(struct pollfd *entries, nfds_t count, int timeout) {
    int (*next)(struct pollfd *, nfds_t, int) = (int (*)(struct pollfd *, nfds_t, int))dlsym(RTLD_NEXT, "poll");
    return next(entries, count, timeout);
}
#else
int connect(int fd, const struct sockaddr *to, socklen_t length) {
    int (*next)(int, const struct sockaddr *, socklen_t) = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
    (void)!write(1, "other\n", 6);
    return next(fd, to, length);
}
#endif
