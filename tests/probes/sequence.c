/* Calls at random, and after each of them what every socket must have: sequence plain|set SEED COUNT ENFORCE
 *
 * A second account of what the rules in tests/sequences.rs say, written from the documents: each socket has a model, with what it
 * would have without the library and what it has under it; the kernel is asked by system calls that nobody interposes.
 * Prints each call with its answer, which must be the same both ways, and a line "WRONG ..." where the kernel has something else.
 * The calls follow from the seed and the answers alone. Sockets do not wait. To be run under readback.c. */
#include "probe.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { NUMBERS = 12, SOCKETS = 4096, QUEUE = 64, OPTIONS_OF = 3 };
enum { IDLE, TIMEOUT, PRIORITY };
static const struct { int level, name; } WHICH[OPTIONS_OF] = {
    {SOL_TCP, TCP_KEEPIDLE}, {SOL_TCP, TCP_USER_TIMEOUT}, {SOL_SOCKET, SO_PRIORITY}};
enum state { FRESH, LISTENING, CONNECTING, CONNECTED, FAILED, ACCEPTED };

/* What a socket has, without the library and under it. */
struct values { int plain[OPTIONS_OF], set[OPTIONS_OF]; };

struct model {
    int used, copies, port, is_second, foreign;
    enum state state;
    struct values has;
    struct { struct values has; struct model *client; int is_second; } queue[QUEUE];
    int waiting;
};

/* Some numbers share a row of the library's table: 100 and 4196. */
static const int numbers[NUMBERS] = {100, 101, 102, 103, 104, 105, 4196, 4197, 4198, 8292, 8293, 12388};
static struct model *behind[NUMBERS], sockets[SOCKETS];
static struct model *listeners[65536];
static int known[65536], under_library, enforce, step;
static unsigned state;

static unsigned pick(unsigned below) {
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return (state >> 4) % below;
}

static void say(long result, int error, const char *format, ...) {
    va_list list;
    char text[200];
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    printf("%d %s = %ld %s\n", step, text, result, result < 0 ? error_name(error) : "");
}

/* ---- What the rules say ---- */

/* connect_timeout and user_timeout, milliseconds, and keepalive's time; 0 is not in the rule. */
struct rule { int limit, timeout, idle, priority; };
static const struct rule NONE = {0, 0, 0, 0}, FIRST = {19999, 0, 7, 0}, SECOND = {29999, 9000, 8, 0},
    LISTENER = {0, 0, 11, 0}, FROM = {0, 0, 12, 0}, PEERS = {0, 0, 13, 5};

static struct rule rule_to(int port) {
    return port == 4000 || port == 4001 || port == 4009 || port == 80 ? FIRST : port == 4002 || port == 4003 ? SECOND : NONE;
}

static int is_per_peer(int port) {
    return port >= 4020 && port < 4030;
}

/* Accepted on a port. */
static struct rule rule_in(int port, int is_second) {
    return is_per_peer(port) ? is_second ? FROM : PEERS : port >= 4010 && port < 4020 ? LISTENER : NONE;
}

static int is_limit(int timeout) {
    return timeout == FIRST.limit || timeout == SECOND.limit;
}

/* Which rule enforces. */
static struct rule rule_of(const struct model *m) {
    switch (m->state) {
    case LISTENING: return is_per_peer(m->port) ? NONE : rule_in(m->port, 0);
    case ACCEPTED: return known[m->port] ? rule_in(m->port, m->is_second) : NONE;
    case FRESH: return NONE;
    default: return rule_to(m->port);
    }
}

static void put(struct model *m, struct rule rule) {
    m->has.set[IDLE] = rule.idle ? rule.idle : m->has.set[IDLE];
    m->has.set[PRIORITY] = rule.priority ? rule.priority : m->has.set[PRIORITY];
    m->has.set[TIMEOUT] = rule.timeout ? rule.timeout : m->has.set[TIMEOUT];
}

/* ---- The model's sockets ---- */

static struct model *fresh(void) {
    static int next;
    struct model *m = &sockets[next++ % SOCKETS];
    struct values has = {{7200, 0, 0}, {7200, 0, 0}};
    if (m->used && m->copies) abort();
    memset(m, 0, sizeof *m);
    m->used = 1;
    m->has = has;
    return m;
}

static void drop(int at) {
    struct model *m = behind[at];
    behind[at] = NULL;
    if (!m || --m->copies) return;
    if (m->state == LISTENING && listeners[m->port] == m) {
        listeners[m->port] = NULL;
        /* Those who were not accepted are reset. */
        for (int i = 0; i < m->waiting; i++)
            if (m->queue[i].client) m->queue[i].client->state = FAILED;
    }
    for (int p = 4010; p < 4040; p++)
        for (int i = 0; listeners[p] && i < listeners[p]->waiting; i++)
            if (listeners[p]->queue[i].client == m) listeners[p]->queue[i].client = NULL;
}

static void attach(int at, struct model *m) {
    m->copies++;
    drop(at);
    behind[at] = m;
}

static int raw_get(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    return syscall(SYS_getsockopt, fd, level, name, &value, &length) ? -1000 - errno : value;
}

static void check(void) {
    for (int at = 0; at < NUMBERS; at++) {
        struct model *m = behind[at];
        for (int i = 0; m && i < OPTIONS_OF; i++) {
            int wanted = under_library ? m->has.set[i] : m->has.plain[i];
            int found = raw_get(numbers[at], WHICH[i].level, WHICH[i].name);
            if (found == wanted) continue;
            printf("WRONG step %d descriptor %d state %d port %d option %d: %d, not %d\n", step, numbers[at], m->state, m->port, i, found, wanted);
            /* Once. */
            if (under_library) m->has.set[i] = found;
            else m->has.plain[i] = found;
        }
    }
}

/* ---- Calls ---- */

/* One of its descriptors is closed: the time for connecting is taken back, and the number of SYNs is in its place. */
static void given_up(struct model *m) {
    if (m && is_limit(m->has.set[TIMEOUT])) m->has.set[TIMEOUT] = rule_to(m->port).timeout;
}

/* A descriptor that is at hand moves to one of the numbers. */
static void place(int fd, int at, struct model *m) {
    if (dup2(fd, numbers[at]) < 0) abort();
    given_up(behind[at]);
    close(fd);
    given_up(m);
    attach(at, m);
}

static socklen_t to_port(int port, struct sockaddr_storage *to) {
    char text[32];
    snprintf(text, sizeof text, port == 80 ? "10.1.2.3:80" : "127.0.0.1:%d", port);
    return address(text, to);
}

/* The time for connecting is taken back, by whoever asked. */
static void asked(struct model *m) {
    if (!is_limit(m->has.set[TIMEOUT])) return;
    if (m->state == CONNECTED || m->state == FAILED) m->has.set[TIMEOUT] = rule_to(m->port).timeout;
}

static void arrive(struct model *client, int port, int is_second) {
    struct model *l = listeners[port];
    if (!l || l->waiting == QUEUE) return;
    l->queue[l->waiting].has = l->has;
    l->queue[l->waiting].client = client;
    l->queue[l->waiting++].is_second = is_second;
}

static void call_connect(int at, int port, int waits) {
    struct model *m = behind[at];
    struct sockaddr_storage to;
    socklen_t length = to_port(port, &to);
    struct rule rule = rule_to(port);
    int had_peer = m->state == CONNECTING || m->state == CONNECTED || m->state == FAILED;
    int before = m->has.set[TIMEOUT];
    if (waits) fcntl(numbers[at], F_SETFL, 0);
    errno = 0;
    int result = connect(numbers[at], (void *)&to, length), error = errno;
    if (waits) fcntl(numbers[at], F_SETFL, O_NONBLOCK);
    say(result, error, "connect %d %d%s", numbers[at], port, waits ? " waits" : "");
    int goes_on = result < 0 && (error == EINPROGRESS || error == EALREADY);
    /* Before the call. With the last word, what a second connect finds is the program's. */
    int is_left = !enforce && had_peer;
    if (!is_left) {
        m->has.set[IDLE] = rule.idle ? rule.idle : m->has.set[IDLE];
        if (!rule.limit) {
            if (is_limit(before) && m->state != CONNECTING && m->state != CONNECTED) m->has.set[TIMEOUT] = 0;
        } else if (rule.timeout || !before || is_limit(before)) {
            m->has.set[TIMEOUT] = rule.limit;
        }
        /* One of the program's own stays, or comes back at once. */
    } else if (!rule.limit && is_limit(before) && m->state == FAILED) {
        m->has.set[TIMEOUT] = 0;
    }
    /* Behind it. */
    if (rule.limit && m->has.set[TIMEOUT] == rule.limit && !goes_on) m->has.set[TIMEOUT] = rule.timeout;
    if (result == 0 || (result < 0 && error == EINPROGRESS)) {
        int begins = m->state == FRESH || m->state == FAILED;
        if (begins && listeners[port]) arrive(m, port, m->is_second);
        m->state = result == 0 || listeners[port] || port == 4000 || port == 4002 || port == 4004 ? CONNECTED : port == 4009 ? FAILED : CONNECTING;
        m->port = port;
    } else if (error != EALREADY && error != EISCONN) {
        /* The kernel forgets the peer when it has told the error. */
        m->state = FRESH;
        m->port = 0;
    }
}

static void call_set(int at, int which, int value) {
    struct model *m = behind[at];
    struct rule rule = rule_of(m);
    int of_rule[OPTIONS_OF] = {rule.idle, rule.timeout, rule.priority};
    int result = setsockopt(numbers[at], WHICH[which].level, WHICH[which].name, &value, sizeof value);
    say(result, errno, "set %d %d %d", numbers[at], which, value);
    if (result) abort();
    m->has.plain[which] = value;
    if (!enforce || !of_rule[which]) {
        m->has.set[which] = value;
    } else if (!(which == TIMEOUT && m->state == CONNECTING && is_limit(m->has.set[TIMEOUT]))) {
        /* While it connects, the rule's user timeout is not due. */
        m->has.set[which] = of_rule[which];
    }
}

static void call_listen(int at, int port) {
    struct model *m = behind[at];
    struct sockaddr_storage local;
    socklen_t length = to_port(port, &local);
    int one = 1, result;
    if (m->state != LISTENING) {
        setsockopt(numbers[at], SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        result = bind(numbers[at], (void *)&local, length);
        say(result, errno, "bind %d %d", numbers[at], port);
        if (result) return;
    } else {
        port = m->port;
    }
    result = listen(numbers[at], QUEUE);
    say(result, errno, "listen %d", numbers[at]);
    if (result) abort();
    if (is_limit(m->has.set[TIMEOUT])) m->has.set[TIMEOUT] = 0;
    /* With the last word, what a second listen finds is the program's. */
    int is_left = !enforce && m->state == LISTENING && known[port];
    if (!is_per_peer(port) && !is_left) put(m, rule_in(port, 0));
    m->state = LISTENING;
    m->port = port;
    listeners[port] = m;
    known[port] = 1;
}

/* One that the library has not seen: by system calls. */
static void call_foreign(int at, int port) {
    struct sockaddr_storage local;
    socklen_t length = to_port(port, &local);
    int one = 1, fd = syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    int result = syscall(SYS_bind, fd, &local, length) || syscall(SYS_listen, fd, QUEUE);
    say(-result, errno, "foreign %d %d", numbers[at], port);
    if (result) {
        syscall(SYS_close, fd);
        return;
    }
    struct model *m = fresh();
    m->state = LISTENING;
    m->port = port;
    m->foreign = 1;
    listeners[port] = m;
    place(fd, at, m);
}

static void call_accept(int at, int to) {
    struct model *m = behind[at];
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    int fd = pick(2) ? accept(numbers[at], (void *)&peer, &length) : accept4(numbers[at], NULL, NULL, SOCK_CLOEXEC);
    say(fd < 0 ? fd : 0, errno, "accept %d to %d", numbers[at], numbers[to]);
    if (fd < 0) return;
    if (m->state != LISTENING || !m->waiting) {
        printf("WRONG step %d: nobody was waiting\n", step);
        return;
    }
    struct model *a = fresh();
    struct rule rule = rule_in(m->port, m->queue[0].is_second);
    /* Seen for the first time: it gets the options, unless one of ours was on the port and the program has the last word. */
    if (m->foreign && !(known[m->port] && !enforce) && !is_per_peer(m->port)) put(m, rule);
    a->has = m->queue[0].has;
    a->has.plain[PRIORITY] = a->has.set[PRIORITY] = 0;
    /* All who came before it had the options get them by themselves, as far as they are the listener's now. */
    if (is_per_peer(m->port)) put(a, rule);
    else if (rule.idle && (m->has.set[IDLE] == rule.idle)) a->has.set[IDLE] = rule.idle;
    a->state = ACCEPTED;
    a->port = m->port;
    a->is_second = m->queue[0].is_second;
    m->foreign = 0;
    known[m->port] = 1;
    for (int i = 1; i < m->waiting; i++) m->queue[i - 1] = m->queue[i];
    m->waiting--;
    place(fd, to, a);
}

static void call_ask(int at) {
    int error = -1;
    socklen_t length = sizeof error;
    int result = getsockopt(numbers[at], SOL_SOCKET, SO_ERROR, &error, &length);
    say(result, errno, "ask %d: %s", numbers[at], error_name(error));
    asked(behind[at]);
}

static void call_change(int at, int change) {
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, numbers[at], &event);
    int result = epoll_ctl(epoll, change, numbers[at], &event);
    close(epoll);
    say(result, errno, "change %d", numbers[at]);
    asked(behind[at]);
}

static void call_undo(int at) {
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    struct model *m = behind[at];
    int result = connect(numbers[at], &none, sizeof none);
    say(result, errno, "undo %d", numbers[at]);
    for (int p = 4010; p < 4040; p++)
        for (int i = 0; listeners[p] && i < listeners[p]->waiting; i++)
            if (listeners[p]->queue[i].client == m) listeners[p]->queue[i].client = NULL;
    if (m->state != ACCEPTED) m->port = 0;
    m->state = FRESH;
}

static int copied(int fd) {
    int ends[2], copy = -1;
    char byte = 'x', control[CMSG_SPACE(sizeof(int))] = "";
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    switch (pick(4)) {
    case 0: return dup(fd);
    case 1: return fcntl(fd, F_DUPFD_CLOEXEC, 0);
    case 2: return dup3(fd, 99, O_CLOEXEC);
    default:
        *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) || sendmsg(ends[0], &message, 0) != 1) abort();
        if (recvmsg(ends[1], &message, 0) != 1) abort();
        memcpy(&copy, CMSG_DATA(header), sizeof copy);
        close(ends[0]);
        close(ends[1]);
        return copy;
    }
}

static void end(int at) {
    int result, how = pick(4), other;
    switch (how) {
    case 0: case 1: result = close(numbers[at]); break;
    case 2: result = close_range(numbers[at], numbers[at], 0); break;
    default:
        /* Something else comes to the number, and goes unseen. */
        other = syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
        result = dup2(other, numbers[at]) < 0;
        syscall(SYS_close, other);
        syscall(SYS_close, numbers[at]);
    }
    say(result, errno, "end %d by %d", numbers[at], how);
    if (how != 2) given_up(behind[at]);
    drop(at);
}

/* A child closes, or asks; all of its numbers are copies. */
static void in_child(int at) {
    int is_vfork = pick(2), asks = pick(2), error;
    socklen_t length = sizeof error;
    pid_t child = is_vfork ? vfork() : fork();
    if (!child) {
        if (asks) getsockopt(numbers[at], SOL_SOCKET, SO_ERROR, &error, &length);
        else if (enforce) close(numbers[at]);
        else close_range(3, ~0U, 0);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    if (asks) asked(behind[at]);
    say(0, 0, "child of %d", numbers[at]);
}

static void turn(void) {
    static const int targets[] = {4000, 4001, 4002, 4003, 4004, 4009, 80}, values[OPTIONS_OF][3] = {{99, 200, 3000}, {3000, 14000, 60000}, {1, 3, 4}};
    int at = pick(NUMBERS), to = pick(NUMBERS), which = pick(OPTIONS_OF), port = 4010 + 10 * pick(3) + pick(3);
    struct model *m = behind[at];
    struct sockaddr_storage second;
    if (!m) {
        int waits = pick(3) == 0, is_second = pick(2), target = pick(2) ? port : targets[pick(7)];
        if (pick(5) == 0) {
            call_foreign(at, port);
            return;
        }
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        say(fd < 0, errno, "socket %d", numbers[at]);
        place(fd, at, fresh());
        if (pick(3) == 0) return;
        /* To somebody who answers at once, by yes or no. */
        if (waits && !listeners[target] && target != 4000 && target != 4002 && target != 4009 && target != 80) target = 4000;
        if (target >= 4010 && !listeners[target]) return;
        if (is_second && target != 80) {
            socklen_t length = address("127.0.0.2:0", &second);
            if (bind(numbers[at], (void *)&second, length)) abort();
            behind[at]->is_second = 1;
        }
        call_connect(at, target, waits);
        return;
    }
    switch (pick(12)) {
    case 0: end(at); break;
    case 1: case 2: {
        if (at == to) break;
        int fd = copied(numbers[at]);
        say(fd < 0, errno, "copy %d to %d", numbers[at], numbers[to]);
        place(fd, to, m);
        break;
    }
    case 3: if (m->state == FRESH && !m->is_second && !m->port) call_listen(at, port); else if (m->state == LISTENING) call_listen(at, 0); break;
    case 4: case 5: case 6:
        if (m->state == LISTENING) call_accept(at, to);
        /* To the end, the same again. */
        else if (m->state == CONNECTED || m->state == CONNECTING) call_connect(at, m->port, 0);
        else if (m->state == FRESH && !m->is_second && !m->port) call_connect(at, targets[pick(6)], 0);
        break;
    case 7: call_set(at, which, values[which][pick(3)]); break;
    case 8: call_ask(at); break;
    case 9: call_change(at, pick(2) ? EPOLL_CTL_MOD : EPOLL_CTL_DEL); break;
    case 10: if ((m->state == CONNECTING || m->state == FAILED) && !m->is_second) call_undo(at); break;
    case 11: in_child(at); break;
    }
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    under_library = !strcmp(arguments[1], "set");
    state = strtoul(arguments[2], NULL, 10) * 2654435761u | 1;
    enforce = atoi(arguments[4]);
    alarm(60);
    /* Something is set, so that there is something to enforce. */
    struct sockaddr_storage to;
    socklen_t length = to_port(4000, &to);
    int first = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(first, (void *)&to, length)) return 3;
    close(first);
    for (step = 0; step < atoi(arguments[3]); step++) {
        turn();
        check();
    }
    return 0;
}
