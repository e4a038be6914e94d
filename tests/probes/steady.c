/* Connects to itself at every line of its input and prints an option of the socket, until the input ends: a program
 * that goes on while the library under it is replaced. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof here;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&here, length) || listen(listener, 9)) return 1;
    if (getsockname(listener, (void *)&here, &length)) return 1;
    while (getchar() == '\n') {
        int value = -1, fd = socket(AF_INET, SOCK_STREAM, 0);
        socklen_t size = sizeof value;
        if (connect(fd, (void *)&here, sizeof here)) return 1;
        getsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &value, &size);
        printf("%d\n", value);
        fflush(stdout);
        close(fd);
        close(accept(listener, 0, 0));
    }
    return 0;
}
