/* What all victims share: a victim says "ready", works and checks itself until a file named by argv[1] appears, checks
 * all one last time, says PASS and exits 0. Whatever it finds wrong it says at once, as "FAIL: reason", and exits 1. */
#ifndef VICTIM_H
#define VICTIM_H
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define MS 1000000ull
#define SECOND 1000000000ull
/* The longest silence that a victim accepts, on a busy machine; more on emulated processors. A wrong clock is hours off. */
#define TOLERANCE (tolerance_s * SECOND)
/* For what is waited for in a single call, in ms: if it does not come by then, it never does. */
#define PATIENCE_MS ((int)(TOLERANCE / MS) * 3)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char *stop_file;
static uint64_t tolerance_s = 10;

static inline __attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...)
{
	char text[600];
	int error = errno, length = snprintf(text, sizeof text, "FAIL: ");
	va_list list;
	va_start(list, format);
	length += vsnprintf(text + length, sizeof text - length - 60, format, list);
	va_end(list);
	length += snprintf(text + length, 60, " (errno %d, process %d, thread %d)\n", error, getpid(), gettid());
	if (write(1, text, length) != length)
		_exit(3);
	_exit(1);
}

#define CHECK(condition, ...) do { if (!(condition)) fail(__VA_ARGS__); } while (0)
/* For calls that must not fail. */
#define MUST(call) ({ __typeof__(call) must_ = (call); CHECK(must_ != (__typeof__(call))-1, "%s:%d: %s", __FILE__, __LINE__, #call); must_; })

static inline uint64_t to_ns(struct timespec t) { return t.tv_sec * SECOND + t.tv_nsec; }
static inline struct timespec from_ns(uint64_t ns) { return (struct timespec){ ns / SECOND, ns % SECOND }; }

static inline uint64_t now_on(clockid_t clock)
{
	struct timespec t;
	CHECK(clock_gettime(clock, &t) == 0, "clock_gettime(%d)", (int)clock);
	return to_ns(t);
}
static inline uint64_t now(void) { return now_on(CLOCK_MONOTONIC); }

/* Both clocks go forward and without a jump between any two calls in one thread. */
static inline void watch_clocks(void)
{
	static __thread uint64_t last[2];
	static const clockid_t clocks[2] = { CLOCK_MONOTONIC, CLOCK_BOOTTIME };
	for (int i = 0; i < 2; i++) {
		uint64_t t = now_on(clocks[i]);
		CHECK(t >= last[i], "clock %d ran backwards by %llu ns", (int)clocks[i], (unsigned long long)(last[i] - t));
		CHECK(last[i] == 0 || t - last[i] < TOLERANCE, "clock %d jumped by %llu ms", (int)clocks[i],
		      (unsigned long long)((t - last[i]) / MS));
		last[i] = t;
	}
}

static inline void say(const char *text)
{
	size_t length = strlen(text);
	if (write(1, text, length) != (ssize_t)length)
		_exit(3);
}

static inline void victim_begin(int argc, char **argv)
{
	CHECK(argc == 2, "usage: %s STOP-FILE", argv[0]);
	stop_file = argv[1];
	if (getenv("ULPM_VICTIM_TOLERANCE_S"))
		tolerance_s = strtoull(getenv("ULPM_VICTIM_TOLERANCE_S"), NULL, 10);
	watch_clocks();
}

static inline void ready(void) { say("ready\n"); }

static inline int stopped(void)
{
	watch_clocks();
	int saved = errno, there = access(stop_file, F_OK) == 0;
	errno = saved;
	return there;
}

static inline __attribute__((noreturn)) void pass(void)
{
	say("PASS\n");
	_exit(0);
}

/* Sleeps without using anything that another part of a victim tests. */
static inline void pause_ms(unsigned ms)
{
	struct timespec t = from_ns(ms * MS);
	CHECK(nanosleep(&t, NULL) == 0, "nanosleep");
}

/* Waits until a counter of another thread's has moved on. */
static inline void await_change(const volatile uint32_t *counter, const char *what)
{
	uint32_t before = *counter;
	for (uint64_t begun = now(); *counter == before; pause_ms(1))
		CHECK(now() - begun < TOLERANCE, "%s does not run", what);
}

/* A path beside the stop file. */
static inline const char *beside(char *room, size_t size, const char *suffix)
{
	CHECK((size_t)snprintf(room, size, "%s.%s", stop_file, suffix) < size, "path too long");
	return room;
}

static inline uint64_t mix(uint64_t x)
{
	x ^= x >> 33; x *= 0xff51afd7ed558ccdull;
	x ^= x >> 33; x *= 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 33;
}

static __thread uint64_t dice_state;
static inline uint64_t dice(uint64_t sides)
{
	if (!dice_state)
		dice_state = 88172645463325252ull + (uint64_t)syscall(SYS_gettid);
	return mix(dice_state += 0x9e3779b97f4a7c15ull) % sides;
}

static inline void fill(void *at, size_t bytes, uint64_t seed)
{
	for (size_t i = 0; i < bytes / 8; i++)
		((volatile uint64_t *)at)[i] = mix(seed + i);
}

static inline void verify(const void *at, size_t bytes, uint64_t seed, const char *what)
{
	for (size_t i = 0; i < bytes / 8; i++)
		CHECK(((const volatile uint64_t *)at)[i] == mix(seed + i), "%s: wrong content at %p", what,
		      (void *)((const uint64_t *)at + i));
}

static inline void verify_zero(const void *at, size_t bytes, const char *what)
{
	for (size_t i = 0; i < bytes / 8; i++)
		CHECK(((const volatile uint64_t *)at)[i] == 0, "%s: not zero at %p", what, (void *)((const uint64_t *)at + i));
}

/* One field of a file of /proc, in KiB or whatever it counts: of the whole file, or in smaps of the mapping at `start`, whose flags are
 * told, too, where there is room for them. -1: it is not there. */
static inline long proc_field(const char *file, const char *start, const char *field, char *flags, size_t size)
{
	char line[600];
	long found = -1;
	int inside = !start;
	FILE *text = fopen(file, "re");
	CHECK(text, "open %s", file);
	while (fgets(line, sizeof line, text)) {
		unsigned long from, to;
		if (start && sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = (unsigned long)start >= from && (unsigned long)start < to;
		else if (inside && strncmp(line, field, strlen(field)) == 0)
			found = atol(line + strlen(field));
		else if (inside && flags && strncmp(line, "VmFlags:", 8) == 0)
			snprintf(flags, size, "%s", line);
	}
	fclose(text);
	return found;
}

/* What the kernel says of the mapping that begins at `at`: permissions, size of its pages in KiB, one of its flags. */
static inline void check_mapping(const char *at, const char *permissions, int page_kib, const char *flag)
{
	char start[32], size[32], line[600];
	FILE *maps = fopen("/proc/self/smaps", "re");
	CHECK(maps, "open smaps");
	int found = 0, inside = 0;
	snprintf(start, sizeof start, "%lx-", (unsigned long)at);
	snprintf(size, sizeof size, " %d kB", page_kib);
	while (fgets(line, sizeof line, maps)) {
		if (strncmp(line, start, strlen(start)) == 0) {
			inside = 1;
			CHECK(strstr(line, permissions), "mapping %p is not %s: %s", (const void *)at, permissions, line);
		} else if (inside && strncmp(line, "KernelPageSize:", 15) == 0) {
			CHECK(strstr(line, size), "mapping %p: %s", (const void *)at, line);
		} else if (inside && strncmp(line, "VmFlags:", 8) == 0) {
			found = 1, inside = 0;
			CHECK(strstr(line, flag), "mapping %p lacks flag %s: %s", (const void *)at, flag, line);
		}
	}
	fclose(maps);
	CHECK(found, "mapping %p is not in smaps", (const void *)at);
}

/* Whether the mapping at `at` has a flag. */
static inline int has_flag(const char *at, const char *flag)
{
	char flags[600] = "";
	proc_field("/proc/self/smaps", at, "Rss:", flags, sizeof flags);
	return strstr(flags, flag) != NULL;
}

static inline pthread_t start_thread(void *(*run)(void *), void *argument)
{
	pthread_t thread;
	pthread_attr_t attributes;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 256 * 1024);
	CHECK((errno = pthread_create(&thread, &attributes, run, argument)) == 0, "pthread_create");
	return thread;
}
#endif
