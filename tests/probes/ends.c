/* The ways in which a connection ends or changes hands while its data is still under way.
 *
 *   ends read PORT COUNT HOW     COUNT connections, read slowly; says of each how many bytes came and how it ended. HOW: "end",
 *                                "answer" (200,000 B after the peer's end), "hold" (it
 *                                closes 6 s later) or "reset" (after the first bytes)
 *   ends serve PORT COUNT        sends to COUNT connections and closes each at once
 *   ends fetch ADDRESS COUNT     their peers, which read slowly; MPTCP where a fourth word says so
 *   ends WAY ADDRESS ROUNDS      connects ROUNDS times and goes that way; says how many bytes were sent in all */
#include "probe.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/wait.h>
#include <time.h>

enum { SIZE = 300 * 1000, ANSWER = 200 * 1000, PIECE = 4096 };

static struct sockaddr_storage to;
static socklen_t length;
static long sent;
static char data[SIZE];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void pause_for(long microseconds) {
    struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000};
    while (nanosleep(&time, &time)) {}
}

static int dial(void) {
    int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (void *)&to, length)) die("connect");
    return fd;
}

static void put(int fd, long size) {
    for (long done = 0; done < size;) {
        ssize_t one = send(fd, data, size - done, MSG_NOSIGNAL);
        if (one < 0) die("send");
        done += one;
    }
    sent += size;
}

/* Says how much comes until the end, or the error. */
static void slowly(int fd, const char *what) {
    char piece[PIECE];
    long got = 0;
    ssize_t one;
    pause_for(200 * 1000);
    while ((one = recv(fd, piece, sizeof piece, 0)) > 0) {
        got += one;
        pause_for(200);
    }
    dprintf(1, "%s %ld %s\n", what, got, one ? error_name(errno) : "end");
}

static int listener(int port) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, buffer = 8192, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (bind(fd, (void *)&own, sizeof own) || listen(fd, 1024)) die("listen");
    return fd;
}

struct peer { int fd; const char *how; };

static void *peer(void *given) {
    struct peer *peer = given;
    if (!strcmp(peer->how, "reset")) {
        struct linger linger = {1, 0};
        char first[PIECE];
        pause_for(50 * 1000);
        dprintf(1, "read %ld reset\n", (long)recv(peer->fd, first, sizeof first, 0));
        setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    } else {
        slowly(peer->fd, "read");
        if (!strcmp(peer->how, "answer")) put(peer->fd, ANSWER);
        if (!strcmp(peer->how, "hold")) pause_for(6000 * 1000);
    }
    close(peer->fd);
    return NULL;
}

static void gather(int count, const char *how, int (*next)(int), int of) {
    pthread_t *threads = calloc(count, sizeof *threads);
    struct peer *peers = calloc(count, sizeof *peers);
    for (int i = 0; i < count; i++) {
        peers[i] = (struct peer){next(of), how};
        if (peers[i].fd < 0) die("accept");
        if (pthread_create(&threads[i], NULL, peer, &peers[i])) die("thread");
    }
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

static int accept_one(int of) {
    return accept(of, NULL, NULL);
}

static int fetch_one(int protocol) {
    int buffer = 8192, fd = socket(to.ss_family, SOCK_STREAM, protocol);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (fd < 0 || connect(fd, (void *)&to, length)) die("fetch");
    return fd;
}

static void serve(int port, int count) {
    for (int l = listener(port); count--;) {
        int fd = accept(l, NULL, NULL);
        put(fd, SIZE);
        close(fd);
    }
}

/* A close-on-exec socket as the output of a child without the library. */
static void spawned(void) {
    char *words[] = {"sh", "-c", "sleep 0.1; head -c 300000 /dev/zero", NULL};
    char *environment[] = {"PATH=/usr/bin:/bin", NULL};
    posix_spawn_file_actions_t actions;
    pid_t child;
    int fd = dial();
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd, 1);
    if (posix_spawnp(&child, "sh", &actions, NULL, words, environment)) die("spawn");
    close(fd);
    waitpid(child, NULL, 0);
    sent += 300000;
}

static atomic_int is_over;

static void *forker(void *unused) {
    while (!is_over) {
        pid_t child = fork();
        if (!child) {
            for (int fd = 3; fd < 40; fd++) close(fd);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    return unused;
}

static void slow_fork(void) {
    pause_for(1000);
}

static void whole(void) {
    int fd = dial();
    put(fd, SIZE);
    close(fd);
}

/* Connected while another thread forks. */
static void forked(void) {
    static int is_set;
    pthread_t thread;
    if (!is_set++) pthread_atfork(slow_fork, NULL, NULL);
    is_over = 0;
    if (pthread_create(&thread, NULL, forker, NULL)) die("thread");
    pause_for(500);
    whole();
    is_over = 1;
    pthread_join(thread, NULL);
}

/* Passed on to another process, and closed here while it is on its way. */
static void passed(void) {
    int fd = dial(), ends[2];
    char control[CMSG_SPACE(sizeof fd)] = "", byte = 0;
    struct iovec one = {&byte, 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) die("socketpair");
    pid_t child = fork();
    if (!child) {
        close(fd);
        pause_for(100 * 1000);
        if (recvmsg(ends[1], &message, 0) != 1) die("recvmsg");
        memcpy(&fd, CMSG_DATA(header), sizeof fd);
        put(fd, SIZE);
        _exit(0);
    }
    put(fd, 1000);
    sent += SIZE;
    if (sendmsg(ends[0], &message, 0) != 1) die("sendmsg");
    close(fd);
    waitpid(child, NULL, 0);
    close(ends[0]);
    close(ends[1]);
}

/* Calls that would end the connection, if they did not fail. */
static void refused(void) {
    int fd = dial();
    put(fd, 1000);
    pause_for(20 * 1000);
    if (dup2(-1, fd) >= 0 || dup2(4000, fd) >= 0 || dup3(fd, fd, 0) >= 0 || dup3(0, fd, 12345) >= 0) die("dup");
    if (!close_range(fd + 1, fd, 0) || !close_range(fd, fd, 12345)) die("close_range");
    put(fd, SIZE);
    close(fd);
}

static void *close_cancelled(void *fd) {
    pthread_cancel(pthread_self());
    close(*(int *)fd);
    return NULL;
}

static void cancelled(void) {
    int fd = dial();
    pthread_t thread;
    void *result;
    put(fd, 1000);
    pause_for(20 * 1000);
    pthread_create(&thread, NULL, close_cancelled, &fd);
    pthread_join(thread, &result);
    if (result != PTHREAD_CANCELED) die("not cancelled");
    put(fd, SIZE);
    close(fd);
}

/* Closed while another thread sends. */
static int busy, file, ends_of_pipe[2];
static long busy_sent;
static const char *by;

static void *sender(void *unused) {
    for (;;) {
        ssize_t one;
        if (!strcmp(by, "send")) one = send(busy, data, 100, MSG_NOSIGNAL);
        else if (!strcmp(by, "sendfile")) one = sendfile(busy, file, &(off_t){0}, PIECE);
        else one = splice(ends_of_pipe[0], NULL, busy, NULL, PIECE, 0);
        if (one <= 0) return unused;
        busy_sent += one;
        if (!strcmp(by, "splice") && write(ends_of_pipe[1], data, one) != one) die("pipe");
    }
}

static void sending(void) {
    pthread_t thread;
    if (!file && (file = memfd_create("data", 0)) >= 0 && write(file, data, PIECE) != PIECE) die("file");
    if (pipe(ends_of_pipe) || write(ends_of_pipe[1], data, PIECE) != PIECE) die("pipe");
    busy = dial();
    busy_sent = 0;
    if (pthread_create(&thread, NULL, sender, NULL)) die("thread");
    pause_for(rand() % 2000);
    close(busy);
    pthread_join(thread, NULL);
    sent += busy_sent;
    close(ends_of_pipe[0]);
    close(ends_of_pipe[1]);
}

static void sends(void) { by = "send"; sending(); }
static void sends_file(void) { by = "sendfile"; sending(); }
static void splices(void) { by = "splice"; sending(); }

/* The parent closes, the child writes on; nobody waits for it. */
static void unwaited(void) {
    int fd = dial();
    signal(SIGCHLD, SIG_IGN);
    if (!fork()) {
        pause_for(100 * 1000);
        put(fd, SIZE);
        _exit(0);
    }
    put(fd, 1000);
    sent += SIZE;
    close(fd);
    while (wait(NULL) >= 0) {}
}

/* The process ends in its own way with all of it queued. */
static void process(const char *how) {
    pid_t child = fork();
    if (!child) {
        put(dial(), SIZE);
        if (!strcmp(how, "kill")) raise(SIGKILL);
        if (!strcmp(how, "exec")) execlp("true", "true", NULL);
        exit(0);
    }
    waitpid(child, NULL, 0);
    sent += SIZE;
}

static void exits(void) { process("exit"); }
static void is_killed(void) { process("kill"); }
static void execs(void) { process("exec"); }

static void half_closed(void) {
    int fd = dial();
    put(fd, 1000);
    shutdown(fd, SHUT_WR);
    slowly(fd, "answer");
    close(fd);
}

static void was_reset(void) {
    int fd = dial();
    ssize_t one;
    put(fd, 1000);
    while ((one = recv(fd, data, 1, 0)) > 0) {}
    dprintf(1, "peer %s\n", one ? error_name(errno) : "end");
    close(fd);
}

static const struct { const char *name; void (*go)(void); } WAYS[] = {
    {"close", whole}, {"spawn", spawned}, {"fork", forked}, {"pass", passed}, {"refused", refused},
    {"cancelled", cancelled}, {"send", sends}, {"sendfile", sends_file}, {"splice", splices}, {"unwaited", unwaited},
    {"exit", exits}, {"kill", is_killed}, {"exec", execs}, {"half-close", half_closed}, {"peer resets", was_reset},
};

int main(int count, char **words) {
    if (count < 4) return 2;
    int rounds = atoi(words[3]);
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(words[1], "read")) {
        int fd = listener(atoi(words[2]));
        gather(rounds, count > 4 ? words[4] : "end", accept_one, fd);
        return 0;
    }
    if (!strcmp(words[1], "serve")) {
        serve(atoi(words[2]), rounds);
        return 0;
    }
    length = address(words[2], &to);
    if (!strcmp(words[1], "fetch")) {
        gather(rounds, "end", fetch_one, count > 4 ? IPPROTO_MPTCP : 0);
        return 0;
    }
    for (size_t i = 0; i < sizeof WAYS / sizeof *WAYS; i++) {
        if (strcmp(WAYS[i].name, words[1])) continue;
        for (int k = 0; k < rounds; k++) WAYS[i].go();
        dprintf(1, "sent %ld\n", sent);
        return 0;
    }
    return 2;
}
