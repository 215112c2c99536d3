/* leaving WHEN MICROSECONDS STOP-FILE: a victim whose main thread ends at a bad moment, that long after it has come:
 * ready       it is ready;
 * seizedN     a tracer has seized the main thread for the N-th time: between that and the stop, or the look, that follows;
 * stoppedN    it was stopped for the N-th time: a look at the clock came late.
 * The others watch that the memory, the pid and the end of the main thread are what they should be: joining it waits for what the
 * kernel writes to its memory at its end, and that must not be lost. */
#include "../../victims/victim.h"

#define BYTES (1 << 20)

static pthread_t first;
static pid_t process;
static volatile int joined;
static volatile uint32_t turns;

static int field(const char *path, const char *name)
{
	char text[4096];
	int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t length = MUST(read(fd, text, sizeof text - 1));
	close(fd);
	text[length] = 0;
	char *at = strstr(text, name);
	CHECK(at, "no %s in %s", name, path);
	return atoi(at + strlen(name));
}

static void *compute(void *unused)
{
	static char area[BYTES];
	for (uint64_t seed = 1;; seed++) {
		fill(area, sizeof area, seed);
		verify(area, sizeof area, seed, "memory");
		turns++;
	}
	return unused;
}

static void *join(void *unused)
{
	void *status;
	CHECK(pthread_join(first, &status) == 0 && status == &first, "join of the main thread: %p", status);
	joined = 1;
	return unused;
}

static void *work(void *unused)
{
	while (!stopped()) {
		CHECK(getpid() == process && gettid() != process, "who am I: %d, %d", getpid(), gettid());
		await_change(&turns, "the computing thread");
		pause_ms(2);
	}
	for (uint64_t begun = now(); joined == 0; pause_ms(1))
		CHECK(now() - begun < TOLERANCE, "the main thread's end is not told");
	pass();
	return unused;
}

int main(int argc, char **argv)
{
	CHECK(argc == 4, "usage: leaving WHEN MICROSECONDS STOP-FILE");
	const char *when = argv[1];
	uint64_t later = strtoull(argv[2], NULL, 10) * 1000;
	victim_begin(2, argv + 2);
	process = getpid();
	first = pthread_self();
	start_thread(compute, NULL);
	start_thread(join, NULL);
	start_thread(work, NULL);
	ready();
	int times = atoi(when + strcspn(when, "123456789"));
	if (!strncmp(when, "seized", 6)) {
		for (int was = 0, is; times > 0 && !stopped(); was = is)
			times -= (is = field("/proc/thread-self/status", "TracerPid:") != 0) && !was;
	} else if (!strncmp(when, "stopped", 7)) {
		for (uint64_t last = now(), t; times > 0 && !stopped(); last = t)
			times -= (t = now()) - last > 300000;
	}
	for (uint64_t begun = now(); now() - begun < later;)
		;
	pthread_exit(&first);
}
