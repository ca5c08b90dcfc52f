/* The agent of the benchmark: costs as little as it can. It notes when it began and when it ended, in
 * nanoseconds of CLOCK_MONOTONIC.
 *
 *     agent LOG [BYTES [SECONDS]]      appends "begin end" to LOG; before that it writes so many bytes of output
 *                                      and sleeps for so long
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
    static char block[1 << 16], line[64];
    long long begin = now();
    if (argc < 2) return 2;
    for (size_t i = 0; i < sizeof block; i++) block[i] = i % 80 == 79 ? '\n' : 'x';
    for (long long left = argc > 2 ? atoll(argv[2]) : 0; left > 0;) {
        ssize_t put = write(1, block, left < (long long)sizeof block ? (size_t)left : sizeof block);
        if (put <= 0) return 1;
        left -= put;
    }
    if (argc > 3) sleep(atoi(argv[3]));
    int log = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600);
    int length = snprintf(line, sizeof line, "%lld %lld\n", begin, now());
    return write(log, line, length) == length ? 0 : 1;
}
