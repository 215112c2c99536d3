/* The oracle: writes memory in every way there is, at random, for ever, from several threads, and knows what every byte
 * ought to be at every moment. Small (some 15 MiB), intense, cold pages among hot ones.
 *
 * usage: oracle [--seed N] [--intensity PERCENT] [--arenas NAME,...] [--without NAME,...] [--hugetlb] [--direct] [--no-thp]
 *               STOP-FILE
 *
 * oracle/model.h     what every byte ought to be
 * oracle/writes.h    ways to write
 * oracle/mappings.h  what is done to mappings
 * oracle/kinds.h     kinds of memory, children */
#include "victim.h"

#include "oracle/kinds.h"

static uint64_t option_seed;
static unsigned option_intensity = 50;
static const char *option_arenas;
static volatile int begun, ending;

struct op {
	const char *name;
	int kinds;
	unsigned weight;
	void (*act)(struct arena *a);
};

static const struct op ops[] = {
	{ "write", EVERY, 60, op_write },
	{ "zeroes", EVERY, 8, op_zero },
	{ "look", EVERY, 12, op_look },
	{ "sweep", EVERY, 2, op_sweep },
	{ "sweep of all", EVERY, 1, op_sweep_all },
	{ "rest", EVERY, 4, op_rest },
	{ "mprotect", ALL_SMALL, 6, op_protect },
	{ "MADV_DONTNEED", ALL_SMALL, 5, op_dontneed },
	{ "MADV_FREE", LIKE_ANONYMOUS, 5, op_free },
	{ "MADV_PAGEOUT", ALL_SMALL, 3, op_page_out },
	{ "hole", OBJECTS, 4, op_remove },
	{ "map again", ANONYMOUS | MEMFD | PRIVATE_MEMFD, 5, op_map_again },
	{ "write while unmapped", MEMFD, 3, op_unmapped_write },
	{ "swap pages by mremap", ANONYMOUS, 5, op_swap_pages },
	{ "swap extents by mremap", ANONYMOUS, 2, op_swap_extents },
	{ "new extent", ANONYMOUS, 1, op_new_extent },
	{ "direct read of an extent", ANONYMOUS, 6, op_direct },
	{ "MREMAP_DONTUNMAP", ANONYMOUS, 3, op_dontunmap },
	{ "another home", ANONYMOUS | SHARED | PRIVATE_FILE, 1, op_move_home },
	{ "huge pages", ANONYMOUS, 2, op_huge },
	{ "brk", HEAP, 4, op_break },
	{ "ftruncate", MEMFD, 3, op_truncate },
	{ "another kind", ALL_SMALL, 6, op_become },
	{ "fork", EVERY, 3, op_child },
};

static const char *op_name(unsigned op) { return op < COUNT(ops) ? ops[op].name : "nothing"; }

static int suits(const struct arena *a, const struct op *op)
{
	if (listed(option_without, op->name))
		return 0;
	if (op->act == op_become)
		return a->changes_kind;
	if (op->act == op_direct && !options_direct)
		return 0;
	if (op->act == op_swap_extents || op->act == op_new_extent || op->act == op_huge || op->act == op_direct)
		return (a->kind & op->kinds) && a->pages >= EXTENT_PAGES;
	if (op->act == op_move_home)
		return (a->kind & op->kinds) && !a->changes_kind;
	return (a->kind & op->kinds) != 0;
}

static void act(struct arena *a)
{
	unsigned sum = 0, at;
	for (size_t i = 0; i < COUNT(ops); i++)
		sum += suits(a, &ops[i]) ? ops[i].weight : 0;
	at = dice(sum);
	for (size_t i = 0; i < COUNT(ops); i++) {
		unsigned weight = suits(a, &ops[i]) ? ops[i].weight : 0;
		if (at < weight) {
			a->op = i;
			a->done[i]++;
			ops[i].act(a);
			return;
		}
		at -= weight;
	}
}

/* Works for so much of the time as the intensity says. */
static void *work(void *argument)
{
	struct arena *a = argument;
	dice_state = mix(option_seed + a->id);
	uint64_t owed = 0;
	while (!begun)
		pause_ms(1);
	while (!ending) {
		uint64_t before = now();
		act(a);
		owed += (now() - before) * (100 - option_intensity) / option_intensity;
		if (owed > 2 * MS) {
			struct timespec t = from_ns(owed);
			owed = 0;
			nanosleep(&t, NULL);
		}
	}
	a->op = COUNT(ops);
	op_sweep_all(a);
	return NULL;
}

static struct arena arenas[] = {
	{ .name = "anonymous", .kind = ANONYMOUS, .room = 2 * EXTENT_PAGES },
	{ .name = "anonymous too", .kind = ANONYMOUS, .room = EXTENT_PAGES / 2 },
	{ .name = "shared", .kind = SHARED, .room = 384 },
	{ .name = "memfd", .kind = MEMFD, .room = 384 },
	{ .name = "file", .kind = PRIVATE_FILE, .room = 192 },
	{ .name = "heap", .kind = HEAP, .room = 256 },
	{ .name = "changing", .kind = ANONYMOUS, .room = 48, .changes_kind = 1 },
	{ .name = "hugetlb", .kind = HUGETLB, .room = 2 * EXTENT_PAGES },
	{ .name = "shared hugetlb", .kind = HUGETLB_SHARED, .room = EXTENT_PAGES },
};

static char *reserve_aligned(size_t bytes)
{
	char *at = reserve(NULL, bytes + EXTENT);
	return (char *)(((uintptr_t)at + EXTENT - 1) / EXTENT * EXTENT);
}

static int wanted(const struct arena *a)
{
	if (option_arenas)
		return listed(option_arenas, a->name);
	return options_huge || !(a->kind & (HUGETLB | HUGETLB_SHARED));
}

static void prepare(struct arena *a)
{
	size_t bytes = a->room * PAGE;
	a->pages = a->room;
	a->fd = -1;
	a->page = MUST(mmap(NULL, a->room * sizeof *a->page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	a->done = MUST(mmap(NULL, COUNT(ops) * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	a->op = COUNT(ops);
	MUST(pipe2(a->pipe, O_CLOEXEC));
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a->pair));
	if (a->kind == PRIVATE_FILE || a->changes_kind)
		make_file(a);
	if (a->kind == HEAP) {
		uintptr_t end = (uintptr_t)syscall(SYS_brk, 0);
		a->at = (char *)((end + PAGE - 1) / PAGE * PAGE);
		CHECK((char *)syscall(SYS_brk, a->at + bytes) == a->at + bytes, "brk");
		for (size_t page = 0; page < a->pages; page++)
			a->page[page].prot = PROT_READ | PROT_WRITE;
		return;
	}
	a->at = reserve_aligned(bytes);
	a->elsewhere = reserve_aligned(bytes);
	a->aside = reserve_aligned(bytes > EXTENT ? bytes : EXTENT);
	become(a, a->kind);
}

/* The stack of the main thread grows by need. */
static void __attribute__((noinline)) deep(unsigned levels, uint64_t seed)
{
	volatile uint64_t frame[768];
	for (size_t i = 0; i < COUNT(frame); i++)
		frame[i] = mix(seed + (uint64_t)levels * 1024 + i);
	if (levels > 0)
		deep(levels - 1, seed);
	else
		pause_ms(dice(30));
	for (size_t i = 0; i < COUNT(frame); i++)
		CHECK(frame[i] == mix(seed + (uint64_t)levels * 1024 + i), "stack: wrong content %u levels deep at %p: %#llx", levels,
		      (void *)&frame[i], (unsigned long long)frame[i]);
}

static void tell_what_was_done(void)
{
	char text[4000];
	size_t length = 0;
	for (size_t i = 0; i < COUNT(ops); i++) {
		uint64_t sum = 0;
		for (size_t j = 0; j < COUNT(arenas); j++)
			sum += arenas[j].done ? arenas[j].done[i] : 0;
		length += snprintf(text + length, sizeof text - length, "%s: %llu\n", ops[i].name, (unsigned long long)sum);
	}
	if (write(2, text, length) != (ssize_t)length)
		_exit(3);
}

static void read_options(int argc, char **argv)
{
	option_seed = (uint64_t)getpid() * 1000003 + now_on(CLOCK_REALTIME);
	for (int i = 1; i + 1 < argc; i++) {
		int more = i + 2 < argc;
		if (strcmp(argv[i], "--seed") == 0 && more)
			option_seed = strtoull(argv[++i], NULL, 0);
		else if (strcmp(argv[i], "--intensity") == 0 && more)
			option_intensity = strtoul(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--arenas") == 0 && more)
			option_arenas = argv[++i];
		else if (strcmp(argv[i], "--without") == 0 && more)
			option_without = argv[++i];
		else if (strcmp(argv[i], "--hugetlb") == 0)
			options_huge = 1;
		else if (strcmp(argv[i], "--direct") == 0)
			options_direct = 1;
		else if (strcmp(argv[i], "--no-thp") == 0)
			options_thp = 0;
		else
			fail("usage: %s [--seed N] [--intensity PERCENT] [--arenas NAME,...] [--without NAME,...] [--hugetlb] [--direct] [--no-thp] STOP-FILE", argv[0]);
	}
	CHECK(option_intensity >= 1 && option_intensity <= 100, "the intensity is between 1 and 100");
}

int main(int argc, char **argv)
{
	char *arguments[] = { argv[0], argc > 1 ? argv[argc - 1] : NULL };
	victim_begin(argc > 1 ? 2 : 1, arguments);
	read_options(argc, argv);
	pthread_t threads[COUNT(arenas)];
	for (size_t i = 0; i < COUNT(arenas); i++) {
		arenas[i].id = i + 1;
		if (wanted(&arenas[i]))
			threads[i] = start_thread(work, &arenas[i]);
	}
	/* From here on nothing may use malloc, whose heap would grow into ours. */
	for (size_t i = 0; i < COUNT(arenas); i++)
		if (wanted(&arenas[i]))
			prepare(&arenas[i]);
	begun = 1;
	dice_state = mix(option_seed);
	ready();
	/* Not stopped(), which watches the clocks: this one is about memory, on the slowest machine. */
	while (access(stop_file, F_OK) != 0) {
		deep(dice(200), dice(1u << 30));
		pause_ms(dice(20));
	}
	ending = 1;
	for (size_t i = 0; i < COUNT(arenas); i++)
		if (arenas[i].at)
			CHECK((errno = pthread_join(threads[i], NULL)) == 0, "pthread_join");
	tell_what_was_done();
	pass();
}
