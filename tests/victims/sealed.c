/* Sealed mappings (mseal), droppable ones (MAP_DROPPABLE) between others, and private ones of /dev/zero. What the kernel does
 * not know is left out. */
#include "victim.h"
#include <sys/mman.h>

#define MSEAL 462
#define DROPPABLE 0x08

static char *map(size_t bytes) { return MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); }

static int refused(int result) { return result == -1 && errno == EPERM; }

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	char *constant = map(PAGE), *changing = map(16 * PAGE), *area = map(12 * PAGE), *state = area + 4 * PAGE;
	fill(constant, PAGE, 1);
	MUST(mprotect(constant, PAGE, PROT_READ));
	int seals = syscall(MSEAL, constant, PAGE, 0) == 0 && syscall(MSEAL, changing, 16 * PAGE, 0) == 0;
	int droppable = mmap(state, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_FIXED | DROPPABLE, -1, 0) == state;
	int zero_fd = MUST(open("/dev/zero", O_RDWR | O_CLOEXEC));
	char *zeroes = MUST(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero_fd, 0));
	close(zero_fd);
	memset(state, 1, 4 * PAGE);
	fill(zeroes + PAGE, PAGE, 3);
	ready();
	for (uint64_t round = 1; !stopped(); round++) {
		*(volatile uint64_t *)changing = *(volatile uint64_t *)area = *(volatile uint64_t *)(area + 8 * PAGE) = round;
		*(volatile uint64_t *)state = round;
		pause_ms(1);
		CHECK(*(volatile uint64_t *)changing == round, "a sealed page has lost its content");
		CHECK(*(volatile uint64_t *)area == round && *(volatile uint64_t *)(area + 8 * PAGE) == round, "pages beside droppable ones");
		uint64_t kept = *(volatile uint64_t *)state;
		CHECK(kept == round || kept == 0, "a droppable page holds %llu", (unsigned long long)kept);
		verify(constant, PAGE, 1, "sealed constant page");
		verify_zero(zeroes, PAGE, "untouched page of /dev/zero");
		verify(zeroes + PAGE, PAGE, 3, "written page of /dev/zero");
		if (!seals)
			continue;
		CHECK(refused(mprotect(constant, PAGE, PROT_READ | PROT_WRITE)), "a sealed page can be made writable");
		CHECK(refused(munmap(changing, PAGE)), "a sealed page can be unmapped");
	}
	/* at the end: an open file of /proc stands in the way of a move */
	CHECK(!droppable || has_flag(state, " dp"), "droppable memory is ordinary memory");
	CHECK(!has_flag(area, " dp") && !has_flag(area + 8 * PAGE, " dp"), "ordinary memory is droppable");
	pass();
}
