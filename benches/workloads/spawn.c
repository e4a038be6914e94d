// Starts and awaits /bin/true, with the environment that is given and no other:
//     spawn [NAME=VALUE...]
// Processor time is the child's; a third number says how many pages it faulted in.
#include "measure.h"
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

int main(int count, char **arguments) {
    need(count > 0, "usage");
    while (next()) {
        char *command[] = {"/bin/true", NULL};
        pid_t child;
        int status;
        struct rusage used;
        begin();
        need(posix_spawn(&child, command[0], NULL, NULL, command, arguments + 1) == 0, "posix_spawn");
        need(wait4(child, &status, 0, &used) == child && status == 0, "wait4");
        end(1);
        cpu = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e9 + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e3;
        printf("%ld ", used.ru_minflt);
    }
    return 0;
}
