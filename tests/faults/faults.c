/* Preloaded (LD_PRELOAD): counts the operations by which one thread changes the file system below one folder, and at operation k
 * does harm: SIGKILL before it, SIGKILL after it, SIGKILL when half of a write is done, from there on a disk that is full, or SIGSTOP
 * before it.
 *
 * Asleep until faults_arm(). Each counted operation is one line of the log: clock (ns), kind, bytes, path; a rename's two paths are
 * parted by " -> ". */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum harm { COUNT, BEFORE, AFTER, TORN, FULL, STOP };

static char root[PATH_MAX];
static size_t root_length;
static enum harm harm;
static long turn, seen;
static pid_t thread;
static int book = -1;

/* Count what the calling thread does below `folder` (absolute, no links), and do `what` at operation `k` (from 1). */
void faults_arm(const char *folder, int what, long k, int log) {
    root_length = (size_t)snprintf(root, sizeof root, "%s", folder);
    harm = what;
    turn = k;
    seen = 0;
    book = log;
    thread = (pid_t)syscall(SYS_gettid);
}

/* Go back to sleep; returns how many operations were counted. */
long faults_disarm(void) {
    thread = 0;
    return seen;
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        syscall(SYS_pause);
}

/* The absolute path of an open file or of a name in a folder; "" when it cannot be said. */
static void resolve(int folder, const char *name, char *out) {
    char link[64];
    ssize_t n = 0;
    out[0] = 0;
    if (name && name[0] == '/') {
        snprintf(out, PATH_MAX, "%s", name);
        return;
    }
    if (folder == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    n = readlink(link, out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = 0;
    if (n > 0 && name)
        snprintf(out + n, PATH_MAX - (size_t)n, "/%s", name);
}

static int below(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

/* Note one operation; what has to be done about it once it is over. The second name is a rename's or a link's. */
static enum harm note(const char *kind, long bytes, int folder, const char *name, int folder2, const char *name2) {
    if (!thread || (pid_t)syscall(SYS_gettid) != thread)
        return COUNT;
    int saved = errno;
    char path[PATH_MAX], path2[PATH_MAX] = "", line[3 * PATH_MAX];
    struct timespec now;
    resolve(folder, name, path);
    if (name2)
        resolve(folder2, name2, path2);
    enum harm due = COUNT;
    if (below(path) || (name2 && below(path2))) {
        seen++;
        clock_gettime(CLOCK_MONOTONIC, &now);
        int n = snprintf(line, sizeof line, "%lld %s %ld %s%s%s\n", now.tv_sec * 1000000000LL + now.tv_nsec, kind, bytes, path,
                         name2 ? " -> " : "", path2);
        if (book >= 0 && syscall(SYS_write, book, line, (size_t)n) != n)
            abort();
        if (seen == turn && harm == BEFORE)
            die();
        if (seen == turn && harm == STOP)
            syscall(SYS_kill, getpid(), SIGSTOP);
        if ((harm == FULL && seen >= turn) || seen == turn)
            due = harm;
    }
    errno = saved;
    return due;
}

static void after(enum harm due) {
    if (due == AFTER || due == TORN)
        die();
}

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}
#define NO_SPACE(due)                                                                                                                  \
    if ((due) == FULL) {                                                                                                               \
        errno = ENOSPC;                                                                                                                \
        return -1;                                                                                                                     \
    }

/* A disk that is full makes no new file or folder and takes no byte; it can still rename, remove and sync what is there. */
static int creates(int flags, int folder, const char *name) {
    return (flags & O_CREAT) && faccessat(folder, name, F_OK, 0) != 0;
}

#define WRITES(flags) ((flags) & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR))
#define COMMA ,
#define OPEN(function, first, folder, arguments)                                                                                       \
    int function(first const char *name, int flags, ...) {                                                                             \
        va_list rest;                                                                                                                  \
        va_start(rest, flags);                                                                                                         \
        mode_t mode = (mode_t)(flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0);                                                 \
        va_end(rest);                                                                                                                  \
        enum harm due = WRITES(flags) ? note("open", 0, folder, name, 0, NULL) : COUNT;                                                \
        if (creates(flags, folder, name))                                                                                              \
            NO_SPACE(due)                                                                                                              \
        int fd = REAL(function) arguments;                                                                                             \
        after(due);                                                                                                                    \
        return fd;                                                                                                                     \
    }
OPEN(open, , AT_FDCWD, (name, flags, mode))
OPEN(open64, , AT_FDCWD, (name, flags, mode))
OPEN(openat, int folder COMMA, folder, (folder, name, flags, mode))
OPEN(openat64, int folder COMMA, folder, (folder, name, flags, mode))

/* C and C++ streams open by name inside the C library, where no wrapper sees it; their writes come through write and writev. */
#define FOPEN(function)                                                                                                                \
    FILE *function(const char *name, const char *how) {                                                                                \
        int flags = strpbrk(how, "wa") ? O_CREAT : strchr(how, '+') ? O_RDWR : 0;                                                      \
        enum harm due = flags ? note("open", 0, AT_FDCWD, name, 0, NULL) : COUNT;                                                      \
        if (due == FULL && creates(flags, AT_FDCWD, name)) {                                                                           \
            errno = ENOSPC;                                                                                                            \
            return NULL;                                                                                                               \
        }                                                                                                                              \
        FILE *file = REAL(function)(name, how);                                                                                        \
        after(due);                                                                                                                    \
        return file;                                                                                                                   \
    }
FOPEN(fopen)
FOPEN(fopen64)

#define WRITE(function, last, arguments)                                                                                               \
    ssize_t function(int fd, const void *bytes, size_t size last) {                                                                    \
        enum harm due = note("write", (long)size, fd, NULL, 0, NULL);                                                                  \
        NO_SPACE(due)                                                                                                                  \
        if (due == TORN)                                                                                                               \
            size /= 2;                                                                                                                 \
        ssize_t done = REAL(function) arguments;                                                                                       \
        after(due);                                                                                                                    \
        return done;                                                                                                                   \
    }
WRITE(write, , (fd, bytes, size))
WRITE(pwrite, COMMA off_t offset, (fd, bytes, size, offset))
WRITE(pwrite64, COMMA off64_t offset, (fd, bytes, size, offset))

ssize_t writev(int fd, const struct iovec *parts, int count) {
    long size = 0;
    for (int i = 0; i < count; i++)
        size += (long)parts[i].iov_len;
    enum harm due = note("write", size, fd, NULL, 0, NULL);
    NO_SPACE(due)
    ssize_t done = REAL(writev)(fd, parts, due == TORN ? count / 2 : count);
    after(due);
    return done;
}

#define COPY(function, offset)                                                                                                         \
    ssize_t function(int to, int from, offset *start, size_t size) {                                                                   \
        enum harm due = note("write", (long)size, to, NULL, 0, NULL);                                                                  \
        NO_SPACE(due)                                                                                                                  \
        ssize_t done = REAL(function)(to, from, start, due == TORN ? size / 2 : size);                                                 \
        after(due);                                                                                                                    \
        return done;                                                                                                                   \
    }
COPY(sendfile, off_t)
COPY(sendfile64, off64_t)

ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *end, size_t size, unsigned flags) {
    enum harm due = note("write", (long)size, to, NULL, 0, NULL);
    NO_SPACE(due)
    ssize_t done = REAL(copy_file_range)(from, start, to, end, due == TORN ? size / 2 : size, flags);
    after(due);
    return done;
}

/* Everything else: one call, one name or two, and whether it needs room on the disk. */
#define CALL(function, kind, parameters, arguments, folder, name, folder2, name2, needs_room)                                          \
    int function parameters {                                                                                                          \
        enum harm due = note(kind, 0, folder, name, folder2, name2);                                                                   \
        if (needs_room)                                                                                                                \
            NO_SPACE(due)                                                                                                              \
        int done = REAL(function) arguments;                                                                                           \
        after(due);                                                                                                                    \
        return done;                                                                                                                   \
    }
CALL(fsync, "fsync", (int fd), (fd), fd, NULL, 0, NULL, 0)
CALL(fdatasync, "fsync", (int fd), (fd), fd, NULL, 0, NULL, 0)
CALL(ftruncate, "truncate", (int fd, off_t size), (fd, size), fd, NULL, 0, NULL, 0)
CALL(ftruncate64, "truncate", (int fd, off64_t size), (fd, size), fd, NULL, 0, NULL, 0)
CALL(truncate, "truncate", (const char *a, off_t size), (a, size), AT_FDCWD, a, 0, NULL, 0)
CALL(truncate64, "truncate", (const char *a, off64_t size), (a, size), AT_FDCWD, a, 0, NULL, 0)
CALL(mkdir, "mkdir", (const char *a, mode_t mode), (a, mode), AT_FDCWD, a, 0, NULL, 1)
CALL(mkdirat, "mkdir", (int at, const char *a, mode_t mode), (at, a, mode), at, a, 0, NULL, 1)
CALL(rmdir, "rmdir", (const char *a), (a), AT_FDCWD, a, 0, NULL, 0)
CALL(unlink, "unlink", (const char *a), (a), AT_FDCWD, a, 0, NULL, 0)
CALL(unlinkat, flags & AT_REMOVEDIR ? "rmdir" : "unlink", (int at, const char *a, int flags), (at, a, flags), at, a, 0, NULL, 0)
CALL(rename, "rename", (const char *a, const char *b), (a, b), AT_FDCWD, a, AT_FDCWD, b, 0)
CALL(renameat, "rename", (int at, const char *a, int bt, const char *b), (at, a, bt, b), at, a, bt, b, 0)
CALL(renameat2, "rename", (int at, const char *a, int bt, const char *b, unsigned f), (at, a, bt, b, f), at, a, bt, b, 0)
CALL(link, "link", (const char *a, const char *b), (a, b), AT_FDCWD, a, AT_FDCWD, b, 1)
CALL(linkat, "link", (int at, const char *a, int bt, const char *b, int flags), (at, a, bt, b, flags), at, a, bt, b, 1)
CALL(symlink, "link", (const char *a, const char *b), (a, b), AT_FDCWD, b, 0, NULL, 1)
CALL(symlinkat, "link", (const char *a, int bt, const char *b), (a, bt, b), bt, b, 0, NULL, 1)
