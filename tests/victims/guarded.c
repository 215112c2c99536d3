/* Guard pages without a mapping of their own (MADV_GUARD_INSTALL): some stay, some come and go, over content, over nothing, in locked
 * memory, in the private mapping of a file; a thread whose stack is guarded so. */
#include "victim.h"
#include <sys/mman.h>
#include <sys/uio.h>

#define PAGE 4096ul
#define PAGES 512ul
#define INSTALL 102
#define REMOVE 103

static volatile uint32_t alive;

/* Whether a page can be read, without touching it. */
static int readable(const char *at)
{
	char byte;
	struct iovec to = { &byte, 1 }, from = { (void *)at, 1 };
	ssize_t got = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
	CHECK(got == 1 || errno == EFAULT, "process_vm_readv of %p", (const void *)at);
	return got == 1;
}

static char *map(size_t bytes) { return MUST(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); }

static void *on_a_guarded_stack(void *unused)
{
	char frame[1024];
	(void)unused;
	for (;;) {
		pause_ms(1);
		memset(frame, (int)++alive, sizeof frame);
		__asm__ volatile("" : : "r"(frame) : "memory");
	}
}

static char *start_on_stack(size_t bytes)
{
	pthread_t thread;
	pthread_attr_t attributes;
	char *stack = map(bytes);
	MUST(madvise(stack, PAGE, INSTALL));
	pthread_attr_init(&attributes);
	CHECK(pthread_attr_setstack(&attributes, stack, bytes) == 0, "pthread_attr_setstack");
	CHECK(pthread_create(&thread, &attributes, on_a_guarded_stack, NULL) == 0, "pthread_create");
	return stack;
}

/* Every eighth page of what never changes is a guard page, from the third on. */
static void check_steady(const char *steady, const char *what)
{
	for (size_t i = 0; i < PAGES; i++) {
		if (i % 8 == 2)
			CHECK(!readable(steady + i * PAGE), "%s: page %zu is no guard page", what, i);
		else
			verify(steady + i * PAGE, PAGE, i, what);
	}
}

static char *make_steady(char *at)
{
	for (size_t i = 0; i < PAGES; i++)
		fill(at + i * PAGE, PAGE, i);
	for (size_t i = 2; i < PAGES; i += 8)
		MUST(madvise(at + i * PAGE, PAGE, INSTALL));
	return at;
}

int main(int argc, char **argv)
{
	/* of those that come and go: 0 a guard page, 1 content, 2 none of both, which reads as zeroes */
	static uint8_t kind[PAGES];
	static uint64_t seed[PAGES];
	victim_begin(argc, argv);
	char *steady = make_steady(map(PAGES * PAGE)), *locked = make_steady(map(PAGES * PAGE)), *changing = map(PAGES * PAGE);
	char *empty = map(PAGES * PAGE), *stack = start_on_stack(256 * 1024);
	int self = MUST(open("/proc/self/exe", O_RDONLY));
	char *file = MUST(mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE, self, 0));
	MUST(close(self));
	MUST(madvise(file + PAGE, PAGE, INSTALL));
	MUST(madvise(empty + PAGE, 100 * PAGE, INSTALL));
	/* says ENOMEM, since it cannot bring all pages in, and has locked them */
	CHECK(mlock(locked, PAGES * PAGE) == 0 || errno == ENOMEM, "mlock");
	memset(kind, 2, sizeof kind);
	ready();
	for (uint64_t round = 1; !stopped(); round++) {
		size_t i = dice(PAGES), run = 1 + dice(4);
		if (i + run > PAGES)
			continue;
		switch (dice(4)) {
		case 0:
			MUST(madvise(changing + i * PAGE, run * PAGE, INSTALL));
			memset(kind + i, 0, run);
			break;
		case 1:
			/* guard pages alone lose what they are */
			MUST(madvise(changing + i * PAGE, run * PAGE, REMOVE));
			for (size_t k = i; k < i + run; k++)
				if (kind[k] == 0)
					kind[k] = 2;
			break;
		default:
			if (kind[i] == 0)
				break;
			fill(changing + i * PAGE, PAGE, seed[i] = round << 16);
			kind[i] = 1;
		}
		i = dice(PAGES);
		if (kind[i] == 1)
			verify(changing + i * PAGE, PAGE, seed[i], "a page that comes and goes");
		else if (kind[i] == 0)
			CHECK(!readable(changing + i * PAGE), "page %zu is no guard page any more", i);
		else if (dice(2))
			verify_zero(changing + i * PAGE, PAGE, "a page that was dropped");
		if (round % 256 == 0) {
			await_change(&alive, "the thread on a guarded stack");
			CHECK(!readable(stack), "the stack is not guarded any more");
		}
	}
	for (size_t i = 0; i < PAGES; i++)
		CHECK(readable(changing + i * PAGE) == (kind[i] != 0), "page %zu has become another kind", i);
	check_steady(steady, "steady");
	check_steady(locked, "locked");
	CHECK(readable(file) && !readable(file + PAGE) && readable(file + 2 * PAGE), "the file is guarded elsewhere");
	CHECK(readable(empty) && !readable(empty + PAGE) && !readable(empty + 100 * PAGE) && readable(empty + 101 * PAGE), "guarded elsewhere");
	pass();
}
