/* Connections through one process, both ends in it: soak CONNECTIONS
 *
 * Every 50,000 connections: VmRSS in KiB, open descriptors, mappings. Fails if one of them grows after a fifth of the
 * connections, or if an answer or an option (TCP_KEEPIDLE=5) is missing. */
#include "probe.h"

#include <dirent.h>
#include <stdatomic.h>

enum { CLIENTS = 4, SERVERS = 2, EACH = 50000, WANTED = 5, SLACK = 256 };

static struct sockaddr_storage to;
static atomic_long begun, answered, lost, bare;
static long limit;
static int listener;

static void *serve(void *nothing) {
    for (;;) {
        char byte;
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        if (read(fd, &byte, 1) == 1 && send(fd, &byte, 1, MSG_NOSIGNAL) != 1) lost++;
        close(fd);
    }
    return nothing;
}

static void *dial(void *nothing) {
    while (begun++ < limit) {
        char byte = 'x';
        int value = 0, fd = socket(AF_INET, SOCK_STREAM, 0);
        socklen_t size = sizeof value;
        if (connect(fd, (void *)&to, sizeof(struct sockaddr_in)) || send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || read(fd, &byte, 1) != 1) lost++;
        getsockopt(fd, SOL_TCP, TCP_KEEPIDLE, &value, &size);
        bare += value != WANTED;
        close(fd);
        answered++;
    }
    return nothing;
}

static long count_lines(const char *path, const char *begin) {
    char line[4096];
    long found = 0, number;
    FILE *file = fopen(path, "r");
    while (fgets(line, sizeof line, file)) {
        if (!begin) found++;
        else if (!strncmp(line, begin, strlen(begin)) && sscanf(line + strlen(begin), "%ld", &number) == 1) found = number;
    }
    fclose(file);
    return found;
}

static long descriptors(void) {
    DIR *folder = opendir("/proc/self/fd");
    long found = 0;
    while (readdir(folder)) found++;
    closedir(folder);
    return found;
}

int main(int count, char **arguments) {
    pthread_t clients[CLIENTS], servers[SERVERS];
    long base[3] = {0}, most[3] = {0}, now[3];
    limit = count == 2 ? atol(arguments[1]) : 0;
    socklen_t length = address("127.0.0.1:4000", &to);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&to, length) || listen(listener, 1024)) return 2;
    for (int i = 0; i < SERVERS; i++) pthread_create(&servers[i], NULL, serve, NULL);
    for (int i = 0; i < CLIENTS; i++) pthread_create(&clients[i], NULL, dial, NULL);
    printf("connections    VmRSS KiB  descriptors  mappings\n");
    for (long next = EACH; next <= limit; next += EACH) {
        while (answered < next) usleep(1000);
        now[0] = count_lines("/proc/self/status", "VmRSS:");
        now[1] = descriptors();
        now[2] = count_lines("/proc/self/maps", NULL);
        printf("%11ld  %11ld  %11ld  %8ld\n", next, now[0], now[1], now[2]);
        fflush(stdout);
        for (int i = 0; i < 3; i++) {
            if (next <= limit / 5 && now[i] > base[i]) base[i] = now[i];
            if (now[i] > most[i]) most[i] = now[i];
        }
    }
    for (int i = 0; i < CLIENTS; i++) pthread_join(clients[i], NULL);
    /* Descriptors come and go with the six threads. */
    int grown = most[0] > base[0] + SLACK || most[1] > base[1] + CLIENTS + SERVERS || most[2] > base[2];
    printf("%ld connections, %ld lost, %ld without the option, %s\n", (long)answered, (long)lost, (long)bare, grown ? "grown" : "no growth");
    return grown || lost || bare;
}
