/* Makes every interposed call once, a round, in a situation that its arguments describe:
 *
 *   situation FIRST [STEP [ARGUMENT]]... [arguments]
 *
 * FIRST is the call that the round begins with, by its number: there the library sets itself up. Every step leads into
 * the situation that the next one is taken in: `fork small` is a thread with 16 KiB of stack in a child. What a call
 * answered is a line `call = result errno`; `@call OPTION=value` is what the kernel has then, getsockopt(2). Whatever
 * the round needs besides is done by raw system calls. With -DLIBRARY it is a library whose constructor or destructor
 * (SITUATION_AT) makes the round.
 *
 * Neither printf nor malloc: the round is made in signal handlers. */
#include "probe.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>

enum { UNTOUCHED = ENOTUNIQ, REPORT = 199, CALLS = 13, PAGE = 4096 };

extern char **environ;
/* Of situation_between.c, where that is loaded. */
extern int between_fails __attribute__((weak)), between_connects __attribute__((weak));

static char report[1 << 16];
static size_t used;
static int first;

static void put(const char *text) {
    while (*text && used < sizeof report) report[used++] = *text++;
}

static void number(long value) {
    char digits[24], *at = digits + sizeof digits;
    unsigned long rest = value < 0 ? -(unsigned long)value : (unsigned long)value;
    *--at = 0;
    do *--at = '0' + rest % 10;
    while (rest /= 10);
    if (value < 0) *--at = '-';
    put(at);
}

static void flush(void) {
    if (syscall(SYS_write, REPORT, report, used) < 0) _exit(99);
    used = 0;
}

static void said(const char *call, long result, int error) {
    put(call);
    put(" = ");
    number(result);
    if (error != UNTOUCHED) {
        put(" errno ");
        number(error);
    }
    put("\n");
}

#define SAY(name, call)                \
    ({                                 \
        errno = UNTOUCHED;             \
        long result_ = (call);         \
        said(name, result_, errno);    \
        (int)result_;                  \
    })

static void option_of(int fd, const char *name, int level, int option) {
    int value = 0;
    socklen_t length = sizeof value;
    put(name);
    if (getsockopt(fd, level, option, &value, &length)) put("-");
    else number(value);
}

/* Set by every rule, and never what the kernel begins with. */
static void look(const char *call, int fd) {
    put("@");
    put(call);
    option_of(fd, " TCP_KEEPIDLE=", SOL_TCP, TCP_KEEPIDLE);
    option_of(fd, " SO_PRIORITY=", SOL_SOCKET, SO_PRIORITY);
    put("\n");
}

/* Every descriptor and what it is. */
static void descriptors(const char *when) {
    for (int fd = 0; fd < 256; fd++) {
        char path[32] = "/proc/self/fd/", digits[8], *at = digits + sizeof digits, target[256];
        if (syscall(SYS_fcntl, fd, F_GETFD) < 0) continue;
        *--at = 0;
        int rest = fd;
        do *--at = '0' + rest % 10;
        while (rest /= 10);
        strcat(path, at);
        long length = syscall(SYS_readlink, path, target, sizeof target - 1);
        target[length < 0 ? 0 : length] = 0;
        /* Neither the numbers of sockets and pipes nor a process's own name for a file. */
        if (*target != '/') target[strcspn(target, "[")] = 0;
        while (length > 0 && target[length - 1] >= '0' && target[length - 1] <= '9') target[--length] = 0;
        put(when);
        put(" descriptor ");
        number(fd);
        put(" ");
        put(target);
        put("\n");
    }
}

static struct sockaddr_in local(int port) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

/* Ended by a reset: thousands of rounds would leave no port that is not in TIME_WAIT. */
static int tcp(int flags) {
    int idle = 7000, reset[] = {1, 0}, fd = syscall(SYS_socket, AF_INET, SOCK_STREAM | flags, 0);
    syscall(SYS_setsockopt, fd, SOL_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, reset, sizeof reset);
    return fd;
}

/* Bound to a port of the kernel's choice; non-blocking, as accept must not wait where no dial came. */
static int bound(struct sockaddr_in *at) {
    socklen_t length = sizeof *at;
    int fd = tcp(SOCK_NONBLOCK);
    *at = local(0);
    syscall(SYS_bind, fd, at, length);
    syscall(SYS_getsockname, fd, at, &length);
    return fd;
}

/* A listener that the library has not seen. */
static int listener(struct sockaddr_in *at) {
    int fd = bound(at);
    syscall(SYS_listen, fd, 8);
    return fd;
}

static int dialled(int listener, const struct sockaddr_in *to) {
    struct pollfd one = {listener, POLLIN, 0};
    int fd = tcp(0);
    if (fd >= 0 && !syscall(SYS_connect, fd, to, sizeof *to)) poll(&one, 1, 5000);
    return fd;
}

static void end(int fd) {
    if (fd >= 0) close(fd);
}

/* A listener with its options is ended by `call`, and its number goes to one that lacks them. */
static void replaced(int which) {
    static const char *const NAMES[] = {"close", "close_range", "dup2", "dup3"};
    const char *name = NAMES[which];
    struct sockaddr_in at, other;
    int old = bound(&other);
    listen(old, 8);
    int new = listener(&at);
    if (which == 0) SAY(name, close(old));
    else if (which == 1) SAY(name, close_range(old, old, 0));
    else if (which == 2) SAY(name, dup2(new, old));
    else SAY(name, dup3(new, old, O_CLOEXEC));
    if (which < 2 && old >= 0) syscall(SYS_dup3, new, old, 0);
    int client = dialled(new, &at), accepted = accept(old, NULL, NULL);
    look(name, accepted);
    end(client), end(accepted), end(new), end(old);
}

static void make(int call) {
    struct sockaddr_in at, none;
    struct iovec data = {"hi", 2};
    struct mmsghdr message = {{.msg_name = &at, .msg_namelen = sizeof at, .msg_iov = &data, .msg_iovlen = 1}, 0};
    static const char *const SENDS[] = {"sendto", "sendmsg", "sendmmsg"};
    socklen_t length = sizeof none;
    int a = -1, b = -1, c = -1, value = 1;
    switch (call) {
    case 0:
        a = listener(&at), b = tcp(0);
        SAY("connect", connect(b, (void *)&at, sizeof at));
        look("connect", b);
        break;
    case 1:
        at = local(0), b = tcp(0);
        SAY("bind", bind(b, (void *)&at, sizeof at));
        put("@bind");
        option_of(b, " SO_REUSEPORT=", SOL_SOCKET, SO_REUSEPORT);
        put("\n");
        break;
    case 2:
        a = bound(&at);
        SAY("listen", listen(a, 8));
        look("listen", a);
        break;
    case 3:
    case 4:
        a = listener(&at), b = dialled(a, &at);
        if (call == 3) c = SAY("accept", accept(a, (void *)&none, &length));
        else c = SAY("accept4", accept4(a, (void *)&none, &length, SOCK_CLOEXEC));
        look(call == 3 ? "accept" : "accept4", c);
        break;
    case 5:
        a = listener(&at), b = tcp(0);
        SAY("setsockopt before", setsockopt(b, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value));
        connect(b, (void *)&at, sizeof at);
        value = 99;
        SAY("setsockopt", setsockopt(b, SOL_TCP, TCP_KEEPIDLE, &value, sizeof value));
        look("setsockopt", b);
        break;
    case 6:
    case 7:
    case 8:
        a = listener(&at), b = tcp(0);
        if (call == 6) SAY("sendto", sendto(b, "hi", 2, MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&at, sizeof at));
        else if (call == 7) SAY("sendmsg", sendmsg(b, &message.msg_hdr, MSG_FASTOPEN | MSG_NOSIGNAL));
        else SAY("sendmmsg", sendmmsg(b, &message, 1, MSG_FASTOPEN | MSG_NOSIGNAL));
        look(SENDS[call - 6], b);
        break;
    default:
        return replaced(call - 9);
    }
    end(c), end(b), end(a);
}

void situation_round(void) {
    if (syscall(SYS_fcntl, REPORT, F_GETFD) < 0) syscall(SYS_dup3, 1, REPORT, 0);
    descriptors("before");
    for (int i = 0; i < CALLS; i++) make((first + i) % CALLS);
    descriptors("after");
    if (&between_connects) said("connects", between_connects, UNTOUCHED);
    flush();
}

#ifdef LIBRARY
static void at(const char *when) {
    const char *wanted = getenv("SITUATION_AT"), *begin = getenv("SITUATION_FIRST");
    first = begin ? atoi(begin) : 0;
    if (wanted && !strcmp(wanted, when)) situation_round();
}
__attribute__((constructor)) static void constructor(void) { at("constructor"); }
__attribute__((destructor)) static void destructor(void) { at("destructor"); }
#else

static char *const *in_handler;
static long heap_end;
static const char *self;
static void step(char *const *words);

/* Bad arguments, where hooks.rs has no line of its own. */
static void arguments(void) {
    struct sockaddr_in at;
    char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(pages + PAGE, PAGE);
    /* A page of the stack that cannot be read. */
    char much[3 * PAGE], *hole = much + PAGE - (unsigned long)much % PAGE;
    mprotect(hole, PAGE, PROT_NONE);
    void *const ADDRESSES[] = {NULL, (void *)1, (void *)-1, (void *)0xffff800000000000, pages + PAGE, pages + PAGE - 4, hole};
    const int LENGTHS[] = {0, 1, 2, 15, 16, 28, 4096, INT_MAX, INT_MIN, -1};
    const int COUNT = sizeof ADDRESSES / sizeof *ADDRESSES;
    for (int four = 0; four < 2; four++)
        for (int i = 0; i <= COUNT; i++)
            for (int j = 0; j < COUNT + (int)(sizeof LENGTHS / sizeof *LENGTHS); j++) {
                socklen_t length = j < COUNT ? 0 : LENGTHS[j - COUNT];
                void *address = i < COUNT ? ADDRESSES[i] : pages, *where = j < COUNT ? ADDRESSES[j] : &length;
                memset(pages, 0, PAGE);
                int a = listener(&at), b = dialled(a, &at);
                int c = four ? SAY("accept4", accept4(a, address, where, 0)) : SAY("accept", accept(a, address, where));
                if (j >= COUNT) said("length", length, UNTOUCHED);
                if (c < 0) c = SAY("accept again", accept(a, NULL, NULL));
                if (c >= 0) look("accept", c);
                end(c), end(b), end(a);
                flush();
            }
    int a = listener(&at), b = dialled(a, &at), c;
    for (unsigned flags = 1; flags; flags <<= 1)
        if (!(flags & (SOCK_NONBLOCK | SOCK_CLOEXEC))) SAY("accept4 flags", accept4(a, NULL, NULL, flags));
    c = SAY("accept4 flags", accept4(a, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
    look("accept4", c);
    end(c), end(b), end(a);
    const int BACKLOGS[] = {0, -1, INT_MIN, INT_MAX, 65536};
    for (int i = 0; i < 5; i++) {
        a = bound(&at);
        SAY("listen", listen(a, BACKLOGS[i]));
        look("listen", a);
        end(a);
    }
    const int FDS[] = {-1, INT_MIN, INT_MAX, 65535, 65536, 250};
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++) {
            SAY("dup2", dup2(FDS[i], FDS[j]));
            SAY("dup3", dup3(FDS[i], FDS[j], 0));
            /* Not from a low number on: what is open there is needed. */
            if (FDS[i] != INT_MIN) SAY("close_range", close_range(FDS[i], FDS[j], 0));
        }
    for (int i = 0; i < 6; i++) {
        SAY("close", close(FDS[i]));
        SAY("dup3 to itself", dup3(FDS[i], FDS[i], 0));
        SAY("dup3 flags", dup3(REPORT, 250, 1 << i));
        SAY("dup2 bad", dup2(REPORT, FDS[i] == 250 ? -1 : FDS[i] > 65536 ? INT_MAX : -2));
        SAY("close_range flags", close_range(250, 255, 64 << i));
        SAY("listen", listen(FDS[i], 1));
        SAY("accept", accept(FDS[i], NULL, NULL));
        SAY("bind", bind(FDS[i], (void *)&at, sizeof at));
    }
    /* Batches: of nothing, of more than there is, with a second message or data that cannot be read. */
    void *const BAD[] = {NULL, (void *)1, (void *)-1, (void *)0xffff800000000000, pages + PAGE};
    for (int i = 0; i < 5; i++)
        for (int shape = 0; shape < 6; shape++) {
            struct iovec good = {"hi", 2}, bad = {BAD[i], 2};
            struct msghdr one = {.msg_name = &at, .msg_namelen = sizeof at, .msg_iov = &good, .msg_iovlen = 1};
            struct mmsghdr two[2] = {{one, 0}, {one, 0}};
            a = listener(&at), b = tcp(0);
            int flags = MSG_FASTOPEN | MSG_NOSIGNAL, count = 2;
            if (shape == 0) two[1].msg_hdr.msg_iov = &bad;
            if (shape == 1) two[0].msg_hdr.msg_iov = &bad;
            if (shape == 2) two[0].msg_hdr.msg_iov = BAD[i];
            if (shape == 3) two[0].msg_hdr.msg_name = BAD[i];
            if (shape == 4) two[0].msg_hdr.msg_namelen = (unsigned)-1 >> i;
            struct mmsghdr *edge = (void *)(pages + PAGE - sizeof *edge);
            *edge = two[0];
            SAY("sendmmsg", shape == 5 ? sendmmsg(b, edge, i ? 1024 : 2, flags) : sendmmsg(b, two, count, flags));
            end(b), b = tcp(0);
            SAY("sendmsg", sendmsg(b, &two[shape != 1].msg_hdr, flags));
            end(b), b = tcp(0);
            SAY("sendto", sendto(b, BAD[i], shape, flags, (void *)&at, sizeof at));
            look("sendto", b);
            end(b), end(a);
            flush();
        }
    b = tcp(0);
    SAY("sendmmsg of none", sendmmsg(b, NULL, 0, MSG_FASTOPEN));
    SAY("sendmmsg without", sendmmsg(b, (void *)1, 1, MSG_FASTOPEN));
    SAY("sendmsg without", sendmsg(b, NULL, MSG_FASTOPEN));
    end(b);
    mprotect(hole, PAGE, PROT_READ | PROT_WRITE);
    situation_round();
}

static void *in_thread(void *words) {
    step(words);
    return NULL;
}

static void thread(char *const *words, size_t stack) {
    pthread_attr_t attributes;
    pthread_t other;
    pthread_attr_init(&attributes);
    if (stack) said("stack", pthread_attr_setstacksize(&attributes, stack), UNTOUCHED);
    pthread_create(&other, &attributes, in_thread, (void *)words);
    pthread_join(other, NULL);
}

static void on_signal(int number, siginfo_t *info, void *context) {
    char *const *words = in_handler;
    int error = errno;
    in_handler = NULL;
    if (words) step(words);
    errno = error;
    if (number == SIGSYS) { /* The answer of a heap that cannot grow. */
        ucontext_t *interrupted = context;
#if defined __x86_64__
        interrupted->uc_mcontext.gregs[REG_RAX] = heap_end;
#elif defined __aarch64__
        interrupted->uc_mcontext.regs[0] = heap_end;
#endif
    }
    (void)info;
}

/* A handler on a stack of so many bytes, of which the processor's registers leave a page; below it lies no memory. */
static void handler(int number, size_t size) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_ONSTACK | SA_SIGINFO};
    size_t least = getauxval(AT_MINSIGSTKSZ) + PAGE;
    if (size < least) size = (least + PAGE - 1) / PAGE * PAGE;
    char *pages = mmap(NULL, PAGE + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(pages, PAGE, PROT_NONE);
    stack_t stack = {.ss_sp = pages + PAGE, .ss_size = size};
    said("sigaltstack", sigaltstack(&stack, NULL), UNTOUCHED);
    sigaction(number, &action, NULL);
}

static void filter(struct sock_filter *program, unsigned short length) {
    struct sock_fprog whole = {length, program};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    said("filter", prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &whole), UNTOUCHED);
}

#define LOAD_NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define IF_EQUAL(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1)
#define GIVE(what) BPF_STMT(BPF_RET | BPF_K, what)

/* Only the calls of a list of numbers; any other ends the process. */
static void only(const char *list) {
    static struct sock_filter program[512] = {LOAD_NUMBER};
    int length = 1;
    for (char *end; *list && length < 500; list = *end ? end + 1 : end) {
        program[length++] = (struct sock_filter)IF_EQUAL((unsigned)strtol(list, &end, 10));
        program[length++] = (struct sock_filter)GIVE(SECCOMP_RET_ALLOW);
    }
    program[length++] = (struct sock_filter)GIVE(SECCOMP_RET_KILL_PROCESS);
    filter(program, length);
}

static void *sleeper(void *nothing) {
    pause();
    return nothing;
}

static volatile int stop;

static void *busy(void *nothing) {
    while (!stop) free(malloc(1 << 17));
    return nothing;
}

static void limit(int resource, const char *bytes) {
    struct rlimit both = {strtoul(bytes, NULL, 10), strtoul(bytes, NULL, 10)};
    setrlimit(resource, &both);
}

static char **command(char *const *words) {
    static char *all[32], begin[8];
    int count = 0;
    snprintf(begin, sizeof begin, "%d", first);
    all[count++] = (char *)self;
    all[count++] = begin;
    while (*words && count < 31) all[count++] = *words++;
    all[count] = NULL;
    return all;
}

static void await(const char *what, pid_t child) {
    int status = -1;
    waitpid(child, &status, 0);
    said(what, status, UNTOUCHED);
}

static void at_exit(void) {
    step(in_handler);
}

static void step(char *const *words) {
    const char *name = words[0];
    pthread_t other;
    pid_t child;
    if (!name) {
        situation_round();
    } else if (!strcmp(name, "arguments")) {
        arguments();
    } else if (!strcmp(name, "again")) { /* The whole rest, twice. */
        step(words + 1);
        step(words + 1);
    } else if (!strcmp(name, "mark")) {
        getsockopt(-1, 0xabc, 0, NULL, NULL);
        step(words + 1);
    } else if (!strcmp(name, "thread")) {
        thread(words + 1, 0);
    } else if (!strcmp(name, "small")) {
        thread(words + 1, 16 << 10);
    } else if (!strcmp(name, "signal")) {
        handler(SIGUSR1, atoi(words[1]));
        in_handler = words + 2;
        raise(SIGUSR1);
    } else if (!strcmp(name, "malloc")) { /* In malloc, its lock held: the heap grows, brk(2) traps. */
        struct sock_filter brk[] = {LOAD_NUMBER, IF_EQUAL(SYS_brk), GIVE(SECCOMP_RET_TRAP), GIVE(SECCOMP_RET_ALLOW)};
        pthread_create(&other, NULL, sleeper, NULL);
        handler(SIGSYS, atoi(words[1]));
        heap_end = (long)sbrk(0);
        in_handler = words + 2;
        filter(brk, 4);
        for (int i = 0; i < 64 && in_handler; i++) memset(malloc(100 << 10), 1, 1);
        put(in_handler ? "brk was not called\n" : "inside malloc\n");
        flush();
    } else if (!strcmp(name, "fork")) { /* The parent's other threads are in malloc. */
        pthread_t threads[2];
        stop = 0;
        for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, busy, NULL);
        for (int i = 0; i < 2; i++) {
            flush();
            if (!(child = fork())) {
                alarm(10);
                step(words + 1);
                _exit(0);
            }
            await("child", child);
        }
        stop = 1;
        for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
        step(words + 1);
    } else if (!strcmp(name, "vfork")) {
        flush();
        if (!(child = vfork())) {
            step(words + 1);
            _exit(0);
        }
        await("child", child);
        step(words + 1);
    } else if (!strcmp(name, "spawn")) {
        flush();
        said("spawn", posix_spawn(&child, self, NULL, NULL, command(words + 1), environ), UNTOUCHED);
        await("child", child);
    } else if (!strcmp(name, "exec")) {
        flush();
        execve(self, command(words + 1), environ);
        said("exec", -1, errno);
        flush();
    } else if (!strcmp(name, "atexit")) {
        in_handler = words + 1;
        atexit(at_exit);
    } else if (!strcmp(name, "dlopen")) { /* Its constructor makes the round. */
        put(dlopen(words[1], RTLD_NOW | RTLD_LOCAL) ? "opened\n" : dlerror());
        step(words + 2);
    } else if (!strcmp(name, "closed")) {
        for (int fd = 0; fd < 3; fd++) syscall(SYS_close, fd);
        step(words + 1);
    } else if (!strcmp(name, "sockets")) { /* Nothing may come out of their other ends. */
        int ends[3][2];
        char byte;
        for (int i = 0; i < 3; i++) SAY("socketpair", socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends[i]));
        flush();
        if (!(child = fork())) {
            for (int i = 0; i < 3; i++) syscall(SYS_dup3, ends[i][1], i, 0);
            step(words + 1);
            _exit(0);
        }
        for (int i = 0; i < 3; i++) syscall(SYS_close, ends[i][1]);
        await("child", child);
        for (int i = 0; i < 3; i++) SAY("written", recv(ends[i][0], &byte, 1, 0));
        flush();
    } else if (!strcmp(name, "nofile")) {
        limit(RLIMIT_NOFILE, words[1]);
        step(words + 2);
    } else if (!strcmp(name, "space")) {
        limit(RLIMIT_AS, words[1]);
        step(words + 2);
    } else if (!strcmp(name, "nomalloc")) {
        if (&between_fails) between_fails = 1;
        else put("malloc does not fail\n");
        put(malloc(100) ? "memory\n" : "no memory\n");
        step(words + 1);
    } else if (!strcmp(name, "only")) {
        only(words[1]);
        step(words + 2);
    } else if (!strcmp(name, "chroot")) {
        SAY("chroot", chroot(words[1]));
        SAY("chdir", chdir("/"));
        SAY("no files", access("/proc", F_OK));
        step(words + 2);
    } else if (!strcmp(name, "clearenv")) {
        SAY("clearenv", clearenv());
        step(words + 1);
    } else if (!strcmp(name, "noenviron")) {
        environ = NULL;
        step(words + 1);
    } else if (!strcmp(name, "secure")) {
        said("AT_SECURE", getauxval(AT_SECURE), UNTOUCHED);
        step(words + 1);
    } else {
        put("unknown step ");
        put(name);
        flush();
        abort();
    }
}

int main(int count, char **words) {
    alarm(30);
    if (count < 2) return 2;
    if (syscall(SYS_fcntl, REPORT, F_GETFD) < 0) syscall(SYS_dup3, 1, REPORT, 0);
    self = words[0];
    first = atoi(words[1]);
    step(words + 2);
    return 0;
}
#endif
