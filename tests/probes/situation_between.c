/* Another preload library, in front of ours or behind it: its connect passes on to the next one's and counts; with
 * -DFAILING malloc returns NULL once it is told to; with -DDIALLING malloc connects a socket each time. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

int between_fails, between_connects;

static int (*next)(int, const struct sockaddr *, socklen_t);

__attribute__((constructor)) static void find(void) {
    if (!next) next = dlsym(RTLD_NEXT, "connect");
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    find();
    __atomic_fetch_add(&between_connects, 1, __ATOMIC_RELAXED);
    return next(fd, address, length);
}

#if defined FAILING || defined DIALLING
/* Beneath the names that are defined here, in every glibc. */
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);

static int is_refused(void) {
#ifdef DIALLING
    static __thread __attribute__((tls_model("initial-exec"))) int inside;
    if (!inside) {
        struct sockaddr_in nobody = {.sin_family = AF_INET, .sin_port = htons(1), .sin_addr = {htonl(INADDR_LOOPBACK)}};
        int error = errno, counted = between_connects, fd;
        inside = 1;
        if ((fd = socket(AF_INET, SOCK_STREAM, 0)) >= 0) {
            connect(fd, (void *)&nobody, sizeof nobody);
            close(fd);
        }
        between_connects = counted;
        inside = 0;
        errno = error;
    }
#endif
    if (between_fails) errno = ENOMEM;
    return between_fails;
}

void *malloc(size_t size) {
    return is_refused() ? NULL : __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    return is_refused() ? NULL : __libc_calloc(count, size);
}
void *realloc(void *old, size_t size) {
    return is_refused() ? NULL : __libc_realloc(old, size);
}
#endif
