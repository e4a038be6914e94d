// A name server at 127.0.0.1, UDP port 53: every name has the address 127.0.0.9, and none of IPv6.
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(void) {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(s, (struct sockaddr *)&own, sizeof own) != 0) {
        perror("bind");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        unsigned char message[1024];
        struct sockaddr_storage peer;
        socklen_t length = sizeof peer;
        ssize_t got = recvfrom(s, message, 512, 0, (struct sockaddr *)&peer, &length);
        if (got < 17)
            continue;
        size_t at = 12;
        while (at < (size_t)got && message[at] != 0)
            at += message[at] + 1u;
        at += 5;
        if (at > (size_t)got)
            continue;
        // The question, and one record under a pointer to its name.
        static const unsigned char record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 9};
        int is_ipv4 = message[at - 3] == 1;
        message[2] = 0x85, message[3] = 0x80;
        memset(message + 6, 0, 6);
        message[7] = (unsigned char)is_ipv4;
        if (is_ipv4)
            memcpy(message + at, record, sizeof record), at += sizeof record;
        sendto(s, message, at, 0, (struct sockaddr *)&peer, length);
    }
}
