/* A program of its own: what it is told of itself and of its sockets. Linked statically by the tests. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in local(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return at;
}

static int get(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    getsockopt(fd, level, name, &value, &length);
    return value;
}

static int dial(int port) {
    struct sockaddr_in to = local(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&to, sizeof to) == 0) return fd;
    close(fd);
    return -1;
}

static void show(int fd) {
    printf("keepalive %d %d user_timeout %d\n", get(fd, SOL_SOCKET, SO_KEEPALIVE), get(fd, IPPROTO_TCP, TCP_KEEPIDLE),
           get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT));
    fflush(stdout);
}

/* So many connections, one after the other: errors, and those without the option. */
static void many(int port, int count) {
    int errors = 0, without = 0;
    for (int i = 0; i < count; i++) {
        int fd = dial(port);
        if (fd < 0) {
            if (errors++ == 0) printf("%s\n", strerror(errno));
            continue;
        }
        without += get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) == 0;
        close(fd);
    }
    printf("errors %d without %d\n", errors, without);
}

static int port_of_threads;
static void *in_thread(void *nothing) {
    (void)nothing;
    int fd = dial(port_of_threads);
    show(fd);
    close(fd);
    return NULL;
}

/* A thread with a descriptor table of its own, and what is under a number there. */
static int own_number;
static void *own_table(void *nothing) {
    (void)nothing;
    if (unshare(CLONE_FILES)) perror("unshare");
    close(own_number);
    int fd = dial(port_of_threads);
    printf("number %d ", fd == own_number);
    show(fd);
    return NULL;
}

/* Begins to connect where nobody answers, and stays or ends. */
static struct sockaddr_in begun_to = {.sin_family = AF_INET, .sin_port = 9 << 8};
static void *begins(void *fd) {
    *(int *)fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connect(*(int *)fd, (void *)&begun_to, sizeof begun_to) == 0 || errno != EINPROGRESS) perror("connect");
    return NULL;
}

static void *makes(void *fd) {
    *(int *)fd = socket(AF_INET, SOCK_STREAM, 0);
    return NULL;
}

/* A thread with a descriptor table of its own takes its time between the two calls. */
static void *waits(void *nothing) {
    (void)nothing;
    if (unshare(CLONE_FILES)) perror("unshare");
    struct sockaddr_in to = local(port_of_threads);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    usleep(300000);
    connect(fd, (void *)&to, sizeof to);
    show(fd);
    return NULL;
}

/* Whether a new socket is in the network namespace of the thread that makes it. */
static void where(const char *when) {
    struct stat own, of_socket;
    int fd = socket(AF_INET, SOCK_STREAM, 0), namespace = ioctl(fd, SIOCGSKNS);
    if (stat("/proc/thread-self/ns/net", &own) || fstat(namespace, &of_socket)) perror("SIOCGSKNS");
    else printf("%s %d\n", when, own.st_ino == of_socket.st_ino);
    close(namespace);
    close(fd);
}
static void *elsewhere(void *nothing) {
    (void)nothing;
    if (unshare(CLONE_NEWNET)) perror("unshare");
    where("of a thread");
    return NULL;
}

static void nothing(int signal) { (void)signal; }

static void *unready;
static int sending;
static void *uses_address(void *nothing) {
    (void)nothing;
    connect(socket(AF_INET, SOCK_STREAM, 0), unready, sizeof(struct sockaddr_in));
    return NULL;
}
static void *sends(void *nothing) {
    (void)nothing;
    send(sending, unready, 4096, 0);
    return NULL;
}
static void *sets_keepalive(void *nothing) {
    (void)nothing;
    int on = 1;
    setsockopt(sending, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    return NULL;
}

/* Memory whose contents nobody delivers, as that of a file on a server that does not answer. */
static int kept(int port, const char *by) {
    int faults = syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    unready = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register all = {.range = {(unsigned long)unready, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (faults < 0 || ioctl(faults, UFFDIO_API, &api) || ioctl(faults, UFFDIO_REGISTER, &all)) {
        return perror("userfaultfd"), 1;
    }
    pthread_t thread;
    if (!strcmp(by, "socket")) {
        /* The kernel holds the socket's lock meanwhile: who else wants it cannot even be killed. */
        sending = dial(port);
        pthread_create(&thread, NULL, sends, NULL);
        usleep(200000);
        pthread_create(&thread, NULL, sets_keepalive, NULL);
    } else {
        pthread_create(&thread, NULL, uses_address, NULL);
    }
    usleep(200000);
    alarm(20);
    for (int i = 0; i < 3; i++) show(dial(port));
    struct uffdio_zeropage zeroes = {.range = {(unsigned long)unready, 4096}};
    ioctl(faults, UFFDIO_ZEROPAGE, &zeroes);
    pthread_join(thread, NULL);
    return 0;
}

/* A process ends while its connect waits, and another one gets its number; it has another socket under the same descriptor, with which it
   does nothing. Before that the first one connects so many times. */
static int takes_its_number(int port, int times) {
    struct sockaddr_in to = local(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0), first = fork();
    if (first == 0) {
        for (int i = 0; i < times; i++) close(dial(port));
        dup2(socket(AF_INET, SOCK_STREAM, 0), fd);
        connect(fd, (void *)&to, sizeof to);
        _exit(0);
    }
    /* By then the supervisor has read the address, and goes on 1.5 s after it has. */
    usleep(500000 + 1500000 * times);
    kill(first, SIGKILL);
    int status = 0;
    waitpid(first, &status, 0);
    FILE *last = fopen("/proc/sys/kernel/ns_last_pid", "w");
    if (!last || fprintf(last, "%d", first - 1) < 0 || fclose(last)) return perror("ns_last_pid"), 1;
    int second = fork();
    if (second == 0) {
        usleep(2000000);
        show(fd);
        _exit(0);
    }
    waitpid(second, NULL, 0);
    printf("killed %d same %d\n", WTERMSIG(status), first == second);
    return 0;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    int port = count > 2 ? atoi(words[2]) : 0, number = count > 3 ? atoi(words[3]) : 0;
    if (!strcmp(what, "self")) {
        int waited = waitpid(-1, NULL, 0);
        printf("pid %d parent %d group %d session %d wait %d %s\n", getpid(), getppid(), getpgrp(), getsid(0), waited,
               strerror(errno));
        printf("no_new_privs %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
        return 7;
    } else if (!strcmp(what, "dial")) {
        int fd = dial(port);
        if (fd < 0) return perror("connect"), 1;
        show(fd);
        int off = 0, seconds = 3600;
        int first = setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &off, sizeof off);
        int second = setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
        printf("own %d %d\n", first, second);
        show(fd);
    } else if (!strcmp(what, "unreadable")) {
        char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        char *edge = page + 4096;
        mprotect(edge, 4096, PROT_NONE);
        int fd = dial(port);
        int none = setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, edge, 4) < 0 ? errno : 0;
        int half = setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, edge - 2, 4) < 0 ? errno : 0;
        int whole = setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, edge - 4, 4) < 0 ? errno : 0;
        printf("set %d %d %d\n", none, half, whole);
        show(fd);
    } else if (!strcmp(what, "many")) {
        many(port, number);
    } else if (!strcmp(what, "signals")) {
        /* A handler a thousand times a second, that restarts calls. */
        struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
        sigaction(SIGALRM, &action, NULL);
        struct itimerval often = {{0, 1000}, {0, 1000}};
        setitimer(ITIMER_REAL, &often, NULL);
        many(port, number);
    } else if (!strcmp(what, "threads")) {
        port_of_threads = port;
        for (int i = 0; i < number; i++) {
            pthread_t thread;
            pthread_create(&thread, NULL, in_thread, NULL);
            pthread_join(thread, NULL);
        }
    } else if (!strcmp(what, "child")) {
        /* Over fork and exec. */
        if (fork() == 0) execl(words[0], words[0], "dial", words[2], NULL);
        int status = 0;
        wait(&status);
        return WEXITSTATUS(status);
    } else if (!strcmp(what, "hidden")) {
        /* Nobody but root may look into it. */
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
        show(dial(port));
    } else if (!strcmp(what, "sleep")) {
        printf("ready\n");
        fflush(stdout);
        pause();
    } else if (!strcmp(what, "stages")) {
        /* A connection for each line on standard input. */
        for (char line[16]; fgets(line, sizeof line, stdin);) {
            int fd = dial(port);
            if (fd < 0) printf("%s\n", strerror(errno)), fflush(stdout);
            else show(fd), close(fd);
        }
    } else if (!strcmp(what, "ask")) {
        /* ask HOST PORT: what came of a request. */
        struct sockaddr_in to = local(number);
        inet_pton(AF_INET, words[2], &to.sin_addr);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        char answer[16];
        const char *request = "GET / HTTP/1.1\r\n\r\n";
        int failed = connect(fd, (void *)&to, sizeof to) || write(fd, request, strlen(request)) < 0;
        if (!failed) failed = read(fd, answer, sizeof answer) < 0;
        printf("%d\t%s\n", number, failed ? strerror(errno) : "answered");
    } else if (!strcmp(what, "pending")) {
        sigset_t waiting;
        sigpending(&waiting);
        printf("SIGCHLD %d\n", sigismember(&waiting, SIGCHLD));
    } else if (!strcmp(what, "block")) {
        /* block COMMAND...: started with SIGCHLD blocked. */
        sigset_t one;
        sigemptyset(&one);
        sigaddset(&one, SIGCHLD);
        sigprocmask(SIG_BLOCK, &one, NULL);
        execvp(words[2], words + 2);
        return perror(words[2]), 127;
    } else if (!strcmp(what, "standard")) {
        /* Which standard descriptors are open. */
        int open[3];
        for (int fd = 0; fd < 3; fd++) open[fd] = fcntl(fd, F_GETFD) >= 0;
        dprintf(open[1] ? 1 : 2, "open %d%d%d\n", open[0], open[1], open[2]);
    } else if (!strcmp(what, "own-port")) {
        /* Connects from one port again and again, where nobody listens. */
        int errors = 0;
        for (int i = 0; i < 10; i++) {
            struct sockaddr_in from = local(port), to = local(number);
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            errors += bind(fd, (void *)&from, sizeof from) != 0 && errno == EADDRINUSE;
            connect(fd, (void *)&to, sizeof to);
            close(fd);
        }
        printf("in use %d\n", errors);
    } else if (!strcmp(what, "few-ports")) {
        /* Sockets that are given a port each and closed, one after the other. */
        int failed = 0;
        for (int i = 0; i < 200; i++) {
            struct sockaddr_in any = local(0), to = local(9);
            int datagram = socket(AF_INET, SOCK_DGRAM, 0);
            failed += sendto(datagram, "", 1, 0, (void *)&to, sizeof to) < 0;
            close(datagram);
            int stream = socket(AF_INET, SOCK_STREAM, 0);
            failed += bind(stream, (void *)&any, sizeof any) != 0;
            close(stream);
        }
        printf("failed %d\n", failed);
    } else if (!strcmp(what, "begin")) {
        /* begin HOST COUNT: connections that are begun and not waited for; those without a user timeout. */
        struct rlimit limit;
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        struct sockaddr_in to = local(9);
        inet_pton(AF_INET, words[2], &to.sin_addr);
        int without = 0;
        for (int i = 0; i < number; i++) {
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
            if (connect(fd, (void *)&to, sizeof to) == 0 || errno != EINPROGRESS) return perror("connect"), 1;
            without += get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) == 0;
        }
        printf("without %d\n", without);
    } else if (!strcmp(what, "give-up")) {
        /* give-up HOST: whether a socket that was closed while it connected is still reported a second later. */
        struct sockaddr_in to = local(9);
        inet_pton(AF_INET, words[2], &to.sin_addr);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), set = epoll_create1(0);
        struct epoll_event event = {.events = EPOLLOUT};
        epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
        if (connect(fd, (void *)&to, sizeof to) == 0 || errno != EINPROGRESS) return perror("connect"), 1;
        close(fd);
        printf("events %d\n", epoll_wait(set, &event, 1, 3000));
    } else if (!strcmp(what, "elsewhere")) {
        /* elsewhere HOST thread|moved: the time for connecting of a socket whose thread has ended, or whose number is another one by now. */
        inet_pton(AF_INET, words[2], &begun_to.sin_addr);
        int fd = -1;
        pthread_t thread;
        pthread_create(&thread, NULL, begins, &fd);
        if (!strcmp(words[3], "thread")) pthread_join(thread, NULL);
        usleep(400000);
        if (!strcmp(words[3], "moved")) {
            int other = dup(fd);
            close(fd);
            fd = other;
        }
        usleep(400000);
        printf("user_timeout %d\n", get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT));
    } else if (!strcmp(what, "kept")) {
        /* kept PORT address|socket: one thread's call waits for memory; the others go on. */
        return kept(port, words[3]);
    } else if (!strcmp(what, "like-go")) {
        /* like-go PORT COUNT: connections on which what Go sets is set. */
        for (int i = 0; i < number; i++) {
            int fd = dial(port), on = 1, seconds = 15;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
            setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds);
            setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
            if (i == number - 1) show(fd);
            close(fd);
        }
    } else if (!strcmp(what, "same-number")) {
        /* One process after the other, all with the same process id. */
        for (int i = 0, id = 0; i < 3; i++) {
            if (id) {
                FILE *last = fopen("/proc/sys/kernel/ns_last_pid", "w");
                if (!last || fprintf(last, "%d", id - 1) < 0 || fclose(last)) return perror("ns_last_pid"), 1;
            }
            int child = fork();
            if (child == 0) return show(dial(port)), 0;
            waitpid(child, NULL, 0);
            if (id && child != id) return printf("%d is not %d\n", child, id), 1;
            id = child;
        }
    } else if (!strcmp(what, "takes-its-number")) {
        return takes_its_number(port, number);
    } else if (!strcmp(what, "kill-all")) {
        /* kill-all PORT [USER]: ends every other process that it may end; as another user, if one is named. */
        if (number && (setgid(number) || setuid(number))) return perror("setuid"), 1;
        show(dial(port));
        kill(-1, SIGKILL);
        usleep(200000);
        int fd = dial(port);
        if (fd < 0) printf("%s\n", strerror(errno));
        else show(fd);
    } else if (!strcmp(what, "leave")) {
        /* leave PORT: into a network namespace of its own; whether its sockets are there, and whether it reaches the old one. */
        if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET)) return perror("unshare"), 1;
        struct stat own, of_socket;
        int fd = socket(AF_INET, SOCK_STREAM, 0), namespace = ioctl(fd, SIOCGSKNS);
        if (stat("/proc/self/ns/net", &own) || fstat(namespace, &of_socket)) return perror("SIOCGSKNS"), 1;
        printf("own namespace %d", own.st_ino == of_socket.st_ino);
        struct sockaddr_in to = local(port);
        printf(" connect %s\n", connect(fd, (void *)&to, sizeof to) ? strerror(errno) : "connected");
    } else if (!strcmp(what, "full")) {
        /* Has as many descriptors as it may have. */
        struct rlimit limit = {8, 8};
        setrlimit(RLIMIT_NOFILE, &limit);
        int fd = 0, last = 0;
        while (fd >= 0) last = fd, fd = socket(AF_INET, SOCK_STREAM, 0);
        printf("last %d %s\n", last, strerror(errno));
        close(last);
        struct sockaddr_in to = local(port);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        printf("flags %d %d connect %s\n", fcntl(fd, F_GETFD), (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0,
               connect(fd, (void *)&to, sizeof to) && errno != EINPROGRESS ? strerror(errno) : "begun");
        show(fd);
    } else if (!strcmp(what, "first")) {
        /* first PORT COUNT: so many sockets are made, and as many are made and bound, before all are connected; those without an option. */
        int fds[2048], without = 0;
        struct sockaddr_in at = local(0), to = local(port);
        for (int i = 0; i < 2 * number; i++) {
            fds[i] = socket(AF_INET, SOCK_STREAM, 0);
            if (i >= number && bind(fds[i], (void *)&at, sizeof at)) perror("bind");
        }
        for (int i = 0; i < 2 * number; i++) {
            if (connect(fds[i], (void *)&to, sizeof to)) perror("connect");
            without += get(fds[i], IPPROTO_TCP, TCP_USER_TIMEOUT) == 0;
        }
        printf("without %d\n", without);
    } else if (!strcmp(what, "multipath")) {
        /* What a listening socket of Multipath TCP answers: it has no user timeout, and has a keepalive. */
        int fd = socket(AF_INET, SOCK_STREAM, 262), value = 1000;
        if (fd < 0 || listen(fd, 8)) return perror("listen"), 1;
        int failed = setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &value, sizeof value);
        printf("user timeout: %s\n", failed ? strerror(errno) : "set");
        printf("keepalive: %d\n", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value));
    } else if (!strcmp(what, "unused")) {
        /* unused PORT: what is closed unused is gone: its port, and what epoll says of it. */
        int in_use = 0, set = epoll_create1(0);
        for (int i = 0; i < 200; i++) {
            struct sockaddr_in at = local(port);
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            in_use += bind(fd, (void *)&at, sizeof at) != 0;
            /* Refused: it stays where it is. */
            at.sin_port = htons(port ^ 1);
            bind(fd, (void *)&at, sizeof at);
            close(fd);
        }
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct epoll_event event = {.events = EPOLLIN};
        epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
        close(fd);
        usleep(100000);
        printf("in use %d events %d\n", in_use, epoll_wait(set, &event, 1, 0));
    } else if (!strcmp(what, "sent")) {
        /* A socket that has its port from its first datagram is closed, and another one is bound to the port. */
        int in_use = 0;
        for (int i = 0; i < 20; i++) {
            struct sockaddr_in at = local(9);
            socklen_t length = sizeof at;
            int fd = socket(AF_INET, SOCK_DGRAM, 0);
            if (sendto(fd, "x", 1, 0, (void *)&at, sizeof at) != 1) perror("sendto");
            getsockname(fd, (void *)&at, &length);
            close(fd);
            fd = socket(AF_INET, SOCK_DGRAM, 0);
            at.sin_addr.s_addr = htonl(INADDR_ANY);
            in_use += bind(fd, (void *)&at, sizeof at) != 0;
            close(fd);
        }
        printf("in use %d\n", in_use);
    } else if (!strcmp(what, "shared")) {
        /* shared PORT COUNT: so many sockets share a port and are closed, and another one is bound to it. */
        int fds[1024], on = 1;
        struct sockaddr_in at = local(port);
        for (int i = 0; i < number; i++) {
            fds[i] = socket(AF_INET, SOCK_STREAM, 0);
            setsockopt(fds[i], SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
            if (bind(fds[i], (void *)&at, sizeof at)) perror("bind");
        }
        for (int i = 0; i < number; i++) close(fds[i]);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        printf("then %s\n", bind(fd, (void *)&at, sizeof at) ? strerror(errno) : "bound");
    } else if (!strcmp(what, "ends")) {
        /* ends PORT: when the peer sees the end of a connection that is closed at once, and of a listener. */
        struct sockaddr_in at = local(0);
        socklen_t length = sizeof at;
        int listener = socket(AF_INET, SOCK_STREAM, 0);
        bind(listener, (void *)&at, sizeof at);
        listen(listener, 5);
        getsockname(listener, (void *)&at, &length);
        int fd = dial(ntohs(at.sin_port)), peer = accept(listener, NULL, NULL);
        close(fd);
        struct timeval soon = {0, 10000};
        setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
        char byte;
        printf("read %zd", read(peer, &byte, 1));
        close(peer);
        close(listener);
        printf(" then %s\n", dial(ntohs(at.sin_port)) < 0 ? strerror(errno) : "connected");
    } else if (!strcmp(what, "forks")) {
        /* forks PORT COUNT: so many children at once, each with a connection; those that had none, or no option. */
        int failed = 0, status = 0;
        for (int i = 0; i < number; i++) {
            pid_t child = fork();
            if (child == 0) {
                int fd = dial(port);
                _exit(fd < 0 || get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT) == 0);
            }
            failed += child < 0;
        }
        while (wait(&status) > 0) failed += status != 0;
        printf("failed %d\n", failed);
    } else if (!strcmp(what, "strict")) {
        /* Strict mode, which a process that has a filter may not go into; it goes on. */
        int result = prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0);
        printf("strict %d %s\n", result, strerror(errno));
        show(dial(port));
    } else if (!strcmp(what, "chroot")) {
        /* chroot PORT FOLDER: into a root that has nothing. */
        if (chroot(words[3]) || chdir("/")) return perror("chroot"), 1;
        show(dial(port));
    } else if (!strcmp(what, "who")) {
        printf("user %d effective %d\n", getuid(), geteuid());
        show(dial(port));
    } else if (!strcmp(what, "becomes")) {
        /* becomes PORT USER */
        if (setgid(number) || setuid(number)) return perror("setuid"), 1;
        show(dial(port));
    } else if (!strcmp(what, "back")) {
        /* back PORT: a socket in another network namespace, and one in the first again, to which one thread returns. */
        int first = open("/proc/self/ns/net", O_RDONLY);
        if (unshare(CLONE_NEWNET)) return perror("unshare"), 1;
        where("there");
        if (setns(first, CLONE_NEWNET)) return perror("setns"), 1;
        where("back");
        show(dial(port));
        pthread_t thread;
        pthread_create(&thread, NULL, elsewhere, NULL);
        pthread_join(thread, NULL);
        where("beside it");
        show(dial(port));
    } else if (!strcmp(what, "handed")) {
        /* handed PORT: a thread makes a socket and ends; another connects it later. */
        pthread_t thread;
        int fd = -1;
        struct sockaddr_in to = local(port);
        pthread_create(&thread, NULL, makes, &fd);
        pthread_join(thread, NULL);
        usleep(300000);
        connect(fd, (void *)&to, sizeof to);
        show(fd);
    } else if (!strcmp(what, "apart")) {
        /* apart PORT: a socket that only a thread's own table of descriptors has. */
        pthread_t thread;
        port_of_threads = port;
        pthread_create(&thread, NULL, waits, NULL);
        pthread_join(thread, NULL);
    } else if (!strcmp(what, "tables")) {
        /* tables PORT: two threads, each with its own socket under the same number. */
        pthread_t thread;
        port_of_threads = port;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        own_number = fd;
        pthread_create(&thread, NULL, own_table, NULL);
        pthread_join(thread, NULL);
        show(fd);
        struct sockaddr_in to = local(port);
        connect(fd, (void *)&to, sizeof to);
        show(fd);
    }
    return 0;
}
