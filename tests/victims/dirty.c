/* 96 MiB of known content, of which 2,000 pages a second are checked and rewritten: enough for several rounds. */
#include "victim.h"
#include <sys/mman.h>

#define PAGES (96ul << 20 >> 12)
#define PER_MS 2

static uint32_t generation[PAGES];

static uint64_t seed(uint64_t page) { return page << 32 | (uint64_t)generation[page] << 12; }

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	char *memory = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (uint64_t page = 0; page < PAGES; page++)
		fill(memory + page * PAGE, PAGE, seed(page));
	watch_clocks();
	ready();
	uint64_t begin = now(), done = 0;
	while (!stopped()) {
		for (uint64_t due = (now() - begin) / MS * PER_MS, burst = 0; done < due && burst < 200; done++, burst++) {
			uint64_t page = dice(PAGES);
			verify(memory + page * PAGE, PAGE, seed(page), "page");
			generation[page]++;
			fill(memory + page * PAGE, PAGE, seed(page));
		}
		pause_ms(1);
	}
	for (uint64_t page = 0; page < PAGES; page++)
		verify(memory + page * PAGE, PAGE, seed(page), "page at the end");
	pass();
}
