/* The floor: how fast can any RUSTC_WRAPPER be that answers from a store? Only for benchmarks.
 *
 *   FLOOR_STORE=dir FLOOR_MODE=record   run rustc, keep what it announces as artifacts, and its stderr
 *   FLOOR_STORE=dir FLOOR_MODE=replay   copy that back, write the stderr, exit with the code; no rustc
 *
 * A unit is found again by a hash of its working directory and argv, nothing else: no input is looked
 * at, so a changed source gets the old output. What is left is what every wrapper must pay: a process,
 * opening and copying the outputs, and relaying stderr. Cargo's own time and the build scripts' come on
 * top and are in the measured floor too.
 *
 * Calls without `--json=...artifacts` (version and cfg probes, probes by build scripts) go to rustc.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, MAX_ARTIFACTS = 256 };

static void die(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(101);
}

static uint64_t fnv1a(uint64_t hash, const char *text) {
    do hash = (hash ^ (unsigned char)*text) * 1099511628211u; while (*text++);
    return hash;
}

static void write_all(int fd, const char *bytes, size_t size) {
    while (size > 0) {
        ssize_t written = write(fd, bytes, size);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) die("write");
        bytes += written;
        size -= (size_t)written;
    }
}

/* In the kernel, by reflink where the file system can; the destination never shares an inode. */
static void copy_file(const char *from, const char *to) {
    int in = open(from, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (in < 0 || fstat(in, &status) < 0) die(from);
    if (unlink(to) < 0 && errno != ENOENT) die(to);
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, status.st_mode & 0777);
    if (out < 0) die(to);
    off_t left = status.st_size;
    while (left > 0) {
        ssize_t copied = copy_file_range(in, NULL, out, NULL, (size_t)left, 0);
        if (copied <= 0) break;
        left -= copied;
    }
    if (left > 0) {
        static char buffer[1 << 16];
        ssize_t size;
        while ((size = read(in, buffer, sizeof buffer)) > 0) write_all(out, buffer, (size_t)size);
        if (size < 0) die(from);
    }
    close(in);
    close(out);
}

static char *read_all(int fd, size_t *size) {
    size_t room = 1 << 14;
    char *bytes = malloc(room + 1);
    *size = 0;
    for (;;) {
        if (!bytes) die("malloc");
        ssize_t got = read(fd, bytes + *size, room - *size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) die("read");
        if (got == 0) break;
        *size += (size_t)got;
        if (*size == room) bytes = realloc(bytes, (room *= 2) + 1);
    }
    bytes[*size] = 0;
    return bytes;
}

/* The paths in {"$message_type":"artifact","artifact":"/path","emit":"link"} lines. */
static int artifacts(char *stderr_text, char *paths[]) {
    static const char key[] = "\"artifact\":\"";
    int count = 0;
    for (char *line = stderr_text; *line;) {
        char *end = strchr(line, '\n');
        size_t size = end ? (size_t)(end - line) : strlen(line);
        char *text = strndup(line, size), *path = text ? strstr(text, key) : NULL;
        if (path && strstr(text, "\"$message_type\":\"artifact\"")) {
            path += sizeof key - 1;
            char *quote = strchr(path, '"');
            if (!quote || memchr(path, '\\', (size_t)(quote - path)) || count == MAX_ARTIFACTS)
                die("an artifact line beyond this benchmark");
            paths[count++] = strndup(path, (size_t)(quote - path));
        }
        free(text);
        line += size + (end != NULL);
    }
    return count;
}

static int record(const char *folder, char *argv[]) {
    int pipe_fd[2], status;
    if (pipe2(pipe_fd, O_CLOEXEC) < 0) die("pipe");
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        dup2(pipe_fd[1], 2);
        execvp(argv[0], argv);
        _exit(127);
    }
    close(pipe_fd[1]);

    /* Relay as it comes: cargo's pipelining is kept while recording. */
    size_t size = 0, room = 1 << 14;
    char *text = malloc(room + 1);
    for (;;) {
        if (!text) die("malloc");
        ssize_t got = read(pipe_fd[0], text + size, room - size);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        write_all(2, text + size, (size_t)got);
        size += (size_t)got;
        if (size == room) text = realloc(text, (room *= 2) + 1);
    }
    text[size] = 0;
    if (waitpid(child, &status, 0) < 0) die("waitpid");
    if (!WIFEXITED(status)) return 101;

    char name[PATH_BYTES], *paths[MAX_ARTIFACTS];
    if (mkdir(folder, 0777) < 0 && errno != EEXIST) die(folder);
    int count = WEXITSTATUS(status) == 0 ? artifacts(text, paths) : 0;
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s/%d", folder, i);
        copy_file(paths[i], name);
    }
    /* Written last: only a complete entry has it. */
    snprintf(name, sizeof name, "%s/unit", folder);
    FILE *unit = fopen(name, "w");
    if (!unit) die(name);
    fprintf(unit, "%d %d\n", WEXITSTATUS(status), count);
    for (int i = 0; i < count; i++) fprintf(unit, "%s\n", paths[i]);
    fwrite(text, 1, size, unit);
    if (fclose(unit) != 0) die(name);
    return WEXITSTATUS(status);
}

static int replay(const char *folder) {
    char name[PATH_BYTES];
    snprintf(name, sizeof name, "%s/unit", folder);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) die("this unit was not recorded");
    size_t size;
    char *text = read_all(fd, &size), *at = text;
    int exit_code = (int)strtol(at, &at, 10), count = (int)strtol(at, &at, 10);
    at++;
    for (int i = 0; i < count; i++) {
        char *end = strchr(at, '\n');
        *end = 0;
        snprintf(name, sizeof name, "%s/%d", folder, i);
        copy_file(name, at);
        at = end + 1;
    }
    write_all(2, at, size - (size_t)(at - text));
    return exit_code;
}

int main(int argc, char *argv[]) {
    const char *store = getenv("FLOOR_STORE"), *mode = getenv("FLOOR_MODE");
    char cwd[PATH_BYTES], folder[PATH_BYTES];
    int is_unit = 0;
    if (argc < 2 || !store || !mode || !getcwd(cwd, sizeof cwd)) {
        fprintf(stderr, "floor: FLOOR_STORE=dir FLOOR_MODE=record|replay floor rustc arguments\n");
        return 101;
    }
    uint64_t hash = fnv1a(14695981039346656037u, cwd), other = fnv1a(1099511628211u, cwd);
    for (int i = 1; i < argc; i++) {
        hash = fnv1a(hash, argv[i]);
        other = fnv1a(other * 31, argv[i]);
        is_unit |= !strncmp(argv[i], "--json=", 7) && strstr(argv[i], "artifacts");
    }
    if (!is_unit) {
        execvp(argv[1], argv + 1);
        die(argv[1]);
    }
    if (snprintf(folder, sizeof folder, "%s/%016llx%016llx", store, (unsigned long long)hash,
                 (unsigned long long)other) >= (int)sizeof folder - 16)
        die("the store's path is too long");
    return strcmp(mode, "record") == 0 ? record(folder, argv + 1) : replay(folder);
}
