/* Connects to 127.0.0.1:PORT by io_uring, and sets TCP_KEEPIDLE to 5 by io_uring and by setsockopt: no libc function does
 * either, and no system call of that name. Prints what each answered, and what the option is then.
 *
 *   uring PORT                prints lines "connect = 0", "get = 77", "uring set = 0", "set = 0", "get = 77"
 *
 * Linked to the kernel's numbers, not to headers, which are older than what is asked for. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SETUP = 425, ENTER = 426, GET_EVENTS = 1, OP_CONNECT = 16, OP_COMMAND = 46, SET_OPTION = 3 };
enum { SUBMISSIONS = 0, ENTRIES = 0x10000000 };

/* struct io_sqring_offsets and io_cqring_offsets. */
struct offsets {
    uint32_t head, tail, mask, entries, a, b, c, d;
    uint64_t address;
};
struct parameters {
    uint32_t submissions, completions, flags, cpu, idle, features, wq, reserved[3];
    struct offsets submitted, completed;
};
struct submission {
    uint8_t operation, flags;
    uint16_t priority;
    int32_t fd;
    uint64_t offset, address;
    uint32_t length, operation_flags;
    uint64_t data;
    uint32_t buffer;
    uint32_t option_length;
    uint64_t value, rest;
};
struct completion {
    uint64_t data;
    int32_t result;
    uint32_t flags;
};

static int ring;
static struct parameters parameters;
static char *rings;
static struct submission *entries;

/* One operation, and its answer. */
static int done(struct submission one) {
    struct offsets *to = &parameters.submitted, *from = &parameters.completed;
    uint32_t tail = *(uint32_t *)(rings + to->tail), index = tail & *(uint32_t *)(rings + to->mask);
    entries[index] = one;
    /* The array of indices comes seventh. */
    ((uint32_t *)(rings + to->c))[index] = index;
    __atomic_store_n((uint32_t *)(rings + to->tail), tail + 1, __ATOMIC_RELEASE);
    if (syscall(ENTER, ring, 1, 1, GET_EVENTS, NULL, 0) < 0) return -errno;
    uint32_t head = *(uint32_t *)(rings + from->head);
    struct completion *all = (struct completion *)(rings + from->b);
    int result = all[head & *(uint32_t *)(rings + from->mask)].result;
    __atomic_store_n((uint32_t *)(rings + from->head), head + 1, __ATOMIC_RELEASE);
    return result;
}

static void show(int fd) {
    int value = 0;
    socklen_t length = sizeof value;
    getsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &value, &length);
    printf("get = %d\n", value);
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    ring = (int)syscall(SETUP, 4, &parameters);
    if (ring < 0) return perror("io_uring_setup"), 1;
    size_t size = parameters.submitted.c + parameters.submissions * 4;
    size_t other = parameters.completed.b + parameters.completions * sizeof(struct completion);
    if (other > size) size = other;
    rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, SUBMISSIONS);
    entries = mmap(NULL, parameters.submissions * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, ENTRIES);
    if (rings == MAP_FAILED || entries == MAP_FAILED) return perror("mmap"), 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0), value = 5;
    struct submission connecting = {.operation = OP_CONNECT, .fd = fd, .offset = sizeof address};
    connecting.address = (uintptr_t)&address;
    printf("connect = %d\n", done(connecting));
    show(fd);
    struct submission setting = {.operation = OP_COMMAND, .fd = fd, .offset = SET_OPTION, .option_length = sizeof value};
    setting.address = IPPROTO_TCP | (uint64_t)TCP_KEEPIDLE << 32;
    setting.value = (uintptr_t)&value;
    printf("uring set = %d\n", done(setting));
    printf("set = %d\n", setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &value, sizeof value));
    show(fd);
    return 0;
}
