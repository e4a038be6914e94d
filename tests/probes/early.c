/* A library whose constructor connects; which runs first, ours or this, is the loader's choice (hooks.rs). */
#include "probe.h"

__attribute__((constructor)) static void early(void) {
    const char *text = getenv("EARLY_ADDRESS");
    if (!text) return;
    struct sockaddr_storage to;
    int idle = 0, length = address(text, &to), fd = socket(to.ss_family, SOCK_STREAM, 0);
    socklen_t size = sizeof idle;
    int result = connect(fd, (void *)&to, length);
    getsockopt(fd, SOL_TCP, TCP_KEEPIDLE, &idle, &size);
    dprintf(1, "early connect = %d, TCP_KEEPIDLE=%d\n", result, idle);
    close(fd);
}
