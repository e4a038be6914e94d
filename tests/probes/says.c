/* What the library does when it has something to say and cannot: says MODE ... Every mode connects to 127.0.0.1:1, where
 * nobody listens, and prints what is left of the program's own doings.
 *
 * terminal HOW COUNT: standard error is a terminal whose output is stopped, or that nobody reads (unread), or the same and no
 *   descriptor is left beside the socket (last). So many connects.
 * full THREADS: standard error is a pipe that is full, first with room for one write more. So many threads connect 20 times
 *   each; then the pipe is emptied, and what is said after that is printed.
 * broken SIGNAL HOW: SIGPIPE or SIGXFSZ is blocked and waits before the connect, for the thread (raised) or for the process
 *   (sent), or not at all (none), while standard error is a pipe that nobody reads, or no file may grow. Prints whether it
 *   waits before and afterwards, and how often it was delivered in the end.
 * reused HOW FILE: standard error is closed, and FILE opened by its number (open), put over it (dup2), or it was closed from
 *   the beginning (closed). Prints what is in FILE after a connect.
 * filter WHAT: a seccomp filter refuses rt_sigprocmask (SIG_BLOCK and what is unknown: block; SIG_SETMASK as well: set; all: all;
 *   block and futex: blind), or setsockopt and getsockopt (options). Prints whether a blocked signal still waits, the mask, and the options of sockets whose addresses are
 *   on the heap and on the stack.
 * trapped CALLS: a seccomp filter answers these system calls, given by number, with SIGSYS, whose handler makes EPERM of it. Prints the
 *   options of two sockets, and whether anything was trapped.
 * jump COUNT: a timer's handler jumps out of connect so many times. Prints the mask and how many descriptors are left open.
 * first COUNT: the same in the first connect of so many processes. Prints in how many the next one has its option. */
#include "probe.h"

#include <alloca.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>

static struct sockaddr_in to = {.sin_family = AF_INET};

/* The option that rules set. */
static int connected_by(const void *address) {
    int value = -1, fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t size = sizeof value;
    if (!connect(fd, address, sizeof to)) puts("somebody listens");
    getsockopt(fd, SOL_TCP, TCP_KEEPIDLE, &value, &size);
    close(fd);
    return value;
}

/* By an address that lies in the page of the hook. */
__attribute__((noinline)) static int connected(void) {
    struct sockaddr_in *here = alloca(sizeof to + ((unsigned long)__builtin_frame_address(0) - 3000) % 4096);
    *here = to;
    return connected_by(here);
}

static void *connects(void *sum) {
    for (int i = 0; i < 20; i++) __atomic_fetch_add((int *)sum, connected() == 5, __ATOMIC_RELAXED);
    return sum;
}

/* Begins once more, with another standard error. */
static int begin_with(int fd, char *mode, char *first, char *second) {
    char *words[] = {"/proc/self/exe", mode, first, second, NULL};
    dup2(fd, 2);
    execv(words[0], words);
    return 2;
}

static void empty(int fd, int pages) {
    static char block[4096];
    struct pollfd one = {fd, POLLIN, 0};
    while (pages-- && poll(&one, 1, 0) > 0 && read(fd, block, sizeof block) > 0) {}
}

static int terminal(char *how, char *count) {
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (grantpt(master) || unlockpt(master)) return 2;
    int end = open(ptsname(master), O_RDWR | O_NOCTTY);
    if (!strcmp(how, "stopped") && tcflow(end, TCOOFF)) return 2;
    return begin_with(end, "lines", how, count);
}

static int lines(const char *how, int count) {
    int well = 0, next = dup(0);
    close(next);
    struct rlimit one;
    if (!strcmp(how, "last")) {
        getrlimit(RLIMIT_NOFILE, &one);
        one.rlim_cur = next + 1;
        setrlimit(RLIMIT_NOFILE, &one);
    }
    for (int i = 0; i < count; i++) well += connected() == 5;
    printf("%d of %d\n", well, count);
    return 0;
}

static int full(char *threads) {
    static char block[4096], number[16];
    int ends[2];
    if (pipe(ends)) return 2;
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    while (write(ends[1], block, sizeof block) > 0) {}
    fcntl(ends[1], F_SETFL, 0);
    empty(ends[0], 1);
    snprintf(number, sizeof number, "%d", ends[0]);
    return begin_with(ends[1], "emptied", threads, number);
}

static int emptied(int threads, int end) {
    int well = 0, all = 1 << 20;
    pthread_t thread[256];
    for (int i = 0; i < threads; i++) pthread_create(&thread[i], NULL, connects, &well);
    for (int i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    printf("%d of %d\n", well, 20 * threads);
    empty(end, all);
    connected();
    static char said[4096];
    fcntl(end, F_SETFL, O_NONBLOCK);
    if (read(end, said, sizeof said - 1) < 0) *said = 0;
    printf("%s", said);
    return 0;
}

static int waits(int signal) {
    sigset_t set;
    sigpending(&set);
    return sigismember(&set, signal);
}

static volatile int delivered;

static void on_signal(int number) {
    (void)number;
    delivered++;
}

static int broken(char *name, char *how) {
    int ends[2];
    if (strcmp(name, "SIGPIPE")) return begin_with(2, "pending", name, how);
    if (pipe(ends)) return 2;
    close(ends[0]);
    return begin_with(ends[1], "pending", name, how);
}

static int pending(const char *name, const char *how) {
    int number = !strcmp(name, "SIGPIPE") ? SIGPIPE : SIGXFSZ;
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t set;
    struct rlimit none = {0, RLIM_INFINITY};
    if (number == SIGXFSZ) setrlimit(RLIMIT_FSIZE, &none);
    sigaction(number, &action, NULL);
    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (!strcmp(how, "raised")) raise(number);
    if (!strcmp(how, "sent")) kill(getpid(), number);
    int before = waits(number);
    connected(), connected();
    int after = waits(number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    none.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &none);
    printf("waits before %d, after %d, delivered %d\n", before, after, delivered);
    return 0;
}

static int reused(const char *how, const char *name) {
    char text[4096];
    if (strcmp(how, "closed")) close(2);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (!strcmp(how, "dup2")) dup2(open(name, O_RDWR | O_APPEND), 2);
    if (write(fd, "data\n", 5) != 5) return 2;
    connected();
    int length = pread(fd, text, sizeof text - 1, 0);
    text[length > 0 ? length : 0] = 0;
    printf("%d: %s", fd, text);
    return 0;
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF(number, then, otherwise) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, then, otherwise)
#define REFUSE BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static int filter(const char *what) {
    int all = !strcmp(what, "all"), set = !strcmp(what, "set"), blind = !strcmp(what, "blind");
    struct sock_filter program[] = {
        LOAD(nr),
        IF(SYS_futex, blind ? 6 : 7, 0),
        IF(SYS_rt_sigprocmask, 0, 6),
        LOAD(args[0]),
        /* SIG_BLOCK 0, SIG_UNBLOCK 1, SIG_SETMASK 2. */
        IF(SIG_UNBLOCK, all ? 3 : 4, 0),
        IF(SIG_SETMASK, all || set ? 2 : 3, 0),
        IF(SIG_BLOCK, set ? 2 : 1, 0),
        REFUSE,
        REFUSE,
        ALLOW,
    };
    struct sock_filter options[] = {LOAD(nr), IF(SYS_setsockopt, 1, 0), IF(SYS_getsockopt, 0, 1), REFUSE, ALLOW};
    struct sock_fprog whole = {sizeof program / sizeof *program, program};
    if (!strcmp(what, "options")) whole = (struct sock_fprog){sizeof options / sizeof *options, options};
    sigset_t mask, now;
    struct sockaddr_in *heap = malloc(sizeof to);
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    raise(SIGUSR1);
    *heap = to;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (strcmp(what, "none") && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &whole)) return 2;
    int values[] = {connected_by(heap), connected_by(heap), connected()};
    printf("options %d %d %d, waits %d\n", values[0], values[1], values[2], waits(SIGUSR1));
    /* Nothing is changed, so no filter is asked. */
    long known = syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &now, 8);
    if (known) known = syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &now, 8);
    if (!known) printf("mask %d %d %d\n", sigismember(&now, SIGUSR1), sigismember(&now, SIGUSR2), sigismember(&now, SIGPIPE));
    return 0;
}

static volatile int trapped_calls;

static void answers(int number, siginfo_t *info, void *context) {
    mcontext_t *machine = &((ucontext_t *)context)->uc_mcontext;
#ifdef __x86_64__
    machine->gregs[REG_RAX] = -EPERM;
#else
    machine->regs[0] = -EPERM;
#endif
    trapped_calls++;
    (void)number, (void)info;
}

static int trapped(char *calls) {
    struct sock_filter code[64] = {LOAD(nr)};
    unsigned short length = 1;
    for (char *number = strtok(calls, ","); number && length < 60; number = strtok(NULL, ",")) {
        code[length++] = (struct sock_filter)IF(atoi(number), 0, 1);
        code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    }
    code[length++] = (struct sock_filter)ALLOW;
    struct sock_fprog whole = {length, code};
    struct sigaction action = {.sa_sigaction = answers, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, NULL);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &whole)) return 2;
    int values[] = {connected(), connected()};
    printf("options %d %d, trapped %d\n", values[0], values[1], trapped_calls > 0);
    return 0;
}

static jmp_buf back;

static void jumps(int number) {
    (void)number;
    longjmp(back, 1); /* Leaves the mask as it is. */
}

static int open_descriptors(void) {
    int count = 0;
    for (int fd = 0; fd < 10000; fd++) count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static int jump(int count) {
    volatile int jumped = 0, value = 5;
    struct sigaction action = {.sa_handler = jumps, .sa_flags = SA_NODEFER};
    struct itimerval timer = {{0, 0}, {0, 0}};
    sigset_t now;
    int fd = socket(AF_INET, SOCK_STREAM, 0), before = open_descriptors();
    sigaction(SIGALRM, &action, NULL);
    if (setjmp(back)) jumped++;
    while (jumped < count) {
        timer.it_value.tv_usec = 20 + jumped * 7 % 300;
        setitimer(ITIMER_REAL, &timer, NULL);
        for (;;) connect(fd, (void *)&to, sizeof to);
    }
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    for (int number = 1; number < 32; number++)
        if (sigismember(&now, number)) printf("blocked: %d\n", number);
    printf("left open: %d\n", open_descriptors() - before);
    value = connected();
    printf("option %d\n", value);
    return 0;
}

/* In so many processes each: whether the first connect, out of which a handler jumps at one moment or another, leaves the library
 * able to set the option in the next. */
static int first(int count) {
    struct sigaction action = {.sa_handler = jumps, .sa_flags = SA_NODEFER};
    int well = 0, status;
    for (int i = 0; i < count; i++) {
        struct itimerval timer = {{0, 0}, {0, 1 + i * 7 % 400}};
        pid_t child = fork();
        if (!child) {
            sigaction(SIGALRM, &action, NULL);
            if (!setjmp(back)) {
                setitimer(ITIMER_REAL, &timer, NULL);
                for (int fd = socket(AF_INET, SOCK_STREAM, 0);;) connect(fd, (void *)&to, sizeof to);
            }
            _exit(connected() == 5 ? 0 : 1);
        }
        well += waitpid(child, &status, 0) == child && status == 0;
    }
    printf("%d of %d\n", well, count);
    return 0;
}

int main(int count, char **arguments) {
    const char *mode = count > 1 ? arguments[1] : "";
    to.sin_port = htons(1);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (strcmp(mode, "jump")) alarm(60);
    if (!strcmp(mode, "full") && count == 3) return full(arguments[2]);
    if (!strcmp(mode, "emptied") && count == 4) return emptied(atoi(arguments[2]), atoi(arguments[3]));
    if (!strcmp(mode, "broken") && count == 4) return broken(arguments[2], arguments[3]);
    if (!strcmp(mode, "pending") && count == 4) return pending(arguments[2], arguments[3]);
    if (!strcmp(mode, "reused") && count == 4) return reused(arguments[2], arguments[3]);
    if (!strcmp(mode, "filter") && count == 3) return filter(arguments[2]);
    if (!strcmp(mode, "trapped") && count == 3) return trapped(arguments[2]);
    if (!strcmp(mode, "terminal") && count == 4) return terminal(arguments[2], arguments[3]);
    if (!strcmp(mode, "lines") && count == 4) return lines(arguments[2], atoi(arguments[3]));
    if (!strcmp(mode, "jump") && count == 3) return jump(atoi(arguments[2]));
    if (!strcmp(mode, "first") && count == 3) return first(atoi(arguments[2]));
    return 2;
}
