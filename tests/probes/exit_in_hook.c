/* A signal handler that ends its thread (pthread_exit) in the middle of a call, or as C++ leaves the call by an exception:
 *
 *   exit_in_hook CALL step STRIDE    behind each instruction, or each so many, of the call (the processor's trap flag)
 *   exit_in_hook CALL chance ROUNDS  at a moment of chance, so many times
 *
 * Each time it is another thread that makes the call, and the process goes on. Prints at how many moments that was,
 * and what a socket has then that is connected. What the call needs is made by system calls that no library sees. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TRAP_FLAG = 0x100 };

static const char *call;
static struct sockaddr_in to;
static int listener, fd;
static volatile int is_running;
static long moment;
static __thread long steps;
/* What is left to say if the process dies. */
static volatile long *at;

static int tcp(void) { return syscall(SYS_socket, AF_INET, SOCK_STREAM, 0); }

static void prepare(void) {
    socklen_t length = sizeof to;
    for (int old = 3; old < 10; old++) close(old);
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd = tcp();
    if (!strcmp(call, "bind") || !strcmp(call, "listen")) return;
    listener = tcp();
    syscall(SYS_bind, listener, &to, length);
    syscall(SYS_getsockname, listener, &to, &length);
    if (!strcmp(call, "accept")) listen(listener, 8);
    else syscall(SYS_listen, listener, 8);
    if (!strcmp(call, "setsockopt")) connect(fd, (struct sockaddr *)&to, length);
    if (!strcmp(call, "accept")) syscall(SYS_connect, fd, &to, length);
}

static int make(void) {
    socklen_t length = sizeof to;
    int value = 99;
    if (!strcmp(call, "connect")) return connect(fd, (struct sockaddr *)&to, sizeof to);
    if (!strcmp(call, "bind")) return bind(fd, (struct sockaddr *)&to, sizeof to);
    if (!strcmp(call, "listen")) return listen(fd, 8);
    if (!strcmp(call, "accept")) return accept(listener, (struct sockaddr *)&to, &length);
    if (!strcmp(call, "setsockopt")) return setsockopt(fd, SOL_TCP, TCP_KEEPIDLE, &value, sizeof value);
    if (!strcmp(call, "sendto")) return sendto(fd, "hi", 2, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof to);
    if (!strcmp(call, "close")) return close(fd);
    abort();
}

static void on_signal(int number) {
    if (number == SIGTRAP && ++steps != moment) return;
#ifdef __cplusplus
    throw 1;
#else
    pthread_exit((void *)1);
#endif
}

static void trap(int is_on) {
#ifdef __x86_64__
    if (is_on) __asm__ volatile("pushfq; orq %0, (%%rsp); popfq" ::"i"(TRAP_FLAG) : "memory", "cc");
    else __asm__ volatile("pushfq; andq %0, (%%rsp); popfq" ::"i"(~TRAP_FLAG) : "memory", "cc");
#else
    (void)is_on;
    abort();
#endif
}

static void *thread(void *is_by_step) {
#ifdef __cplusplus
    try {
#endif
        is_running = 1;
        do {
            if (is_by_step) trap(1);
            make();
            if (is_by_step) trap(0);
        } while (!is_by_step);
#ifdef __cplusplus
    } catch (int) {
        if (is_by_step) trap(0);
        return (void *)1;
    }
#endif
    return NULL;
}

/* Whether the handler ended the thread. */
static int ended(int is_by_step) {
    pthread_t other;
    void *result = NULL;
    prepare();
    is_running = 0;
    pthread_create(&other, NULL, thread, is_by_step ? &to : NULL);
    if (!is_by_step) {
        while (!is_running) usleep(50);
        usleep(100 + rand() % 500);
        pthread_kill(other, SIGUSR1);
    }
    pthread_join(other, &result);
    return result == (void *)1;
}

static int run(int is_by_step, long number) {
    int idle = 0;
    socklen_t length = sizeof idle;
    /* What is done once is done here. */
    for (int i = 0; i < 3; i++) {
        prepare();
        make();
    }
    long moments = 0;
    if (is_by_step) {
        for (moment = 1; ended(1); moment += number) *at = moment, moments++;
    } else {
        for (; moments < number; moments++) {
            *at = moments;
            if (!ended(0)) return 3;
        }
    }
    printf("%ld moments, ", moments);
    call = "connect";
    prepare();
    make();
    getsockopt(fd, SOL_TCP, TCP_KEEPIDLE, &idle, &length);
    printf("TCP_KEEPIDLE %d\n", idle);
    return 0;
}

int main(int count, char **words) {
    struct sigaction action;
    int status = 0;
    if (count < 4) return 2;
    call = words[1];
    at = (volatile long *)mmap(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_NODEFER;
    sigaction(SIGTRAP, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    pid_t other = fork();
    if (!other) {
        alarm(250);
        exit(run(!strcmp(words[2], "step"), atol(words[3])));
    }
    waitpid(other, &status, 0);
    if (status) printf("ended by signal %d after moment %ld\n", WTERMSIG(status), *at);
    return 0;
}
