/* Loads libraries as it is told and has them make their connections:
 *
 *   deep STEP ...
 *     open FLAGS FILE     dlopen(3); FLAGS of l (lazy), n (now), d (deep), g (global), o (only if it is loaded)
 *     space FILE          dlmopen(3) into a namespace of its own
 *     go PORT             what the last one that was opened connects, see probes/deep/extension.c
 *     near PORT           the same of the program itself
 *     close               dlclose(3)
 *     threads PORT FLAGS FILE   open, go and close in eight threads, twenty times each
 *     filter              from here on mprotect(2) with PROT_WRITE is refused
 *     mark                a system call that is to be found in a trace */
#define _GNU_SOURCE
#include "deep/connections.h"

#include <dlfcn.h>
#if __has_include(<linux/filter.h>) /* not with musl-gcc */
#include <linux/filter.h>
#include <linux/seccomp.h>
#endif
#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef RTLD_DEEPBIND /* musl */
#define RTLD_DEEPBIND 8
#define dlmopen(space, file, flags) dlopen(file, flags)
#endif

typedef void go(int port, char *text, size_t size);

static int flags_of(const char *text) {
    int flags = 0;
    for (; *text; text++)
        flags |= *text == 'l'   ? RTLD_LAZY
                 : *text == 'n' ? RTLD_NOW
                 : *text == 'd' ? RTLD_DEEPBIND
                 : *text == 'g' ? RTLD_GLOBAL
                                : RTLD_NOLOAD;
    return flags;
}

static char **thread_arguments;
static char first_text[512];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void *thread(void *wrong) {
    for (int i = 0; i < 20; i++) {
        char text[512] = "";
        void *handle = dlopen(thread_arguments[2], flags_of(thread_arguments[1]));
        go *function = handle ? (go *)dlsym(handle, "go") : NULL;
        if (function) function(atoi(thread_arguments[0]), text, sizeof text);
        pthread_mutex_lock(&mutex);
        if (!*first_text) strcpy(first_text, text);
        *(int *)wrong += !*text || strcmp(text, first_text);
        pthread_mutex_unlock(&mutex);
        if (handle) dlclose(handle);
    }
    return NULL;
}

static void threads(char **arguments) {
    pthread_t all[8];
    int wrong = 0;
    thread_arguments = arguments;
    for (int i = 0; i < 8; i++) pthread_create(&all[i], NULL, thread, &wrong);
    for (int i = 0; i < 8; i++) pthread_join(all[i], NULL);
    printf("threads: %s, wrong: %d\n", first_text, wrong);
}

static void filter(void) {
#ifdef SECCOMP_MODE_FILTER
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_WRITE, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        perror("seccomp");
        exit(125);
    }
#endif
}

int main(int count, char **steps) {
    void *handle = NULL;
    char text[512];
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (steps++; *steps; steps++) {
        if (!strcmp(*steps, "open")) {
            handle = dlopen(steps[2], flags_of(steps[1]));
            const char *error = dlerror();
            printf("open: %s\n", handle && !error ? "done" : error ? error : "no error");
            steps += 2;
        } else if (!strcmp(*steps, "space")) {
            handle = dlmopen(LM_ID_NEWLM, *++steps, RTLD_NOW);
            printf("space: %s\n", handle ? "done" : dlerror());
        } else if (!strcmp(*steps, "go")) {
            go *function = handle ? (go *)dlsym(handle, "go") : NULL;
            steps++;
            if (!function) return 3;
            function(atoi(*steps), text, sizeof text);
            puts(text);
        } else if (!strcmp(*steps, "near")) {
            printf("near %s\n", options_of(connected(atoi(*++steps), connect), text, sizeof text));
        } else if (!strcmp(*steps, "close")) {
            printf("close: %d\n", dlclose(handle));
        } else if (!strcmp(*steps, "threads")) {
            threads(steps + 1);
            steps += 3;
        } else if (!strcmp(*steps, "filter")) {
            filter();
        } else if (!strcmp(*steps, "mark")) {
            syscall(SYS_getpgid, 0);
        } else {
            return 2;
        }
    }
    return 0;
}
