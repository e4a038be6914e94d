/* A prober and its server, uploads and their readers: what `time_wait = false` is for.
 *
 *   time_wait answer PORT [MICROSECONDS]
 *                                    answers each HTTP request; the client closes first, and the server so much later than
 *                                    it has read the end, as over a network; at SIGTERM it says what it has read
 *   time_wait probe ADDRESS COUNT HOW  COUNT connections to it, one after the other; HOW each ends: close, or shutdown
 *                                    (both directions, SO_LINGER is asked for, close: HttpClient4); "together": all
 *                                    are open at the same time
 *   time_wait read PORT COUNT          reads COUNT uploads, slowly, and compares every byte
 *   time_wait upload ADDRESS COUNT     uploads of 1 B to 10 MB, each followed at once by close */
#include "probe.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

enum { MOST = 10 * 1000 * 1000, READERS = 24, WRITERS = 24 };
static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: here\r\n\r\n";
static const char ANSWER[] = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int listener(int port, int buffer) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (buffer) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (bind(fd, (void *)&own, sizeof own) || listen(fd, 4096)) die("listen");
    puts("ready");
    fflush(stdout);
    return fd;
}

static volatile sig_atomic_t is_over;

static void over(int signal) {
    (void)signal;
    is_over = 1;
}

static int answer(int port, int delay) {
    char request[4096];
    int ends = 0, errors = 0;
    struct sigaction action = {.sa_handler = over};
    sigaction(SIGTERM, &action, NULL);
    int l = listener(port, 0), all = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = l}, events[64];
    epoll_ctl(all, EPOLL_CTL_ADD, l, &event);
    while (!is_over) {
        int count = epoll_wait(all, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == l) {
                event.data.fd = accept(l, NULL, NULL);
                if (event.data.fd >= 0) epoll_ctl(all, EPOLL_CTL_ADD, event.data.fd, &event);
            } else {
                ssize_t size = recv(fd, request, sizeof request, 0);
                int is_whole = size > 4 && !memcmp(request + size - 4, "\r\n\r\n", 4);
                ends += size == 0;
                errors += size < 0;
                if (!is_whole && delay) usleep(delay);
                if (!is_whole || send(fd, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL) < 0) close(fd);
            }
        }
    }
    printf("%d ends, %d errors\n", ends, errors);
    return 0;
}

static struct sockaddr_storage to;
static socklen_t length;

static int dial(void) {
    int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    if (!connect(fd, (void *)&to, length)) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static int ask(int fd) {
    return fd >= 0 && send(fd, REQUEST, sizeof REQUEST - 1, MSG_NOSIGNAL) == sizeof REQUEST - 1;
}

static int get(int fd) {
    char reply[sizeof ANSWER - 1];
    return recv(fd, reply, sizeof reply, MSG_WAITALL) == sizeof reply && !memcmp(reply, ANSWER, sizeof reply);
}

static void end(int fd, const char *how) {
    struct linger linger;
    socklen_t size = sizeof linger;
    if (!strcmp(how, "shutdown")) {
        shutdown(fd, SHUT_WR);
        shutdown(fd, SHUT_RD);
        getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size);
    }
    close(fd);
}

static int probe(int count, const char *how) {
    int answered = 0, failed = 0, error = 0, *open = calloc(count, sizeof *open), together = !strcmp(how, "together");
    for (int i = 0; i < count; i++) {
        open[i] = dial();
        if (open[i] < 0) error = errno, failed++;
        else if (!together) {
            answered += ask(open[i]) && get(open[i]);
            end(open[i], how);
        }
    }
    for (int i = 0; together && i < count; i++) ask(open[i]);
    for (int i = 0; together && i < count; i++) answered += open[i] >= 0 && get(open[i]);
    for (int i = 0; together && i < count; i++) end(open[i], how);
    printf("%d answered, %d failed %s\n", answered, failed, failed ? error_name(error) : "-");
    return 0;
}

/* The bytes of an upload follow from its number. */
struct stream { uint64_t state; };

static void fill(struct stream *stream, uint64_t *words, size_t count) {
    uint64_t x = stream->state;
    for (size_t i = 0; i < count; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        words[i] = x;
    }
    stream->state = x;
}

struct head { uint64_t number, size; };
enum { PIECE = 64 * 1024 };

static atomic_int taken, complete, lost, wrong, resets;

static int reader_of, reads_left;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

/* Reads so many bytes; fewer at the end, or after a reset, which is noted. */
static size_t take(int fd, char *to, size_t size, int *reset) {
    size_t got = 0;
    while (got < size) {
        ssize_t one = recv(fd, to + got, size - got, 0);
        if (one < 0) *reset = errno == ECONNRESET;
        if (one <= 0) break;
        got += one;
    }
    return got;
}

static void *reader(void *unused) {
    static __thread uint64_t wanted[PIECE / 8], found[PIECE / 8];
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&turn);
        int left = reads_left-- > 0;
        pthread_mutex_unlock(&turn);
        if (!left) return NULL;
        int fd = accept(reader_of, NULL, NULL), reset = 0;
        struct head head = {0, 0};
        struct timespec pause = {0, 300 * 1000};
        if (fd < 0) die("accept");
        size_t done = 0;
        int is_wrong = 0, is_there = take(fd, (char *)&head, sizeof head, &reset) == sizeof head;
        struct stream stream = {head.number * 2 + 1};
        while (is_there && done < head.size) {
            size_t size = head.size - done < PIECE ? head.size - done : PIECE;
            /* A slow one now and then. */
            if (head.number % 3 == 0) nanosleep(&pause, NULL);
            size_t got = take(fd, (char *)found, size, &reset);
            fill(&stream, wanted, PIECE / 8);
            is_wrong |= memcmp(found, wanted, got) != 0;
            done += got;
            if (got < size) break;
        }
        char more;
        if (is_there && done == head.size && recv(fd, &more, 1, 0) < 0) reset = 1;
        if (is_wrong) wrong++;
        else if (is_there && done == head.size) complete++;
        else lost++;
        resets += reset;
        close(fd);
    }
}

static int read_all(int port, int count) {
    pthread_t threads[READERS];
    reader_of = listener(port, 32 * 1024);
    reads_left = count;
    for (int i = 0; i < READERS; i++)
        if (pthread_create(&threads[i], NULL, reader, NULL)) die("thread");
    for (int i = 0; i < READERS; i++) pthread_join(threads[i], NULL);
    printf("%d complete, %d lost, %d wrong, %d reset\n", complete, lost, wrong, resets);
    return 0;
}

static int uploads;
static atomic_int failures;

static void *uploader(void *unused) {
    static __thread struct { struct head head; uint64_t words[PIECE / 8]; } first;
    (void)unused;
    for (int number; (number = taken++) < uploads;) {
        struct stream choice = {number * 2654435761u + 88172645463325252ull};
        uint64_t random[4];
        fill(&choice, random, 4);
        /* As many with one byte as with ten as with a thousand, and few of the largest; each fiftieth is one. */
        uint64_t size = 1, most = 10;
        for (unsigned digits = random[0] % (number % 50 ? 6 : 7); digits; digits--) size *= 10, most *= 10;
        size += random[1] % (most - size + 1);
        if (size > MOST) size = MOST;
        int fd = dial();
        if (fd < 0) {
            failures++;
            continue;
        }
        first.head = (struct head){number, size};
        struct stream stream = {first.head.number * 2 + 1};
        size_t done = 0;
        int is_sent = 1;
        while (is_sent && done < size) {
            size_t piece = size - done < PIECE ? size - done : PIECE;
            fill(&stream, first.words, PIECE / 8);
            const char *from = (const char *)(done ? (void *)first.words : (void *)&first);
            size_t left = piece + (done ? 0 : sizeof first.head);
            while (is_sent && left) {
                ssize_t one = send(fd, from, left, MSG_NOSIGNAL);
                if (one < 0) is_sent = 0;
                else from += one, left -= one;
            }
            done += piece;
        }
        failures += !is_sent;
        /* At once, or at some moment before or after the last acknowledgement. */
        struct timespec pause = {0, random[2] % 3 ? random[3] % (random[2] % 3 == 1 ? 400000 : 40000000) : 0};
        if (pause.tv_nsec) nanosleep(&pause, NULL);
        close(fd);
    }
    return NULL;
}

static int upload(int count) {
    pthread_t threads[WRITERS];
    uploads = count;
    for (int i = 0; i < WRITERS; i++)
        if (pthread_create(&threads[i], NULL, uploader, NULL)) die("thread");
    for (int i = 0; i < WRITERS; i++) pthread_join(threads[i], NULL);
    printf("%d uploads, %d failed\n", count, failures);
    return 0;
}

int main(int count, char **arguments) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (count < 3) return 2;
    if (!strcmp(arguments[1], "answer")) return answer(atoi(arguments[2]), count > 3 ? atoi(arguments[3]) : 0);
    if (count < 4) return 2;
    if (!strcmp(arguments[1], "read")) return read_all(atoi(arguments[2]), atoi(arguments[3]));
    length = address(arguments[2], &to);
    if (!strcmp(arguments[1], "upload")) return upload(atoi(arguments[3]));
    return count > 4 ? probe(atoi(arguments[3]), arguments[4]) : 2;
}
