/* burst's native client: the common case of burst_wrapper/hot.py, without an interpreter's start.
 *
 * hot.py is the reference: whatever is decided here is decided there in the same way, and tests run
 * both on the same cases. Here is only what nearly every call needs: questions and probes become the
 * compiler, compiles ask the daemon and relay its answer. All the rest (starting a daemon, every
 * failure, every text of our own) is left to hot.py: `hand_over` replaces this process by it, also in
 * the middle of an answer.
 *
 * One freestanding file like sandbox.c: no libc, raw system calls, x86_64 and aarch64, static. It
 * starts in a quarter of the time that a program with libc takes, and a toolbox container that shares
 * our home folder but not our libc can run it.
 *
 * Started in one of two ways:
 *
 *   burst-rustc RUSTC ARGUMENT...             by cargo; hot.py is behind `<this file>.py`
 *   client-... ENVIRON SCRIPT RUSTC ARGUMENT...
 *       by the installed sh script (scripts/burst-rustc), which is the way to hot.py. ENVIRON is the
 *       environment before that shell as `hot.environ_before_shell` describes it, or empty.
 *   client-... /proc/PID/environ
 *       by the same script: says what ENVIRON is to be.
 */

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__LP64__)
enum {
    NR_read = 0, NR_write = 1, NR_mmap = 9, NR_rt_sigaction = 13, NR_mremap = 25, NR_getpid = 39,
    NR_clone = 56, NR_wait4 = 61, NR_dup3 = 292, NR_socket = 41, NR_connect = 42, NR_sendto = 44, NR_recvfrom = 45, NR_setsockopt = 54,
    NR_execve = 59, NR_kill = 62, NR_fcntl = 72, NR_getcwd = 79, NR_umask = 95, NR_geteuid = 107,
    NR_getppid = 110, NR_exit_group = 231, NR_openat = 257, NR_renameat = 264, NR_readlinkat = 267,
    NR_ppoll = 271, NR_memfd_create = 319, NR_statx = 332, NR_close = 3,
};
#elif defined(__aarch64__) && defined(__LP64__)
enum {
    NR_clone = 220, NR_wait4 = 260, NR_dup3 = 24, NR_getcwd = 17, NR_fcntl = 25, NR_renameat = 38, NR_openat = 56, NR_close = 57, NR_read = 63,
    NR_write = 64, NR_ppoll = 73, NR_readlinkat = 78, NR_exit_group = 94, NR_kill = 129,
    NR_rt_sigaction = 134, NR_umask = 166, NR_getpid = 172, NR_getppid = 173, NR_geteuid = 175,
    NR_socket = 198, NR_connect = 203, NR_sendto = 206, NR_recvfrom = 207, NR_setsockopt = 208,
    NR_mremap = 216, NR_execve = 221, NR_mmap = 222, NR_memfd_create = 279, NR_statx = 291,
};
#else
#error "burst's native client knows x86_64 and aarch64"
#endif

/* As in hot.py, each under the same name there. */
#define PROTOCOL "1"
#define MAGIC "BRS1"
#define OWN_NAME "burst-rustc"
enum { SILENCE_MS = 15000, MAX_FRAME_BYTES = 1 << 28, MAX_RUNTIME_DIR_BYTES = 62 };
enum { EXIT_INTERRUPTED = 130 };
/* Version of what `hand_over` writes and hot.py's `_take_over` reads. */
#define RESUME "BURST_RESUME=1:"

enum { NOENT = 2, INTR = 4, NOEXEC = 8, AGAIN = 11, PIPE_BROKEN = 32, RESET = 104 };
enum { AT_CWD = -100, NOFOLLOW = 0x100, RDWR = 2, CLOEXEC = 02000000 };
enum { SIG_INT = 2, SIG_PIPE = 13, SIG_CHLD = 17 };
enum { PATH_BYTES = 4096 };

/* ---- system calls and strings --------------------------------------------------------------- */

static long call6(long n, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#else
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
#endif
}
#define S6(n, a, b, c, d, e, f) \
    call6(NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define S(n, a, b, c, d, e) S6(n, a, b, c, d, e, 0)
#define S0(n) S(n, 0, 0, 0, 0, 0)
#define S1(n, a) S(n, a, 0, 0, 0, 0)
#define S2(n, a, b) S(n, a, b, 0, 0, 0)
#define S3(n, a, b, c) S(n, a, b, c, 0, 0)
#define S4(n, a, b, c, d) S(n, a, b, c, d, 0)

/* The compiler may call these two; what is in them must not become a call of themselves. */
__attribute__((used)) void *memset(void *to, int byte, size_t n) {
    for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = (char)byte;
    return to;
}
__attribute__((used)) void *memcpy(void *restrict to, const void *restrict from, size_t n) {
    void *result = to;
#if defined(__x86_64__)
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
#else
    for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = ((const char *)from)[i];
#endif
    return result;
}
static size_t length(const char *s) {
    size_t n = 0;
    while (s[n]) n++;
    return n;
}
static int same(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}
static int equal(const char *a, const char *b, size_t n) {
    while (n && *a == *b) a++, b++, n--;
    return n == 0;
}
/* A text that may hold any byte, also NUL: the line of an argument file. */
struct text {
    const char *s;
    size_t n;
};
static int is(struct text t, const char *word) {
    return length(word) == t.n && equal(t.s, word, t.n);
}
static int starts(struct text t, const char *word) {
    size_t n = length(word);
    return t.n >= n && equal(t.s, word, n);
}
static int contains(struct text t, const char *word) {
    size_t n = length(word);
    for (; t.n >= n; t.s++, t.n--) {
        if (equal(t.s, word, n)) return 1;
    }
    return 0;
}
static int digit(char c) {
    return c >= '0' && c <= '9';
}
static const char *base_name(const char *path) {
    const char *name = path;
    for (; *path; path++) {
        if (*path == '/') name = path + 1;
    }
    return name;
}
/* Both return the end of what they wrote. */
static char *put(char *to, const char *s) {
    while (*s) *to++ = *s++;
    *to = 0;
    return to;
}
static char *put_number(char *to, unsigned long value, unsigned base) {
    char digits[24], *p = digits + sizeof digits - 1;
    *p = 0;
    do *--p = (char)('0' + value % base); while (value /= base);
    return put(to, p);
}

__attribute__((noreturn)) static void leave(int status) {
    for (;;) S1(exit_group, status & 0xff);
}
__attribute__((noreturn)) static void hand_over(int silent);

/* ---- memory ---------------------------------------------------------------------------------- */

struct buffer {
    char *s;
    size_t used, room;
};

/* Room for `more` bytes behind what is used. Only touched pages cost anything. */
static void reserve(struct buffer *b, size_t more) {
    if (b->room - b->used >= more) return;
    size_t room = b->room ? b->room : 1 << 18;
    while (room - b->used < more) room *= 2;
    long at = b->room ? S4(mremap, b->s, b->room, room, 1)
                      : S6(mmap, 0, room, 3, 0x22, -1, 0);
    if (at < 0 && at > -4096) hand_over(0);
    b->s = (char *)at;
    b->room = room;
}

static void *memory(size_t size) {
    static struct buffer pool;
    static _Alignas(16) char first[1 << 16];
    if (!pool.room) pool = (struct buffer){first, 0, sizeof first};
    size = (size + 15) & ~(size_t)15;
    if (pool.room - pool.used < size) {
        pool = (struct buffer){0, 0, 0};
        reserve(&pool, size);
    }
    pool.used += size;
    return pool.s + pool.used - size;
}

/* A whole file behind what `b` holds, and a NUL behind that; 0 if it cannot be read. */
static int read_file(const char *path, struct buffer *b) {
    long fd = S4(openat, AT_CWD, path, CLOEXEC, 0), n;
    if (fd < 0) return 0;
    do {
        reserve(b, 1 << 16);
        n = S3(read, fd, b->s + b->used, b->room - b->used - 1);
        if (n > 0) b->used += (size_t)n;
    } while (n > 0 || n == -INTR);
    S1(close, fd);
    b->s[b->used] = 0;
    return n == 0;
}

struct status {
    uint32_t mask, blksize;
    uint64_t attributes;
    uint32_t nlink, uid, gid;
    uint16_t mode, spare;
    uint64_t ino, rest[11];
    uint32_t rdev[2], dev[2];
    char more[112];
};
_Static_assert(offsetof(struct status, dev) == 136 && sizeof(struct status) == 256, "statx(2)");

static long status_of(const char *path, int flags, struct status *status) {
    return S(statx, AT_CWD, path, flags, 0x7ff, status);
}

/* ---- the environment ------------------------------------------------------------------------- */

struct environment {
    char **at; /* ends with a null pointer; room for one entry more */
    size_t n;
};

/* What cargo gave to this call. */
static struct environment environment;

static size_t name_length(const char *entry) {
    size_t n = 0;
    while (entry[n] && entry[n] != '=') n++;
    return n;
}

static char **find(const struct environment *e, const char *name, size_t n) {
    for (size_t i = 0; i < e->n; i++) {
        if (e->at[i][0] == name[0] && equal(e->at[i], name, n) && e->at[i][n] == '=')
            return e->at + i;
    }
    return 0;
}

static const char *value_of(const char *name) {
    size_t n = length(name);
    char **entry = find(&environment, name, n);
    return entry ? *entry + n + 1 : 0;
}

static void add(struct environment *e, char *entry) {
    e->at[e->n++] = entry;
    e->at[e->n] = 0;
}

static void drop(struct environment *e, char **entry) {
    for (; *entry; entry++) entry[0] = entry[1];
    e->n--;
}

static int is_switched_on(const char *name) {
    const char *value = value_of(name);
    return value && *value && !same(value, "0");
}

/* hot.py's _parse_environ of `count` entries; room for `more` others. The first of two counts. */
static struct environment parse(char **entries, size_t count, size_t more) {
    struct environment e = {memory((count + more + 2) * sizeof(char *)), 0};
    uint64_t *hashes = memory((count + 1) * sizeof *hashes);
    e.at[0] = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t hash = 14695981039346656037u;
        const char *p = entries[i];
        for (; *p && *p != '='; p++) hash = (hash ^ (unsigned char)*p) * 1099511628211u;
        size_t n = (size_t)(p - entries[i]);
        if (!n || !*p) continue;
        int known = 0;
        for (size_t j = 0; j < e.n && !known; j++)
            known = hashes[j] == hash && equal(e.at[j], entries[i], n + 1);
        if (known) continue;
        hashes[e.n] = hash;
        add(&e, entries[i]);
    }
    return e;
}

/* The same of a text in which `end` ends or separates entries. */
static struct environment parse_text(char *text, size_t size, char end, size_t more) {
    size_t count = 1;
    for (size_t i = 0; i < size; i++) count += text[i] == end;
    char **entries = memory(count * sizeof(char *));
    count = 0;
    for (size_t i = 0; i <= size; i++) {
        if (i == 0 || !text[i - 1]) entries[count++] = text + i;
        if (i < size && text[i] == end) text[i] = 0;
    }
    return parse(entries, count, more);
}

static const char *const SHELL_ENVIRON[] = {"PWD", "OLDPWD", "SHLVL", "_"};
enum { SHELL_NAMES = sizeof SHELL_ENVIRON / sizeof *SHELL_ENVIRON };

static int is_of_shell(const char *name, size_t n) {
    for (int i = 0; i < SHELL_NAMES; i++) {
        if (is((struct text){name, n}, SHELL_ENVIRON[i])) return 1;
    }
    return 0;
}

static int is_identifier(const char *name, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char c = name[i] | 32;
        if (!(c >= 'a' && c <= 'z') && name[i] != '_' && !(i && digit(name[i]))) return 0;
    }
    return 1;
}

/* hot.py's environ_before_shell. */
static void undo_shell(char **entries, size_t count, char *text) {
    if (*text) {
        size_t size = length(text);
        environment = parse_text(text, size, '\n', 0);
        for (size_t i = 0; i < size; i++) {
            if (text[i] == 1) text[i] = '\n';
        }
        struct environment ours = parse(entries, count, 0);
        for (size_t i = 0; i < ours.n; i++) {
            size_t n = name_length(ours.at[i]);
            char **known = find(&environment, ours.at[i], n);
            if (known && !is_of_shell(ours.at[i], n)) *known = ours.at[i];
        }
        return;
    }
    char path[64];
    struct buffer file = {0, 0, 0};
    put(put_number(put(path, "/proc/"), (unsigned long)S0(getppid), 10), "/environ");
    if (!read_file(path, &file)) {
        environment = parse(entries, count, 0);
        return;
    }
    struct environment caller = parse_text(file.s, file.used, 0, 0);
    environment = parse(entries, count, caller.n + SHELL_NAMES);
    for (int i = 0; i < SHELL_NAMES; i++) {
        size_t n = length(SHELL_ENVIRON[i]);
        char **theirs = find(&caller, SHELL_ENVIRON[i], n);
        char **ours = find(&environment, SHELL_ENVIRON[i], n);
        if (theirs && ours) *ours = *theirs;
        if (theirs && !ours) add(&environment, *theirs);
        if (!theirs && ours) drop(&environment, ours);
    }
    for (size_t i = 0; i < caller.n; i++) {
        size_t n = name_length(caller.at[i]);
        if (!is_identifier(caller.at[i], n) && !find(&environment, caller.at[i], n))
            add(&environment, caller.at[i]);
    }
}

/* ---- what is asked and what is run at once ---------------------------------------------------- */

static int is_compiler(const char *path) {
    const char *name = base_name(path), *dash = 0;
    for (const char *p = name; *p; p++) {
        if (*p == '-') dash = p;
    }
    struct text whole = {name, length(name)}, before = {name, dash ? (size_t)(dash - name) : 0};
    if (is(before, "rustc") || is(before, "clippy-driver")) return digit(dash[1]);
    return is(whole, "rustc") || is(whole, "clippy-driver");
}

enum { NOTHING = 0, QUESTION = 1, ARTIFACTS = 2 };

/* hot.py's COMPILING_PRINTS. */
static int prints_beside(struct text kind) {
    return is(kind, "native-static-libs") || is(kind, "link-args");
}

static int look_at(struct text argument, struct text previous) {
    static const char *const questions[] = {"-", "-V", "-vV", "-Vv", "--version", "-h", "--help"};
    if (argument.n && argument.s[0] == '-') {
        for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
            if (is(argument, questions[i])) return QUESTION;
        }
        if (starts(argument, "--explain")) return QUESTION;
    }
    if (starts(argument, "--print=")) {
        struct text kind = {argument.s + 8, argument.n - 8};
        if (!prints_beside(kind)) return QUESTION;
    } else if (is(previous, "--print") && !prints_beside(argument))
        return QUESTION;
    int json = starts(argument, "--json=") || is(previous, "--json");
    return json && contains(argument, "artifacts") ? ARTIFACTS : NOTHING;
}

/* hot.py's wants_daemon. */
static int wants_daemon(char **call) {
    if (!is_compiler(call[0]) && call[1] && call[1][0] != '-' && call[1][0] != '@') return 0;
    struct text previous = {"", 0};
    int seen = NOTHING;
    for (char **argument = call + 1; *argument; argument++) {
        struct text now = {*argument, length(*argument)};
        if (now.s[0] != '@') {
            seen |= look_at(now, previous);
            previous = now;
            continue;
        }
        struct buffer file = {0, 0, 0};
        if (!read_file(now.s + 1, &file)) return 0;
        for (size_t at = 0; at < file.used; at++) { /* bytes.splitlines */
            now = (struct text){file.s + at, 0};
            for (; at < file.used && file.s[at] != '\n' && file.s[at] != '\r'; at++) now.n++;
            if (at + 1 < file.used && file.s[at] == '\r' && file.s[at + 1] == '\n') at++;
            seen |= look_at(now, previous);
            previous = now;
        }
    }
    return seen == ARTIFACTS;
}

/* hot.py's is_cargos_probe. */
static int is_cargos_probe(char **call) {
    static const char *const probe[] = {"-", "--crate-name", "___", "--print=file-names"};
    for (size_t i = 0; i < sizeof probe / sizeof *probe; i++) {
        if (!call[i + 1] || !same(call[i + 1], probe[i])) return 0;
    }
    return is_compiler(call[0]);
}

/* ---- the call, and how it goes on elsewhere --------------------------------------------------- */

static char **call;       /* compiler and its arguments */
static char **arguments;  /* what hot.py gets: `call` before anything was taken off */
static const char *script; /* the way to hot.py, when we were not started by cargo itself */
static struct buffer received;
static size_t obeyed; /* so many bytes of it; a frame begins behind them */
static int told;      /* something of it was written to stdout or stderr */
static int connection = -1;
static int handed;

static const char *own_path(void) {
    static char path[PATH_BYTES];
    if (!path[0]) {
        static const char gone[] = " (deleted)"; /* replaced by a newer one of the same name */
        long n = S4(readlinkat, AT_CWD, "/proc/self/exe", path, sizeof path - 8);
        path[n < 0 ? 0 : n] = 0;
        long cut = n - (long)sizeof gone + 1;
        if (cut > 0 && same(path + cut, gone)) path[cut] = 0;
    }
    return path;
}

static int is_same_file(const struct status *a, const char *path) {
    struct status b;
    return status_of(path, 0, &b) == 0 && a->ino == b.ino && a->dev[0] == b.dev[0] &&
           a->dev[1] == b.dev[1];
}

static int is_own(const char *place) {
    struct status there;
    if (status_of(place, 0, &there) != 0) return 0;
    return is_same_file(&there, own_path()) || (script && is_same_file(&there, script));
}

/* Become the compiler. What cannot be executed is left to hot.py, which says why. */
__attribute__((noreturn)) static void execute(void) {
    const char *program = call[0];
    if (base_name(program) != program) {
        S3(execve, program, call, environment.at);
        hand_over(0);
    }
    static char place[2 * PATH_BYTES];
    const char *path = value_of("PATH");
    if (!path) path = "/bin:/usr/bin";
    int several = 0;
    for (const char *p = path; *p; p++) several |= *p == ':';
    for (size_t size = length(program);;) {
        size_t n = 0;
        while (path[n] && path[n] != ':') n++;
        if (n + size + 3 < sizeof place) {
            char *end = place;
            if (n) memcpy(place, path, n), end += n;
            else *end++ = '.';
            *end++ = '/';
            put(end, program);
            if (!(several && is_own(place)) &&
                S3(execve, place, call, environment.at) == -NOEXEC)
                hand_over(0);
        }
        if (!path[n]) hand_over(0);
        path += n + 1;
    }
}

static int keep_on_exec(int fd) {
    return S3(fcntl, fd, 2, 0) == 0;
}

static void write_all(int fd, const char *s, size_t n);

/* Let hot.py go on from here. Once a request was sent it gets the connection and what came through
 * it: the first `obeyed` bytes are done, the rest is for it to obey, or to find wrong.
 *
 * `silent`: NO, YES: the patience of this call is used up, or ONLY_START: a daemon is wanted, not the
 * rest of this call. */
enum { NO = 0, YES = 1, ONLY_START = 2 };
__attribute__((noreturn)) static void hand_over(int silent) {
    static char place[PATH_BYTES], resume[PATH_BYTES + 128];
    if (handed) { /* hot.py is gone, and so is the compiler */
        write_all(2, "error: cannot execute `", 23);
        write_all(2, call[0], length(call[0]));
        write_all(2, "`\n", 2);
        leave(127);
    }
    handed = 1;
    char *end = put_number(put(resume, RESUME), (unsigned long)S0(getpid), 10);
    end = put(end, ":");
    long stream = connection < 0 ? -1 : S2(memfd_create, "burst", 0);
    if (stream >= 0) {
        write_all((int)stream, received.s, received.used);
        keep_on_exec(connection);
        end = put_number(end, (unsigned long)stream, 10);
    }
    end = put(end, ":");
    if (stream >= 0) end = put_number(end, (unsigned long)connection, 10);
    end = put_number(put(end, ":"), obeyed, 10);
    end = put(put(put_number(put(end, ":"), (unsigned long)silent, 10), ":"), own_path());
    char **old = find(&environment, RESUME, sizeof "BURST_RESUME" - 1);
    if (old) drop(&environment, old);
    char **environ = memory((environment.n + 2) * sizeof(char *));
    memcpy(environ, environment.at, environment.n * sizeof(char *));
    environ[environment.n] = resume;
    environ[environment.n + 1] = 0;

    size_t count = 0;
    while (arguments[count]) count++;
    char **argv = memory((count + 2) * sizeof(char *));
    const char *path = script;
    if (!path) {
        put(put(place, own_path()), ".py");
        path = place;
    }
    argv[0] = (char *)path;
    memcpy(argv + 1, arguments, (count + 1) * sizeof(char *));
    S3(execve, path, argv, environ);
    /* Half an uninstallation: the compiler works without us. */
    if (stream >= 0) S1(close, stream), S1(close, connection);
    if (!call || !call[0]) leave(2);
    execute();
}

/* ---- relaying --------------------------------------------------------------------------------- */

struct action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

static void interrupted(int number) {
    (void)number;
    leave(EXIT_INTERRUPTED); /* the closed connection tells the daemon */
}

static void exit_when_interrupted(void) {
    struct action action = {0, 0, 0, 0};
    S4(rt_sigaction, SIG_INT, 0, &action, 8);
    if (action.handler == (void (*)(int))1) return; /* ignored, as `nohup` does */
    /* SA_RESTORER, which x86_64 demands; nothing ever returns there. */
    action = (struct action){interrupted, 0x04000000, (void (*)(void))interrupted, 0};
    S4(rt_sigaction, SIG_INT, &action, 0, 8);
}

/* End by the signal that ended rustc, so that cargo reports it as it does at home. */
__attribute__((noreturn)) static void die(int number) {
    struct action action = {0, 0, 0, 0};
    S4(rt_sigaction, number, &action, 0, 8);
    S2(kill, S0(getpid), number);
    leave(128 + number);
}

static void pause_10_ms(void) {
    long time[2] = {0, 10 * 1000 * 1000};
    S4(ppoll, 0, 0, time, 0);
}

/* So many bytes: fewer than `n` if an error ended it that hot.py has to name. */
static size_t write_some(int fd, const char *s, size_t n) {
    size_t done = 0;
    while (done < n) {
        long written = S3(write, fd, s + done, n - done);
        if (written >= 0) done += (size_t)written;
        else if (written == -AGAIN) pause_10_ms(); /* somebody made the shared pipe non-blocking */
        else if (written == -PIPE_BROKEN) die(SIG_PIPE); /* cargo is gone; rustc would die so, too */
        else if (written != -INTR) break;
    }
    return done;
}
static void write_all(int fd, const char *s, size_t n) {
    write_some(fd, s, n);
}

static uint32_t u32(const char *s) {
    const unsigned char *p = (const unsigned char *)s;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static char *put_u32(char *to, size_t value) {
    for (int i = 0; i < 4; i++) *to++ = (char)(value >> 8 * i);
    return to;
}

/* The frame that is being obeyed becomes two: the first `done` bytes of its payload, which are
 * done, and the rest, at which something went wrong. */
__attribute__((noreturn)) static void hand_over_within(size_t done) {
    if (done) {
        reserve(&received, 5);
        char *frame = received.s + obeyed, *split = frame + 5 + done;
        size_t n = u32(frame + 1);
        for (char *p = received.s + received.used; p-- > split;) p[5] = *p;
        received.used += 5;
        split[0] = frame[0];
        put_u32(split + 1, n - done);
        put_u32(frame + 1, done);
        obeyed += 5 + done;
    }
    hand_over(0);
}

static void rename_all(char *names, size_t n) {
    size_t parts = 1;
    for (size_t i = 0; i < n; i++) parts += !names[i] && i + 1 < n;
    if (parts % 2 || !n) hand_over(0);
    /* The byte behind is the next frame's or the buffer's: a NUL for as long as we need it. */
    char behind = names[n];
    names[n] = 0;
    for (size_t at = 0; at < n;) {
        char *from = names + at, *to = from + length(from) + 1;
        if (S4(renameat, AT_CWD, from, AT_CWD, to) < 0) {
            names[n] = behind;
            hand_over_within(at);
        }
        at = (size_t)(to - names) + length(to) + 1;
    }
    names[n] = behind;
}

/* Take back from cargo's jobserver the token that the daemon gave away for this call. */
static void take_token(const char *jobserver, size_t n) {
    long fd = 0;
    size_t digits = 0;
    while (digits < n && digits < 9 && digit(jobserver[digits]))
        fd = fd * 10 + jobserver[digits++] - '0';
    if (!n || digits < n) {
        static char path[PATH_BYTES];
        if (n >= sizeof path) return;
        memcpy(path, jobserver, n);
        path[n] = 0;
        fd = S4(openat, AT_CWD, path, RDWR | CLOEXEC, 0);
        if (fd < 0) return;
    }
    char token;
    for (;;) {
        long got = S3(read, fd, &token, 1);
        if (got == -AGAIN) pause_10_ms();
        else if (got != -INTR) return;
    }
}

/* Do what one frame says. Returns if more frames are to come. */
static void obey(char *frame, size_t n) {
    char *payload = frame + 5;
    switch (frame[0]) {
    case 'E':
    case 'O': {
        told |= n > 0;
        size_t done = write_some(frame[0] == 'E' ? 2 : 1, payload, n);
        if (done < n) hand_over_within(done);
        break;
    }
    case 'R':
        rename_all(payload, n);
        break;
    case 'X': {
        if (n != 4) hand_over(0);
        int32_t status = (int32_t)u32(payload);
        if (status < 0) die(-status);
        leave(status);
    }
    case 'J':
        take_token(payload, n);
        frame[0] = 'L'; /* one token is enough, should hot.py have to go on */
        /* fall through */
    case 'L':
        if (told) hand_over(0); /* cargo must not hear it twice */
        execute();
    case 'A':
        leave(EXIT_INTERRUPTED);
    case 'H':
        break;
    default: /* 'F', and what nobody knows */
        hand_over(0);
    }
}

__attribute__((noreturn)) static void relay(void) {
    for (;;) {
        while (received.used - obeyed >= 5) {
            size_t n = u32(received.s + obeyed + 1);
            if (5 + n > MAX_FRAME_BYTES) hand_over(0);
            if (received.used - obeyed < 5 + n) break;
            obey(received.s + obeyed, n);
            obeyed += 5 + n;
        }
        reserve(&received, 1 << 16);
        /* One byte stays free, for rename_all. */
        long got = S6(recvfrom, connection, received.s + received.used,
                      received.room - received.used - 1, 0, 0, 0);
        if (got > 0) received.used += (size_t)got;
        else if (got != -INTR) hand_over(got == -AGAIN);
    }
}

/* ---- asking ----------------------------------------------------------------------------------- */

/* Milliseconds of BURST_SILENCE_S; what is not a plain number is for hot.py. */
static long patience_ms(void) {
    const char *value = value_of("BURST_SILENCE_S");
    if (!value || !*value) return SILENCE_MS;
    long ms = 0;
    int digits = 0;
    while (digit(*value) && digits++ < 6) ms = ms * 10 + (*value++ - '0');
    ms *= 1000;
    if (*value == '.') {
        value++;
        for (long unit = 100; digit(*value) && unit; unit /= 10, digits++)
            ms += unit * (*value++ - '0');
    }
    if (*value || !digits || !ms) hand_over(0);
    return ms;
}

struct address {
    uint16_t family;
    char path[108];
};

/* hot.py's socket_path. The end of its folder, or null where hot.py has to look for it. */
static char *name_socket(struct address *address) {
    struct status status;
    uint32_t uid = (uint32_t)S0(geteuid);
    const char *base = value_of("XDG_RUNTIME_DIR");
    char *end = address->path;
    if (base && base[0] == '/' && length(base) + sizeof "/burst" - 1 <= MAX_RUNTIME_DIR_BYTES &&
        status_of(base, 0, &status) == 0 && status.uid == uid)
        end = put(put(end, base), "/burst");
    else
        end = put_number(put(end, "/tmp/burst-"), uid, 10);
    char space[64]; /* mnt:[4026531841] */
    long n = S4(readlinkat, AT_CWD, "/proc/self/ns/mnt", space, sizeof space - 1);
    if (n < 7 || n > 24) return 0;
    space[n] = 0;
    if (!equal(space, "mnt:[", 5) || space[n - 1] != ']') return 0;
    space[n - 1] = 0;
    put(put(put(end, "/d-"), space + 5), "-v" PROTOCOL ".sock");
    address->family = 1;
    return end;
}

/* The same, if the folder is there and private. */
static void find_socket(struct address *address) {
    struct status status;
    uint32_t uid = (uint32_t)S0(geteuid);
    char *end = name_socket(address);
    if (!end) hand_over(0);
    *end = 0;
    if (status_of(address->path, NOFOLLOW, &status) != 0) hand_over(0);
    if ((status.mode & 0170000) != 0040000 || status.uid != uid || status.mode & 0077) hand_over(0);
    *end = '/';
}

/* Somebody waited in vain lately: then hot.py knows how long to wait. */
static void check_mark(const struct address *address) {
    char mark[sizeof address->path + 8];
    struct status status;
    put(put(mark, address->path), ".silent");
    if (status_of(mark, 0, &status) != -NOENT) hand_over(0);
}

static struct text request(void) {
    char folder[PATH_BYTES], pid[24], umask[24];
    long cwd = S2(getcwd, folder, sizeof folder);
    if (cwd < 2 || folder[0] != '/') hand_over(0);
    long mask = S1(umask, 0077);
    S1(umask, mask);
    put_number(umask, (unsigned long)mask, 8);
    put_number(pid, (unsigned long)S0(getpid), 10);
    size_t argv_size = 0, environ_size = 0;
    for (char **p = call; *p; p++) argv_size += length(*p) + 1;
    for (char **p = environment.at; *p; p++) environ_size += length(*p) + 1;

    const char *const simple[] = {PROTOCOL, pid, umask, folder};
    struct buffer b = {0, 0, 0};
    reserve(&b, argv_size + environ_size + PATH_BYTES + 256);
    char *at = put(b.s, MAGIC) + 4;
    for (int i = 0; i < 4; i++) at = put(put_u32(at, length(simple[i])), simple[i]);
    at = put_u32(at, argv_size - 1);
    for (char **p = call; *p; p++) at = put(at, *p) + 1;
    at = put_u32(at - 1, environ_size);
    for (char **p = environment.at; *p; p++) at = put(at, *p) + 1;
    struct text whole = {b.s, (size_t)(at - b.s)};
    put_u32(b.s + 4, whole.n - 8);
    return whole;
}

__attribute__((noreturn)) static void ask(void) {
    struct address address;
    long ms = patience_ms(), time[2] = {ms / 1000, ms % 1000 * 1000}, result;
    find_socket(&address);
    check_mark(&address);
    struct text rest = request();
    exit_when_interrupted();
    long fd = S3(socket, 1, 1 | CLOEXEC, 0);
    if (fd < 0) hand_over(0);
    S(setsockopt, fd, 1, 21, time, sizeof time); /* SOL_SOCKET, SO_SNDTIMEO */
    S(setsockopt, fd, 1, 20, time, sizeof time); /* SO_RCVTIMEO */
    do result = S3(connect, fd, &address, sizeof address.family + length(address.path) + 1);
    while (result == -INTR);
    if (result < 0) {
        S1(close, fd);
        hand_over(result == -AGAIN);
    }
    connection = (int)fd;
    while (rest.n) {
        result = S6(sendto, fd, rest.s, rest.n, 0x4000, 0, 0); /* MSG_NOSIGNAL */
        if (result >= 0) rest.s += result, rest.n -= (size_t)result;
        else if (result != -INTR) hand_over(result == -AGAIN);
    }
    relay();
}

/* hot.py's _start_early; what is to be done there is done by hot.py. */
static void start_early(void) {
    struct address address;
    struct status status;
    if (!name_socket(&address) || status_of(address.path, 0, &status) != -NOENT) return;
    long child = S(clone, SIG_CHLD, 0, 0, 0, 0);
    if (child > 0) {
        while (S4(wait4, child, 0, 0, 0) == -INTR) {}
        return;
    }
    if (child < 0) return;
    if (S(clone, SIG_CHLD, 0, 0, 0, 0)) leave(0);
    long null = S4(openat, AT_CWD, "/dev/null", RDWR, 0);
    for (int fd = 0; fd < 3; fd++) {
        if (null != fd && S3(dup3, null, fd, 0) < 0) leave(0);
    }
    hand_over(ONLY_START);
}

/* As `tr '\0\n' '\n\1'`, in half the time. */
__attribute__((noreturn)) static void show_environ(const char *path) {
    struct buffer file = {0, 0, 0};
    if (!read_file(path, &file)) leave(1);
    for (size_t i = 0; i < file.used; i++) {
        if (file.s[i] == '\n') file.s[i] = 1;
        if (!file.s[i]) file.s[i] = '\n';
    }
    write_all(1, file.s, file.used);
    leave(0);
}

/* ---- start ------------------------------------------------------------------------------------ */

static const char *file_executed(char **envp) {
    while (*envp) envp++;
    for (unsigned long *aux = (unsigned long *)(envp + 1); aux[0]; aux += 2) {
        if (aux[0] == 31) return (const char *)aux[1]; /* AT_EXECFN */
    }
    return "";
}

__attribute__((noreturn, used)) static void start(long *stack) {
    char **argv = (char **)(stack + 1), **envp = argv + stack[0] + 1;
    size_t count = 0;
    while (envp[count]) count++;
    const char *file = base_name(file_executed(envp));
    if (stack[0] == 0) leave(2);
    if (starts((struct text){file, length(file)}, "client-")) {
        if (stack[0] == 2) show_environ(argv[1]);
        if (stack[0] < 3) leave(2);
        script = argv[2];
        arguments = argv + 3;
        undo_shell(envp, count, argv[1]);
    } else {
        arguments = argv + 1;
        environment = parse(envp, count, 0);
    }
    const char *native = value_of("BURST_NATIVE");
    /* RUSTC_WRAPPER and RUSTC_WORKSPACE_WRAPPER may both name us. */
    call = arguments;
    while (*call && same(base_name(*call), OWN_NAME)) call++;
    if (!*call || (native && same(native, "0"))) hand_over(0);
    if (call[0][0] == '-') { /* set as RUSTC rather than as RUSTC_WRAPPER */
        size_t n = 0;
        while (call[n]) n++;
        char **named = memory((n + 2) * sizeof(char *));
        named[0] = "rustc";
        memcpy(named + 1, call, (n + 1) * sizeof(char *));
        call = named;
    }
    if (is_switched_on("BURST_DISABLE")) execute();
    if (!wants_daemon(call)) {
        if (is_cargos_probe(call)) start_early();
        execute();
    }
    ask();
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call start\n");
#else
__asm__(".globl _start\n_start:\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, sp\n"
        "    bl start\n");
#endif
