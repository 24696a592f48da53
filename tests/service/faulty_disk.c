/* A disk that breaks, for `tests.service.audit_chaos`: loaded before libc (LD_PRELOAD), it sees every write and every
 * fdatasync and fsync of the process, whatever in it makes them, and breaks those of one folder after a number of writes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { NOTHING, READONLY, ERROR, TORN, HANG };

static volatile int fault = NOTHING;
static volatile int left = 0;
static char folder[4096];

/* Break files below `path` after `writes` more writes to them. */
void faulty_disk_break(const char *kind, int writes, const char *path)
{
    strncpy(folder, path, sizeof folder - 1);
    left = writes;
    __sync_synchronize();
    fault = !strcmp(kind, "readonly") ? READONLY : !strcmp(kind, "error") ? ERROR : !strcmp(kind, "torn") ? TORN : HANG;
}

static int concerns(int handle)
{
    char link[64], path[4096];
    if (fault == NOTHING)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t size = readlink(link, path, sizeof path - 1);
    return size > 0 && (path[size] = 0, !strncmp(path, folder, strlen(folder)));
}

static ssize_t refuse(int error)
{
    errno = error;
    return -1;
}

static ssize_t written(int handle, const void *data, size_t size)
{
    if (concerns(handle) && __sync_sub_and_fetch(&left, 1) < 0) {
        if (fault == READONLY)
            return refuse(EROFS);
        if (fault == TORN) {
            syscall(SYS_write, handle, data, size / 2);
            return refuse(EIO);
        }
    }
    return syscall(SYS_write, handle, data, size);
}

static int made_durable(int handle, long call)
{
    if (concerns(handle) && left < 0) {
        if (fault == ERROR)
            return (int)refuse(EIO);
        while (fault == HANG)
            pause();
    }
    return (int)syscall(call, handle);
}

ssize_t write(int handle, const void *data, size_t size)
{
    return written(handle, data, size);
}

int fdatasync(int handle)
{
    return made_durable(handle, SYS_fdatasync);
}

int fsync(int handle)
{
    return made_durable(handle, SYS_fsync);
}
