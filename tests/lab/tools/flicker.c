/* A process that opens and closes descriptors without pause: flicker KIND STOP-FILE. */
#include "../../victims/victim.h"
#include <sys/eventfd.h>
#include <sys/mman.h>

/* So many at once: one of them is gone in nearly each look at them all. */
enum { MANY = 24 };

static void make(const char *kind, int fds[2])
{
	fds[0] = fds[1] = -1;
	if (strcmp(kind, "null") == 0)
		fds[0] = MUST(open("/dev/null", O_RDWR));
	else if (strcmp(kind, "file") == 0)
		fds[0] = MUST(open("/proc/self/exe", O_RDONLY));
	else if (strcmp(kind, "pipe") == 0)
		MUST(pipe(fds));
	else if (strcmp(kind, "memfd") == 0)
		fds[0] = MUST(memfd_create("flicker", 0));
	else if (strcmp(kind, "eventfd") == 0)
		fds[0] = MUST(eventfd(0, 0));
	else
		fail("no such kind: %s", kind);
}

int main(int argc, char **argv)
{
	CHECK(argc == 3, "usage: flicker KIND STOP-FILE");
	victim_begin(2, (char *[]){ argv[0], argv[2], NULL });
	int fds[MANY][2];
	ready();
	while (!stopped()) {
		for (int i = 0; i < MANY; i++)
			make(argv[1], fds[i]);
		for (int i = 0; i < MANY; i++)
			for (int side = 0; side < 2; side++)
				CHECK(fds[i][side] < 0 || close(fds[i][side]) == 0, "close");
	}
	pass();
}
