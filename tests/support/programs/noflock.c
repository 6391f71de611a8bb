/* LD_PRELOAD=noflock.so: a file system without locks, under $NO_FLOCK_UNDER; under $NFS_UNDER one that makes a flock of
   a lock of bytes, as NFS does: an exclusive one needs a file open for writing. Each refusal is told on standard error. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int is_under(const char *path, const char *name) {
    const char *folder = getenv(name);
    return folder && !strncmp(path, folder, strlen(folder));
}

int flock(int fd, int operation) {
    char link[64], path[PATH_MAX + 1];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX);
    path[length < 0 ? 0 : length] = 0;
    int none = is_under(path, "NO_FLOCK_UNDER");
    int read_only = operation & LOCK_EX && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
    if (none || (read_only && is_under(path, "NFS_UNDER"))) {
        fprintf(stderr, "refused: %s\n", path);
        errno = none ? ENOLCK : EBADF;
        return -1;
    }
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(fd, operation);
}
