/* leaving STOP-FILE: a victim whose main thread ends at a bad moment: when somebody outside, who sees when it is seized, has written
 * to its memory how many microseconds later. Says where: "leave AT", before it is ready. The others watch that the memory, the pid and the end of the main thread are what they should be: joining it waits for what the
 * kernel writes to its memory at its end, and that must not be lost. */
#include "../../victims/victim.h"

#define BYTES (1 << 20)

static pthread_t first;
static pid_t process;
static volatile int joined;
static volatile uint32_t turns;

static volatile uint64_t leave;

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
	victim_begin(argc, argv);
	process = getpid();
	first = pthread_self();
	start_thread(compute, NULL);
	start_thread(join, NULL);
	start_thread(work, NULL);
	char text[40];
	snprintf(text, sizeof text, "leave %p\n", (void *)&leave);
	say(text);
	ready();
	while (!leave && !stopped())
		for (int i = 0; !leave && i < 1000000; i++)
			;
	for (uint64_t begun = now(); now() - begun < leave * 1000;)
		;
	pthread_exit(&first);
}
