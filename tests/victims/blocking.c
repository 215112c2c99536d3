/* 64 threads in all kinds of blocking calls. No call may end with EINTR, no timed call may last shorter than asked nor
 * much longer, and no wake-up may be lost: each is counted by who sends it and by who gets it. */
#include "victim.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/timerfd.h>

#define WORKERS 64

struct worker {
	const struct kind *kind;
	pthread_t thread;
	uint32_t word;             /* futex */
	int in, out;               /* pipe or eventfd */
	int epoll, timer;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	uint64_t sent, received, sent_at;
};

struct kind {
	const char *name;
	/* Blocks once. A timed kind waits `ns`; a woken kind until its waker comes (ns is 0). */
	void (*block)(struct worker *, uint64_t ns);
	void (*wake)(struct worker *);
};

static struct worker workers[WORKERS];
static volatile int stop_now;

static void must_be(struct worker *w, long got, long want)
{
	CHECK(got == want, "%s: returned %ld instead of %ld after %llu wake-ups", w->kind->name, got, want,
	      (unsigned long long)w->received);
}

static void take_byte(struct worker *w)
{
	char byte = 0;
	must_be(w, read(w->in, &byte, 1), 1);
	CHECK(byte == (char)w->sent, "%s: wrong byte", w->kind->name);
}
static void give_byte(struct worker *w)
{
	char byte = (char)w->sent;
	must_be(w, write(w->out, &byte, 1), 1);
}
static void take_event(struct worker *w)
{
	uint64_t value = 0;
	must_be(w, read(w->epoll, &value, 8), 8);
	CHECK(value == w->sent, "%s: wrong eventfd value", w->kind->name);
}
static void give_event(struct worker *w)
{
	uint64_t value = w->sent;
	must_be(w, write(w->epoll, &value, 8), 8);
}

static long futex(uint32_t *word, int op, uint32_t value, const struct timespec *timeout, uint32_t bits)
{
	return syscall(SYS_futex, word, op, value, timeout, NULL, bits);
}
static void futex_woken(struct worker *w, uint64_t ns)
{
	(void)ns;
	uint32_t value = (uint32_t)w->received;
	while (__atomic_load_n(&w->word, __ATOMIC_SEQ_CST) == value) {
		long result = futex(&w->word, FUTEX_WAIT_PRIVATE, value, NULL, 0);
		CHECK(result == 0 || errno == EAGAIN, "futex wait");
	}
}
static void futex_wake(struct worker *w)
{
	__atomic_store_n(&w->word, (uint32_t)w->sent, __ATOMIC_SEQ_CST);
	CHECK(futex(&w->word, FUTEX_WAKE_PRIVATE, 1, NULL, 0) >= 0, "futex wake");
}
static void futex_timed(struct worker *w, uint64_t ns)
{
	struct timespec t = from_ns(ns);
	must_be(w, futex(&w->word, FUTEX_WAIT_PRIVATE, 0, &t, 0), -1);
	CHECK(errno == ETIMEDOUT, "futex wait with timeout");
}
static void futex_until(struct worker *w, uint64_t ns)
{
	struct timespec t = from_ns(now() + ns);
	must_be(w, futex(&w->word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, ~0u), -1);
	CHECK(errno == ETIMEDOUT, "futex wait until");
}
static void poll_woken(struct worker *w, uint64_t ns)
{
	(void)ns;
	struct pollfd fd = { .fd = w->in, .events = POLLIN };
	must_be(w, poll(&fd, 1, -1), 1);
	take_byte(w);
}
static void poll_woken_early(struct worker *w, uint64_t ns)
{
	(void)ns;
	struct pollfd fd = { .fd = w->in, .events = POLLIN };
	must_be(w, poll(&fd, 1, 1000 * 1000), 1);
	take_byte(w);
}
static void poll_timed(struct worker *w, uint64_t ns)
{
	struct pollfd fd = { .fd = w->in, .events = POLLIN };
	must_be(w, poll(&fd, 1, (int)(ns / MS)), 0);
}
static void ppoll_timed(struct worker *w, uint64_t ns)
{
	sigset_t none;
	sigemptyset(&none);
	struct timespec t = from_ns(ns);
	struct pollfd fd = { .fd = w->in, .events = POLLIN };
	must_be(w, ppoll(&fd, 1, &t, &none), 0);
}
static void select_woken(struct worker *w, uint64_t ns)
{
	(void)ns;
	fd_set set;
	FD_ZERO(&set);
	FD_SET(w->in, &set);
	must_be(w, select(w->in + 1, &set, NULL, NULL, NULL), 1);
	take_byte(w);
}
static void select_timed(struct worker *w, uint64_t ns)
{
	struct timeval t = { (time_t)(ns / SECOND), (suseconds_t)(ns % SECOND / 1000) };
	fd_set set;
	FD_ZERO(&set);
	FD_SET(w->in, &set);
	must_be(w, select(w->in + 1, &set, NULL, NULL, &t), 0);
}
static void sleep_nano(struct worker *w, uint64_t ns)
{
	struct timespec t = from_ns(ns);
	must_be(w, nanosleep(&t, NULL), 0);
}
static void sleep_clock(struct worker *w, uint64_t ns)
{
	struct timespec t = from_ns(ns);
	must_be(w, clock_nanosleep(CLOCK_BOOTTIME, 0, &t, NULL), 0);
}
/* What is left goes where the request was, as sleep(3) and others have it. */
static void sleep_rest(struct worker *w, uint64_t ns)
{
	struct timespec t = from_ns(ns);
	must_be(w, syscall(SYS_nanosleep, &t, &t), 0);
}
static void sleep_clock_rest(struct worker *w, uint64_t ns)
{
	struct timespec t = from_ns(ns);
	must_be(w, clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t), 0);
}
static void sleep_until(struct worker *w, uint64_t ns)
{
	struct timespec t = from_ns(now() + ns);
	must_be(w, clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0);
}
static void read_pipe(struct worker *w, uint64_t ns)
{
	(void)ns;
	take_byte(w);
}
static void epoll_woken(struct worker *w, uint64_t ns)
{
	(void)ns;
	struct epoll_event event;
	must_be(w, epoll_wait(w->epoll, &event, 1, -1), 1);
	CHECK(event.data.ptr == w, "epoll: wrong data");
	take_byte(w);
}
static void epoll_timed(struct worker *w, uint64_t ns)
{
	struct epoll_event event;
	must_be(w, epoll_wait(w->epoll, &event, 1, (int)(ns / MS)), 0);
}
static void timerfd_read(struct worker *w, uint64_t ns)
{
	uint64_t expired = 0;
	struct itimerspec t = { .it_value = from_ns(ns) };
	MUST(timerfd_settime(w->timer, 0, &t, NULL));
	must_be(w, read(w->timer, &expired, 8), 8);
	CHECK(expired == 1, "timerfd: %llu expirations", (unsigned long long)expired);
}
static void signal_timed(struct worker *w, uint64_t ns)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	struct timespec t = from_ns(ns);
	must_be(w, sigtimedwait(&set, NULL, &t), -1);
	CHECK(errno == EAGAIN, "sigtimedwait");
}
static void signal_woken(struct worker *w, uint64_t ns)
{
	(void)ns;
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 2);
	must_be(w, sigwaitinfo(&set, &info), SIGRTMIN + 2);
	CHECK((uint64_t)info.si_value.sival_int == (w->sent & 0x7fffffff), "sigwaitinfo: wrong payload");
}
static void signal_wake(struct worker *w)
{
	union sigval value = { .sival_int = (int)(w->sent & 0x7fffffff) };
	CHECK((errno = pthread_sigqueue(w->thread, SIGRTMIN + 2, value)) == 0, "pthread_sigqueue");
}
static void cond_timed(struct worker *w, uint64_t ns)
{
	struct timespec t = from_ns(now() + ns);
	pthread_mutex_lock(&w->lock);
	int result;
	while ((result = pthread_cond_timedwait(&w->cond, &w->lock, &t)) == 0)
		; /* POSIX allows it to wake up for no reason */
	pthread_mutex_unlock(&w->lock);
	CHECK(result == ETIMEDOUT, "cond_timedwait: %d", result);
}
static void cond_woken(struct worker *w, uint64_t ns)
{
	(void)ns;
	pthread_mutex_lock(&w->lock);
	while (w->word == (uint32_t)w->received)
		pthread_cond_wait(&w->cond, &w->lock);
	pthread_mutex_unlock(&w->lock);
}
static void cond_wake(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	w->word = (uint32_t)w->sent;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}
static void read_event(struct worker *w, uint64_t ns)
{
	(void)ns;
	take_event(w);
}

static const struct kind kinds[] = {
	{ "futex", futex_woken, futex_wake },      { "futex with timeout", futex_timed, NULL },
	{ "futex until", futex_until, NULL },      { "poll", poll_woken, give_byte },
	{ "poll woken early", poll_woken_early, give_byte }, { "poll with timeout", poll_timed, NULL },
	{ "ppoll with timeout", ppoll_timed, NULL }, { "select", select_woken, give_byte },
	{ "select with timeout", select_timed, NULL }, { "nanosleep", sleep_nano, NULL },
	{ "clock_nanosleep", sleep_clock, NULL },  { "clock_nanosleep until", sleep_until, NULL },
	{ "nanosleep with remainder", sleep_rest, NULL }, { "clock_nanosleep with remainder", sleep_clock_rest, NULL },
	{ "read of a pipe", read_pipe, give_byte }, { "epoll_wait", epoll_woken, give_byte },
	{ "epoll_wait with timeout", epoll_timed, NULL }, { "read of a timerfd", timerfd_read, NULL },
	{ "sigtimedwait", signal_timed, NULL },    { "sigwaitinfo", signal_woken, signal_wake },
	{ "cond_timedwait", cond_timed, NULL },    { "cond_wait", cond_woken, cond_wake },
	{ "read of an eventfd", read_event, give_event },
};

static void *work(void *argument)
{
	struct worker *w = argument;
	while (!stop_now) {
		/* Long enough that most threads are inside a call at any instant, some over a whole move. */
		uint64_t ns = w->kind->wake ? 0 : (20 + dice(dice(4) ? 200 : 2000)) * MS, begin = now();
		w->kind->block(w, ns);
		uint64_t took = now() - begin;
		if (!w->kind->wake) {
			CHECK(took >= ns, "%s: %llu us instead of %llu us", w->kind->name, (unsigned long long)took / 1000,
			      (unsigned long long)ns / 1000);
			CHECK(took < ns + TOLERANCE, "%s: %llu ms instead of %llu ms", w->kind->name,
			      (unsigned long long)(took / MS), (unsigned long long)(ns / MS));
		}
		__atomic_add_fetch(&w->received, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void prepare(struct worker *w, const struct kind *kind)
{
	int pipe_ends[2];
	pthread_condattr_t attributes;
	w->kind = kind;
	MUST(pipe2(pipe_ends, O_CLOEXEC));
	w->in = pipe_ends[0], w->out = pipe_ends[1];
	w->timer = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
	if (kind->block == read_event) {
		w->epoll = MUST(eventfd(0, EFD_CLOEXEC));
	} else {
		w->epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = w };
		MUST(epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->in, &event));
	}
	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&w->cond, &attributes);
}

/* Wakes those whose last wake-up has arrived; one that does not arrive was lost. */
static void wake_all(void)
{
	for (int i = 0; i < WORKERS; i++) {
		struct worker *w = &workers[i];
		if (!w->kind->wake)
			continue;
		if (__atomic_load_n(&w->received, __ATOMIC_SEQ_CST) == w->sent) {
			if (dice(4) == 0) {
				w->sent_at = now();
				w->sent++;
				w->kind->wake(w);
			}
		} else {
			CHECK(now() - w->sent_at < TOLERANCE, "%s: wake-up %llu was lost", w->kind->name,
			      (unsigned long long)w->sent);
		}
	}
}

int main(int argc, char **argv)
{
	sigset_t blocked;
	victim_begin(argc, argv);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGRTMIN + 1);
	sigaddset(&blocked, SIGRTMIN + 2);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	for (int i = 0; i < WORKERS; i++)
		prepare(&workers[i], &kinds[i % COUNT(kinds)]);
	for (int i = 0; i < WORKERS; i++)
		workers[i].thread = start_thread(work, &workers[i]);
	ready();
	while (!stopped()) {
		wake_all();
		pause_ms(5);
	}
	stop_now = 1;
	/* All who wait for a wake-up get one more and end; the others end by themselves. */
	uint64_t begin = now();
	for (int i = 0; i < WORKERS; i++) {
		struct worker *w = &workers[i];
		while (w->kind->wake && __atomic_load_n(&w->received, __ATOMIC_SEQ_CST) != w->sent) {
			CHECK(now() - begin < TOLERANCE, "%s: the last wake-up was lost", w->kind->name);
			pause_ms(1);
		}
		CHECK(w->received > 0 || !w->kind->wake || w->sent == 0, "%s: never came back", w->kind->name);
	}
	pass();
}
