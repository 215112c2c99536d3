/* Memory of every kind, changed all the time, its content known at every instant. */
#include "victim.h"
#include <sys/mman.h>
#include <sys/stat.h>

#define BLOCKS 64

struct block { char *at; size_t bytes; uint64_t seed; };
static struct block blocks[BLOCKS];
static uint64_t seeds = 1000;
static char *heap_base;
static size_t heap_pages;
static uint64_t heap_seed = 77;
static char *read_only, *no_access, *moving, *dropped, *shared, *locked, *private_file, *shared_file, *reverted;
static uint64_t reverted_seed;
static size_t moving_pages = 4;
static int file;

static char *map(size_t bytes, int flags, int fd)
{
	return MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0));
}

static uint64_t new_seed(void) { return seeds += 1u << 20; }

/* Blocks come, go, are rewritten in part, and are replaced at the same address. */
static void churn_blocks(void)
{
	struct block *b = &blocks[dice(BLOCKS)];
	if (!b->at) {
		b->bytes = (1 + dice(32)) * PAGE;
		b->at = map(b->bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		verify_zero(b->at, b->bytes, "fresh block");
		fill(b->at, b->bytes, b->seed = new_seed());
		return;
	}
	verify(b->at, b->bytes, b->seed, "block");
	switch (dice(4)) {
	case 0:
		MUST(munmap(b->at, b->bytes));
		b->at = NULL;
		break;
	case 1:
		MUST(mmap(b->at, b->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		verify_zero(b->at, b->bytes, "replaced block");
		fill(b->at, b->bytes, b->seed = new_seed());
		break;
	case 2:
		fill(b->at, b->bytes, b->seed = new_seed());
	}
}

static void churn_heap(void)
{
	verify(heap_base, heap_pages * PAGE, heap_seed, "brk heap");
	size_t pages = 8 + dice(56);
	MUST((intptr_t)sbrk(((intptr_t)pages - (intptr_t)heap_pages) * (intptr_t)PAGE));
	heap_pages = pages;
	fill(heap_base, heap_pages * PAGE, heap_seed = new_seed());
}

static void churn_moving(void)
{
	verify(moving, 4 * PAGE, 5, "mremap");
	size_t pages = 4 + dice(64);
	moving = MUST(mremap(moving, moving_pages * PAGE, pages * PAGE, MREMAP_MAYMOVE));
	moving_pages = pages;
	verify(moving, 4 * PAGE, 5, "after mremap");
}

static void churn_dropped(void)
{
	fill(dropped, 16 * PAGE, 6);
	MUST(madvise(dropped + 4 * PAGE, 8 * PAGE, MADV_DONTNEED));
	verify(dropped, 4 * PAGE, 6, "before dropped");
	verify_zero(dropped + 4 * PAGE, 8 * PAGE, "dropped");
	verify(dropped + 12 * PAGE, 4 * PAGE, 6 + 12 * PAGE / 8, "after dropped");
}

/* Pages of a private file mapping are written, stay so for a while, are dropped (what the file has shows again) and stay
 * so for a while, not looked at: looking puts the file's page in place. */
static void churn_reverted(uint64_t round)
{
	uint64_t file_seed = 4 + 4 * PAGE / 8;
	switch (round % 64) {
	case 1:
		verify(reverted, 4 * PAGE, reverted_seed ? reverted_seed : file_seed, "reverted pages of a private file mapping");
		fill(reverted, 4 * PAGE, reverted_seed = new_seed());
		break;
	case 24:
		verify(reverted, 4 * PAGE, reverted_seed, "copied pages before they are dropped");
		MUST(madvise(reverted, 4 * PAGE, MADV_DONTNEED));
		reverted_seed = 0;
		break;
	}
}

static int __attribute__((noinline)) deep(int levels)
{
	volatile uint64_t frame[1024];
	for (int i = 0; i < 1024; i++)
		frame[i] = mix(levels * 1024 + i);
	int sum = levels > 0 ? deep(levels - 1) : 0;
	for (int i = 0; i < 1024; i++)
		CHECK(frame[i] == mix(levels * 1024 + i), "stack: wrong content %d levels deep", levels);
	return sum + 1;
}

static void check_quiet(void)
{
	verify(read_only, PAGE, 1, "read-only page");
	MUST(mprotect(no_access, PAGE, PROT_READ));
	verify(no_access, PAGE, 2, "page without access");
	MUST(mprotect(no_access, PAGE, PROT_NONE));
	verify(shared, 8 * PAGE, 3, "shared memory");
	verify(private_file, 4 * PAGE, 4, "private file mapping");
	verify(private_file + 4 * PAGE, 4 * PAGE, 40, "copied pages of a private file mapping");
	verify(private_file + 8 * PAGE, 8 * PAGE, 4 + 8 * PAGE / 8, "rest of a private file mapping");
	verify(locked, PAGE, 7, "locked page");
}

static void check_shared_file(uint64_t round)
{
	uint64_t seen, at = dice(16 * PAGE / 8);
	((volatile uint64_t *)shared_file)[at] = round;
	CHECK(pread(file, &seen, 8, at * 8) == 8 && seen == round, "write to a shared file mapping not seen in the file");
	seen = ~round;
	CHECK(pwrite(file, &seen, 8, at * 8) == 8, "pwrite");
	CHECK(((volatile uint64_t *)shared_file)[at] == ~round, "write to a file not seen in its shared mapping");
}

static void check_kernel_view(void)
{
	check_mapping(read_only, "r--p", 4, " rd");
	check_mapping(no_access, "---p", 4, " mr");
	check_mapping(shared, "rw-s", 4, " sh");
	check_mapping(locked, "rw-p", 4, " lo");
	check_mapping(dropped, "rw-p", 4, " dd");
	check_mapping(dropped, "rw-p", 4, " dc");
}

static void prepare(void)
{
	char path[300];
	int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
	/* Guard pages keep the kernel from merging neighbours, so that check_mapping finds their beginnings. */
	char *area = MUST(mmap(NULL, 64 * PAGE, PROT_NONE, anonymous, -1, 0));
	read_only = area + PAGE, no_access = area + 3 * PAGE, locked = area + 5 * PAGE, dropped = area + 8 * PAGE;
	MUST(mprotect(read_only, PAGE, PROT_READ | PROT_WRITE));
	fill(read_only, PAGE, 1);
	MUST(mprotect(read_only, PAGE, PROT_READ));
	no_access = map(3 * PAGE, anonymous, -1) + PAGE;
	fill(no_access, PAGE, 2);
	MUST(mprotect(no_access, PAGE, PROT_NONE));
	MUST(mprotect(locked, PAGE, PROT_READ | PROT_WRITE));
	fill(locked, PAGE, 7);
	MUST(mlock(locked, PAGE));
	MUST(mprotect(dropped, 16 * PAGE, PROT_READ | PROT_WRITE));
	MUST(madvise(dropped, 16 * PAGE, MADV_DONTDUMP));
	MUST(madvise(dropped, 16 * PAGE, MADV_DONTFORK));
	moving = map(moving_pages * PAGE, anonymous, -1);
	fill(moving, 4 * PAGE, 5);
	shared = map(8 * PAGE, MAP_SHARED | MAP_ANONYMOUS, -1);
	fill(shared, 8 * PAGE, 3);
	heap_base = sbrk(0);
	heap_pages = 8;
	MUST((intptr_t)sbrk(heap_pages * PAGE));
	fill(heap_base, heap_pages * PAGE, heap_seed);

	static uint64_t content[16 * PAGE / 8];
	fill(content, sizeof content, 4);
	int fd = MUST(open(beside(path, sizeof path, "private"), O_RDWR | O_CREAT | O_TRUNC, 0600));
	CHECK(write(fd, content, sizeof content) == sizeof content, "write");
	private_file = map(sizeof content, MAP_PRIVATE, fd);
	reverted = MUST(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 4 * PAGE));
	close(fd);
	fill(private_file + 4 * PAGE, 4 * PAGE, 40);
	file = MUST(open(beside(path, sizeof path, "shared"), O_RDWR | O_CREAT | O_TRUNC, 0600));
	MUST(ftruncate(file, 16 * PAGE));
	shared_file = map(16 * PAGE, MAP_SHARED, file);
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	/* Nothing may use malloc while churn_heap() owns the heap. */
	prepare();
	ready();
	for (uint64_t round = 1;; round++) {
		int last = stopped();
		for (int i = 0; i < 20; i++)
			churn_blocks();
		churn_heap();
		churn_moving();
		churn_dropped();
		churn_reverted(round);
		CHECK(deep(round % 300) == (int)(round % 300) + 1, "stack depth");
		check_quiet();
		check_shared_file(round);
		if (last) {
			for (int i = 0; i < BLOCKS; i++)
				if (blocks[i].at)
					verify(blocks[i].at, blocks[i].bytes, blocks[i].seed, "block at the end");
			/* After the heap was churned for the last time, malloc may use it. */
			check_kernel_view();
			pass();
		}
		pause_ms(1);
	}
}
