/* Robust mutexes in a file that both hosts see, held by threads while they move. The copy that is killed, here or there, holds them no
 * more: nobody may be told that their owner has died, until it has. */
#include "victim.h"
#include <sys/mman.h>

#define OWNERS 3

static struct shared { pthread_mutex_t held[OWNERS]; } *shared;
static uint32_t words[OWNERS];
static volatile int holding, let_go, released;

/* The futex of a mutex: the owner's thread id, and flags. */
static uint32_t word(int i) { return *(volatile uint32_t *)&shared->held[i]; }

static void *own(void *argument)
{
	int i = (int)(intptr_t)argument;
	CHECK(pthread_mutex_lock(&shared->held[i]) == 0, "lock");
	words[i] = word(i);
	__atomic_add_fetch(&holding, 1, __ATOMIC_SEQ_CST);
	while (!let_go)
		pause_ms(5);
	int result = pthread_mutex_unlock(&shared->held[i]);
	CHECK(result == 0, "unlock gives %d", result);
	__atomic_add_fetch(&released, 1, __ATOMIC_SEQ_CST);
	if (i == 0) /* ends as an owner */
		CHECK(pthread_mutex_lock(&shared->held[0]) == 0, "lock again");
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t owners[OWNERS];
	pthread_mutexattr_t attributes;
	char path[300];
	victim_begin(argc, argv);
	int fd = MUST(open(beside(path, sizeof path, "shared"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
	MUST(ftruncate(fd, 4096));
	shared = MUST(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	close(fd);
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	for (intptr_t i = 0; i < OWNERS; i++) {
		CHECK(pthread_mutex_init(&shared->held[i], &attributes) == 0, "pthread_mutex_init");
		owners[i] = start_thread(own, (void *)i);
	}
	while (holding < OWNERS)
		pause_ms(1);
	ready();
	while (!stopped()) {
		for (int i = 0; i < OWNERS; i++)
			CHECK(word(i) == words[i], "mutex %d: %#x instead of %#x", i, word(i), words[i]);
		pause_ms(5);
	}
	let_go = 1;
	for (int i = 0; i < OWNERS; i++)
		pthread_join(owners[i], NULL);
	CHECK(released == OWNERS, "%d released", released);
	int result = pthread_mutex_lock(&shared->held[0]);
	CHECK(result == EOWNERDEAD, "lock after its owner's end gives %d instead of EOWNERDEAD", result);
	for (int i = 1; i < OWNERS; i++)
		CHECK((result = pthread_mutex_lock(&shared->held[i])) == 0, "lock gives %d", result);
	pass();
}
