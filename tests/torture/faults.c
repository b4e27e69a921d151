/* Preloaded into a process, it lets chosen system calls fail. PRATIMA_FAULTS is a comma-separated
 * list of CALL:NTH[+]:ACTION[:PATH]: the NTH call (from the NTH on with +) of CALL on a file whose
 * path contains PATH. CALL: write (every kind of it), sync, open, rename, unlink, truncate,
 * fallocate. ACTION: an error (EIO ENOSPC EROFS EINTR EMFILE EDQUOT), short (half of it is
 * written), kill (SIGKILL instead of the call), killed (SIGKILL after it).
 * PRATIMA_FAULTS_LOG names a file that gets a line for each fault that happened. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RUN = 0, SHORT = -1, KILL = -2, KILLED = -3, RULES_MAX = 16 };
static struct rule { char call[16], path[128]; long nth; int onwards, action; atomic_long seen; }
	rules[RULES_MAX];
static int rule_count;
static const struct { const char *name; int action; } actions[] = {
	{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EROFS", EROFS}, {"EINTR", EINTR}, {"EMFILE", EMFILE},
	{"EDQUOT", EDQUOT}, {"short", SHORT}, {"kill", KILL}, {"killed", KILLED}};

static void note(const char *call, const char *path, int action) {
	const char *log = getenv("PRATIMA_FAULTS_LOG");
	char line[512];
	int fd = log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
	int length = snprintf(line, sizeof line, "%s %d %.400s\n", call, action, path);
	if (fd >= 0) { syscall(SYS_write, fd, line, length); syscall(SYS_close, fd); }
}

__attribute__((constructor)) static void parse(void) {
	const char *text = getenv("PRATIMA_FAULTS");
	char copy[2048], *end = NULL, *one;
	snprintf(copy, sizeof copy, "%s", text ? text : "");
	for (one = strtok_r(copy, ",", &end); one; one = strtok_r(NULL, ",", &end)) {
		char nth[16] = "", action[16] = "";
		struct rule *rule = &rules[rule_count];
		if (rule_count == RULES_MAX || sscanf(one, "%15[^:]:%15[^:]:%15[^:]:%127[^:]",
				rule->call, nth, action, rule->path) < 3) goto wrong;
		rule->nth = atol(nth);
		rule->onwards = strchr(nth, '+') != NULL;
		for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
			if (!strcmp(action, actions[i].name)) rule->action = actions[i].action;
		if (rule->nth < 1 || rule->action == RUN) goto wrong;
		rule_count++;
		continue;
	wrong:
		fprintf(stderr, "PRATIMA_FAULTS: cannot use %s\n", one);
		_exit(125);
	}
}

/* What happens to this call on the file of fd, or of a name, which fd is the directory of:
   RUN, SHORT, KILLED, or the errno that it fails with. */
static int fate(const char *call, int fd, const char *name) {
	char link[32], found[4096] = "";
	int action = RUN;
	if (!rule_count) return RUN;
	if (!name || (*name != '/' && fd >= 0)) {
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		ssize_t length = readlink(link, found, sizeof found - 1);
		found[length = length > 0 ? length : 0] = 0;
		if (name) snprintf(found + length, sizeof found - length, "/%s", name);
		name = found;
	}
	for (struct rule *rule = rules; rule < rules + rule_count; rule++) {
		if (strcmp(rule->call, call) || !strstr(name, rule->path)) continue;
		long seen = atomic_fetch_add(&rule->seen, 1) + 1;
		if (action == RUN && (seen == rule->nth || (rule->onwards && seen > rule->nth)))
			action = rule->action;
	}
	if (action != RUN) note(call, name, action);
	if (action == KILL) kill(getpid(), SIGKILL);
	return action;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(action) do { errno = (action); return -1; } while (0)
#define AFTER(action, result) do { __typeof__(result) r_ = (result); \
	if ((action) == KILLED) { kill(getpid(), SIGKILL); } \
	return r_; } while (0)

/* A short vectored write leaves out the last buffers, or half of the only one. */
#define HALVE(vector, count) struct iovec half_ = (vector)[0]; \
	if ((count) > 1) (count) = ((count) + 1) / 2; \
	else { half_.iov_len = (half_.iov_len + 1) / 2; (vector) = &half_; }

#define WRITE_CALL(name, params, fd, data, size, ...) \
	ssize_t name params { int action = fate("write", fd, NULL); \
		if (action > 0) FAIL(action); \
		if (action == SHORT) size = (size + 1) / 2; \
		AFTER(action, NEXT(name)(fd, data, size __VA_OPT__(,) __VA_ARGS__)); }
#define VECTOR_CALL(name, params, ...) \
	ssize_t name params { int action = fate("write", fd, NULL); \
		if (action > 0) FAIL(action); \
		if (action == SHORT) { HALVE(v, n) return NEXT(name)(fd, v, n __VA_OPT__(,) __VA_ARGS__); } \
		AFTER(action, NEXT(name)(fd, v, n __VA_OPT__(,) __VA_ARGS__)); }
#define PLAIN_CALL(call, name, params, fd, path, ...) \
	int name params { int action = fate(call, fd, path); \
		if (action > 0) FAIL(action); \
		AFTER(action, NEXT(name)(__VA_ARGS__)); }
#define OPEN_CALL(name, at, fd, ...) \
	int name(__VA_ARGS__) { va_list rest; va_start(rest, flags); \
		int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0; va_end(rest); \
		int action = fate("open", fd, path); \
		if (action > 0) FAIL(action); \
		AFTER(action, NEXT(name)(at path, flags, mode)); }
#define COMMA ,
#define NOTHING

WRITE_CALL(write, (int fd, const void *d, size_t s), fd, d, s)
WRITE_CALL(pwrite, (int fd, const void *d, size_t s, off_t o), fd, d, s, o)
WRITE_CALL(pwrite64, (int fd, const void *d, size_t s, off64_t o), fd, d, s, o)
VECTOR_CALL(writev, (int fd, const struct iovec *v, int n))
VECTOR_CALL(pwritev, (int fd, const struct iovec *v, int n, off_t o), o)
VECTOR_CALL(pwritev64, (int fd, const struct iovec *v, int n, off64_t o), o)
VECTOR_CALL(pwritev2, (int fd, const struct iovec *v, int n, off_t o, int f), o, f)
VECTOR_CALL(pwritev64v2, (int fd, const struct iovec *v, int n, off64_t o, int f), o, f)
PLAIN_CALL("sync", fsync, (int fd), fd, NULL, fd)
PLAIN_CALL("sync", fdatasync, (int fd), fd, NULL, fd)
PLAIN_CALL("truncate", ftruncate, (int fd, off_t o), fd, NULL, fd, o)
PLAIN_CALL("truncate", ftruncate64, (int fd, off64_t o), fd, NULL, fd, o)
PLAIN_CALL("fallocate", fallocate, (int fd, int m, off_t o, off_t l), fd, NULL, fd, m, o, l)
PLAIN_CALL("fallocate", fallocate64, (int fd, int m, off64_t o, off64_t l), fd, NULL, fd, m, o, l)
PLAIN_CALL("rename", rename, (const char *a, const char *b), -1, b, a, b)
PLAIN_CALL("rename", renameat, (int x, const char *a, int y, const char *b), y, b, x, a, y, b)
PLAIN_CALL("unlink", unlink, (const char *a), -1, a, a)
PLAIN_CALL("unlink", unlinkat, (int x, const char *a, int f), x, a, x, a, f)
OPEN_CALL(open, NOTHING, -1, const char *path, int flags, ...)
OPEN_CALL(open64, NOTHING, -1, const char *path, int flags, ...)
OPEN_CALL(openat, dir COMMA, dir, int dir, const char *path, int flags, ...)
OPEN_CALL(openat64, dir COMMA, dir, int dir, const char *path, int flags, ...)
