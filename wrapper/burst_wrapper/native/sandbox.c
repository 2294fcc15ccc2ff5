/* burst-sandbox: start one program in namespaces of its own, with exactly the files it is given.
 *
 * One freestanding file: no libc, raw system calls, x86_64 and aarch64, static. It is built once by
 * home's own `cc` and runs on any Linux >= 5.12 (mount_setattr), whatever libc is installed there.
 *
 *   burst-sandbox FD
 *
 * reads its specification from descriptor FD: NUL-terminated tokens, an operation followed by its
 * arguments. Paths in the sandbox are absolute; parents of a target are made as needed.
 *
 *   userns                 own user namespace, identity map (left out for root with CAP_SYS_ADMIN)
 *   netns                  own network namespace, only loopback, up
 *   plain                  no namespaces at all: only limits, environment, status, death with parent
 *   joinuser FD, joinnet FD  enter these namespaces first (setns), then make our own
 *   keeproot               own mount and pid namespaces, but the files of where we are; a new /proc
 *   keepprivileges         capabilities and setuid programs stay as they are
 *   user UID GID           who the program is: as root by setresuid, else by the user namespace's map
 *   group                  the program leads a process group of its own; stops are reported; what it
 *                          leaves behind is ended with it, without a pid namespace too
 *   terminal FD            that is its controlling terminal (implies group, which is its foreground)
 *   parent PID             refuse to start if PID is not our parent any more
 *   status FD              where records go (see below)
 *   oomadj N               /proc/self/oom_score_adj of the program
 *   dir PATH               an empty directory
 *   bind SRC DST           read-only, recursively, nosuid, nodev
 *   rwbind SRC DST         writable, nosuid, nodev
 *   tmpfs DST SIZE         private memory file system, mode 1777; SIZE as for mount, 0: kernel default
 *   idbind SRC DST         rwbind in which what is ours on disk is that user's (root: idmapped mount)
 *   proc DST               read-only; where it is refused (nested containers) we go on without
 *   rwproc DST             writable; where it is refused, the /proc of where we are
 *   pts DST                a devpts of its own, and `ptmx` beside it
 *   dev DST                null zero full random urandom tty, shm, fd/stdin/stdout/stderr
 *   symlink TARGET LINK
 *   rlimit WHICH SOFT HARD numbers, "inf" is no limit
 *   cwd PATH, env K=V, arg A (argv[0] first), exec PATH
 *
 * Records on the status descriptor, each ended by NUL; it is never descriptor 2, since everything
 * there is taken for the compiler's words and stored and replayed:
 *
 *   noproc ERRNO | started | exit CODE | signal N | killed N | usage USER_US SYS_US MAXRSS_KIB
 *   running 0 | stopped SIGNAL | continued 0
 *   error: TEXT: errno N
 *
 * Exit status: the program's; 128+N if signal N ended it; 125 if it was never started.
 *
 * Processes: outer (ours, in the old namespaces) - init (pid 1 of the new pid namespace, reaps) -
 * program. outer has PDEATHSIG KILL on its parent, init on outer, and the kernel kills all of a pid
 * namespace with its init: nothing survives, whoever is killed.
 */

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
enum {
    NR_read = 0, NR_write = 1, NR_close = 3, NR_mmap = 9, NR_rt_sigaction = 13,
    NR_rt_sigprocmask = 14, NR_ioctl = 16, NR_getpid = 39, NR_kill = 62, NR_setpgid = 109,
    NR_setgroups = 116, NR_setresuid = 117, NR_setresgid = 119, NR_setns = 308,
    NR_socket = 41, NR_clone = 56, NR_execve = 59, NR_wait4 = 61, NR_fcntl = 72, NR_chdir = 80,
    NR_fchdir = 81, NR_umask = 95, NR_geteuid = 107, NR_getegid = 108, NR_getppid = 110,
    NR_setsid = 112, NR_capget = 125, NR_capset = 126, NR_pivot_root = 155, NR_prctl = 157,
    NR_chroot = 161, NR_mount = 165, NR_umount2 = 166, NR_sethostname = 170,
    NR_setdomainname = 171, NR_exit_group = 231, NR_openat = 257, NR_mkdirat = 258,
    NR_mknodat = 259, NR_unlinkat = 263, NR_symlinkat = 266, NR_ppoll = 271, NR_pipe2 = 293,
    NR_prlimit64 = 302, NR_statx = 332,
};
#elif defined(__aarch64__)
enum {
    NR_fcntl = 25, NR_ioctl = 29, NR_mknodat = 33, NR_mkdirat = 34, NR_unlinkat = 35,
    NR_symlinkat = 36, NR_umount2 = 39, NR_mount = 40, NR_pivot_root = 41, NR_chdir = 49,
    NR_fchdir = 50, NR_chroot = 51, NR_openat = 56, NR_close = 57, NR_pipe2 = 59, NR_read = 63,
    NR_write = 64, NR_ppoll = 73, NR_capget = 90, NR_capset = 91, NR_exit_group = 94,
    NR_rt_sigprocmask = 135, NR_setsid = 157, NR_sethostname = 161, NR_setdomainname = 162,
    NR_umask = 166, NR_prctl = 167, NR_getppid = 173, NR_geteuid = 175, NR_getegid = 177,
    NR_socket = 198, NR_clone = 220, NR_execve = 221, NR_mmap = 222, NR_wait4 = 260,
    NR_prlimit64 = 261, NR_statx = 291, NR_rt_sigaction = 134, NR_getpid = 172, NR_kill = 129,
    NR_setpgid = 154, NR_setgroups = 159, NR_setresuid = 147, NR_setresgid = 149, NR_setns = 268,
};
#else
#error "burst-sandbox knows x86_64 and aarch64"
#endif
/* Newer calls have one number everywhere. */
enum {
    NR_open_tree = 428, NR_move_mount = 429, NR_fsopen = 430, NR_fsconfig = 431, NR_fsmount = 432,
    NR_openat2 = 437, NR_mount_setattr = 442,
};

enum { EXIST = 17, ENOENT_ = 2, EINTR_ = 4, ECHILD_ = 10, EINVAL_ = 22 };
enum { AT_CWD = -100, EMPTY_PATH = 0x1000, RECURSIVE = 0x8000, REMOVEDIR = 0x200 };
enum {
    READ_ONLY = 0, WRITE_ONLY = 1, CLOEXEC = 02000000, PATH_ONLY = 010000000,
#if defined(__aarch64__)
    DIRECTORY = 040000,
#else
    DIRECTORY = 0200000,
#endif
};
enum { RESOLVE_IN_ROOT = 0x10 };
enum { CLONE_TREE = 1, MOVE_EMPTY = 4 };
enum { ATTR_RDONLY = 1, ATTR_NOSUID = 2, ATTR_NODEV = 4, ATTR_NOEXEC = 8, ATTR_IDMAP = 0x100000 };
enum { WALL = 0x40000000, UNTRACED = 2, CONTINUED = 8 };
enum { SET_TERMINAL = 0x540e, SET_FOREGROUND = 0x5410, TTOU = 22 };
enum { MS_NOSUID_ = 2, MS_NODEV_ = 4, MS_REC_ = 16384, MS_PRIVATE_ = 1 << 18, DETACH = 2 };
enum {
    NEWNS = 0x00020000, NEWUTS = 0x04000000, NEWIPC = 0x08000000, NEWUSER = 0x10000000,
    NEWPID = 0x20000000, NEWNET = 0x40000000, CHILD = 17,
};
enum { SETUP_FAILED = 125, S_REG = 0100000, S_DIR = 0040000, S_TYPE = 0170000 };

#define OLD_ROOT ".burst-old-root"

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
#define S(n, a, b, c, d, e) call6(NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define S0(n) S(n, 0, 0, 0, 0, 0)
#define S1(n, a) S(n, a, 0, 0, 0, 0)
#define S2(n, a, b) S(n, a, b, 0, 0, 0)
#define S3(n, a, b, c) S(n, a, b, c, 0, 0)
#define S4(n, a, b, c, d) S(n, a, b, c, d, 0)

/* The compiler may call these for struct copies; the empty asm keeps it from turning the loop
 * bodies back into calls of themselves. */
__attribute__((used)) void *memset(void *to, int byte, size_t n) {
    for (size_t i = 0; i < n; i++) {
        ((volatile char *)to)[i] = (char)byte;
    }
    return to;
}
__attribute__((used)) void *memcpy(void *to, const void *from, size_t n) {
    for (size_t i = 0; i < n; i++) {
        ((volatile char *)to)[i] = ((const char *)from)[i];
    }
    return to;
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

/* ---- records ------------------------------------------------------------------------------- */

static int status_fd = -1;

struct text {
    size_t n;
    char s[4608];
};
static void put(struct text *t, const char *s) {
    while (*s && t->n < sizeof t->s - 1) t->s[t->n++] = *s++;
}
static void put_number(struct text *t, long value) {
    char digits[24], *p = digits + sizeof digits - 1;
    unsigned long v = value < 0 ? 0ul - (unsigned long)value : (unsigned long)value;
    *p = 0;
    do *--p = (char)('0' + v % 10); while (v /= 10);
    if (value < 0) *--p = '-';
    put(t, p);
}
static void send(struct text *t) {
    t->s[t->n++] = 0;
    if (status_fd >= 0) S3(write, status_fd, t->s, t->n);
}
static void record(const char *word, long number) {
    struct text t;
    t.n = 0;
    put(&t, word);
    put_number(&t, number);
    send(&t);
}
__attribute__((noreturn)) static void leave(int code) {
    for (;;) S1(exit_group, code);
}
__attribute__((noreturn)) static void fail(const char *what, const char *path, long result) {
    struct text t;
    t.n = 0;
    put(&t, "error: ");
    put(&t, what);
    if (path) put(&t, " "), put(&t, path);
    put(&t, ": errno ");
    put_number(&t, -result);
    send(&t);
    leave(SETUP_FAILED);
}
static long must(long result, const char *what, const char *path) {
    if (result < 0) fail(what, path, result);
    return result;
}
static unsigned long number(const char *s) {
    unsigned long v = 0;
    if (same(s, "inf")) return ~0ul;
    if (!*s) fail("bad number", s, -22);
    for (; *s; s++) {
        if (*s < '0' || *s > '9') fail("bad number", s, -22);
        v = v * 10 + (unsigned long)(*s - '0');
    }
    return v;
}

/* ---- the specification ---------------------------------------------------------------------- */

struct limit {
    int which;
    uint64_t soft_hard[2];
};
struct spec {
    char *start, *end; /* tokens */
    int userns, netns, plain, keeproot, keepprivileges, group, user;
    int joinuser, joinnet, terminal;
    long parent, uid, gid;
    const char *oomadj, *cwd, *exec;
    char **argv, **envp;
    size_t argc, envc;
    struct limit limits[16];
    int n_limits;
};
static struct spec spec = {.joinuser = -1, .joinnet = -1, .terminal = -1};

static void *memory(size_t size) {
    long p = call6(NR_mmap, 0, (long)size, 3, 0x22, -1, 0);
    if (p < 0 && p > -4096) fail("out of memory", 0, p);
    return (void *)p;
}

static void read_all(int fd) {
    struct { uint32_t head[10]; uint64_t size; char rest[208]; } st; /* stx_size is at byte 40 */
    must(S(statx, fd, "", EMPTY_PATH, 0x7ff, &st), "specification", 0);
    size_t room = (st.size > (1u << 20) ? st.size : (1u << 20)) + 1, used = 0;
    char *buffer = memory(room);
    for (;;) {
        long n = S3(read, fd, buffer + used, room - used);
        if (n == -EINTR_) continue;
        must(n, "specification", 0);
        if (n == 0) break;
        used += (size_t)n;
        if (used == room) fail("specification too long", 0, -7);
    }
    S1(close, fd);
    if (used && buffer[used - 1]) fail("specification is cut off", 0, -22);
    spec.start = buffer;
    spec.end = buffer + used;
}

static char *next(char **at) {
    char *token = *at;
    if (token >= spec.end) fail("specification is cut off", 0, -22);
    *at = token + length(token) + 1;
    return token;
}

/* Operations that make up the file system: handled in order by build_root. */
static int arity(const char *op) {
    static const char *const one[] = {"dir", "proc", "rwproc", "dev", "pts"};
    static const char *const two[] = {"bind", "rwbind", "idbind", "tmpfs", "symlink"};
    for (size_t i = 0; i < sizeof one / sizeof *one; i++) if (same(op, one[i])) return 1;
    for (size_t i = 0; i < sizeof two / sizeof *two; i++) if (same(op, two[i])) return 2;
    return -1;
}

static int takes_argument(const char *op) {
    static const char *const alone[] = {
        "userns", "netns", "plain", "keeproot", "keepprivileges", "group"};
    for (size_t i = 0; i < sizeof alone / sizeof *alone; i++) if (same(op, alone[i])) return 0;
    return 1;
}

/* A descriptor that is ours alone: the program does not get it. */
static int private_fd(const char *token) {
    int fd = (int)number(token);
    must(S3(fcntl, fd, 2, 1), "descriptor", token);
    return fd;
}

static void parse(void) {
    size_t tokens = 2;
    for (char *p = spec.start; p < spec.end; p++) tokens += !*p;
    spec.argv = memory(tokens * sizeof(char *));
    spec.envp = memory(tokens * sizeof(char *));
    for (char *at = spec.start; at < spec.end;) {
        char *op = next(&at);
        int n = arity(op);
        if (n > 0) {
            while (n--) next(&at);
        } else if (same(op, "arg")) {
            spec.argv[spec.argc++] = next(&at);
        } else if (same(op, "env")) {
            spec.envp[spec.envc++] = next(&at);
        } else if (same(op, "exec")) {
            spec.exec = next(&at);
        } else if (same(op, "cwd")) {
            spec.cwd = next(&at);
        } else if (same(op, "status")) {
            status_fd = (int)number(next(&at));
        } else if (same(op, "parent")) {
            spec.parent = (long)number(next(&at));
        } else if (same(op, "oomadj")) {
            spec.oomadj = next(&at);
        } else if (same(op, "userns")) {
            spec.userns = 1;
        } else if (same(op, "netns")) {
            spec.netns = 1;
        } else if (same(op, "plain")) {
            spec.plain = 1;
        } else if (same(op, "keeproot")) {
            spec.keeproot = 1;
        } else if (same(op, "keepprivileges")) {
            spec.keepprivileges = 1;
        } else if (same(op, "joinuser")) {
            spec.joinuser = private_fd(next(&at));
        } else if (same(op, "joinnet")) {
            spec.joinnet = private_fd(next(&at));
        } else if (same(op, "user")) {
            spec.user = 1;
            spec.uid = (long)number(next(&at));
            spec.gid = (long)number(next(&at));
        } else if (same(op, "group")) {
            spec.group = 1;
        } else if (same(op, "terminal")) {
            spec.group = 1;
            spec.terminal = (int)number(next(&at));
        } else if (same(op, "rlimit")) {
            if (spec.n_limits == 16) fail("too many limits", 0, -22);
            struct limit *l = &spec.limits[spec.n_limits++];
            l->which = (int)number(next(&at));
            l->soft_hard[0] = number(next(&at));
            l->soft_hard[1] = number(next(&at));
        } else {
            fail("unknown operation", op, -22);
        }
    }
    if (!spec.exec) fail("nothing to execute", 0, -22);
}

/* ---- the new root ---------------------------------------------------------------------------
 *
 * After pivot_root the process is chrooted into the OLD root, so that sources (and absolute links
 * in them) resolve as they always did, while the current directory is the NEW root and targets
 * resolve from there with RESOLVE_IN_ROOT, so that no link in them can lead out. */

static struct {
    int fd;
    size_t n;
    char path[4096];
} parent_dir = {-1, 0, {0}};

static void forget_parent(void) {
    if (parent_dir.fd >= 0) S1(close, parent_dir.fd);
    parent_dir.fd = -1;
}

static long open_in_root(const char *path) {
    struct { uint64_t flags, mode, resolve; } how = {
        (uint64_t)(PATH_ONLY | DIRECTORY | CLOEXEC), 0, RESOLVE_IN_ROOT};
    return S4(openat2, AT_CWD, *path ? path : ".", &how, sizeof how);
}

/* A directory of the new root, made with its parents if it is not there. `path` is changed and
 * changed back. */
static long open_directory(char *path, size_t n) {
    while (n && path[n - 1] == '/') n--;
    char kept = path[n];
    path[n] = 0;
    long fd = open_in_root(path);
    if (fd == -ENOENT_ && n) {
        size_t slash = n;
        while (slash && path[slash - 1] != '/') slash--;
        long up = open_directory(path, slash);
        if (up < 0) {
            fd = up;
        } else {
            long made = S3(mkdirat, up, path + slash, 0755);
            S1(close, up);
            fd = made < 0 && made != -EXIST ? made : open_in_root(path);
        }
    }
    path[n] = kept;
    return fd;
}

/* Parent directory of target and its last name. Neighbours come in a row, so one is remembered. */
static int enter(char *target, char **name) {
    if (target[0] != '/' || !target[1]) fail("bad target", target, -22);
    size_t slash = length(target);
    while (target[slash - 1] != '/') slash--;
    *name = target + slash;
    if (!**name || slash >= sizeof parent_dir.path) fail("bad target", target, -22);
    int hit = parent_dir.fd >= 0 && parent_dir.n == slash;
    for (size_t i = slash; hit && i > 0; i--) hit = parent_dir.path[i - 1] == target[i - 1];
    if (!hit) {
        forget_parent();
        parent_dir.fd = (int)must(open_directory(target + 1, slash - 1), "make parent of", target);
        parent_dir.n = slash;
        memcpy(parent_dir.path, target, slash);
    }
    return parent_dir.fd;
}

static void set_attributes(int fd, uint64_t set, int flags, const char *path) {
    struct { uint64_t set, clear, propagation, userns; } attributes = {set, 0, 0, 0};
    must(S(mount_setattr, fd, "", EMPTY_PATH | flags, &attributes, sizeof attributes),
         "set mount attributes of", path);
}

/* A user namespace in which what is ours on disk is the program's user's; -1: not needed. */
static int id_map = -1;

static void map_owner(int fd, const char *path) {
    struct { uint64_t set, clear, propagation, userns; } attributes = {
        ATTR_IDMAP, 0, 0, (uint64_t)id_map};
    must(S(mount_setattr, fd, "", EMPTY_PATH, &attributes, sizeof attributes),
         "map the owner of", path);
}

static void place(int tree, char *target, int directory) {
    char *name;
    int at = enter(target, &name);
    long made = directory ? S3(mkdirat, at, name, 0755) : S4(mknodat, at, name, S_REG | 0644, 0);
    long moved = S(move_mount, tree, "", at, name, MOVE_EMPTY);
    if (moved < 0) fail("mount on", target, made < 0 && made != -EXIST ? made : moved);
    S1(close, tree);
    if (directory) forget_parent();
}

static void bind(const char *source, char *target, uint64_t attributes, int mapped) {
    int recursive = mapped && id_map >= 0 ? 0 : RECURSIVE;
    int tree = (int)must(S3(open_tree, AT_CWD, source, CLONE_TREE | recursive | CLOEXEC),
                         "bind", source);
    struct { uint32_t head[7]; uint16_t mode; char rest[226]; } st; /* stx_mode is at byte 28 */
    must(S(statx, tree, "", EMPTY_PATH, 1, &st), "bind", source);
    set_attributes(tree, attributes, recursive, source);
    if (!recursive) map_owner(tree, source);
    place(tree, target, (st.mode & S_TYPE) == S_DIR);
}

static long new_mount(const char *type, const char *key, const char *value, int attributes) {
    long fs = S2(fsopen, type, 1);
    if (fs < 0) return fs;
    long result = S(fsconfig, fs, 1, "source", type, 0);
    if (result >= 0 && key) result = S(fsconfig, fs, 1, key, value, 0);
    if (result >= 0 && same(type, "tmpfs")) result = S(fsconfig, fs, 1, "mode", "1777", 0);
    if (result >= 0) result = S(fsconfig, fs, 6, 0, 0, 0);
    if (result >= 0) result = S3(fsmount, fs, 1, attributes);
    S1(close, fs);
    return result;
}

static void mount_tmpfs(char *target, const char *size) {
    const char *key = same(size, "0") ? 0 : "size";
    long tree = must(new_mount("tmpfs", key, size, ATTR_NOSUID | ATTR_NODEV), "tmpfs", target);
    place((int)tree, target, 1);
}

static void make_symlink(const char *to, char *link) {
    char *name;
    int at = enter(link, &name);
    long made = S3(symlinkat, to, at, name);
    if (made < 0 && made != -EXIST) fail("symlink", link, made);
}

static void mount_dev(char *target) {
    static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
    static const char *const links[][2] = {
        {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"},
        {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}};
    char path[4096], source[32];
    size_t n = length(target);
    if (n + 16 > sizeof path) fail("bad target", target, -36);
    memcpy(path, target, n);
    path[n++] = '/';
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        memcpy(source, "/dev/", 5);
        memcpy(source + 5, devices[i], length(devices[i]) + 1);
        memcpy(path + n, devices[i], length(devices[i]) + 1);
        long tree = S3(open_tree, AT_CWD, source, CLONE_TREE | CLOEXEC);
        if (tree < 0) continue; /* a container without that device */
        set_attributes((int)tree, ATTR_NOSUID | ATTR_NOEXEC, 0, source);
        place((int)tree, path, 0);
    }
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        memcpy(path + n, links[i][1], length(links[i][1]) + 1);
        make_symlink(links[i][0], path);
    }
    memcpy(path + n, "shm", 4);
    mount_tmpfs(path, "0");
}

static void mount_proc(char *target, int writable) {
    /* Read-only: for uid 0 the kernel lets even a process without capabilities write below
     * /proc/sys and to sysrq-trigger. */
    int attributes = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC | (writable ? 0 : ATTR_RDONLY);
    long tree = new_mount("proc", 0, 0, attributes);
    if (tree >= 0) {
        place((int)tree, target, 1);
        return;
    }
    record("noproc ", -tree);
    if (writable) bind("/proc", target, ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC, 0);
}

static void mount_pts(char *target) {
    long tree = new_mount("devpts", "ptmxmode", "0666", ATTR_NOSUID | ATTR_NOEXEC);
    if (tree < 0) return; /* no terminals of its own, then */
    place((int)tree, target, 1);
    char link[4096];
    size_t n = length(target), slash = n;
    while (slash && target[slash - 1] != '/') slash--;
    if (n + 8 > sizeof link) fail("bad target", target, -36);
    memcpy(link, target, slash);
    memcpy(link + slash, "ptmx", 5);
    make_symlink("pts/ptmx", link);
}

static void build_root(void) {
    must(S(mount, "none", "/", 0, MS_REC_ | MS_PRIVATE_, 0), "make mounts private", 0);
    if (spec.keeproot) {
        /* What is mounted on /proc stays usable where the kernel refuses a new one. */
        long made = S(mount, "proc", "/proc", "proc", MS_NOSUID_ | MS_NODEV_, 0);
        if (made < 0) record("noproc ", -made);
        return;
    }
    static const char *const bases[] = {"/tmp", "/run", "/mnt", "/proc"};
    long mounted = -1;
    for (size_t i = 0; i < 4 && mounted < 0; i++) {
        mounted = S(mount, "tmpfs", bases[i], "tmpfs", MS_NOSUID_ | MS_NODEV_, "mode=0755");
        if (mounted >= 0) must(S1(chdir, bases[i]), "enter new root", 0);
    }
    must(mounted, "mount new root", 0);
    must(S3(mkdirat, AT_CWD, OLD_ROOT, 0700), "make place for old root", 0);
    must(S2(pivot_root, ".", OLD_ROOT), "pivot_root", 0);
    must(S1(chdir, "/"), "enter new root", 0);
    int root = (int)must(S4(openat, AT_CWD, "/", PATH_ONLY | DIRECTORY | CLOEXEC, 0), "new root", 0);
    must(S1(chroot, "/" OLD_ROOT), "chroot", 0);

    for (char *at = spec.start; at < spec.end;) {
        char *op = next(&at);
        if (!takes_argument(op)) continue;
        char *first = next(&at);
        if (same(op, "bind")) {
            bind(first, next(&at), ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, 0);
        } else if (same(op, "rwbind")) {
            bind(first, next(&at), ATTR_NOSUID | ATTR_NODEV, 0);
        } else if (same(op, "idbind")) {
            bind(first, next(&at), ATTR_NOSUID | ATTR_NODEV, 1);
        } else if (same(op, "dir")) {
            S1(close, must(open_directory(first + 1, length(first) - 1), "make directory", first));
        } else if (same(op, "tmpfs")) {
            mount_tmpfs(first, next(&at));
        } else if (same(op, "symlink")) {
            make_symlink(first, next(&at));
        } else if (same(op, "proc") || same(op, "rwproc")) {
            mount_proc(first, same(op, "rwproc"));
        } else if (same(op, "dev")) {
            mount_dev(first);
        } else if (same(op, "pts")) {
            mount_pts(first);
        } else if (same(op, "user")) {
            next(&at);
        } else if (same(op, "rlimit")) {
            next(&at), next(&at);
        }
    }
    forget_parent();
    must(S1(fchdir, root), "enter new root", 0);
    must(S1(chroot, "."), "chroot", 0);
    must(S2(umount2, OLD_ROOT, DETACH), "detach old root", 0);
    S3(unlinkat, AT_CWD, OLD_ROOT, REMOVEDIR);
    set_attributes(root, ATTR_RDONLY, 0, "/");
    S1(close, root);
}

/* ---- privileges ----------------------------------------------------------------------------- */

struct caps {
    uint32_t effective, permitted, inheritable;
};

static int is_admin(void) {
    struct { uint32_t version; int pid; } head = {0x20080522, 0};
    struct caps caps[2] = {{0, 0, 0}, {0, 0, 0}};
    return S0(geteuid) == 0 && S2(capget, &head, caps) == 0 && (caps[0].effective >> 21 & 1);
}

static void drop_privileges(int become) {
    struct { uint32_t version; int pid; } head = {0x20080522, 0};
    struct caps none[2] = {{0, 0, 0}, {0, 0, 0}};
    if (spec.keepprivileges) return;
    S(prctl, 47, 4, 0, 0, 0);                                       /* ambient: clear all */
    for (int cap = 0; cap < 64 && S2(prctl, 24, cap) >= 0; cap++) {} /* bounding set */
    if (become) {
        must(S2(setgroups, 0, 0), "drop groups", 0);
        must(S3(setresgid, spec.gid, spec.gid, spec.gid), "become another group", 0);
        must(S3(setresuid, spec.uid, spec.uid, spec.uid), "become another user", 0);
    }
    must(S2(capset, &head, none), "drop capabilities", 0);
    must(S(prctl, 38, 1, 0, 0, 0), "no_new_privs", 0);
}

static int write_proc(const char *path, const char *words) {
    long fd = S4(openat, AT_CWD, path, WRITE_ONLY | CLOEXEC, 0);
    if (fd < 0) return (int)fd;
    long n = S3(write, fd, words, length(words));
    S1(close, fd);
    return (int)n;
}

/* `pid` 0 is ourselves; inside[i] is what outside[i] is called there. */
static void map_ids(long pid, const long *inside, const long *outside) {
    static const char *const names[] = {"/setgroups", "/uid_map", "/gid_map"};
    for (int i = 0; i < 3; i++) {
        struct text path, t;
        path.n = t.n = 0;
        put(&path, "/proc/");
        if (pid) put_number(&path, pid); else put(&path, "self");
        put(&path, names[i]);
        path.s[path.n] = 0;
        if (i) {
            put_number(&t, inside[i - 1]);
            put(&t, " ");
            put_number(&t, outside[i - 1]);
            put(&t, " 1");
        } else {
            put(&t, "deny");
        }
        t.s[t.n] = 0;
        int wrote = write_proc(path.s, t.s);
        if (i == 0 && wrote == -ENOENT_) continue; /* before Linux 3.19 */
        must(wrote, "write", path.s);
    }
}

/* For idmapped mounts: root's files on disk are seen as the program's user's, and the other way
 * round. A child holds the namespace until we have it open. */
static void make_id_map(long uid, long gid) {
    long on_disk[] = {uid, gid}, seen[] = {spec.uid, spec.gid};
    long pid = must(S(clone, NEWUSER | CHILD, 0, 0, 0, 0), "new user namespace", 0);
    if (pid == 0) {
        S(prctl, 1, 9, 0, 0, 0);
        for (;;) S4(ppoll, 0, 0, 0, 0);
    }
    map_ids(pid, on_disk, seen);
    struct text path;
    path.n = 0;
    put(&path, "/proc/");
    put_number(&path, pid);
    put(&path, "/ns/user");
    path.s[path.n] = 0;
    id_map = (int)must(S4(openat, AT_CWD, path.s, READ_ONLY | CLOEXEC, 0), "open", path.s);
    S2(kill, pid, 9);
    S4(wait4, pid, 0, WALL, 0);
}

static void loopback_up(void) {
    struct { char name[16]; short flags; char rest[22]; } request = {"lo", 0x41, {0}};
    long fd = S3(socket, 2, 2 | CLOEXEC, 0);
    if (fd < 0) return; /* a kernel without IPv4: nothing to bring up */
    S3(ioctl, fd, 0x8914, &request);
    S1(close, fd);
}

/* ---- processes ------------------------------------------------------------------------------ */

/* A process group of our own, in the foreground of its terminal; every signal as it is by default,
 * whatever who started the agent had ignored. */
static void lead_group(void) {
    uint64_t output = 1ul << (TTOU - 1);
    struct { uint64_t handler, flags, restorer, mask; } as_usual = {0, 0, 0, 0};
    int pid = (int)S0(getpid);
    S4(rt_sigprocmask, 0, &output, 0, 8);
    must(S2(setpgid, 0, 0), "make a process group", 0);
    if (spec.terminal >= 0) {
        must(S3(ioctl, spec.terminal, SET_FOREGROUND, &pid), "take the terminal", 0);
    }
    for (int i = 1; i <= 64; i++) S4(rt_sigaction, i, &as_usual, 0, 8);
}

__attribute__((noreturn)) static void run(void) {
    uint64_t no_signals = 0;
    if (spec.group) lead_group();
    S4(rt_sigprocmask, 2, &no_signals, 0, 8);
    S3(fcntl, status_fd, 2, 1);
    for (int i = 0; i < spec.n_limits; i++) {
        struct limit *l = &spec.limits[i];
        uint64_t now[2];
        must(S4(prlimit64, 0, l->which, 0, now), "limit", 0);
        /* Never above what we were given: a plain user cannot, and root should not. */
        for (int j = 0; j < 2; j++) {
            if (l->soft_hard[j] > now[1]) l->soft_hard[j] = now[1];
        }
        must(S4(prlimit64, 0, l->which, l->soft_hard, 0), "limit", 0);
    }
    if (spec.cwd) must(S1(chdir, spec.cwd), "chdir", spec.cwd);
    fail("execute", spec.exec, S3(execve, spec.exec, spec.argv, spec.envp));
}

/* Waits for `pid`, reaping whatever else ends; reports how it ended. */
static int finish(long pid, int report) {
    int status = 0, options = WALL | (report && spec.group ? UNTRACED | CONTINUED : 0);
    struct { long user[2], system[2], maxrss, rest[13]; } usage;
    for (;;) {
        long got = S4(wait4, -1, &status, options, &usage);
        if (got == pid && (status & 0xff) == 0x7f) {
            record("stopped ", status >> 8 & 0xff);
        } else if (got == pid && status == 0xffff) {
            record("continued ", 0);
        } else if (got == pid) {
            break;
        }
        if (got < 0 && got != -EINTR_) fail("wait", 0, got);
    }
    int by = status & 0x7f, code = status >> 8 & 0xff;
    if (report) {
        struct text t;
        t.n = 0;
        put(&t, "usage ");
        put_number(&t, usage.user[0] * 1000000 + usage.user[1]);
        put(&t, " ");
        put_number(&t, usage.system[0] * 1000000 + usage.system[1]);
        put(&t, " ");
        put_number(&t, usage.maxrss);
        send(&t);
        if (by) {
            record("signal ", by);
        } else {
            record("exit ", code);
        }
    } else if (by) {
        record("killed ", by);
    }
    return by ? 128 + by : code;
}

/* Without a pid namespace: whatever the program left behind has become our child. */
static void sweep(void) {
    char list[4096];
    for (;;) {
        long fd = S4(openat, AT_CWD, "/proc/thread-self/children", READ_ONLY | CLOEXEC, 0);
        if (fd < 0) return;
        long n = S3(read, fd, list, sizeof list), pid = 0;
        S1(close, fd);
        for (long i = 0; i < n; i++) {
            if (list[i] >= '0' && list[i] <= '9') {
                pid = pid * 10 + (list[i] - '0');
            } else if (pid) {
                S2(kill, pid, 9);
                pid = 0;
            }
        }
        if (S4(wait4, -1, 0, WALL, 0) == -ECHILD_) return;
    }
}

__attribute__((noreturn)) static void supervise(int become) {
    if (spec.plain && spec.group) S(prctl, 36, 1, 0, 0, 0); /* child subreaper */
    if (spec.terminal >= 0) {
        must(S3(ioctl, spec.terminal, SET_TERMINAL, 0), "take the terminal", 0);
    }
    long pid = must(S(clone, CHILD, 0, 0, 0, 0), "fork", 0);
    if (pid == 0) {
        if (spec.plain) S(prctl, 1, 9, 0, 0, 0);
        if (become) drop_privileges(1);
        run();
    }
    if (become) drop_privileges(0);
    if (spec.group) {
        S2(setpgid, pid, pid); /* whichever of the two is first: from here on it can be signalled */
        record("running ", 0);
    }
    int code = finish(pid, 1);
    if (spec.plain && spec.group) sweep();
    leave(code);
}

__attribute__((noreturn)) static void init(const int *alive, const long *ids, int userns) {
    struct { int fd; short events, revents; } watch = {alive[0], 0, 0};
    struct { long s, ns; } at_once = {0, 0};
    S1(close, alive[1]);
    must(S(prctl, 1, 9, 0, 0, 0), "PDEATHSIG", 0);
    /* If outer died before that line, its end of the pipe is closed. */
    if (S4(ppoll, &watch, 1, &at_once, 0) != 0) leave(SETUP_FAILED);
    S1(close, alive[0]);
    S0(setsid);
    S1(umask, 022);
    if (spec.oomadj) write_proc("/proc/self/oom_score_adj", spec.oomadj);
    /* Ours alone: as root the program's user is another one, who must not get at us. */
    int become = spec.user && !userns;
    if (userns) {
        long inside[] = {spec.user ? spec.uid : ids[0], spec.user ? spec.gid : ids[1]};
        map_ids(0, inside, ids);
    }
    if (spec.netns) loopback_up();
    if (!spec.keeproot) {
        S2(sethostname, "burst", 5);
        S2(setdomainname, "", 0);
    }
    build_root();
    if (!become) drop_privileges(0);
    record("started ", 0);
    supervise(become);
}

__attribute__((used, noreturn)) static void start(long *stack) {
    long argc = stack[0];
    char **argv = (char **)(stack + 1);
    if (argc != 2) {
        static const char usage[] = "usage: burst-sandbox FD (it is started by burst-agent)\n";
        S3(write, 2, usage, sizeof usage - 1);
        leave(2);
    }
    read_all((int)number(argv[1]));
    parse();
    S(prctl, 1, 9, 0, 0, 0);
    if (spec.parent && S0(getppid) != spec.parent) fail("parent is gone", 0, -3);
    if (spec.plain) {
        S1(umask, 022);
        if (spec.oomadj) write_proc("/proc/self/oom_score_adj", spec.oomadj);
        record("started ", 0);
        supervise(0);
    }
    int admin = is_admin(), joined = spec.joinuser >= 0 && !admin; /* root needs no way in */
    if (joined) must(S2(setns, spec.joinuser, NEWUSER), "enter a user namespace", 0);
    if (spec.joinnet >= 0) must(S2(setns, spec.joinnet, NEWNET), "enter a network namespace", 0);
    int alive[2], userns = spec.userns && !admin;
    long ids[] = {S0(geteuid), S0(getegid)};
    if (spec.user && !userns) make_id_map(ids[0], ids[1]);
    if (joined) {
        S(prctl, 1, 9, 0, 0, 0); /* new credentials may have taken it away */
        if (spec.parent && S0(getppid) != spec.parent) fail("parent is gone", 0, -3);
    }
    must(S2(pipe2, alive, CLOEXEC), "pipe", 0);
    long flags = NEWNS | NEWPID | CHILD;
    if (!spec.keeproot) flags |= NEWIPC | NEWUTS;
    if (userns) flags |= NEWUSER;
    if (spec.netns) flags |= NEWNET;
    long pid = must(S(clone, flags, 0, 0, 0, 0), "new namespaces", 0);
    if (pid == 0) init(alive, ids, userns);
    leave(finish(pid, 0));
}

#if defined(__x86_64__)
__asm__(".text\n.globl _start\n.type _start,@function\n_start:\n"
        "xor %ebp,%ebp\nmov %rsp,%rdi\nand $-16,%rsp\ncall start\nhlt\n");
#else
__asm__(".text\n.globl _start\n.type _start,%function\n_start:\n"
        "mov x29,#0\nmov x30,#0\nmov x0,sp\nbl start\nbrk #0\n");
#endif
