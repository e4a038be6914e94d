/* A library with a getaddrinfo that takes no lock: libc's waits for ever in a child that was forked while another
 * thread was in it (resolv_conf.c), so a race with children cannot have that one. What it gives, libc's freeaddrinfo
 * takes back: one piece. The zone is that of names.c, as far as its race needs it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **answer) {
    struct { struct addrinfo info; struct sockaddr_in to; } *made;
    char bytes[64];
    unsigned number;
    (void)service;
    if (!strcmp(name, "stable.example")) strcpy(bytes, "127.1.0.4");
    else if (!strcmp(name, "a.example") || !strcmp(name, "b.example")) strcpy(bytes, "127.1.0.3");
    else if (sscanf(name, "n%u.many.example", &number) == 1)
        snprintf(bytes, sizeof bytes, "127.2.%u.%u", number / 250, number % 250 + 1);
    else return EAI_NONAME;
    if (!(made = calloc(1, sizeof *made))) return EAI_MEMORY;
    made->to.sin_family = AF_INET;
    inet_pton(AF_INET, bytes, &made->to.sin_addr);
    made->info.ai_family = AF_INET;
    made->info.ai_socktype = hints ? hints->ai_socktype : SOCK_STREAM;
    made->info.ai_addrlen = sizeof made->to;
    made->info.ai_addr = (struct sockaddr *)&made->to;
    *answer = &made->info;
    return 0;
}
