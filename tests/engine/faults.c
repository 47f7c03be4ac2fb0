// Interposed before the C library: counts every write, sync and rename below a folder, and lets one of them fail.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { MOST = 20000, SHORT = -1 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX], calls[MOST][PATH_MAX + 8];
static long count, failing = -1;
static int fault, lasts;

// From now on: calls below `folder` are counted; number `failing` (-1: none) ends with the errno `fault`, or writes half
// (SHORT). With `all`, all writes after it end so too, as on a full disk. An empty name ends the counting.
void faults_begin(const char *below, long number, int error, int all) {
    pthread_mutex_lock(&lock);
    snprintf(folder, sizeof folder, below[0] ? "%s/" : "", below);
    if (below[0])
        count = 0;
    failing = number;
    fault = error;
    lasts = all;
    pthread_mutex_unlock(&lock);
}

long faults_count(void) { return count < MOST ? count : MOST; }
const char *faults_call(long number) { return calls[number]; }

// The fault of this call, or 0.
static int met(char kind, const char *path) {
    int found = 0;
    if (!folder[0] || strncmp(path, folder, strlen(folder)))
        return 0;
    pthread_mutex_lock(&lock);
    if (count < MOST)
        snprintf(calls[count], sizeof calls[count], "%c %s", kind, path + strlen(folder));
    if (failing >= 0 && (count == failing || (lasts && count > failing && kind == 'w')))
        found = fault;
    count++;
    pthread_mutex_unlock(&lock);
    return found;
}

static int met_descriptor(char kind, int descriptor) {
    char link[64], path[PATH_MAX];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0)
        return 0;
    path[length] = 0;
    return met(kind, path);
}

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define FAIL_IF(found) \
    if (found > 0) { \
        errno = found; \
        return -1; \
    }

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(write);
    int found = met_descriptor('w', descriptor);
    FAIL_IF(found)
    return real(descriptor, data, found == SHORT && size > 1 ? size / 2 : size);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    REAL(pwrite64);
    int found = met_descriptor('w', descriptor);
    FAIL_IF(found)
    return real(descriptor, data, found == SHORT && size > 1 ? size / 2 : size, offset);
}

int fsync(int descriptor) {
    REAL(fsync);
    int found = met_descriptor('s', descriptor);
    FAIL_IF(found)
    return real(descriptor);
}

int fdatasync(int descriptor) {
    REAL(fdatasync);
    int found = met_descriptor('s', descriptor);
    FAIL_IF(found)
    return real(descriptor);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    int found = met('r', to);
    FAIL_IF(found)
    return real(from, to);
}

int link(const char *from, const char *to) {
    REAL(link);
    int found = met('r', to);
    FAIL_IF(found)
    return real(from, to);
}
