/* What a program loads. With NESTED it loads a library itself, while it is being loaded; FLAGS are those of that. */
#define _GNU_SOURCE
#include "connections.h"

#include <dlfcn.h>

typedef void goes(int port, char *text, size_t size);
goes dependency;

#ifdef NESTED
static void *nested;
__attribute__((constructor)) static void load(void) {
    nested = dlopen(NESTED, FLAGS);
}
#endif

goes go;
void go(int port, char *text, size_t size) {
    char own[64], others[256] = "", more[256] = "";
    dependency(port, others, sizeof others);
#ifdef NESTED
    goes *nested_dependency = nested ? (goes *)dlsym(nested, "dependency") : NULL;
    strcpy(more, ", nested: ");
    if (nested_dependency) nested_dependency(port, more + strlen(more), sizeof more - 32);
#endif
    snprintf(text, size, "own %s, %s%s", options_of(connected(port, connect), own, sizeof own), others, more);
}
