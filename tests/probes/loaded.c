/* A program that loads the library itself (dlopen), twice, and calls what it finds by the library's handle: prints what these calls
 * did. */
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    for (int turn = 0; turn < 2 && argc == 2; turn++) {
        void *library = dlopen(argv[1], RTLD_NOW | (turn ? RTLD_GLOBAL : RTLD_LOCAL));
        if (!library) {
            puts(dlerror());
            return 1;
        }
        const char *error = dlerror();
        int (*close_it)(int) = (int (*)(int))dlsym(library, "close");
        int (*ask)(int, int, int, void *, socklen_t *) =
            (int (*)(int, int, int, void *, socklen_t *))dlsym(library, "getsockopt");
        int fd = socket(AF_INET, SOCK_STREAM, 0), type = 0;
        socklen_t length = sizeof type;
        int asked = ask(fd, SOL_SOCKET, SO_TYPE, &type, &length), closed = close_it(fd);
        printf("dlerror: %s\n", error ? error : "nothing");
        printf("getsockopt %d %d, close %d, %s\n", asked, type, closed, fcntl(fd, F_GETFD) < 0 ? "closed" : "open");
        dlclose(library);
    }
    return 0;
}
