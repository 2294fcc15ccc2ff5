/* libburst-observer: writes down what a process looks at. Preloaded into rustc, and by inheritance
 * into the linker it starts.
 *
 * Dep-info never tells what a proc macro reads; this does, for everything that goes through libc.
 * It does not see: iteration over `environ` (which is why it takes its own variables out of there),
 * raw system calls, static programs. A static or otherwise unobserved child is noticed by its
 * missing hello.
 *
 * Environment: LD_PRELOAD (we are its first entry) and BURST_OBSERVER_FD, the number of an inherited
 * descriptor of a regular file opened O_APPEND. Both are removed from `environ` before main and put
 * back for children.
 *
 * Log: records ended by NUL, one write(2) each, and before the observed call returns:
 *
 *     OP FLAG ERRNO ' ' TEXT NUL      OP one byte, FLAG 'w' or '-', ERRNO decimal, 0 is success
 *
 *     H pid ppid version exe     loaded into a process, once per exec
 *     o open    s stat    a access    l readlink, realpath    d list    D dlopen    c chdir
 *     m change of a name (mkdir, unlink, rename ...)          TEXT of these: absolute path, or
 *                                                             '?' and the path if that is not known
 *     e NAME                     getenv; errno 2: not set
 *     n what                     network: "socket FAMILY", "unix PATH", "resolve HOST"
 *     X pid program              about to exec in this process: a hello of that pid must follow, or
 *     x pid program              it failed
 *     S pid program              spawned (pid 0: not known, so it cannot be checked)
 *     Q pid manifest             cargo was asked for the workspace of that manifest; errno 2: nobody
 *                                was there to answer (pid 0)
 *
 * One question is answered: `$CARGO locate-project --workspace --message-format=plain
 * --manifest-path=MANIFEST`, as macros ask it that look up what a dependency is called. In a sandbox
 * that has ANSWER_PATH for this very manifest, a process of the caller's own program is spawned in
 * cargo's place; before its main, it says what cargo said at home. In any other form (another
 * environment, directory or way of starting it) it is the start of a program like any other.
 *
 * Equal records of one process are written once (a race may write two). The check happens before the
 * write and the entry is made after it: who sees an entry knows that its record is in the log.
 *
 * No headers that declare the hooked functions: their inline variants, redirects and versions differ
 * between C libraries; these prototypes do not. */

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#define VERSION "1"
#define EXPORT __attribute__((visibility("default")))
#define CWD (-100)

extern char **environ;
extern void *dlsym(void *, const char *);
#define NEXT ((void *)-1l)

/* ---- raw system calls: usable before libc is ready, inside malloc, after vfork ---------------- */

#if defined(__x86_64__)
enum {
    NR_write = 1, NR_getcwd = 79, NR_getpid = 39, NR_getppid = 110,
    NR_openat = 257, NR_newfstatat = 262, NR_readlinkat = 267, NR_faccessat = 269, NR_statx = 332,
    NR_open = 2, NR_stat = 4, NR_lstat = 6, NR_access = 21, NR_execve = 59, NR_readlink = 89,
    NR_execveat = 322, NR_read = 0, NR_close = 3, NR_exit_group = 231,
};
static long raw(long n, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
enum {
    NR_getcwd = 17, NR_faccessat = 48, NR_openat = 56, NR_write = 64, NR_readlinkat = 78,
    NR_newfstatat = 79, NR_getpid = 172, NR_getppid = 173, NR_execve = 221, NR_execveat = 281,
    NR_statx = 291, NR_read = 63, NR_close = 57, NR_exit_group = 94,
    NR_open = -2, NR_stat = -3, NR_lstat = -4, NR_access = -5, NR_readlink = -6,
};
static long raw(long n, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
#error "libburst-observer knows x86_64 and aarch64"
#endif
enum { NR_openat2 = 437, NR_faccessat2 = 439 };
#define RAW(n, a, b, c, d, e) raw(NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static long as_libc(long result) {
    if (result >= 0 || result < -4095) return result;
    errno = (int)-result;
    return -1;
}

/* ---- the real functions ------------------------------------------------------------------------ */

#define NAMES(X) \
    X(open) X(open64) X(openat) X(openat64) X(creat) X(creat64) X(__open_2) X(__open64_2) \
    X(__openat_2) X(__openat64_2) X(fopen) X(fopen64) X(freopen) X(freopen64) \
    X(stat) X(stat64) X(lstat) X(lstat64) X(fstatat) X(fstatat64) X(statx) \
    X(__xstat) X(__xstat64) X(__lxstat) X(__lxstat64) X(__fxstatat) X(__fxstatat64) \
    X(access) X(faccessat) X(eaccess) X(euidaccess) \
    X(readlink) X(readlinkat) X(__readlink_chk) X(__readlinkat_chk) X(realpath) X(__realpath_chk) \
    X(canonicalize_file_name) X(opendir) X(fdopendir) X(scandir) X(scandir64) \
    X(getenv) X(secure_getenv) X(chdir) X(dlopen) X(socket) X(connect) X(getaddrinfo) \
    X(execve) X(execvpe) X(fexecve) X(execveat) X(posix_spawn) X(posix_spawnp) \
    X(pidfd_spawn) X(pidfd_spawnp) X(system) X(popen) X(syscall) \
    X(mkdir) X(mkdirat) X(rmdir) X(unlink) X(unlinkat) X(rename) X(renameat) X(renameat2) \
    X(link) X(linkat) X(symlink) X(symlinkat) X(truncate) X(truncate64) \
    X(setenv) X(unsetenv) X(putenv) X(clearenv)
#define NUMBER(n) I_##n,
#define NAME(n) #n,
enum { NAMES(NUMBER) COUNT };
static const char *const names[COUNT] = {NAMES(NAME)};
static void *real[COUNT];

/* Only the constructor fills the table, and functions with a raw fallback never call dlsym: the
 * allocator reads its configuration (readlink, getenv, open) while it holds its own lock, and dlsym
 * may allocate. */
static void *get(int i) {
    void *f = __atomic_load_n(&real[i], __ATOMIC_RELAXED);
    if (!f) {
        int kept = errno;
        f = dlsym(NEXT, names[i]);
        __atomic_store_n(&real[i], f, __ATOMIC_RELAXED);
        errno = kept;
    }
    return f;
}
#define EARLY(name, type) ((type)__atomic_load_n(&real[I_##name], __ATOMIC_RELAXED))
#define LATE(name, type) ((type)get(I_##name))

static int missing(void) {
    errno = ENOSYS;
    return -1;
}

/* ---- the log ----------------------------------------------------------------------------------- */

enum { ROOM = 4096 + 4096 + 64, ENTRIES = 16384, PROBES = 24 };

static int state; /* 0 new, 1 somebody starts, 2 ready */
static int log_fd = -1;
static uint64_t log_identity[2];
static char own_preload[4096], other_preload[4096], fd_variable[40];
static uint64_t seen[ENTRIES];

static size_t length(const char *s) {
    size_t n = 0;
    while (s[n]) n++;
    return n;
}
static int starts(const char *s, const char *with) {
    while (*with && *s == *with) s++, with++;
    return !*with;
}

struct record {
    size_t n;
    char s[ROOM];
};
static void put(struct record *r, const char *s) {
    while (*s && r->n < ROOM - 1) r->s[r->n++] = *s++;
}
static void put_number(struct record *r, long v) {
    char digits[24], *p = digits + sizeof digits - 1;
    *p = 0;
    if (v < 0) v = 0;
    do *--p = (char)('0' + v % 10); while (v /= 10);
    put(r, p);
}
static void begin(struct record *r, char op, int write, int error) {
    r->s[0] = op;
    r->s[1] = write ? 'w' : '-';
    r->n = 2;
    put_number(r, error);
    put(r, " ");
}

static int identity(int fd, uint64_t id[2]) {
    /* struct statx: stx_ino at byte 32, device numbers at 136 and 140 */
    struct { uint64_t head[4], ino, more[12], device, rest[14]; } st;
    if (RAW(statx, fd, "", 0x1000, 0x100, &st) < 0) {
        return 0;
    }
    id[0] = st.ino;
    id[1] = st.device;
    return 1;
}

static void emit(struct record *r) {
    uint64_t id[2];
    /* A program may have closed all descriptors and got our number for a file of its own. */
    if (!identity(log_fd, id) || id[0] != log_identity[0] || id[1] != log_identity[1]) return;
    r->s[r->n++] = 0;
    RAW(write, log_fd, r->s, r->n, 0, 0);
}

static void emit_once(struct record *r) {
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < r->n; i++) hash = (hash ^ (unsigned char)r->s[i]) * 1099511628211u;
    hash ^= hash >> 32;
    hash |= !hash;
    size_t at = hash % ENTRIES;
    int probe = 0;
    for (; probe < PROBES; probe++, at = (at + 1) % ENTRIES) {
        uint64_t entry = __atomic_load_n(&seen[at], __ATOMIC_ACQUIRE);
        if (entry == hash) return;
        if (!entry) break;
    }
    emit(r);
    for (; probe < PROBES; probe++, at = (at + 1) % ENTRIES) {
        uint64_t none = 0;
        if (__atomic_compare_exchange_n(&seen[at], &none, hash, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED)
            || none == hash) {
            return;
        }
    }
}

/* ---- cargo's answer ----------------------------------------------------------------------------

 * The file: manifest, cargo's working directory, exit code, stdout, stderr, each ended by NUL. */

#define ANSWER_PATH "/.burst/answer"
#define ANSWER_VARIABLE "BURST_OBSERVER_ANSWER=1"
enum { ANSWER_ROOM = 65536, ANSWER_FIELDS = 5, EXIT_UNANSWERED = 101 };

/* Whether there is an answer; its fields point into `room`. */
static int read_answer(char *room, char **fields) {
    long fd = RAW(openat, CWD, ANSWER_PATH, 02000000 /* O_CLOEXEC */, 0, 0), n = 0, got;
    if (fd < 0) return 0;
    while (n < ANSWER_ROOM && (got = RAW(read, fd, room + n, ANSWER_ROOM - n, 0, 0)) > 0) n += got;
    raw(NR_close, fd, 0, 0, 0, 0, 0);
    int field = 0;
    char *from = room;
    for (long i = 0; i < n && field < ANSWER_FIELDS; i++) {
        if (room[i]) continue;
        fields[field++] = from;
        from = room + i + 1;
    }
    return field == ANSWER_FIELDS;
}

static int equal(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

static void say(int fd, const char *text) {
    size_t n = length(text);
    while (n) {
        long done = RAW(write, fd, text, n, 0, 0);
        if (done == -EINTR) continue;
        if (done <= 0) return;
        text += done, n -= (size_t)done;
    }
}

/* In the process that stands in for cargo: never returns. */
static void answer(void) {
    static char room[ANSWER_ROOM];
    char *fields[ANSWER_FIELDS], here[4096];
    long code = EXIT_UNANSWERED;
    long n = RAW(getcwd, here, sizeof here, 0, 0, 0);
    if (read_answer(room, fields) && n > 0 && equal(here, fields[1])) {
        code = 0;
        for (const char *p = fields[2]; *p; p++) code = code * 10 + (*p - '0');
        say(1, fields[3]);
        say(2, fields[4]);
    } else {
        struct record r; /* what it would have said, only home can tell */
        begin(&r, 'X', 0, 0);
        put_number(&r, RAW(getpid, 0, 0, 0, 0, 0));
        put(&r, " cargo");
        emit(&r);
    }
    raw(NR_exit_group, code, 0, 0, 0, 0, 0);
}

static void start(void) {
    int new = 0;
    if (!__atomic_compare_exchange_n(&state, &new, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
    if (!environ) { /* earlier than libc's own start: the next call tries again */
        __atomic_store_n(&state, 0, __ATOMIC_RELEASE);
        return;
    }
    int fd = -1, answers = 0;
    char **to = environ;
    for (char **from = environ; *from; from++) {
        if (starts(*from, "BURST_OBSERVER_FD=")) {
            fd = 0;
            for (const char *p = *from + 18; *p >= '0' && *p <= '9'; p++) fd = fd * 10 + (*p - '0');
        } else if (starts(*from, "LD_PRELOAD=")) {
            const char *value = *from + 11;
            size_t n = 0;
            while (value[n] && value[n] != ':' && value[n] != ' ') n++;
            if (n < sizeof own_preload) {
                for (size_t i = 0; i < n; i++) own_preload[i] = value[i];
            }
            if (value[n] && length(value + n + 1) + 12 < sizeof other_preload) {
                struct { char *p; } out = {other_preload};
                for (const char *p = "LD_PRELOAD="; *p;) *out.p++ = *p++;
                for (const char *p = value + n + 1; *p;) *out.p++ = *p++;
                *to++ = other_preload;
            }
        } else if (starts(*from, ANSWER_VARIABLE)) {
            answers = 1;
        } else if (!starts(*from, "BURST_OBSERVER_")) {
            *to++ = *from;
        }
    }
    *to = 0;
    if (fd >= 0 && identity(fd, log_identity)) {
        static struct record r;
        char exe[4096];
        log_fd = fd;
        r.n = 0;
        put(&r, "BURST_OBSERVER_FD=");
        put_number(&r, fd);
        for (size_t i = 0; i < r.n; i++) fd_variable[i] = r.s[i];
        long n = RAW(readlinkat, CWD, "/proc/self/exe", exe, sizeof exe - 1, 0);
        exe[n > 0 ? n : 0] = 0;
        begin(&r, 'H', 0, 0);
        put_number(&r, RAW(getpid, 0, 0, 0, 0, 0));
        put(&r, " ");
        put_number(&r, RAW(getppid, 0, 0, 0, 0, 0));
        put(&r, " " VERSION " ");
        put(&r, n > 0 ? exe : "?");
        emit(&r);
        if (answers) answer();
    }
    __atomic_store_n(&state, 2, __ATOMIC_RELEASE);
}

static int active(void) {
    if (__atomic_load_n(&state, __ATOMIC_ACQUIRE) != 2) {
        start();
        if (__atomic_load_n(&state, __ATOMIC_ACQUIRE) != 2) return 0;
    }
    return log_fd >= 0;
}

__attribute__((constructor(101))) static void constructor(void) {
    int kept = errno;
    start();
    for (int i = 0; i < COUNT; i++) get(i);
    errno = kept;
}

/* The file's absolute name: not normalised, since `..` after a link is for the kernel to resolve. */
static void put_path(struct record *r, int dir, const char *path) {
    if (*path != '/') {
        char link[40] = "/proc/self/fd/";
        long n;
        if (dir == CWD) {
            n = RAW(getcwd, r->s + r->n, 4096, 0, 0, 0) - 1; /* counts the NUL */
        } else {
            struct record digits;
            digits.n = 0;
            put_number(&digits, dir);
            for (size_t i = 0; i < digits.n; i++) link[14 + i] = digits.s[i];
            n = RAW(readlinkat, CWD, link, r->s + r->n, 4095, 0);
        }
        if (n <= 0 || r->s[r->n] != '/') {
            put(r, "?");
        } else {
            r->n += (size_t)n;
        }
        if (*path && r->s[r->n - 1] != '/') put(r, "/");
    }
    put(r, path);
}

static void note_at(char op, int write, int failed, int dir, const char *path) {
    int kept = errno, error = failed ? kept : 0;
    if (path && error != EFAULT && (*path || op == 'd') && active()) {
        struct record r;
        begin(&r, op, write, error);
        put_path(&r, dir, path);
        emit_once(&r);
    }
    errno = kept;
}
static void note(char op, int write, int failed, const char *path) {
    note_at(op, write, failed, CWD, path);
}
static void note_text(char op, int error, const char *word, const char *text) {
    int kept = errno;
    if (active()) {
        struct record r;
        begin(&r, op, 0, error);
        put(&r, word);
        put(&r, text);
        emit_once(&r);
    }
    errno = kept;
}

/* ---- files ------------------------------------------------------------------------------------- */

#define WRITES(flags) (((flags) & 3) != 0 || ((flags) & (0100 | 01000)) != 0)
#define MODE(last)                    \
    va_list list;                     \
    va_start(list, last);             \
    int mode = va_arg(list, int);     \
    va_end(list)

#define OPEN(name)                                                               \
    EXPORT int name(const char *path, int flags, ...) {                          \
        MODE(flags);                                                             \
        int (*f)(const char *, int, ...) = EARLY(name, int (*)(const char *, int, ...)); \
        int fd = f ? f(path, flags, mode)                                        \
                   : (int)as_libc(RAW(openat, CWD, path, flags, mode, 0));       \
        note('o', WRITES(flags), fd < 0, path);                                  \
        return fd;                                                               \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                       \
    EXPORT int name(int dir, const char *path, int flags, ...) {                           \
        MODE(flags);                                                                       \
        int (*f)(int, const char *, int, ...) = EARLY(name, int (*)(int, const char *, int, ...)); \
        int fd = f ? f(dir, path, flags, mode)                                             \
                   : (int)as_libc(RAW(openat, dir, path, flags, mode, 0));                 \
        note_at('o', WRITES(flags), fd < 0, dir, path);                                    \
        return fd;                                                                         \
    }
OPENAT(openat)
OPENAT(openat64)

/* The variants that programs built with _FORTIFY_SOURCE call. */
#define OPEN_2(name)                                                   \
    EXPORT int name(const char *path, int flags) {                     \
        int (*f)(const char *, int) = LATE(name, int (*)(const char *, int)); \
        int fd = f ? f(path, flags) : missing();                       \
        note('o', WRITES(flags), fd < 0, path);                        \
        return fd;                                                     \
    }
OPEN_2(__open_2)
OPEN_2(__open64_2)
#define OPENAT_2(name)                                                           \
    EXPORT int name(int dir, const char *path, int flags) {                      \
        int (*f)(int, const char *, int) = LATE(name, int (*)(int, const char *, int)); \
        int fd = f ? f(dir, path, flags) : missing();                            \
        note_at('o', WRITES(flags), fd < 0, dir, path);                          \
        return fd;                                                               \
    }
OPENAT_2(__openat_2)
OPENAT_2(__openat64_2)

#define CREAT(name)                                                        \
    EXPORT int name(const char *path, unsigned mode) {                     \
        int (*f)(const char *, unsigned) = LATE(name, int (*)(const char *, unsigned)); \
        int fd = f ? f(path, mode) : missing();                            \
        note('o', 1, fd < 0, path);                                        \
        return fd;                                                         \
    }
CREAT(creat)
CREAT(creat64)

static int mode_writes(const char *mode) {
    if (!mode || *mode != 'r') return 1;
    while (*mode && *mode != '+') mode++;
    return *mode == '+';
}
#define FOPEN(name)                                                                       \
    EXPORT void *name(const char *path, const char *mode) {                               \
        void *(*f)(const char *, const char *) = LATE(name, void *(*)(const char *, const char *)); \
        void *file = f ? f(path, mode) : (missing(), NULL);                               \
        note('o', mode_writes(mode), !file, path);                                        \
        return file;                                                                      \
    }
FOPEN(fopen)
FOPEN(fopen64)
#define FREOPEN(name)                                                                  \
    EXPORT void *name(const char *path, const char *mode, void *old) {                 \
        void *(*f)(const char *, const char *, void *) =                               \
            LATE(name, void *(*)(const char *, const char *, void *));                 \
        void *file = f ? f(path, mode, old) : (missing(), NULL);                       \
        note('o', mode_writes(mode), !file, path);                                     \
        return file;                                                                   \
    }
FREOPEN(freopen)
FREOPEN(freopen64)

/* On both architectures libc's struct stat is the kernel's. */
#define STAT(name, flags)                                                          \
    EXPORT int name(const char *path, void *st) {                                  \
        int (*f)(const char *, void *) = EARLY(name, int (*)(const char *, void *)); \
        int result = f ? f(path, st)                                               \
                       : (int)as_libc(RAW(newfstatat, CWD, path, st, flags, 0));   \
        note('s', 0, result < 0, path);                                            \
        return result;                                                             \
    }
STAT(stat, 0)
STAT(stat64, 0)
STAT(lstat, 0x100)
STAT(lstat64, 0x100)
#define FSTATAT(name)                                                                  \
    EXPORT int name(int dir, const char *path, void *st, int flags) {                  \
        int (*f)(int, const char *, void *, int) =                                     \
            EARLY(name, int (*)(int, const char *, void *, int));                      \
        int result = f ? f(dir, path, st, flags)                                       \
                       : (int)as_libc(RAW(newfstatat, dir, path, st, flags, 0));       \
        note_at('s', 0, result < 0, dir, path);                                        \
        return result;                                                                 \
    }
FSTATAT(fstatat)
FSTATAT(fstatat64)
/* What programs built against glibc < 2.33 call for the above. */
#define XSTAT(name)                                                                \
    EXPORT int name(int version, const char *path, void *st) {                     \
        int (*f)(int, const char *, void *) = LATE(name, int (*)(int, const char *, void *)); \
        int result = f ? f(version, path, st) : missing();                         \
        note('s', 0, result < 0, path);                                            \
        return result;                                                             \
    }
XSTAT(__xstat)
XSTAT(__xstat64)
XSTAT(__lxstat)
XSTAT(__lxstat64)
#define FXSTATAT(name)                                                                 \
    EXPORT int name(int version, int dir, const char *path, void *st, int flags) {     \
        int (*f)(int, int, const char *, void *, int) =                                \
            LATE(name, int (*)(int, int, const char *, void *, int));                  \
        int result = f ? f(version, dir, path, st, flags) : missing();                 \
        note_at('s', 0, result < 0, dir, path);                                        \
        return result;                                                                 \
    }
FXSTATAT(__fxstatat)
FXSTATAT(__fxstatat64)

EXPORT int statx(int dir, const char *path, int flags, unsigned mask, void *st) {
    int (*f)(int, const char *, int, unsigned, void *) =
        EARLY(statx, int (*)(int, const char *, int, unsigned, void *));
    int result = f ? f(dir, path, flags, mask, st)
                   : (int)as_libc(RAW(statx, dir, path, flags, mask, st));
    note_at('s', 0, result < 0, dir, path);
    return result;
}

EXPORT int access(const char *path, int mode) {
    int (*f)(const char *, int) = EARLY(access, int (*)(const char *, int));
    int result = f ? f(path, mode) : (int)as_libc(RAW(faccessat, CWD, path, mode, 0, 0));
    note('a', 0, result < 0, path);
    return result;
}
EXPORT int faccessat(int dir, const char *path, int mode, int flags) {
    int (*f)(int, const char *, int, int) = LATE(faccessat, int (*)(int, const char *, int, int));
    int result = f ? f(dir, path, mode, flags)
                   : (int)as_libc(RAW(faccessat2, dir, path, mode, flags, 0));
    note_at('a', 0, result < 0, dir, path);
    return result;
}
#define EACCESS(name)                                                      \
    EXPORT int name(const char *path, int mode) {                          \
        int (*f)(const char *, int) = LATE(name, int (*)(const char *, int)); \
        int result = f ? f(path, mode)                                     \
                       : (int)as_libc(RAW(faccessat2, CWD, path, mode, 0x200, 0)); \
        note('a', 0, result < 0, path);                                    \
        return result;                                                     \
    }
EACCESS(eaccess)
EACCESS(euidaccess)

EXPORT long readlink(const char *path, char *to, size_t size) {
    long (*f)(const char *, char *, size_t) = EARLY(readlink, long (*)(const char *, char *, size_t));
    long result = f ? f(path, to, size) : as_libc(RAW(readlinkat, CWD, path, to, size, 0));
    note('l', 0, result < 0, path);
    return result;
}
EXPORT long readlinkat(int dir, const char *path, char *to, size_t size) {
    long (*f)(int, const char *, char *, size_t) =
        EARLY(readlinkat, long (*)(int, const char *, char *, size_t));
    long result = f ? f(dir, path, to, size) : as_libc(RAW(readlinkat, dir, path, to, size, 0));
    note_at('l', 0, result < 0, dir, path);
    return result;
}
EXPORT long __readlink_chk(const char *path, char *to, size_t size, size_t room) {
    long (*f)(const char *, char *, size_t, size_t) =
        LATE(__readlink_chk, long (*)(const char *, char *, size_t, size_t));
    long result = f ? f(path, to, size, room) : missing();
    note('l', 0, result < 0, path);
    return result;
}
EXPORT long __readlinkat_chk(int dir, const char *path, char *to, size_t size, size_t room) {
    long (*f)(int, const char *, char *, size_t, size_t) =
        LATE(__readlinkat_chk, long (*)(int, const char *, char *, size_t, size_t));
    long result = f ? f(dir, path, to, size, room) : missing();
    note_at('l', 0, result < 0, dir, path);
    return result;
}
static char *note_real(const char *path, char *result) {
    note('l', 0, !result, path);
    if (result) note('l', 0, 0, result);
    return result;
}
EXPORT char *realpath(const char *path, char *to) {
    char *(*f)(const char *, char *) = LATE(realpath, char *(*)(const char *, char *));
    return note_real(path, f ? f(path, to) : (missing(), NULL));
}
EXPORT char *__realpath_chk(const char *path, char *to, size_t room) {
    char *(*f)(const char *, char *, size_t) =
        LATE(__realpath_chk, char *(*)(const char *, char *, size_t));
    return note_real(path, f ? f(path, to, room) : (missing(), NULL));
}
EXPORT char *canonicalize_file_name(const char *path) {
    char *(*f)(const char *) = LATE(canonicalize_file_name, char *(*)(const char *));
    return note_real(path, f ? f(path) : (missing(), NULL));
}

EXPORT void *opendir(const char *path) {
    void *(*f)(const char *) = LATE(opendir, void *(*)(const char *));
    void *dir = f ? f(path) : (missing(), NULL);
    note('d', 0, !dir, path);
    return dir;
}
EXPORT void *fdopendir(int fd) {
    void *(*f)(int) = LATE(fdopendir, void *(*)(int));
    void *dir = f ? f(fd) : (missing(), NULL);
    if (dir) note_at('d', 0, 0, fd, "");
    return dir;
}
#define SCANDIR(name)                                                             \
    EXPORT int name(const char *path, void *list, void *filter, void *compare) {  \
        int (*f)(const char *, void *, void *, void *) =                          \
            LATE(name, int (*)(const char *, void *, void *, void *));            \
        int result = f ? f(path, list, filter, compare) : missing();              \
        note('d', 0, result < 0, path);                                           \
        return result;                                                            \
    }
SCANDIR(scandir)
SCANDIR(scandir64)

EXPORT int chdir(const char *path) {
    int (*f)(const char *) = LATE(chdir, int (*)(const char *));
    /* The record's path is relative to the directory before the call. */
    struct record r;
    int kept = errno, known = path && *path && active();
    if (known) {
        r.n = 0;
        put_path(&r, CWD, path);
        r.s[r.n] = 0;
    }
    errno = kept;
    int result = f ? f(path) : missing();
    if (known) note('c', 0, result < 0, r.s);
    return result;
}

__attribute__((noinline)) static void note_library(const char *path) {
    int kept = errno;
    if (path) {
        const char *p = path;
        while (*p && *p != '/') p++;
        if (*p) {
            long result = RAW(faccessat, CWD, path, 4, 0, 0);
            errno = (int)-result;
            note('D', 0, result < 0, path);
        } else {
            note_text('D', 0, "?", path);
        }
    }
    errno = kept;
}
EXPORT void *dlopen(const char *path, int flags) {
    note_library(path);
    /* A tail call, so that libc sees our caller's return address and uses its RUNPATH. */
    return LATE(dlopen, void *(*)(const char *, int))(path, flags);
}

/* ---- changes of names -------------------------------------------------------------------------- */

#define CHANGE(name, parameters, types, arguments, notes)    \
    EXPORT int name parameters {                             \
        int (*f) types = LATE(name, int (*) types);          \
        int result = f ? f arguments : missing();            \
        int failed = result < 0;                             \
        notes;                                               \
        return result;                                       \
    }
CHANGE(mkdir, (const char *a, unsigned m), (const char *, unsigned), (a, m), note('m', 1, failed, a))
CHANGE(mkdirat, (int d, const char *a, unsigned m), (int, const char *, unsigned), (d, a, m),
       note_at('m', 1, failed, d, a))
CHANGE(rmdir, (const char *a), (const char *), (a), note('m', 1, failed, a))
CHANGE(unlink, (const char *a), (const char *), (a), note('m', 1, failed, a))
CHANGE(unlinkat, (int d, const char *a, int g), (int, const char *, int), (d, a, g),
       note_at('m', 1, failed, d, a))
CHANGE(rename, (const char *a, const char *b), (const char *, const char *), (a, b),
       note('m', 1, failed, a); note('m', 1, failed, b))
CHANGE(renameat, (int d, const char *a, int e, const char *b),
       (int, const char *, int, const char *), (d, a, e, b),
       note_at('m', 1, failed, d, a); note_at('m', 1, failed, e, b))
CHANGE(renameat2, (int d, const char *a, int e, const char *b, unsigned g),
       (int, const char *, int, const char *, unsigned), (d, a, e, b, g),
       note_at('m', 1, failed, d, a); note_at('m', 1, failed, e, b))
CHANGE(link, (const char *a, const char *b), (const char *, const char *), (a, b),
       note('l', 0, failed, a); note('m', 1, failed, b))
CHANGE(linkat, (int d, const char *a, int e, const char *b, int g),
       (int, const char *, int, const char *, int), (d, a, e, b, g),
       note_at('l', 0, failed, d, a); note_at('m', 1, failed, e, b))
CHANGE(symlink, (const char *a, const char *b), (const char *, const char *), (a, b),
       note('m', 1, failed, b))
CHANGE(symlinkat, (const char *a, int e, const char *b), (const char *, int, const char *), (a, e, b),
       note_at('m', 1, failed, e, b))
CHANGE(truncate, (const char *a, long n), (const char *, long), (a, n), note('m', 1, failed, a))
CHANGE(truncate64, (const char *a, long n), (const char *, long), (a, n), note('m', 1, failed, a))

/* ---- environment ------------------------------------------------------------------------------- */

static char *find_variable(const char *name) {
    size_t n = length(name);
    for (char **v = environ; v && *v; v++) {
        size_t i = 0;
        while (i < n && (*v)[i] == name[i]) i++;
        if (i == n && (*v)[n] == '=') return *v + n + 1;
    }
    return NULL;
}
#define GETENV(function)                                                      \
    EXPORT char *function(const char *name) {                                 \
        active(); /* our own variables go before anybody can ask for them */  \
        char *(*f)(const char *) = EARLY(function, char *(*)(const char *));  \
        char *value = f ? f(name) : find_variable(name);                      \
        note_text('e', value ? 0 : ENOENT, "", name);                         \
        return value;                                                         \
    }
GETENV(getenv)
GETENV(secure_getenv)

/* Whether a child would still see what this process was started with. rustc itself asks for its own
 * backtraces. */
static int changed_environment;
static void note_change(const char *name) {
    if (!name || !starts(name, "RUST_")) changed_environment = 1;
}
#define CHANGE_VARIABLE(name, parameters, types, arguments, variable) \
    EXPORT int name parameters {                                      \
        int (*f) types = LATE(name, int (*) types);                   \
        note_change(variable);                                        \
        return f ? f arguments : missing();                           \
    }
CHANGE_VARIABLE(setenv, (const char *n, const char *v, int o), (const char *, const char *, int),
                (n, v, o), n)
CHANGE_VARIABLE(unsetenv, (const char *n), (const char *), (n), n)
CHANGE_VARIABLE(putenv, (char *s), (char *), (s), s)
CHANGE_VARIABLE(clearenv, (void), (void), (), NULL)

/* ---- programs ---------------------------------------------------------------------------------- */

static int has_slash(const char *s) {
    while (*s && *s != '/') s++;
    return *s == '/';
}
static void note_program(char op, int error, long pid, int dir, const char *program) {
    int kept = errno;
    if (program && error != EFAULT && active()) {
        struct record r;
        begin(&r, op, 0, error);
        put_number(&r, pid);
        put(&r, " ");
        if (has_slash(program) || dir != CWD) {
            put_path(&r, dir, program);
        } else {
            put(&r, program);
        }
        emit(&r);
    }
    errno = kept;
}
static long self(void) { return RAW(getpid, 0, 0, 0, 0, 0); }

static size_t count(char *const *list) {
    size_t n = 0;
    while (list && list[n]) n++;
    return n;
}
/* The manifest, if this is the question that can be answered. */
static const char *asked_for(const char *program, char *const *argv, char *const *env) {
    static const char *const words[] = {"locate-project", "--workspace", "--message-format=plain"};
    const char *cargo = find_variable("CARGO");
    if (env != environ || changed_environment || !cargo || !program || *cargo != '/') return NULL;
    if (!equal(program, cargo) || count(argv) != 5) return NULL;
    for (int i = 0; i < 3; i++) {
        if (!equal(argv[i + 1], words[i])) return NULL;
    }
    return starts(argv[4], "--manifest-path=/") ? argv[4] + 16 : NULL;
}
static void note_question(int error, long pid, const char *manifest) {
    int kept = errno;
    if (active()) {
        struct record r;
        begin(&r, 'Q', 0, error);
        put_number(&r, pid);
        put(&r, " ");
        put(&r, manifest);
        emit(&r);
    }
    errno = kept;
}
static int has_answer(const char *manifest) {
    char room[ANSWER_ROOM], *fields[ANSWER_FIELDS];
    return active() && own_preload[0] && read_answer(room, fields) && equal(fields[0], manifest);
}

/* `out` has room for count(env) + 4 entries, `joined` for both preload lists. */
static char *const *with_observer(char *const *env, char **out, char *joined) {
    if (!active() || !own_preload[0]) return env;
    const char *others = NULL;
    size_t n = 0;
    for (char *const *v = env; v && *v; v++) {
        if (starts(*v, "LD_PRELOAD=")) {
            others = *v + 11;
        } else if (!starts(*v, "BURST_OBSERVER_")) {
            out[n++] = *v;
        }
    }
    char *p = joined;
    for (const char *s = "LD_PRELOAD="; *s;) *p++ = *s++;
    for (const char *s = own_preload; *s;) *p++ = *s++;
    if (others && *others && length(others) < 4000) {
        *p++ = ':';
        for (const char *s = others; *s;) *p++ = *s++;
    }
    *p = 0;
    out[n++] = joined;
    out[n++] = fd_variable;
    out[n] = NULL;
    return out;
}
#define WITH_OBSERVER(env)                     \
    char *list_[count(env) + 4], joined_[8200]; \
    char *const *env_ = with_observer(env, list_, joined_)

typedef int (*execve_type)(const char *, char *const *, char *const *);

static int exec_with(int which, const char *program, char *const *argv, char *const *env) {
    execve_type f = (execve_type)get(which);
    WITH_OBSERVER(env);
    note_program('X', 0, self(), CWD, program);
    int result = f ? f(program, argv, env_) : missing();
    note_program('x', errno, self(), CWD, program);
    return result;
}
EXPORT int execve(const char *program, char *const *argv, char *const *env) {
    return exec_with(I_execve, program, argv, env);
}
EXPORT int execv(const char *program, char *const *argv) {
    return exec_with(I_execve, program, argv, environ);
}
EXPORT int execvp(const char *program, char *const *argv) {
    return exec_with(I_execvpe, program, argv, environ);
}
EXPORT int execvpe(const char *program, char *const *argv, char *const *env) {
    return exec_with(I_execvpe, program, argv, env);
}
EXPORT int fexecve(int fd, char *const *argv, char *const *env) {
    int (*f)(int, char *const *, char *const *) =
        LATE(fexecve, int (*)(int, char *const *, char *const *));
    WITH_OBSERVER(env);
    note_program('X', 0, self(), fd, "");
    int result = f ? f(fd, argv, env_) : missing();
    note_program('x', errno, self(), fd, "");
    return result;
}
EXPORT int execveat(int dir, const char *program, char *const *argv, char *const *env, int flags) {
    int (*f)(int, const char *, char *const *, char *const *, int) =
        LATE(execveat, int (*)(int, const char *, char *const *, char *const *, int));
    WITH_OBSERVER(env);
    note_program('X', 0, self(), dir, program);
    int result = f ? f(dir, program, argv, env_, flags) : missing();
    note_program('x', errno, self(), dir, program);
    return result;
}
#define COLLECT(first)                                     \
    va_list list;                                          \
    size_t n = 1;                                          \
    va_start(list, first);                                 \
    while (va_arg(list, char *)) n++;                      \
    va_end(list);                                          \
    char *argv[n + 1];                                     \
    va_start(list, first);                                 \
    argv[0] = (char *)first;                               \
    for (size_t i = 1; i <= n; i++) argv[i] = va_arg(list, char *)
EXPORT int execl(const char *program, const char *first, ...) {
    COLLECT(first);
    va_end(list);
    return exec_with(I_execve, program, argv, environ);
}
EXPORT int execlp(const char *program, const char *first, ...) {
    COLLECT(first);
    va_end(list);
    return exec_with(I_execvpe, program, argv, environ);
}
EXPORT int execle(const char *program, const char *first, ...) {
    COLLECT(first);
    char *const *env = va_arg(list, char *const *);
    va_end(list);
    return exec_with(I_execve, program, argv, env);
}

/* posix_spawn gives the error as its result; errno is not for us to touch. */
#define SPAWN(name, known)                                                                      \
    EXPORT int name(int *id, const char *program, const void *actions, const void *attributes,  \
                    char *const *argv, char *const *env) {                                      \
        int (*f)(int *, const char *, const void *, const void *, char *const *, char *const *) = \
            LATE(name, int (*)(int *, const char *, const void *, const void *, char *const *,  \
                               char *const *));                                                 \
        int pid = 0;                                                                            \
        const char *manifest = (known) ? asked_for(program, argv, env) : NULL;                  \
        int answered = manifest && has_answer(manifest);                                        \
        WITH_OBSERVER(env);                                                                     \
        if (answered) {                                                                         \
            list_[count(list_) + 1] = NULL;                                                     \
            list_[count(list_)] = ANSWER_VARIABLE;                                              \
        }                                                                                       \
        int error = f ? f(&pid, answered ? "/proc/self/exe" : program, actions, attributes,     \
                          argv, env_)                                                           \
                      : ENOSYS;                                                                 \
        if (id && !error) *id = pid;                                                            \
        if (manifest && (answered ? !error : error == ENOENT)) {                                \
            note_question(error, pid, manifest);                                                \
        } else {                                                                                \
            note_program('S', error, (known) ? pid : 0, CWD, program);                          \
        }                                                                                       \
        return error;                                                                           \
    }
SPAWN(posix_spawn, 1)
SPAWN(posix_spawnp, 1)
SPAWN(pidfd_spawn, 0)
SPAWN(pidfd_spawnp, 0)

EXPORT int system(const char *command) {
    int (*f)(const char *) = LATE(system, int (*)(const char *));
    if (command) note_program('S', 0, 0, CWD, "/bin/sh");
    return f ? f(command) : missing();
}
EXPORT void *popen(const char *command, const char *mode) {
    void *(*f)(const char *, const char *) = LATE(popen, void *(*)(const char *, const char *));
    note_program('S', 0, 0, CWD, "/bin/sh");
    return f ? f(command, mode) : (missing(), NULL);
}

/* ---- network ----------------------------------------------------------------------------------- */

EXPORT int socket(int family, int type, int protocol) {
    int (*f)(int, int, int) = LATE(socket, int (*)(int, int, int));
    int fd = f ? f(family, type, protocol) : missing();
    if (family != 1) { /* a local socket says nothing before it is connected */
        struct record digits;
        digits.n = 0;
        put_number(&digits, family);
        digits.s[digits.n] = 0;
        note_text('n', fd < 0 ? errno : 0, "socket ", digits.s);
    }
    return fd;
}
EXPORT int connect(int fd, const void *address, unsigned size) {
    int (*f)(int, const void *, unsigned) = LATE(connect, int (*)(int, const void *, unsigned));
    int result = f ? f(fd, address, size) : missing();
    int kept = errno;
    if (address && size > 2 && kept != EFAULT && *(const unsigned short *)address == 1) {
        char path[128];
        size_t n = size - 2 < 127 ? size - 2 : 127;
        for (size_t i = 0; i < n; i++) path[i] = ((const char *)address)[2 + i];
        path[n] = 0;
        if (!path[0]) path[0] = '@';
        note_text('n', result < 0 ? kept : 0, "unix ", path);
    }
    errno = kept;
    return result;
}
EXPORT int getaddrinfo(const char *host, const char *service, const void *hints, void *result) {
    int (*f)(const char *, const char *, const void *, void *) =
        LATE(getaddrinfo, int (*)(const char *, const char *, const void *, void *));
    note_text('n', 0, "resolve ", host ? host : "");
    return f ? f(host, service, hints, result) : -11; /* EAI_SYSTEM */
}

/* ---- system calls by number -------------------------------------------------------------------- */

EXPORT long syscall(long n, ...) {
    va_list list;
    long a[6];
    va_start(list, n);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    long (*f)(long, ...) = EARLY(syscall, long (*)(long, ...));
    if (n == NR_execve || n == NR_execveat) {
        note_program('X', 0, self(), CWD, n == NR_execve ? (const char *)a[0] : "?");
    }
    long result = f ? f(n, a[0], a[1], a[2], a[3], a[4], a[5])
                    : as_libc(raw(n, a[0], a[1], a[2], a[3], a[4], a[5]));
    int failed = result < 0;
    const char *at = (const char *)a[1], *plain = (const char *)a[0];
    if (n == NR_openat) {
        note_at('o', WRITES((int)a[2]), failed, (int)a[0], at);
    } else if (n == NR_openat2) {
        note_at('o', a[2] && WRITES(*(const uint64_t *)a[2]), failed, (int)a[0], at);
    } else if (n == NR_newfstatat || n == NR_statx) {
        note_at('s', 0, failed, (int)a[0], at);
    } else if (n == NR_faccessat || n == NR_faccessat2) {
        note_at('a', 0, failed, (int)a[0], at);
    } else if (n == NR_readlinkat) {
        note_at('l', 0, failed, (int)a[0], at);
    } else if (n == NR_open) {
        note('o', WRITES((int)a[1]), failed, plain);
    } else if (n == NR_stat || n == NR_lstat) {
        note('s', 0, failed, plain);
    } else if (n == NR_access) {
        note('a', 0, failed, plain);
    } else if (n == NR_readlink) {
        note('l', 0, failed, plain);
    } else if (n == NR_execve || n == NR_execveat) {
        note_program('x', errno, self(), CWD, n == NR_execve ? plain : "?");
    }
    return result;
}
