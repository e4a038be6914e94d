// Runs a command and adds a line to what it prints: the processor time of it and of all that it awaited.
//     used COMMAND [ARGUMENT...]
#include "measure.h"
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

extern char **environ;

int main(int count, char **arguments) {
    need(count > 1, "usage");
    pid_t child;
    int status;
    struct rusage used;
    need(posix_spawnp(&child, arguments[1], NULL, NULL, arguments + 1, environ) == 0, arguments[1]);
    need(wait4(child, &status, 0, &used) == child && status == 0, arguments[1]);
    printf("processor time: %ld us\n",
           (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000L + used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    return 0;
}
