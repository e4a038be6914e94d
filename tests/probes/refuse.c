/* Runs a program in a sandbox that refuses system calls: refuse NUMBER[:LEVEL:NAME],... ERRNO PROGRAM ARGUMENT...
   LEVEL and NAME are the second and third argument: of getsockopt and setsockopt, only that option. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count < 4) return 2;
    struct sock_filter code[256];
    unsigned short length = 0;
    for (char *number = strtok(words[1], ","); number && length < 240; number = strtok(NULL, ",")) {
        unsigned values[3];
        static const size_t places[] = {
            offsetof(struct seccomp_data, nr),
            offsetof(struct seccomp_data, args[1]),
            offsetof(struct seccomp_data, args[2]),
        };
        int given = sscanf(number, "%u:%u:%u", &values[0], &values[1], &values[2]);
        if (given < 1) return 2;
        for (int i = 0; i < given; i++) {
            unsigned char rest = 2 * (given - i) - 1;
            code[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, places[i]);
            code[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, values[i], 0, rest);
        }
        code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | atoi(words[2]));
    }
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {length, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) return perror("seccomp"), 2;
    execvp(words[3], words + 3);
    return perror(words[3]), 2;
}
