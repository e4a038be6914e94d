/* Names and their addresses: names MODE ...
 *
 * serve: a name server on 127.0.0.1:53, see `zone`; prints "ready".
 * do STEP...: FUNCTION NAME looks a name up and prints all of the answer; `connect ADDRESS:PORT` connects and prints
 *   TCP_USER_TIMEOUT; `fork connect ...` and `signal connect ...` do it in a child and in a signal handler, `enforced connect ...` sets
 *   9000 afterwards; `mark` makes a
 *   call that strace shows. FUNCTION: addrinfo, addrinfo4 (AF_INET), canonname, nohints,
 *   numeric, passive, idn (AI_IDN, in UTF-8), byname, byname2,
 *   byname_r, byname2_r, small_r (a buffer that is too small).
 * many COUNT: looks up n0.many.example and so on, then connects to each; prints how many of the newest 1000, and whether
 *   no more than 4096 of all, have the option.
 * cancel: a thread that waits for an answer which never comes is cancelled; prints how it ended.
 * race MILLISECONDS: threads and children that look up and others that connect; prints what connects have missed. */
#include "probe.h"

#include <ctype.h>
#include <locale.h>
#include <netdb.h>
#include <signal.h>
#include <stdatomic.h>
#include <strings.h>
#include <sys/wait.h>
#include <time.h>

#ifdef __SANITIZE_THREAD__
/* ThreadSanitizer's own getaddrinfo looks at nothing that is done in it, and comes first: past it, to the hook. Found by
 * the first look-up, before there are threads: in a child the loader's lock may be another thread's. */
#include <dlfcn.h>
static int past_the_runtime(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **answer) {
    static int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "getaddrinfo");
    return next(name, service, hints, answer);
}
#define getaddrinfo past_the_runtime
#endif

static const struct { const char *name, *canonical, *address; } zone[] = {
    {"redis.prod.svc.cluster.local", NULL, "127.1.0.1"},
    {"other.prod.svc.cluster.local", NULL, "127.1.0.8"},
    {"google.com", NULL, "127.1.0.9"},
    {"www.example.com", "edge.cdn.example", "127.1.0.2"},
    {"a.example", NULL, "127.1.0.3"},
    {"b.example", NULL, "127.1.0.3"},
    {"none.example", NULL, "127.1.0.3"},
    {"ip6.example", NULL, "::1"},
    {"stable.example", NULL, "127.1.0.4"},
    {"plain.test", NULL, "127.1.0.5"},
    {"xn--mller-kva.example", NULL, "127.1.0.7"},
};

static int name_of(char *text, const char *name) {
    char *to = text;
    for (const char *label = name; *label;) {
        size_t length = strcspn(label, ".");
        *to++ = length;
        memcpy(to, label, length);
        to += length;
        label += length + (label[length] == '.');
    }
    *to++ = 0;
    return to - text;
}

static int serve(void) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr = {htonl(INADDR_LOOPBACK)}}, from;
    int fd = socket(AF_INET, SOCK_DGRAM, 0), size;
    socklen_t length = sizeof from;
    char packet[2048], asked[300];
    if (bind(fd, (void *)&own, sizeof own)) return 1;
    puts("ready");
    fflush(stdout);
    while ((size = recvfrom(fd, packet, 512, 0, (void *)&from, &length)) > 16) {
        char *at = packet + 12, *text = asked, *name = NULL;
        while (*at && at < packet + size && text < asked + 200) {
            memcpy(text, at + 1, *at);
            text += *at;
            *text++ = '.';
            at += *at + 1;
        }
        text[text > asked ? -1 : 0] = 0;
        for (text = asked; *text; text++) *text = tolower(*text);
        if (!strcmp(asked, "silent.example")) continue;
        int type = at[2], found = 0, family = type == 28 ? AF_INET6 : AF_INET;
        unsigned number;
        char address[16], bytes[64] = "", *end = at + 5;
        if (sscanf(asked, "n%u.many.example", &number) == 1) {
            snprintf(bytes, sizeof bytes, "127.2.%u.%u", number / 250, number % 250 + 1);
            name = asked;
        }
        for (size_t i = 0; i < sizeof zone / sizeof *zone; i++)
            if (!strcasecmp(zone[i].name, asked)) {
                name = asked;
                strcpy(bytes, zone[i].address);
                if (zone[i].canonical) {
                    /* The alias: a pointer to the question, CNAME, IN, the time to live. */
                    memcpy(end, "\xc0\x0c\0\5\0\1\0\0\0\0", 10);
                    int canonical = name_of(end + 12, zone[i].canonical);
                    end[10] = 0;
                    end[11] = canonical;
                    end += 12 + canonical;
                    found++;
                    name = (char *)zone[i].canonical;
                }
            }
        packet[2] = (char)0x85;
        packet[3] = name ? (char)0x80 : (char)0x83;
        if (name && (type == 1 || type == 28) && inet_pton(family, bytes, address) == 1) {
            end += name_of(end, name);
            memcpy(end, "\0\1\0\1\0\0\0\0\0\4", 10);
            end[1] = type;
            end[9] = type == 28 ? 16 : 4;
            memcpy(end + 10, address, end[9]);
            end += 10 + end[9];
            found++;
        }
        memcpy(packet + 6, "\0\0\0\0\0\0", 6);
        packet[7] = found;
        sendto(fd, packet, end - packet, 0, (void *)&from, length);
        length = sizeof from;
    }
    return 1;
}

/* TCP_USER_TIMEOUT after a connect that is refused; async-signal-safe. */
static int connected(const struct sockaddr *to, socklen_t length) {
    int value = -1, fd = socket(to->sa_family, SOCK_STREAM, 0);
    socklen_t size = sizeof value;
    connect(fd, to, length);
    getsockopt(fd, IPPROTO_TCP, 18, &value, &size);
    close(fd);
    return value;
}

static int connected_v4(const char *bytes, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, bytes, &to.sin_addr);
    return connected((void *)&to, sizeof to);
}

/* What is left of the program's own TCP_USER_TIMEOUT, 9 s, on a connection to a listener of its own. */
static int enforced(const struct sockaddr *to, socklen_t length) {
    int value = 9000, one = 1, listener = socket(to->sa_family, SOCK_STREAM, 0), fd = socket(to->sa_family, SOCK_STREAM, 0);
    socklen_t size = sizeof value;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, to, length) || listen(listener, 1) || connect(fd, to, length)) return -1;
    setsockopt(fd, IPPROTO_TCP, 18, &value, sizeof value);
    getsockopt(fd, IPPROTO_TCP, 18, &value, &size);
    close(fd);
    close(listener);
    return value;
}

static struct sockaddr_storage signal_to;
static socklen_t signal_length;
static int signal_value;

static void on_signal(int number) {
    (void)number;
    signal_value = connected((void *)&signal_to, signal_length);
}

static void print_host(const struct hostent *host) {
    char text[64];
    if (!host) return;
    printf(" %s type %d", host->h_name, host->h_addrtype);
    for (char **alias = host->h_aliases; *alias; alias++) printf(" alias %s", *alias);
    for (char **one = host->h_addr_list; *one; one++)
        printf(" %s", inet_ntop(host->h_addrtype, *one, text, sizeof text));
}

static void look_up(const char *how, const char *text_of_name) {
    /* By itself, so that sanitizers and valgrind know where it ends. */
    char *name = strdup(text_of_name);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    struct hostent host, *answer = NULL;
    char buffer[4096], text[64];
    int status = 0, error = 0;
    size_t size = strcmp(how, "small_r") ? sizeof buffer : 8;
    h_errno = 0;
    printf("%s %s:", how, name);
    errno = 77;
    if (!strcmp(how, "byname")) answer = gethostbyname(name);
    else if (!strcmp(how, "byname2")) answer = gethostbyname2(name, AF_INET);
    else if (!strcmp(how, "byname_r") || !strcmp(how, "small_r"))
        status = gethostbyname_r(name, &host, buffer, size, &answer, &error);
    else if (!strcmp(how, "byname2_r"))
        status = gethostbyname2_r(name, strchr(name, '6') ? AF_INET6 : AF_INET, &host, buffer, size, &answer, &error);
    else {
        if (!strcmp(how, "addrinfo4")) hints.ai_family = AF_INET;
        if (!strcmp(how, "canonname")) hints.ai_flags = AI_CANONNAME;
        if (!strcmp(how, "numeric")) hints.ai_flags = AI_NUMERICHOST;
        if (!strcmp(how, "passive")) hints.ai_flags = AI_PASSIVE;
#ifdef AI_IDN
        if (!strcmp(how, "idn")) {
            setlocale(LC_ALL, "C.UTF-8");
            hints.ai_flags = AI_IDN;
        }
#endif
        int untyped = !strcmp(how, "nohints");
        status = getaddrinfo(strcmp(how, "passive") ? name : NULL, "80", untyped ? NULL : &hints, &list);
        printf(" %d errno %d", status, errno);
        for (struct addrinfo *one = list; one; one = one->ai_next) {
            int is_v4 = one->ai_family == AF_INET;
            void *ip = is_v4 ? (void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
                             : (void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
            printf(" %s/%d flags %x %s", inet_ntop(one->ai_family, ip, text, sizeof text), one->ai_socktype,
                   one->ai_flags, one->ai_canonname ? one->ai_canonname : "-");
        }
        puts("");
        if (list) freeaddrinfo(list);
        free(name);
        return;
    }
    printf(" %d errno %d h_errno %d", status, errno, strchr(how, '_') ? error : h_errno);
    print_host(answer);
    puts("");
    free(name);
}

static void step(const char *text) {
    char how[32];
    struct sockaddr_storage to;
    int value = -1, in_child = !strncmp(text, "fork ", 5), in_handler = !strncmp(text, "signal ", 7);
    int keeps = !strncmp(text, "enforced ", 9);
    if (!strcmp(text, "mark")) {
        close(-77);
        return;
    }
    const char *call = text + (in_child ? 5 : in_handler ? 7 : keeps ? 9 : 0), *rest = strchr(call, ' ');
    if (!rest) abort();
    snprintf(how, sizeof how, "%.*s", (int)(rest - call), call);
    if (strcmp(how, "connect")) {
        look_up(how, rest + 1);
        return;
    }
    socklen_t length = address(rest + 1, &to);
    if (in_handler) {
        signal_to = to;
        signal_length = length;
        signal(SIGUSR1, on_signal);
        raise(SIGUSR1);
        value = signal_value;
    } else if (keeps) value = enforced((void *)&to, length);
    else if (in_child) {
        pid_t child = fork();
        if (!child) _exit(connected((void *)&to, length) / 1000);
        int status;
        waitpid(child, &status, 0);
        value = WEXITSTATUS(status) * 1000;
    } else value = connected((void *)&to, length);
    printf("%s = %d\n", text, value);
}

static int resolved(const char *name) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *list;
    int status = getaddrinfo(name, NULL, &hints, &list);
    if (!status) freeaddrinfo(list);
    return status;
}

enum { TOGETHER = 8, NEWEST = 1000 };
static atomic_int next_name, failed;

static void *resolves_until(void *end) {
    char name[64];
    for (int i; (i = next_name++) < (int)(long)end;) {
        snprintf(name, sizeof name, "n%d.many.example", i);
        failed += resolved(name) != 0;
    }
    return NULL;
}

static int many(int count) {
    int known = 0, newest = 0;
    pthread_t threads[TOGETHER];
    char bytes[64];
    for (int i = 0; i < TOGETHER; i++)
        if (pthread_create(&threads[i], NULL, resolves_until, (void *)(long)(count - NEWEST))) return 2;
    for (int i = 0; i < TOGETHER; i++) pthread_join(threads[i], NULL);
    next_name = count - NEWEST;
    resolves_until((void *)(long)count);
    for (int i = 0; i < count; i++) {
        snprintf(bytes, sizeof bytes, "127.2.%d.%d", i / 250, i % 250 + 1);
        int has = connected_v4(bytes, 80) == 7000;
        known += has;
        newest += has && i >= count - NEWEST;
    }
    printf("%d failed, %d of the newest %d, %s\n", failed, newest, NEWEST,
           known > 4096 ? "too many" : known < 3000 ? "too few" : "bounded");
    return 0;
}

static atomic_int stop, missed, wrong, connects, lookups;

static void *resolves(void *what) {
    static const char *names[] = {"stable.example", "a.example", "b.example", "stable.example"};
    char name[64];
    for (unsigned i = 0; !stop; i++, lookups++) {
        snprintf(name, sizeof name, "n%u.many.example", i % 3000);
        resolved(i % 3 ? names[(long)what % 4] : name);
    }
    return NULL;
}

static void *connects_to(void *what) {
    (void)what;
    while (!stop) {
        missed += connected_v4("127.1.0.4", 80) != 4000;
        int value = connected_v4("127.1.0.3", 80);
        wrong += value != 1000 && value != 2000;
        connects++;
    }
    return NULL;
}

static int race(int milliseconds) {
    enum { RESOLVERS = 4, CONNECTERS = 3 };
    pthread_t threads[RESOLVERS + CONNECTERS];
    struct timespec now, end;
    int children = 0, bad = 0;
    resolved("stable.example");
    resolved("a.example");
    for (long i = 0; i < RESOLVERS + CONNECTERS; i++)
        if (pthread_create(&threads[i], NULL, i < RESOLVERS ? resolves : connects_to, (void *)i)) return 2;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += milliseconds / 1000;
    end.tv_nsec += milliseconds % 1000 * 1000000;
    do {
        pid_t child = fork();
        if (!child) {
            int ok = connected_v4("127.1.0.4", 80) == 4000 && !resolved("b.example");
            /* By what was found in this process, whoever was writing when it was forked. */
            _exit(ok && connected_v4("127.1.0.3", 80) == 2000 ? 0 : 1);
        }
        int status = 1;
        waitpid(child, &status, 0);
        children++;
        bad += status != 0;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
    stop = 1;
    for (int i = 0; i < RESOLVERS + CONNECTERS; i++) pthread_join(threads[i], NULL);
    fprintf(stderr, "%d connects, %d look-ups, %d children\n", connects, lookups, children);
    printf("missed %d, wrong %d, bad children %d, %s\n", missed, wrong, bad,
           connects > 10 && lookups > 10 && children > 1 ? "done" : "too little");
    return 0;
}

static atomic_int cleaned;

static void clean(void *what) {
    (void)what;
    cleaned = 1;
}

static void *waits(void *what) {
    pthread_cleanup_push(clean, what);
    resolved("silent.example");
    pthread_cleanup_pop(0);
    return NULL;
}

static int cancel(void) {
    pthread_t thread;
    void *result;
    struct timespec pause = {.tv_nsec = 200000000};
    if (pthread_create(&thread, NULL, waits, NULL)) return 2;
    nanosleep(&pause, NULL);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    printf("%s, cleaned %d\n", result == PTHREAD_CANCELED ? "cancelled" : "returned", cleaned);
    return 0;
}

int main(int count, char **arguments) {
    const char *mode = count > 1 ? arguments[1] : "";
    if (!strcmp(mode, "serve")) return serve();
    if (!strcmp(mode, "many") && count == 3) return many(atoi(arguments[2]));
    if (!strcmp(mode, "race") && count == 3) return race(atoi(arguments[2]));
    if (!strcmp(mode, "cancel")) return cancel();
    if (strcmp(mode, "do")) return 2;
    for (int i = 2; i < count; i++) step(arguments[i]);
    return 0;
}
