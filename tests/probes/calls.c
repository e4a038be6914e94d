/* Makes the calls that its arguments name, one each, and prints what every one answered.
 *
 *   calls 'socket s inet stream' 'connect s 127.0.0.1:80' '@look s SO_KEEPALIVE' ...
 *
 * Sockets are kept in variables of one letter. `@...` asks the outside (readback.c); `child CALL`, `vfork CALL`, `thread CALL`
 * and `signal CALL` make the call there, `cancelled CALL` in a thread that was cancelled before; `begin CALL` in a thread that is waited
 * for by `join`. Around each call stands a getsockopt that cannot succeed, for strace. */
#include "probe.h"

#include <alloca.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { UNTOUCHED = ENOTUNIQ, WORDS = 16 };

static int variables[128];
static char *in_signal;
/* A page in the middle of the main thread's stack that cannot be read. */
static char *hole;
static pid_t started;
static pthread_t begun;

static void on_alarm(int number) {
    (void)number;
}

static void mark(void) {
    getsockopt(-1, 0xabc, 0, NULL, NULL);
}

static int fd_of(const char *word) {
    return word[1] || word[0] < 'a' ? atoi(word) : variables[(int)word[0]];
}

/* Memory that is (not) there, for an argument of `length` bytes. */
static void *place(const char *kind, const void *content, long length) {
    long page = sysconf(_SC_PAGESIZE);
    if (!strcmp(kind, "null")) return NULL;
    if (!strcmp(kind, "one")) return (void *)1;
    if (!strcmp(kind, "kernel")) return (void *)0xffff800000000000;
    if (!strcmp(kind, "last")) return (void *)-1;
    if (!strcmp(kind, "stack")) return hole;
    if (!strcmp(kind, "heap")) { /* The same where malloc's memory begins. */
        char *block = malloc(3 * page);
        block += page - (unsigned long)block % page;
        mprotect(block, page, PROT_NONE);
        return block;
    }
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(pages + page, page);
    if (!strcmp(kind, "unmapped")) return pages + page;
    if (length < 0 || length > page) length = page;
    /* "inside" ends with the page, "edge" goes half over it, "good" is far from it. */
    char *start = !strcmp(kind, "inside") ? pages + page - length
                  : !strcmp(kind, "edge") ? pages + page - (length + 1) / 2
                                          : pages;
    long room = pages + page - start;
    memcpy(start, content, room < 128 ? room : 128);
    return start;
}

static int flags_of(const char *word) {
    return (strstr(word, "fastopen") ? MSG_FASTOPEN : 0) | (strstr(word, "nosignal") ? MSG_NOSIGNAL : 0);
}

static int type_of(const char *word) {
    int type = !strncmp(word, "dgram", 5) ? SOCK_DGRAM : !strncmp(word, "raw", 3) ? SOCK_RAW
        : !strncmp(word, "seqpacket", 9) ? SOCK_SEQPACKET : SOCK_STREAM;
    return type | (strstr(word, "+cloexec") ? SOCK_CLOEXEC : 0) | (strstr(word, "+nonblock") ? SOCK_NONBLOCK : 0);
}

static int family_of(const char *word) {
    return !strcmp(word, "inet") ? AF_INET : !strcmp(word, "inet6") ? AF_INET6 : !strcmp(word, "unix") ? AF_UNIX : AF_NETLINK;
}

/* An int, two separated by a comma, milliseconds as a timeval, or a name. */
static socklen_t value_of(const char *word, void *to) {
    int numbers[2];
    long milliseconds;
    if (sscanf(word, "%ldms", &milliseconds) == 1 && strstr(word, "ms")) {
        struct timeval time = {milliseconds / 1000, milliseconds % 1000 * 1000};
        memcpy(to, &time, sizeof time);
        return sizeof time;
    }
    int read = sscanf(word, "%d,%d", &numbers[0], &numbers[1]);
    if (read < 1) return strlen(strcpy(to, word));
    memcpy(to, numbers, read * sizeof(int));
    return read * sizeof(int);
}

/* Of glibc, for programs that are built with _FORTIFY_SOURCE. */
__attribute__((weak)) int __poll_chk(struct pollfd *, nfds_t, int, size_t);
__attribute__((weak)) int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);

/* Until a socket can be written to, by what libc has for it. */
static int await(int fd, const char *how, int milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    struct timeval value = {time.tv_sec, time.tv_nsec / 1000};
    struct pollfd many[20] = {{.fd = -1, .events = POLLOUT}, {.fd = fd, .events = POLLOUT}};
    void *volatile nowhere = (void *)8;
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    for (int i = 2; i < 20; i++) many[i].fd = -1 - i;
    if (!strcmp(how, "poll")) return poll(many, 20, milliseconds);
    if (!strcmp(how, "ppoll")) return ppoll(many, 20, &time, NULL);
    if (!strcmp(how, "select")) return select(fd + 1, NULL, &set, NULL, &value);
    if (!strcmp(how, "pselect")) return pselect(1 << 20, NULL, &set, NULL, &time, NULL);
    if (!strcmp(how, "bad")) return poll(nowhere, 3, milliseconds);
    if (!strcmp(how, "badset")) return select(fd + 1, NULL, nowhere, NULL, &value);
    if (!strcmp(how, "wrnorm")) {
        many[1].events = POLLWRNORM;
        return poll(many, 20, milliseconds);
    }
    if (!strcmp(how, "none")) return poll(NULL, 0, milliseconds);
    if (!strcmp(how, "noset")) return select(0, NULL, NULL, NULL, &value);
    if (!strcmp(how, "heap")) {
        struct pollfd *more = malloc(900 * sizeof *more);
        for (int i = 0; i < 900; i++) more[i] = (struct pollfd){i == 899 ? fd : -1, POLLOUT, 0};
        int result = poll(more, 900, milliseconds);
        free(more);
        return result;
    }
    if (!strcmp(how, "poll_chk")) return __poll_chk ? __poll_chk(many, 20, milliseconds, sizeof many) : poll(many, 20, milliseconds);
    if (!strcmp(how, "ppoll_chk"))
        return __ppoll_chk ? __ppoll_chk(many, 20, &time, NULL, sizeof many) : ppoll(many, 20, &time, NULL);
    return -2;
}

__attribute__((noinline)) static long call(int count, char **w) {
    struct sockaddr_storage to;
    socklen_t length = sizeof to;
    const char *name = w[0];
    int level, number;
    char value[128] = "";
    memset(&to, 0, sizeof to);
    if (!strcmp(name, "socket"))
        return variables[(int)*w[1]] = socket(family_of(w[2]), type_of(w[3]), count > 4 ? atoi(w[4]) : 0);
    if (!strcmp(name, "use")) return variables[(int)*w[1]] = atoi(w[2]);
    if (!strcmp(name, "descriptors")) { /* So many, or as many as may be. */
        struct rlimit limit;
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = count > 1 ? (rlim_t)atoi(w[1]) : limit.rlim_max;
        return setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (!strcmp(name, "clock")) { /* Milliseconds. */
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return now.tv_sec * 1000 + now.tv_nsec / 1000000;
    }
    if (!strcmp(name, "interrupt")) { /* By a signal, so many milliseconds later. */
        struct sigaction action = {.sa_handler = on_alarm};
        struct itimerval timer = {.it_value = {atoi(w[1]) / 1000, atoi(w[1]) % 1000 * 1000}};
        sigaction(SIGALRM, &action, NULL);
        return setitimer(ITIMER_REAL, &timer, NULL);
    }
    int fd = count > 1 ? fd_of(w[1]) : -1;
    if (!strcmp(name, "bind")) {
        length = address(w[2], &to);
        return bind(fd, (void *)&to, length);
    }
    if (!strcmp(name, "connect")) { /* connect FD ADDRESS [LENGTH [PLACE]] */
        length = address(w[2], &to);
        if (count > 3) length = strtol(w[3], NULL, 0);
        return connect(fd, count > 4 ? place(w[4], &to, (int)length) : (void *)&to, length);
    }
    if (!strcmp(name, "listen")) return listen(fd, atoi(w[2]));
    if (!strncmp(name, "accept", 6)) { /* accept NEW FD [null|short], accept4 NEW FD [null|short] */
        fd = fd_of(w[2]);
        if (count > 3) length = 4;
        void *where = count > 3 && !strcmp(w[3], "null") ? NULL : &to;
        int new = name[6] ? accept4(fd, where, where ? &length : NULL, SOCK_CLOEXEC) : accept(fd, where, where ? &length : NULL);
        return variables[(int)*w[1]] = new;
    }
    if (!strcmp(name, "close")) return close(fd);
    if (!strcmp(name, "close_range")) return close_range(fd, fd, 0);
    if (!strcmp(name, "copy")) return variables[(int)*w[2]] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (!strcmp(name, "shutdown")) return shutdown(fd, SHUT_WR);
    if (!strcmp(name, "dup")) return variables[(int)*w[2]] = dup(fd);
    if (!strcmp(name, "dup2")) return dup2(fd, fd_of(w[2]));
    if (!strcmp(name, "dup3")) return dup3(fd, fd_of(w[2]), 0);
    if (!strcmp(name, "unblock")) return fcntl(fd, F_SETFL, O_NONBLOCK);
    if (!strcmp(name, "poll")) { /* That nobody sees. */
        struct pollfd one = {fd, POLLIN | POLLOUT, 0};
        struct timespec time = {atoi(w[2]) / 1000, atoi(w[2]) % 1000 * 1000000};
        return syscall(SYS_ppoll, &one, 1, &time, NULL, 0);
    }
    if (!strcmp(name, "await")) return await(fd, w[2], atoi(w[3])); /* await FD HOW MILLISECONDS */
    if (!strcmp(name, "epoll")) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
        int epoll = epoll_create1(EPOLL_CLOEXEC);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        return epoll_wait(epoll, &event, 1, atoi(w[2]));
    }
    if (!strcmp(name, "change") || !strcmp(name, "leave")) { /* What is waited for on a socket, or that nothing is. */
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT};
        int epoll = epoll_create1(EPOLL_CLOEXEC), kind = *name == 'c' ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        return epoll_ctl(epoll, kind, fd, &event);
    }
    if (!strcmp(name, "set")) { /* set FD OPTION VALUE [LENGTH [PLACE]] */
        option(w[2], &level, &number);
        length = value_of(w[3], value);
        if (count > 4) length = strtol(w[4], NULL, 0);
        return setsockopt(fd, level, number, count > 5 ? place(w[5], value, (int)length) : value, length);
    }
    if (!strcmp(name, "get")) { /* The answer is the value. */
        option(w[2], &level, &number);
        int got = -1;
        length = sizeof got;
        return getsockopt(fd, level, number, &got, &length) ? -1 : got;
    }
    if (!strcmp(name, "peername")) return getpeername(fd, (void *)&to, &length);
    if (!strcmp(name, "send")) return send(fd, w[2], strlen(w[2]), MSG_NOSIGNAL);
    if (!strcmp(name, "recv")) return recv(fd, value, sizeof value, 0);
    if (!strcmp(name, "give")) { /* give FD NEW: passes it on, and takes it at the other end. */
        int ends[2];
        char control[CMSG_SPACE(sizeof fd)] = "";
        struct iovec data = {value, 1};
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) || sendmsg(ends[0], &message, 0) != 1) return -1;
        if (recvmsg(ends[1], &message, MSG_CMSG_CLOEXEC) != 1) return -1;
        memcpy(&variables[(int)*w[2]], CMSG_DATA(header), sizeof fd);
        return variables[(int)*w[2]];
    }
    if (!strcmp(name, "start")) { /* A program that has all that exec keeps. */
        char *words[] = {"sleep", "9", NULL}, *none[] = {NULL};
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        for (int i = 0; i < 3; i++) posix_spawn_file_actions_addclose(&actions, i);
        int failed = posix_spawnp(&started, "sleep", &actions, NULL, words, none);
        usleep(100 * 1000);
        return failed;
    }
    if (!strcmp(name, "take")) { /* take NEW FD: what that program has at FD's number. */
        int pidfd = syscall(SYS_pidfd_open, started, 0);
        return variables[(int)*w[1]] = syscall(SYS_pidfd_getfd, pidfd, fd_of(w[2]), 0);
    }
    if (!strcmp(name, "pass")) { /* A listener at ADDRESS, from the outside. */
        snprintf(value, sizeof value, "pass %s", w[2]);
        return variables[(int)*w[1]] = outside(value);
    }
    if (!strcmp(name, "receive")) { /* receive NEW accepted|connected ADDRESS [FROM]: a connection, from the outside. */
        snprintf(value, sizeof value, "%s %s %s", w[2], w[3], count > 4 ? w[4] : "");
        return variables[(int)*w[1]] = outside(value);
    }
    if (!strncmp(name, "send", 4)) { /* sendto|sendmsg|sendmmsg FD FLAGS ADDRESS|PLACE */
        int flags = flags_of(w[2]), has = strchr(w[3], ':') && strncmp(w[3], "at:", 3);
        struct sockaddr *where = has ? (void *)&to : place(w[3], &to, 16);
        length = has ? address(w[3], &to) : where ? 16 : 0;
        if (!strcmp(name, "sendto")) return sendto(fd, "hi", 2, flags, where, length);
        struct iovec data = {"hi", 2};
        struct mmsghdr message = {{.msg_name = where, .msg_namelen = length, .msg_iov = &data, .msg_iovlen = 1}, 0};
        /* "at:PLACE" is where the message itself is. */
        void *at = !strncmp(w[3], "at:", 3) ? place(w[3] + 3, "", sizeof message) : &message;
        if (!strcmp(name, "sendmsg")) return sendmsg(fd, at, flags);
        return sendmmsg(fd, at, count > 4 ? atoi(w[4]) : 1, flags);
    }
    fprintf(stderr, "unknown call %s\n", name);
    abort();
}

static void perform(const char *text) {
    char copy[256], *words[WORDS] = {""}, *rest = NULL;
    int count = 0;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *word = strtok_r(copy, " ", &rest); word && count < WORDS; word = strtok_r(NULL, " ", &rest))
        words[count++] = word;
    /* What `call` has on the stack, and the hook below it, lies in one page. */
    char *volatile top = alloca(((unsigned long)words - 4000) % 4096 + 1);
    *top = 0;
    mark();
    errno = UNTOUCHED;
    long result = call(count, words);
    int error = errno;
    mark();
    char touched[32] = "";
    if (error != UNTOUCHED) snprintf(touched, sizeof touched, " %s", error_name(error));
    dprintf(1, "%s = %ld%s\n", text, result, touched);
}

static void *thread(void *text) {
    perform(text);
    return NULL;
}

static void *cancelled(void *text) {
    int old;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
    pthread_cancel(pthread_self());
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
    perform(text);
    return NULL;
}

static void on_signal(int number) {
    perform(in_signal);
    (void)number;
}

static void situated(char *text) {
    pthread_t other;
    if (*text == '@') {
        /* The variable becomes the descriptor behind it. */
        char request[512], label;
        int end = 0;
        if (sscanf(text, "@look %c %n", &label, &end) == 1 && end) {
            snprintf(request, sizeof request, "look %c %d %s", label, variables[(int)label], text + end);
            outside(request);
        } else {
            outside(text + 1);
        }
    } else if (!strncmp(text, "child ", 6)) {
        if (!fork()) {
            situated(text + 6);
            _exit(0);
        }
        wait(NULL);
    } else if (!strncmp(text, "vfork ", 6)) {
        pid_t child = vfork();
        if (!child) {
            perform(text + 6);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    } else if (!strncmp(text, "thread ", 7)) {
        pthread_create(&other, NULL, thread, text + 7);
        pthread_join(other, NULL);
    } else if (!strncmp(text, "begin ", 6)) {
        pthread_create(&begun, NULL, thread, text + 6);
        usleep(200 * 1000);
    } else if (!strcmp(text, "join")) {
        pthread_join(begun, NULL);
    } else if (!strncmp(text, "cancelled ", 10)) {
        void *result = NULL;
        pthread_create(&other, NULL, cancelled, text + 10);
        pthread_join(other, &result);
        dprintf(1, "%s: %s\n", text, result == PTHREAD_CANCELED ? "yes" : "no");
    } else if (!strncmp(text, "signal ", 7)) {
        in_signal = text + 7;
        raise(SIGUSR1);
    } else {
        perform(text);
    }
}

int main(int count, char **arguments) {
    char much[3 * 4096];
    hole = much + 4096 - (unsigned long)much % 4096;
    if (mprotect(hole, 4096, PROT_NONE)) return 2;
    alarm(30);
    signal(SIGUSR1, on_signal);
    for (int i = 1; i < count; i++) situated(arguments[i]);
    if (started) kill(started, SIGKILL);
    mprotect(hole, 4096, PROT_READ | PROT_WRITE);
    return 0;
}
