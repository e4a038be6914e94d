/* Starts a program with exactly this environment, as execve(2) takes it: a name may be there twice.
 * twice NAME=VALUE... -- PROGRAM ARGUMENT... */
#include <string.h>
#include <unistd.h>

int main(int count, char **words) {
    int end = 1;
    while (end < count && strcmp(words[end], "--")) end++;
    if (end + 1 >= count) return 2;
    words[end] = NULL;
    execve(words[end + 1], words + end + 1, words + 1);
    return 127;
}
