// Prints what this process has of memory, KiB: Rss, Pss, and private pages that were written (proc(5), smaps_rollup).
//     memory idle      without any socket
//     memory connect   after a connection
#include "measure.h"
#include <fcntl.h>

static long field(const char *text, const char *name) {
    const char *at = strstr(text, name);
    need(at != NULL, name);
    return atol(at + strlen(name));
}

int main(int count, char **arguments) {
    need(count == 2, "usage");
    if (strcmp(arguments[1], "connect") == 0) {
        struct sockaddr_in address;
        listener(&address, 1);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        need(connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    }
    static char text[4096];
    int file = open("/proc/self/smaps_rollup", O_RDONLY);
    need(file >= 0 && read(file, text, sizeof text - 1) > 0, "/proc/self/smaps_rollup");
    printf("%ld %ld %ld\n", field(text, "\nRss:"), field(text, "\nPss:"), field(text, "\nPrivate_Dirty:"));
    return 0;
}
