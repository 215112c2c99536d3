/* What every byte ought to be. Each cell of 64 bytes carries the generation that was last written to it, and its content
 * follows from the arena, the generation and its place in the page: wherever mremap takes the page, it can be checked,
 * and a wrong word tells which generation it belongs to. */
#ifndef ORACLE_MODEL_H
#define ORACLE_MODEL_H
#include "../victim.h"
#include <sys/mman.h>

#define EXTENT (2ul << 20)
#define EXTENT_PAGES (EXTENT / PAGE)
#define CELL 64ul
#define CELL_WORDS (CELL / 8)
#define CELLS (PAGE / CELL)
#define FROM_FILE UINT32_MAX /* generation: what the file holds there */
#define MOST_PAGES 16ul	     /* written at once */

/* Kinds of memory, as bits, so that an operation can name all that it suits. */
enum { ANONYMOUS = 1, SHARED = 2, MEMFD = 4, PRIVATE_FILE = 8, HEAP = 16, PRIVATE_MEMFD = 32, HUGETLB = 64, HUGETLB_SHARED = 128 };
#define LIKE_ANONYMOUS (ANONYMOUS | HEAP)
#define OBJECTS (SHARED | MEMFD)
#define OF_FILES (PRIVATE_FILE | PRIVATE_MEMFD)
#define ALL_SMALL (LIKE_ANONYMOUS | OBJECTS | OF_FILES)
#define EVERY (ALL_SMALL | HUGETLB | HUGETLB_SHARED)

struct page {
	uint32_t gen[CELLS];
	uint8_t prot;
	uint8_t lazy; /* MADV_FREE: all zero or what it was, until it is written */
	uint16_t op;  /* the operation that changed it last, and when */
	uint32_t at_ms;
};

/* Memory that belongs to one thread, which alone writes it, and knows it. */
struct arena {
	const char *name;
	unsigned id; /* from 1 */
	int kind, fd;
	char *at;
	size_t pages; /* accessible at present */
	size_t room;  /* at most */
	int changes_kind;
	uint32_t generation;
	struct page *page;
	char *aside, *elsewhere; /* room for as much again; of one extent more */
	char *scratch;		 /* MOST_PAGES pages that are not checked */
	int pipe[2], pair[2], direct;
	uint16_t op;
	uint64_t *done; /* by operation */
};

/* Generation 0 is zero. */
static inline uint64_t word(const struct arena *a, size_t page, uint32_t gen, size_t at)
{
	if (gen == FROM_FILE)
		return mix((uint64_t)255 << 48 | (uint64_t)a->id << 40 | (page << 9 | at));
	return gen ? mix((uint64_t)a->id << 48 | (uint64_t)gen << 9 | at) : 0;
}

/* The inverse of mix(): what a wrong word was meant to be. */
static inline uint64_t unmix(uint64_t x)
{
	x ^= x >> 33; x *= 0x9cb4b2f8129337dbull;
	x ^= x >> 33; x *= 0x4f74430c22a54005ull;
	return x ^ x >> 33;
}

static inline uint32_t ms_now(void) { return (uint32_t)(now_on(CLOCK_MONOTONIC_COARSE) / MS); }
static const char *op_name(unsigned op);

static inline __attribute__((noreturn)) void fail_word(const struct arena *a, size_t page, size_t at, uint64_t seen, const char *where)
{
	const struct page *p = &a->page[page];
	uint64_t from = unmix(seen);
	char what[120];
	if (!seen)
		snprintf(what, sizeof what, "zero");
	else if (from >> 48 >= 1 && from >> 48 < 64)
		snprintf(what, sizeof what, "generation %u of arena %u, word %u", (unsigned)(from >> 9), (unsigned)(from >> 48),
			 (unsigned)(from & 511));
	else if (from >> 48 == 255)
		snprintf(what, sizeof what, "the file's page %u, word %u", (unsigned)(from << 24 >> 33), (unsigned)(from & 511));
	else
		snprintf(what, sizeof what, "%#llx", (unsigned long long)seen);
	size_t wrong = 0;
	const volatile uint64_t *all = (const volatile uint64_t *)(a->at + page * PAGE);
	for (size_t i = 0; i < PAGE / 8; i++)
		wrong += all[i] != word(a, page, p->gen[i / CELL_WORDS], i);
	errno = 0;
	fail("%s (arena %u, kind %d), %s: page %zu at %p, word %zu: generation %u wanted, %s found; %zu words of the page are wrong now; "
	     "last changed by '%s' %u ms ago; lazy %d, prot %d; arena's generation %u, operation '%s'",
	     a->name, a->id, a->kind, where, page, (void *)(a->at + page * PAGE), at, p->gen[at / CELL_WORDS], what, wrong,
	     op_name(p->op), ms_now() - p->at_ms, p->lazy, p->prot, a->generation, op_name(a->op));
}

/* Pages that are readable. */
static inline void check_pages(const struct arena *a, size_t first, size_t count, const char *where)
{
	for (size_t page = first; page < first + count; page++) {
		const struct page *p = &a->page[page];
		const volatile uint64_t *at = (const volatile uint64_t *)(a->at + page * PAGE);
		for (size_t i = 0; i < PAGE / 8; i++) {
			uint64_t seen = at[i];
			if (seen != word(a, page, p->gen[i / CELL_WORDS], i) && !(p->lazy && seen == 0))
				fail_word(a, page, i, seen, where);
		}
	}
}

static inline void touched(struct arena *a, size_t page)
{
	a->page[page].op = a->op;
	a->page[page].at_ms = ms_now();
}

/* All cells of these pages are of one generation now. */
static inline void set_pages(struct arena *a, size_t first, size_t count, uint32_t gen)
{
	for (size_t page = first; page < first + count; page++) {
		for (size_t i = 0; i < CELLS; i++)
			a->page[page].gen[i] = gen;
		a->page[page].lazy = 0;
		touched(a, page);
	}
}

static inline void set_cells(struct arena *a, size_t first, size_t count, uint32_t gen)
{
	for (size_t cell = first; cell < first + count; cell++)
		a->page[cell / CELLS].gen[cell % CELLS] = gen;
	for (size_t page = first / CELLS; page <= (first + count - 1) / CELLS; page++)
		touched(a, page);
}

/* The content of a run of cells. */
static inline void compose(const struct arena *a, void *into, size_t first, size_t count, uint32_t gen)
{
	uint64_t *to = into;
	for (size_t i = 0; i < count * CELL_WORDS; i++) {
		size_t at = first * CELL_WORDS + i;
		to[i] = word(a, at / (PAGE / 8), gen, at % (PAGE / 8));
	}
}

/* Reserves address space: nothing else comes to lie there. */
static inline char *reserve(void *at, size_t bytes)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0);
	return MUST(mmap(at, bytes, PROT_NONE, flags, -1, 0));
}

static inline void protect(struct arena *a, size_t first, size_t count, int prot)
{
	MUST(mprotect(a->at + first * PAGE, count * PAGE, prot));
	for (size_t page = first; page < first + count; page++)
		a->page[page].prot = prot;
}

static inline int all_have(const struct arena *a, size_t first, size_t count, int prot)
{
	for (size_t page = first; page < first + count; page++)
		if ((a->page[page].prot & prot) != prot)
			return 0;
	return 1;
}

static inline void make_readable(struct arena *a, size_t first, size_t count)
{
	if (!all_have(a, first, count, PROT_READ))
		protect(a, first, count, PROT_READ);
}

/* A page under MADV_FREE gets a store that changes nothing: from then on it is what it is. Needs PROT_WRITE. */
static inline void settle(struct arena *a, size_t first, size_t count)
{
	for (size_t page = first; page < first + count; page++) {
		if (!a->page[page].lazy)
			continue;
		uint64_t *at = (uint64_t *)(a->at + page * PAGE);
		__atomic_fetch_or(at, 0, __ATOMIC_SEQ_CST);
		check_pages(a, page, 1, "after MADV_FREE");
		int zero = 1;
		for (size_t i = 0; i < PAGE / 8; i++)
			zero &= ((volatile uint64_t *)at)[i] == 0;
		if (zero)
			set_pages(a, page, 1, 0);
		a->page[page].lazy = 0;
		check_pages(a, page, 1, "settled after MADV_FREE");
	}
}

static inline void make_writable(struct arena *a, size_t first, size_t count)
{
	if (!all_have(a, first, count, PROT_READ | PROT_WRITE))
		protect(a, first, count, PROT_READ | PROT_WRITE);
	settle(a, first, count);
}

/* Some pages are written all the time, others hardly ever: only a page that stays alone can show that it was missed. */
static inline size_t some_page(size_t pages)
{
	uint64_t x = dice(1 << 20), y = dice(3);
	uint64_t square = x * x >> 20, cube = square * x >> 20;
	return (y == 0 ? x : y == 1 ? square : cube) * pages >> 20;
}

static inline size_t some_run(size_t pages, size_t first)
{
	size_t most = pages - first < MOST_PAGES ? pages - first : MOST_PAGES;
	return dice(2) ? 1 : 1 + dice(most);
}
#endif
