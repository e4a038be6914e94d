/* The outside of a test: another process than the one that is tested, never under the library. It is the peer, and it
 * reads options back from the kernel (pidfd_getfd(2)).
 *
 *   readback ['@REQUEST' ...] PROGRAM ARGUMENTS
 *
 * runs the program with a socket to itself as descriptor OUTSIDE, and serves requests from there; those in front of
 * the program are served before it starts. To be run in a network namespace of its own. */
#include "probe.h"

#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static int answer_with = -1;

static void die(const char *what) {
    perror(what);
    exit(125);
}

static int must(int result, const char *what) {
    if (result < 0) die(what);
    return result;
}

static int listener(const char *text, int backlog) {
    struct sockaddr_storage to;
    socklen_t length = address(text, &to);
    int one = 1, fd = must(socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    must(bind(fd, (void *)&to, length), text);
    must(listen(fd, backlog), text);
    return fd;
}

/* Connects, and sends a byte for those who accept only with data; stays open. */
static int dial(const char *text, const char *from, int flags) {
    struct sockaddr_storage to;
    socklen_t length = address(text, &to);
    int fd = must(socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0), "socket");
    if (*from) {
        struct sockaddr_storage local;
        socklen_t size = address(from, &local);
        must(bind(fd, (void *)&local, size), from);
    }
    address(text, &to);
    int result = connect(fd, (void *)&to, length);
    if (!flags) must(result, text);
    if (!flags) must(write(fd, "x", 1), "write");
    return fd;
}

/* A connection from FROM, at the end where it was accepted. */
static int accepted(const char *text, const char *from) {
    int server = listener(text, 1);
    dial(text, from, 0);
    int fd = must(accept4(server, NULL, NULL, SOCK_CLOEXEC), "accept");
    close(server);
    return fd;
}

static void look(int process, char *words) {
    char *rest, *label = strtok_r(words, " ", &rest);
    int pidfd = must(syscall(SYS_pidfd_open, process, 0), "pidfd_open");
    int fd = must(syscall(SYS_pidfd_getfd, pidfd, atoi(strtok_r(NULL, " ", &rest)), 0), "pidfd_getfd");
    dprintf(1, "@look %s", label);
    for (char *word; (word = strtok_r(NULL, " ", &rest));) {
        union { int ints[32]; long number; struct timeval time; char text[128]; } value = {{0}};
        socklen_t length = sizeof value;
        int level, number;
        option(word, &level, &number);
        dprintf(1, " %.*s=", (int)strcspn(word, "="), word);
        if (getsockopt(fd, level, number, &value, &length))
            dprintf(1, "%s", error_name(errno));
        else if ((level == SOL_TCP && number == TCP_CONGESTION) || (level == SOL_SOCKET && number == SO_BINDTODEVICE))
            dprintf(1, "%.*s", (int)length, value.text);
        else if (level == SOL_SOCKET && (number == SO_RCVTIMEO || number == SO_SNDTIMEO))
            dprintf(1, "%ldms", value.time.tv_sec * 1000 + value.time.tv_usec / 1000);
        else if (level == SOL_SOCKET && number == SO_LINGER)
            dprintf(1, "%d,%d", value.ints[0], value.ints[1]);
        else if (length == sizeof(long))
            dprintf(1, "%ld", value.number);
        else
            dprintf(1, "%d", value.ints[0]);
    }
    dprintf(1, "\n");
    close(fd);
    close(pidfd);
}

/* Connections with this port at either end that have ended for one side at least, and are still there. */
static void ended(int port) {
    static const char *files[] = {"/proc/net/tcp", "/proc/net/tcp6"};
    int count = 0;
    for (int i = 0; i < 2; i++) {
        char line[512];
        FILE *file = fopen(files[i], "r");
        while (file && fgets(line, sizeof line, file)) {
            unsigned local, remote, state;
            if (sscanf(line, " %*d: %*[0-9A-F]:%x %*[0-9A-F]:%x %x", &local, &remote, &state) == 3)
                count += ((int)local == port || (int)remote == port) && state != TCP_ESTABLISHED && state != TCP_LISTEN;
        }
        if (file) fclose(file);
    }
    dprintf(1, "@ended %d=%d\n", port, count);
}

/* Answers every request with two bytes, until this process ends. */
static void http(int fd) {
    static const char reply[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    if (fork()) {
        close(fd);
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        char request[4096];
        int client = accept(fd, NULL, NULL);
        if (read(client, request, sizeof request) > 0 && write(client, reply, sizeof reply - 1) < 0) die("write");
        close(client);
    }
}

static void serve(int process, char *request) {
    char to[128] = "", more[128] = "", number[128] = "";
    char *words = strchr(request, ' ');
    sscanf(words ? words : "", "%127s %127s %127s", to, more, number);
    if (!strncmp(request, "look ", 5)) {
        look(process, request + 5);
    } else if (!strncmp(request, "listen ", 7)) {
        int fd = listener(to, 4096);
        /* The tested program inherits it at this number. */
        if (*more) must(dup2(fd, atoi(more)), "dup2");
    } else if (!strncmp(request, "full ", 5)) {
        /* A listener whose queue is full drops every SYN. */
        listener(to, 0);
        for (int i = 0; i < 3; i++) dial(to, "", SOCK_NONBLOCK);
    } else if (!strncmp(request, "dial ", 5)) {
        dial(to, more, 0);
    } else if (!strncmp(request, "pass ", 5)) {
        answer_with = listener(to, 64);
    } else if (!strncmp(request, "accepted ", 9)) {
        int fd = accepted(to, more);
        /* The tested program inherits it at this number, or gets it now. */
        if (*number) must(dup2(fd, atoi(number)), "dup2");
        else answer_with = fd;
    } else if (!strncmp(request, "connected ", 10)) {
        answer_with = dial(to, more, 0);
    } else if (!strcmp(request, "down")) {
        /* What is sent is not acknowledged any more. */
        struct ifreq lo = {.ifr_name = "lo"};
        must(ioctl(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), SIOCSIFFLAGS, &lo), "lo down");
    } else if (!strncmp(request, "ended ", 6)) {
        ended(atoi(to));
    } else if (!strncmp(request, "http ", 5)) {
        http(listener(to, 64));
    } else {
        fprintf(stderr, "unknown request %s\n", request);
        exit(125);
    }
}

int main(int count, char **arguments) {
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int ends[2], status, next = 1;
    alarm(240);
    /* Refused outside of a namespace of our own, where it is up already. */
    ioctl(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), SIOCSIFFLAGS, &lo);
    for (; next < count && arguments[next][0] == '@'; next++) serve(getpid(), arguments[next] + 1);
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), "socketpair");
    pid_t child = must(fork(), "fork");
    if (!child) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ends[1], OUTSIDE);
        execvp(arguments[next], arguments + next);
        die(arguments[next]);
    }
    close(ends[1]);
    char line[1024];
    while (read(ends[0], line, sizeof line) > 0) {
        char control[CMSG_SPACE(sizeof(int))] = "", *request;
        int process = strtol(line, &request, 10);
        serve(process, request + 1);
        struct iovec data = {"", 1};
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
        if (answer_with >= 0) {
            message.msg_control = control;
            message.msg_controllen = sizeof control;
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
            memcpy(CMSG_DATA(header), &answer_with, sizeof(int));
        }
        must(sendmsg(ends[0], &message, 0), "sendmsg");
        if (answer_with >= 0) close(answer_with);
        answer_with = -1;
    }
    must(waitpid(child, &status, 0), "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
