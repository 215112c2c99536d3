/* Memory that is touched in every order while it is still arriving: eight threads read and rewrite pages at random as fast as they
 * can, each its own share, and know every word. Once a file STOP-FILE.wild appears, it also forks, drops, moves, unmaps
 * and shares what it has not touched for long.
 *
 * STOP-FILE.kin: it has children all the time, until STOP-FILE.kin-end appears. Three of them live as long.
 *
 * ULPM_LATE_MIB: size (64). With STOP-FILE.exec it executes itself once more, with STOP-FILE.exit it ends with PASS. */
#include "victim.h"
#include <sys/mman.h>
#include <sys/wait.h>

#define WORDS (PAGE / 8)
#define THREADS 8
#define BLOCKS 128
#define BLOCK (32 * PAGE)

static uint64_t *memory;
static uint32_t *generations;
static size_t pages;
static char *blocks[BLOCKS], *shared;
static uint64_t seeds[BLOCKS];
static volatile int ending;

static uint64_t word_of(size_t page, uint32_t generation, size_t word)
{
	return generation ? mix(page * 1000003 + generation * 7919ull + word) | 1 : 0;
}

static void write_page(size_t page, uint32_t generation)
{
	generations[page] = generation;
	for (size_t i = 0; i < WORDS; i++)
		memory[page * WORDS + i] = word_of(page, generation, i);
}

static void check_page(size_t page, size_t from, size_t step)
{
	for (size_t i = from; i < WORDS; i += step) {
		uint64_t is = ((volatile uint64_t *)memory)[page * WORDS + i];
		CHECK(is == word_of(page, generations[page], i), "page %zu word %zu: %llx, generation %u", page, i,
		      (unsigned long long)is, generations[page]);
	}
}

/* Each fourth page stays zero for long. */
static void *work(void *argument)
{
	size_t own = (size_t)argument;
	while (!ending) {
		size_t page = dice(pages / THREADS) * THREADS + own;
		check_page(page, dice(16), 61);
		if (dice(4) == 0)
			write_page(page, dice(32) ? generations[page] + 1 : 0);
	}
	return NULL;
}

static char *map(size_t bytes, int flags)
{
	return MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0));
}

static void check_block(size_t i, const char *when)
{
	if (seeds[i])
		verify(blocks[i], BLOCK, seeds[i], when);
	else
		verify_zero(blocks[i], BLOCK, when);
}

static void fill_block(size_t i)
{
	static uint64_t seed = 1;
	fill(blocks[i], BLOCK, seeds[i] = seed += 1u << 20);
}

/* A child sees what its parent had, writes all of it, and ends; a grandchild now and then. */
static void fork_one(int deep)
{
	pid_t child = MUST(fork());
	if (child == 0) {
		size_t first = dice(BLOCKS), count = 1 + dice(8);
		for (size_t i = first; i < first + count; i++) {
			check_block(i % BLOCKS, "in a child");
			fill(blocks[i % BLOCKS], BLOCK, 42 + i);
			verify(blocks[i % BLOCKS], BLOCK, 42 + i, "written by a child");
		}
		verify(shared, 64 * BLOCK, 99, "shared memory in a child");
		for (size_t i = 0; i < 200; i++)
			check_page(dice(pages / THREADS) * THREADS + (THREADS - 1), 0, 97);
		if (deep)
			fork_one(0);
		_exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child ended with %x", status);
}

static void wild_step(void)
{
	size_t i = dice(BLOCKS), part = dice(16) * PAGE;
	switch (dice(9)) {
	case 0:
		fork_one(dice(2));
		break;
	case 1:
		MUST(munmap(blocks[i], BLOCK));
		blocks[i] = map(BLOCK, MAP_PRIVATE);
		seeds[i] = 0;
		break;
	case 2:
		MUST(mmap(blocks[i], BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
		seeds[i] = 0;
		break;
	case 3: {
		char *place = map(2 * BLOCK, MAP_PRIVATE);
		blocks[i] = MUST(mremap(blocks[i], BLOCK, BLOCK, MREMAP_MAYMOVE | MREMAP_FIXED, place));
		MUST(munmap(place + BLOCK, BLOCK));
		break;
	}
	case 4:
		MUST(madvise(blocks[i] + part, BLOCK - part, MADV_DONTNEED));
		verify_zero(blocks[i] + part, BLOCK - part, "after MADV_DONTNEED");
		if (seeds[i])
			verify(blocks[i], part, seeds[i], "beside MADV_DONTNEED");
		fill_block(i);
		break;
	case 5:
		MUST(madvise(shared + dice(64) * BLOCK, BLOCK, MADV_DONTNEED));
		break;
	case 6:
		verify(shared + dice(64) * BLOCK, 0, 0, "shared");
		verify(shared, BLOCK, 99, "shared memory");
		break;
	case 7:
		MUST(mprotect(blocks[i], BLOCK, PROT_READ));
		check_block(i, "read-only block");
		MUST(mprotect(blocks[i], BLOCK, PROT_READ | PROT_WRITE));
		break;
	default:
		check_block(i, "block");
		if (dice(3) == 0)
			fill_block(i);
	}
}

/* The last thread's share rests while children look at it. */
static void wild(void)
{
	for (int i = 0; i < 300 && !stopped(); i++)
		wild_step();
	say("wild\n");
}

static int exists(const char *suffix)
{
	char room[4096];
	return access(beside(room, sizeof room, suffix), F_OK) == 0;
}

/* Nothing of another one's is left in this child: no child of its own, no tracer, no userfaultfd. */
static void check_alone(pid_t parent)
{
	CHECK(getppid() == parent, "a child's parent is %d, not %d", getppid(), parent);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "a child has a child");
	char line[256], path[64], to[64];
	FILE *status = fopen("/proc/self/status", "re");
	CHECK(status, "/proc/self/status");
	for (int tracer; fgets(line, sizeof line, status);)
		CHECK(sscanf(line, "TracerPid: %d", &tracer) != 1 || tracer == 0, "a child is traced by %d", tracer);
	fclose(status);
	for (int fd = 0; fd < 1024; fd++) {
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		ssize_t length = readlink(path, to, sizeof to - 1);
		to[length < 0 ? 0 : length] = 0;
		CHECK(!strstr(to, "userfaultfd"), "a child has a userfaultfd: %d", fd);
	}
}

/* It works, or sleeps, for so long. */
static void lasting_child(pid_t parent, int sleeps)
{
	for (uint64_t i = 0; !exists("kin-end"); i++) {
		check_page(i % (pages / THREADS) * THREADS + (THREADS - 1), 0, 97);
		if (sleeps)
			pause_ms(dice(20));
	}
	check_alone(parent);
	_exit(0);
}

static void brief_child(pid_t parent)
{
	check_page(dice(pages / THREADS) * THREADS + (THREADS - 1), 0, 97);
	CHECK(getppid() == parent && waitpid(-1, NULL, WNOHANG) == -1, "a child has a child");
	_exit(0);
}

static void await(pid_t child)
{
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0, "a child ended with %x", status);
}

static void kin(void)
{
	pid_t parent = getpid(), lasting[3], brief[4];
	for (size_t i = 0; i < COUNT(lasting); i++)
		if ((lasting[i] = MUST(fork())) == 0)
			lasting_child(parent, i > 0);
	while (!exists("kin-end")) {
		for (size_t i = 0; i < COUNT(brief); i++)
			if ((brief[i] = MUST(fork())) == 0)
				brief_child(parent);
		for (size_t i = 0; i < COUNT(brief); i++)
			await(brief[i]);
	}
	for (size_t i = 0; i < COUNT(lasting); i++)
		await(lasting[i]);
	say("kin\n");
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--again")) {
		stop_file = argv[2];
		while (access(stop_file, F_OK))
			pause_ms(10);
		pass();
	}
	/* on a link that is slow or cut a page may take its time */
	tolerance_s = 60;
	victim_begin(argc, argv);
	const char *mib = getenv("ULPM_LATE_MIB");
	pages = (mib ? strtoull(mib, NULL, 10) : 64) * 256 / THREADS * THREADS;
	memory = (uint64_t *)map(pages * PAGE, MAP_PRIVATE);
	generations = (uint32_t *)map(pages * 4, MAP_PRIVATE);
	for (size_t i = 0; i < pages; i++)
		if (i % 4)
			write_page(i, 1);
	for (size_t i = 0; i < BLOCKS; i++) {
		blocks[i] = map(BLOCK, MAP_PRIVATE);
		if (i % 5)
			fill_block(i);
	}
	shared = map(64 * BLOCK, MAP_SHARED);
	fill(shared, 64 * BLOCK, 99);
	pthread_t threads[THREADS];
	for (size_t i = 0; i + 1 < THREADS; i++)
		threads[i] = start_thread(work, (void *)i);
	ready();
	int was_wild = 0, was_kin = 0;
	while (!stopped()) {
		if (!was_wild && exists("wild")) {
			was_wild = 1;
			wild();
		}
		if (!was_kin && exists("kin")) {
			was_kin = 1;
			kin();
		}
		if (exists("exec")) {
			char *again[] = { argv[0], "--again", argv[1], NULL };
			MUST(execv("/proc/self/exe", again));
		}
		if (exists("exit"))
			pass();
		pause_ms(2);
	}
	ending = 1;
	for (size_t i = 0; i + 1 < THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0, "pthread_join");
	for (size_t i = 0; i < pages; i++)
		check_page(i, 0, 1);
	for (size_t i = 0; i < BLOCKS; i++)
		check_block(i, "at the end");
	verify(shared, 64 * BLOCK, 99, "shared memory at the end");
	pass();
}
