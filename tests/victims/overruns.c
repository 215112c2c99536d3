/* Periodic POSIX timers whose signals are blocked for many intervals, of the process and of a thread: each signal that is taken tells how
 * often its timer has expired since the last one (si_overrun + 1). All together these are as many as intervals have gone by: none is
 * lost, none comes twice. */
#include "victim.h"

#define PERIOD (100 * MS)
/* A move may put off a timer's phase by what its clocks are inexact. */
#define SLACK 2

struct subject {
	const char *name;
	clockid_t clock;
	int signal, of_thread;
	timer_t timer;
	uint64_t begin, expired, taken;
};

static struct subject subjects[] = {
	{ "timer of the process", CLOCK_MONOTONIC, 1, 0, NULL, 0, 0, 0 },
	{ "timer of a thread", CLOCK_BOOTTIME, 2, 1, NULL, 0, 0, 0 },
	{ "timer of a thread that waits", CLOCK_REALTIME, 3, 1, NULL, 0, 0, 0 },
};
static volatile int stop_now, running;

static void begin(struct subject *s)
{
	struct sigevent event = { .sigev_notify = s->of_thread ? SIGEV_THREAD_ID : SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + s->signal };
	struct itimerspec period = { from_ns(PERIOD), from_ns(PERIOD) };
	event._sigev_un._tid = gettid();
	event.sigev_value.sival_int = 4711 + s->signal;
	MUST(timer_create(s->clock, &event, &s->timer));
	s->begin = now_on(s->clock);
	MUST(timer_settime(s->timer, 0, &period, NULL));
}

/* Takes one signal, if there is one within the time. */
static void take(struct subject *s, uint64_t patience)
{
	sigset_t set;
	siginfo_t info;
	struct timespec limit = from_ns(patience);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + s->signal);
	int got = sigtimedwait(&set, &info, &limit);
	if (got < 0) {
		CHECK(errno == EAGAIN, "%s: sigtimedwait", s->name);
		return;
	}
	CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 4711 + s->signal, "%s: code %d, value %d", s->name,
	      info.si_code, info.si_value.sival_int);
	s->taken++;
	s->expired += (uint64_t)info.si_overrun + 1;
	uint64_t due = (now_on(s->clock) - s->begin) / PERIOD;
	CHECK(s->expired <= due + 1, "%s: expired %llu times in %llu intervals (%llu signals)", s->name,
	      (unsigned long long)s->expired, (unsigned long long)due, (unsigned long long)s->taken);
	CHECK(s->expired + SLACK >= due, "%s: expired only %llu times in %llu intervals (%llu signals)", s->name,
	      (unsigned long long)s->expired, (unsigned long long)due, (unsigned long long)s->taken);
}

static void *thread(void *argument)
{
	struct subject *s = argument;
	begin(s);
	__atomic_add_fetch(&running, 1, __ATOMIC_SEQ_CST);
	while (!stop_now) {
		/* the last one waits in the call for each, the other one blocks it for long */
		if (s->signal == 2)
			pause_ms(200 + (unsigned)dice(1500));
		take(s, 5 * PERIOD);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	sigset_t blocked;
	pthread_t threads[2];
	victim_begin(argc, argv);
	sigemptyset(&blocked);
	for (unsigned i = 0; i < COUNT(subjects); i++)
		sigaddset(&blocked, SIGRTMIN + subjects[i].signal);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	begin(&subjects[0]);
	for (int i = 0; i < 2; i++)
		threads[i] = start_thread(thread, &subjects[i + 1]);
	while (running < 2)
		pause_ms(1);
	ready();
	while (!stopped()) {
		uint64_t until = now() + (200 + dice(1500)) * MS;
		while (now() < until && !stopped())
			pause_ms(10);
		take(&subjects[0], 0);
	}
	stop_now = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < COUNT(subjects); i++)
		take(&subjects[i], 2 * PERIOD);
	pass();
}
