/* Huge pages that are set aside (hugetlb): private, shared and in memfds, changed in every way that the kernel allows.
 * What was dropped is often not looked at again for a while, since looking puts a page back in its place. */
#include "victim.h"
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define HUGE (2ul << 20)
#define WORDS (HUGE / 8)
#define HUGE_FLAGS (MAP_HUGETLB | 21 << MAP_HUGE_SHIFT)
#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4U
#endif

#define BLOCKS 4
#define DROPPED 3

struct block { char *at; size_t pages; uint64_t seed; };
static struct block blocks[BLOCKS];
static uint64_t seeds = 1000, dropped_seeds[DROPPED], shared_words[2][2], file_seeds[3];
static char *dropped, *shared, *file_map, *file_view, *quiet, *sparse, *unreserved, *copied, *moving, *forked;
static int file;
static size_t file_pages = 2;

static uint64_t new_seed(void) { return seeds += 1u << 20; }

static char *map(size_t pages, int flags, int fd)
{
	return MUST(mmap(NULL, pages * HUGE, PROT_READ | PROT_WRITE, flags, fd, 0));
}

static char *map_private(size_t pages) { return map(pages, MAP_PRIVATE | MAP_ANONYMOUS | HUGE_FLAGS, -1); }

/* A huge page with one small page of content near its beginning and one near its end; seed 0: nothing. */
static void put(char *at, uint64_t seed)
{
	if (seed) {
		fill(at + 3 * PAGE, PAGE, seed);
		fill(at + 500 * PAGE, PAGE, seed + 512);
	} else {
		memset(at + 3 * PAGE, 0, PAGE);
		memset(at + 500 * PAGE, 0, PAGE);
	}
}

static void check(const char *at, uint64_t seed, const char *what)
{
	verify_zero(at, 3 * PAGE, what);
	verify_zero(at + 4 * PAGE, 496 * PAGE, what);
	verify_zero(at + 501 * PAGE, 11 * PAGE, what);
	if (seed) {
		verify(at + 3 * PAGE, PAGE, seed, what);
		verify(at + 500 * PAGE, PAGE, seed + 512, what);
	} else {
		verify_zero(at, HUGE, what);
	}
}

/* Blocks come, go, are rewritten and are replaced at the same address, by huge pages and by small ones. */
static void churn_blocks(void)
{
	struct block *b = &blocks[dice(BLOCKS)];
	if (!b->at) {
		b->pages = 1 + dice(2);
		b->at = map_private(b->pages);
		for (size_t i = 0; i < b->pages; i++)
			check(b->at + i * HUGE, 0, "fresh block");
	} else {
		for (size_t i = 0; i < b->pages; i++)
			check(b->at + i * HUGE, b->seed ? b->seed + i * 4096 : 0, "block");
		switch (dice(5)) {
		case 0:
			MUST(munmap(b->at, b->pages * HUGE));
			b->at = NULL;
			return;
		case 1:
			MUST(mmap(b->at, b->pages * HUGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | HUGE_FLAGS, -1, 0));
			b->seed = 0;
			return;
		case 2:
			MUST(mmap(b->at, b->pages * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
				  -1, 0));
			break;
		case 3:
			if (b->pages == 2) {
				MUST(munmap(b->at + HUGE, HUGE));
				b->pages = 1;
			}
			return;
		}
	}
	b->seed = new_seed();
	for (size_t i = 0; i < b->pages; i++)
		put(b->at + i * HUGE, b->seed + i * 4096);
}

static void churn_dropped(void)
{
	size_t i = dice(DROPPED);
	char *at = dropped + i * HUGE;
	switch (dice(8)) {
	case 0:
		check(at, dropped_seeds[i], "dropped");
		put(at, dropped_seeds[i] = new_seed());
		break;
	case 1:
		MUST(madvise(at, HUGE, MADV_DONTNEED));
		dropped_seeds[i] = 0;
		break;
	case 2:
		MUST(madvise(at, HUGE, MADV_DONTNEED));
		dropped_seeds[i] = 0;
		/* It is there again, and was not written. */
		verify_zero(at + dice(512) * PAGE, 8, "just dropped");
		break;
	}
}

static void churn_shared(void)
{
	size_t page = dice(2), word = dice(2);
	uint64_t *at = (uint64_t *)(shared + page * HUGE) + word * 100000;
	CHECK(*(volatile uint64_t *)at == shared_words[page][word], "shared memory: wrong word %zu of page %zu", word, page);
	switch (dice(16)) {
	case 0:
		MUST(madvise(shared + page * HUGE, HUGE, MADV_REMOVE));
		memset(shared_words[page], 0, sizeof shared_words[page]);
		break;
	case 1:
		MUST(madvise(shared + page * HUGE, HUGE, MADV_DONTNEED));
		break;
	default:
		*(volatile uint64_t *)at = shared_words[page][word] = new_seed();
	}
}

static void churn_file(void)
{
	size_t i = dice(file_pages);
	uint64_t seen;
	char *at = file_map + i * HUGE;
	if (file_seeds[i]) {
		verify(file_view + i * HUGE + 3 * PAGE, PAGE, file_seeds[i], "read-only view of a memfd");
		CHECK(pread(file, &seen, 8, i * HUGE + 3 * PAGE) == 8 && seen == mix(file_seeds[i]), "pread of a memfd");
	} else {
		verify_zero(file_view + i * HUGE, 8 * PAGE, "read-only view of a hole");
	}
	switch (dice(16)) {
	case 0:
		MUST(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i * HUGE, HUGE));
		file_seeds[i] = 0;
		break;
	case 1:
		file_pages = 5 - file_pages;
		MUST(ftruncate(file, file_pages * HUGE));
		file_seeds[2] = 0;
		break;
	default:
		put(at, file_seeds[i] = new_seed());
	}
}

static void churn_moving(void)
{
	char *place = MUST(mmap(NULL, 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | HUGE_FLAGS, -1, 0));
	check(moving, 5000, "before mremap");
	char *to = mremap(moving, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, place);
	if (to == MAP_FAILED) {
		/* Before Linux 5.16. */
		MUST(munmap(place, 2 * HUGE));
		return;
	}
	MUST(munmap(place + HUGE, HUGE));
	moving = to;
	check(moving, 5000, "after mremap");
}

static void check_quiet(void)
{
	check(quiet, 2000, "read-only page");
	MUST(mprotect(quiet + HUGE, HUGE, PROT_READ));
	check(quiet + HUGE, 3000, "page without access");
	MUST(mprotect(quiet + HUGE, HUGE, PROT_NONE));
	check(sparse, 4000, "sparse page");
	check(unreserved + HUGE, 6000, "page without a reservation");
	check(copied, 7000, "copied page of a private memfd mapping");
	check(copied + HUGE, 7777, "page of a private memfd mapping");
	check(forked, 8000, "page that was shared with a child");
}

/* A child that has ended leaves pages that were shared with it. */
static void fork_once(void)
{
	forked = map_private(1);
	put(forked, 8888);
	pid_t child = MUST(fork());
	if (child == 0) {
		check(forked, 8888, "child's copy");
		_exit(0);
	}
	put(forked, 8000);
	int status;
	MUST(waitpid(child, &status, 0));
	CHECK(status == 0, "the child ended with %d", status);
}

static void prepare(void)
{
	dropped = map_private(DROPPED);
	shared = map(2, MAP_SHARED | MAP_ANONYMOUS | HUGE_FLAGS, -1);
	file = MUST((int)syscall(SYS_memfd_create, "huge", MFD_HUGETLB | 21 << 26));
	MUST(ftruncate(file, file_pages * HUGE));
	file_map = map(3, MAP_SHARED, file);
	file_view = MUST(mmap(NULL, 3 * HUGE, PROT_READ, MAP_SHARED, file, 0));
	quiet = map_private(2);
	put(quiet, 2000);
	put(quiet + HUGE, 3000);
	MUST(mprotect(quiet, HUGE, PROT_READ));
	MUST(mprotect(quiet + HUGE, HUGE, PROT_NONE));
	sparse = map_private(1);
	put(sparse, 4000);
	unreserved = map(2, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | HUGE_FLAGS, -1);
	put(unreserved + HUGE, 6000);
	int fd = MUST((int)syscall(SYS_memfd_create, "quiet", MFD_HUGETLB | 21 << 26));
	MUST(ftruncate(fd, 2 * HUGE));
	char *first = map(2, MAP_SHARED, fd);
	put(first, 7700);
	put(first + HUGE, 7777);
	copied = map(2, MAP_PRIVATE, fd);
	put(copied, 7000);
	MUST(munmap(first, 2 * HUGE));
	close(fd);
	moving = map_private(1);
	put(moving, 5000);
	fork_once();
}

static void check_kernel_view(void)
{
	struct stat data;
	MUST(fstat(file, &data));
	CHECK(data.st_size == (off_t)(file_pages * HUGE) && data.st_blksize == HUGE, "the memfd is of another kind");
	check_mapping(dropped, "rw-p", 2048, " mw");
	check_mapping(shared, "rw-s", 2048, " sh");
	check_mapping(file_view, "r--s", 2048, " sh");
	check_mapping(quiet, "r--p", 2048, " mr");
	check_mapping(quiet + HUGE, "---p", 2048, " mr");
	check_mapping(unreserved, "rw-p", 2048, " nr");
	check_mapping(copied, "rw-p", 2048, " mw");
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	prepare();
	ready();
	for (uint64_t round = 1;; round++) {
		int last = stopped();
		churn_blocks();
		churn_dropped();
		for (int i = 0; i < 10; i++)
			churn_shared();
		churn_file();
		if (round % 8 == 0)
			churn_moving();
		if (last || round % 16 == 0)
			check_quiet();
		if (last) {
			for (int i = 0; i < DROPPED; i++)
				check(dropped + i * HUGE, dropped_seeds[i], "dropped, at the end");
			check_kernel_view();
			pass();
		}
		pause_ms(1);
	}
}
