/* A program for 32 bits, without any library: connects, and ends with 7 if that succeeds. narrow PORT of 127.0.0.1 is in the text. */
static int call(int number, int a, int b, int c) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

void _start(void) {
    /* AF_INET, PORT in network order, 127.0.0.1 */
    unsigned char to[16] = {2, 0, PORT >> 8, PORT & 255, 127, 0, 0, 1};
    int fd = call(359, 2, 1, 0); /* socket */
    int result = call(362, fd, (int)to, sizeof to); /* connect */
    call(1, result ? -result & 127 : 7, 0, 0);
    for (;;) {
    }
}
