/* What is mapped a moment before a freeze: most of its mappings are younger than the last round. Locked by mlockall(MCL_FUTURE), every
 * other one with MAP_NORESERVE: each is as it was made, as long as it lives. */
#include "victim.h"
#include <sys/mman.h>

#define PAGE 4096ul
#define LIVES 8
#define BASE 0x200000000000ul

/* What smaps says of the mapping at an address. */
static void flags_of(const char *at, char *flags, size_t size)
{
	static char text[512 << 10];
	char start[40], *found = text, *line;
	size_t have = 0;
	int smaps = MUST(open("/proc/self/smaps", O_RDONLY | O_CLOEXEC));
	for (ssize_t got; (got = MUST(read(smaps, text + have, sizeof text - 1 - have))) > 0;)
		have += got;
	text[have] = 0;
	MUST(close(smaps));
	snprintf(start, sizeof start, "%lx-", (unsigned long)at);
	while (found && strncmp(found, start, strlen(start)) != 0)
		found = strchr(found, '\n') ? strchr(found, '\n') + 1 : NULL;
	CHECK(found && (line = strstr(found, "VmFlags:")), "%p is not mapped for itself", (const void *)at);
	snprintf(flags, size, "%.*s", (int)strcspn(line, "\n"), line);
}

int main(int argc, char **argv)
{
	char *lives[LIVES] = { NULL };
	victim_begin(argc, argv);
	/* so much that nobody reads all flags while it is stopped unless it must */
	char *much = MUST(mmap(NULL, 24ul << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	fill(much, 24ul << 20, 1);
	MUST(mlockall(MCL_FUTURE));
	ready();
	for (uint64_t round = 0; !stopped(); round++) {
		char **life = &lives[round % LIVES], flags[200];
		if (*life) {
			verify(*life, 4 * PAGE, (uintptr_t)*life, "what was mapped");
			flags_of(*life, flags, sizeof flags);
			CHECK(strstr(flags, " lo") && !strstr(flags, " nr") == !(uintptr_t)(round / LIVES % 2), "%p has %s", (void *)*life, flags);
			MUST(munmap(*life, 4 * PAGE));
		}
		/* every other one of a kind; where none has been, apart from its neighbours */
		char *place = (char *)BASE + round * 6 * PAGE;
		int reserve = round / LIVES % 2 ? 0 : MAP_NORESERVE;
		*life = MUST(mmap(place, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | reserve, -1, 0));
		fill(*life, 4 * PAGE, (uintptr_t)*life);
		if (round % 4 == 0)
			pause_ms(1);
	}
	verify(much, 24ul << 20, 1, "memory");
	pass();
}
