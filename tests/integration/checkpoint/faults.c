/* Preloaded into a process: the FAULT_AT-th file operation below FAULT_UNDER goes wrong, as FAULT_KIND says.
   kinds: crash (the process ends there), short (a write takes half, and the next one finds the disk full), or a number:
   the operation fails with that errno.  */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int operations = 0, full = 0;

static int is_below(const char *path) {
    const char *under = getenv("FAULT_UNDER");
    return under && path && strncmp(path, under, strlen(under)) == 0;
}

static int is_open_below(int handle) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* Whether this operation is the one; ends the process when it is to crash. */
static int goes_wrong(void) {
    const char *at = getenv("FAULT_AT"), *kind = getenv("FAULT_KIND");
    if (!at || !kind || ++operations != atoi(at)) return 0;
    if (strcmp(kind, "crash") == 0) _exit(77);
    if (strcmp(kind, "short") == 0) { full = 1; errno = ENOSPC; return 1; }
    errno = atoi(kind);
    return 1;
}

int fault_happened(void) {
    const char *at = getenv("FAULT_AT");
    return at && operations >= atoi(at);
}

/* `real`: the function of that name that this one stands in front of. */
#define REAL(symbol) static __typeof__(symbol) *real = NULL; if (!real) real = (__typeof__(symbol) *)dlsym(RTLD_NEXT, #symbol)

#define OPEN(symbol)                                                        \
    int symbol(const char *path, int flags, ...) {                          \
        REAL(symbol);                                                       \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && is_below(path) && goes_wrong()) return -1; \
        return real(path, flags, mode);                                     \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(symbol)                                                      \
    int symbol(int folder, const char *path, int flags, ...) {              \
        REAL(symbol);                                                       \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && is_below(path) && goes_wrong()) return -1; \
        return real(folder, path, flags, mode);                             \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int handle, const void *data, size_t size) {
    REAL(write);
    if (is_open_below(handle)) {
        if (full) { errno = ENOSPC; return -1; }
        if (goes_wrong()) return full && size > 1 ? real(handle, data, size / 2) : -1;
    }
    return real(handle, data, size);
}

int fsync(int handle) {
    REAL(fsync);
    return is_open_below(handle) && goes_wrong() ? -1 : real(handle);
}

int close(int handle) {
    REAL(close);
    int wrong = is_open_below(handle) && goes_wrong();
    int number = errno, result = real(handle);
    if (wrong) { errno = number; return -1; }
    return result;
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return is_below(to) && goes_wrong() ? -1 : real(from, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return is_below(path) && goes_wrong() ? -1 : real(path, mode);
}

int unlink(const char *path) {
    REAL(unlink);
    return is_below(path) && goes_wrong() ? -1 : real(path);
}

int rmdir(const char *path) {
    REAL(rmdir);
    return is_below(path) && goes_wrong() ? -1 : real(path);
}

int fchmod(int handle, mode_t mode) {
    REAL(fchmod);
    return is_open_below(handle) && goes_wrong() ? -1 : real(handle, mode);
}
