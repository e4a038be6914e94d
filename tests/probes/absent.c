/* What this libc may not have: prints what dlerror(3) says before anything was asked for, and what close_range(2) does
 * that dlsym(3) finds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
    const char *error = dlerror();
    int (*close_them)(unsigned, unsigned, int) = (int (*)(unsigned, unsigned, int))dlsym(RTLD_DEFAULT, "close_range");
    printf("dlerror: %s\n", error ? error : "nothing");
    if (close_them) {
        int fd = dup(1), result = close_them(fd, fd, 0);
        printf("close_range: %d, %s\n", result, fcntl(fd, F_GETFD) < 0 ? "closed" : "open");
    } else {
        puts("close_range: none");
    }
    return 0;
}
