/* 48 threads in the calls that the kernel continues as restart_syscall(2), most of them by syscall(3): the number of the call is
 * then nowhere in the code. Such a call may be interrupted by anything that runs no handler, job control too. None may end
 * with EINTR, shorter than asked, or much longer. */
#include "victim.h"
#include <linux/futex.h>
#include <poll.h>

#define THREADS 48

struct kind {
	const char *name;
	/* Waits `ns`; the word is the thread's own. */
	void (*wait)(const char *name, uint64_t ns, uint32_t *word);
};

static volatile int stop_now;

static void must_be(const char *name, long got, long want)
{
	CHECK(got == want, "%s: returned %ld instead of %ld", name, got, want);
}

static void sleep_rest(const char *name, uint64_t ns, uint32_t *word)
{
	(void)word;
	struct timespec t = from_ns(ns);
	must_be(name, syscall(SYS_nanosleep, &t, &t), 0);
}
static void sleep_plain(const char *name, uint64_t ns, uint32_t *word)
{
	(void)word;
	struct timespec t = from_ns(ns);
	must_be(name, syscall(SYS_nanosleep, &t, NULL), 0);
}
static void sleep_clock_rest(const char *name, uint64_t ns, uint32_t *word)
{
	(void)word;
	struct timespec t = from_ns(ns), rest;
	must_be(name, syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, &rest), 0);
}
static void sleep_clock(const char *name, uint64_t ns, uint32_t *word)
{
	(void)word;
	struct timespec t = from_ns(ns);
	must_be(name, clock_nanosleep(CLOCK_BOOTTIME, 0, &t, NULL), 0);
}
static void futex_timed(const char *name, uint64_t ns, uint32_t *word)
{
	struct timespec t = from_ns(ns);
	must_be(name, syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0), -1);
	CHECK(errno == ETIMEDOUT, "%s", name);
}
static void futex_until(const char *name, uint64_t ns, uint32_t *word)
{
	struct timespec t = from_ns(now() + ns);
	must_be(name, syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, NULL, ~0u), -1);
	CHECK(errno == ETIMEDOUT, "%s", name);
}
static void poll_timed(const char *name, uint64_t ns, uint32_t *word)
{
	(void)word;
	struct pollfd fd = { .fd = -1 };
	must_be(name, poll(&fd, 1, (int)(ns / MS)), 0);
}
static void poll_raw(const char *name, uint64_t ns, uint32_t *word)
{
	(void)word;
	must_be(name, syscall(SYS_poll, NULL, 0, (int)(ns / MS)), 0);
}

static const struct kind kinds[] = {
	{ "nanosleep with remainder in its place", sleep_rest }, { "nanosleep", sleep_plain },
	{ "clock_nanosleep with remainder", sleep_clock_rest },  { "clock_nanosleep", sleep_clock },
	{ "futex with timeout", futex_timed },                   { "futex until", futex_until },
	{ "poll", poll_timed },                                  { "poll of nothing", poll_raw },
};

static void *work(void *argument)
{
	const struct kind *kind = argument;
	uint32_t word = 0;
	while (!stop_now) {
		uint64_t ns = (20 + dice(dice(4) ? 200 : 2000)) * MS, begin = now();
		kind->wait(kind->name, ns, &word);
		uint64_t took = now() - begin;
		CHECK(took >= ns, "%s: %llu us instead of %llu us", kind->name, (unsigned long long)took / 1000,
		      (unsigned long long)ns / 1000);
		CHECK(took < ns + TOLERANCE, "%s: %llu ms instead of %llu ms", kind->name,
		      (unsigned long long)(took / MS), (unsigned long long)(ns / MS));
	}
	return NULL;
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		threads[i] = start_thread(work, (void *)&kinds[i % COUNT(kinds)]);
	ready();
	while (!stopped())
		pause_ms(5);
	stop_now = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	pass();
}
