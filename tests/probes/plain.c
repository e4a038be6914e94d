/* Connects to the address and prints an option of the socket, nothing else: no threads, no libdl, old calls only.
 *
 *   plain PORT: TCP_KEEPIDLE after a connect to 127.0.0.1 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
    struct sockaddr_in to = {.sin_family = AF_INET};
    int value = -1, fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t size = sizeof value;
    if (count != 2) return 2;
    to.sin_port = htons(atoi(arguments[1]));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int result = connect(fd, (void *)&to, sizeof to);
    getsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &value, &size);
    printf("connect %d, TCP_KEEPIDLE %d\n", result, value);
    return 0;
}
