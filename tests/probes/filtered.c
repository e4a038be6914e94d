/* Connects under a seccomp filter of its own: filtered HOW RULES STEP...
 *
 * HOW: the filter is set by prctl(2) (prctl), or by seccomp(2) behind PR_SET_NO_NEW_PRIVS, as libseccomp does it (seccomp); or
 *   the same with a new terminal as standard error (terminal), whose text is printed in the end.
 * RULES, between commas: CALL:ACTION, CALL:LEVEL:ACTION or CALL:LEVEL:NAME:ACTION, in numbers. ACTION is k (the process is
 *   killed) or e (EPERM).
 * STEP: tcp, udp, udp6: connects such a socket to 127.0.0.1:1 or [::1]:1, where nobody listens, and prints what the rules have
 *   set, SO_PRIORITY and of TCP also TCP_KEEPIDLE; send: sends by UDP, with MSG_FASTOPEN; none: a descriptor that is no socket;
 *   fill: fills the pipe that is standard error; child, thread: the rest happens there; prctl: prints what prctl(2) answers to
 *   different numbers of arguments; begun, alone: waits for a connect that has begun before the filter. */
#include "probe.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define UNLESS(number, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, skip)
#define GIVE(what) BPF_STMT(BPF_RET | BPF_K, what)

static int filter(const char *how, char *rules) {
    struct sock_filter code[256];
    unsigned short length = 0;
    for (char *rule = strtok(rules, ","); rule && length < 240; rule = strtok(NULL, ",")) {
        unsigned numbers[3] = {0}, count = 0;
        for (char *end; count < 3; rule = end + 1, count++) {
            numbers[count] = strtoul(rule, &end, 10);
            if (end == rule) break;
        }
        code[length++] = (struct sock_filter)LOAD(nr);
        code[length++] = (struct sock_filter)UNLESS(numbers[0], 2 * count - 1);
        for (unsigned i = 1; i < count; i++) {
            if (i == 1) code[length++] = (struct sock_filter)LOAD(args[1]);
            else code[length++] = (struct sock_filter)LOAD(args[2]);
            code[length++] = (struct sock_filter)UNLESS(numbers[i], 2 * (count - i) - 1);
        }
        code[length++] = (struct sock_filter)GIVE(*rule == 'k' ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | EPERM);
    }
    code[length++] = (struct sock_filter)GIVE(SECCOMP_RET_ALLOW);
    struct sock_fprog whole = {length, code};
    errno = 0;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 0;
    if (!strcmp(how, "prctl")) return !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &whole);
    return !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &whole);
}

static int value_of(int fd, int level, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    getsockopt(fd, level, name, &value, &size);
    return value;
}

static void internet(const char *step) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(1), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_port = htons(1), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int is_tcp = !strcmp(step, "tcp"), is_six = !strcmp(step, "udp6");
    int fd = socket(is_six ? AF_INET6 : AF_INET, is_tcp ? SOCK_STREAM : SOCK_DGRAM, 0);
    if (!strcmp(step, "send")) sendto(fd, "x", 1, MSG_FASTOPEN, (void *)&to, sizeof to);
    else if (is_six) connect(fd, (void *)&to6, sizeof to6);
    else connect(fd, (void *)&to, sizeof to);
    printf("%s %d", step, value_of(fd, SOL_SOCKET, SO_PRIORITY));
    if (is_tcp) printf(" %d", value_of(fd, SOL_TCP, TCP_KEEPIDLE));
    puts("");
    close(fd);
}

static void fill(void) {
    static char block[4096];
    memset(block, 'x', sizeof block);
    fcntl(2, F_SETFL, O_WRONLY | O_NONBLOCK);
    while (write(2, block, sizeof block) > 0) {}
    fcntl(2, F_SETFL, O_WRONLY);
}

#define SAY(call)                                \
    do {                                         \
        errno = 0;                               \
        int result = (call);                     \
        printf(#call ": %d %d\n", result, errno); \
    } while (0)

static void answers(void) {
    char name[16] = "";
    int signal = 0;
    SAY(prctl(PR_GET_DUMPABLE));
    SAY(prctl(PR_SET_NAME, "a name"));
    SAY(prctl(PR_GET_NAME, name));
    puts(name);
    SAY(prctl(PR_SET_NAME, (char *)8));
    SAY(prctl(PR_SET_PDEATHSIG, SIGUSR2));
    SAY(prctl(PR_GET_PDEATHSIG, &signal));
    printf("%d\n", signal);
    /* All but the second must be 0. */
    SAY(prctl(PR_SET_NO_NEW_PRIVS, 1, 1L << 40, 0, 0));
    SAY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 1L << 40, 0));
    SAY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 1L << 40));
    SAY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    SAY(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (char *)8));
    SAY(prctl(-1, 1, 2, 3, 4));
}

static void *steps(void *list) {
    for (char **step = list; *step; step++) {
        pthread_t thread;
        int status;
        if (!strcmp(*step, "child")) {
            fflush(stdout);
            pid_t child = fork();
            if (!child) {
                steps(step + 1);
                exit(0);
            }
            waitpid(child, &status, 0);
            if (status) printf("child: %#x\n", status);
            return NULL;
        }
        if (!strcmp(*step, "thread")) {
            pthread_create(&thread, NULL, steps, step + 1);
            pthread_join(thread, NULL);
            return NULL;
        }
        if (!strcmp(*step, "fill")) fill();
        else if (!strcmp(*step, "prctl")) answers();
        else if (!strcmp(*step, "none")) {
            struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(1)};
            int result = connect(0, (void *)&to, sizeof to);
            printf("none %d %d\n", result, errno == ENOTSOCK);
        } else internet(*step);
    }
    return NULL;
}

/* Begins once more, in a child with a terminal as standard error, and prints what is written there. */
static int on_terminal(char **words) {
    int master = posix_openpt(O_RDWR | O_NOCTTY), status;
    if (grantpt(master) || unlockpt(master)) return 2;
    int end = open(ptsname(master), O_RDWR | O_NOCTTY);
    pid_t child = fork();
    if (!child) {
        dup2(end, 2);
        close(end), close(master);
        words[1] = "prctl";
        execv("/proc/self/exe", words);
        _exit(2);
    }
    close(end);
    char text[4096];
    ssize_t length;
    /* EIO when nobody has the other end any more. */
    while ((length = read(master, text, sizeof text)) > 0) fwrite(text, 1, length, stdout);
    waitpid(child, &status, 0);
    printf("ended: %#x\n", status);
    return 0;
}

/* A connect without waiting. */
static int begin(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof to;
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (void *)&to, length) || listen(listener, 8) || getsockname(listener, (void *)&to, &length)) return -1;
    return connect(fd, (void *)&to, length) && errno == EINPROGRESS ? fd : -1;
}

int main(int count, char **words) {
    if (count < 3) return 2;
    if (!strcmp(words[1], "terminal")) return on_terminal(words);
    int begun = count > 3 && !strcmp(words[3], "begun") ? begin() : -1;
    if (!filter(words[1], words[2])) return 2;
    if (begun >= 0) {
        struct pollfd one = {begun, POLLOUT, 0};
        fd_set set;
        FD_ZERO(&set);
        FD_SET(begun, &set);
        printf("poll %d\n", poll(&one, 1, 9000));
        printf("select %d\n", select(begun + 1, NULL, &set, NULL, NULL));
        return 0;
    }
    steps(words + 3);
    return 0;
}
