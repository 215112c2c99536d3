/* What is done to the mappings of one arena: dropped, freed, mapped anew, protected, moved, made huge, resized. */
#ifndef ORACLE_MAPPINGS_H
#define ORACLE_MAPPINGS_H
#include "writes.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static int options_huge, options_thp = 1;

struct run { size_t first, count; };

static struct run some_pages(const struct arena *a)
{
	struct run r = { some_page(a->pages), 0 };
	r.count = some_run(a->pages, r.first);
	return r;
}

/* What the memory shows that was never written. */
static void forget_pages(struct arena *a, struct run r)
{
	set_pages(a, r.first, r.count, a->kind & OF_FILES ? FROM_FILE : 0);
}

static char *map_pages(struct arena *a, size_t first, size_t count)
{
	int flags = MAP_FIXED | (a->kind & (OBJECTS | HUGETLB_SHARED) ? MAP_SHARED : MAP_PRIVATE);
	if (a->fd < 0)
		flags |= MAP_ANONYMOUS;
	if (a->kind & (HUGETLB | HUGETLB_SHARED))
		flags |= MAP_HUGETLB;
	char *at = MUST(mmap(a->at + first * PAGE, count * PAGE, PROT_READ | PROT_WRITE, flags, a->fd, a->fd < 0 ? 0 : first * PAGE));
	for (size_t page = first; page < first + count; page++)
		a->page[page].prot = PROT_READ | PROT_WRITE;
	return at;
}

/* --- content stays or changes in place --- */

static void op_write(struct arena *a)
{
	size_t page = some_page(a->pages), cells = a->pages * CELLS;
	size_t first = page * CELLS + dice(CELLS), most = cells - first, count;
	switch (dice(4)) {
	case 0: /* across a page border, if there is one behind it */
		first = page * CELLS + CELLS - 1;
		count = 2;
		break;
	case 1:
		count = 1 + dice(8);
		break;
	case 2:
		first = page * CELLS;
		count = CELLS;
		break;
	default:
		first = page * CELLS;
		count = some_run(a->pages, page) * CELLS;
	}
	most = cells - first;
	write_cells(a, some_way(a), first, count < most ? count : most, ++a->generation);
}

static void op_zero(struct arena *a)
{
	struct run r = some_pages(a);
	write_cells(a, some_way(a), r.first * CELLS, r.count * CELLS, 0);
}

static void op_look(struct arena *a)
{
	struct run r = some_pages(a);
	make_readable(a, r.first, r.count);
	check_pages(a, r.first, r.count, "looked at");
}

/* All that is readable. */
static void op_sweep(struct arena *a)
{
	for (size_t page = 0; page < a->pages; page++)
		if (a->page[page].prot & PROT_READ)
			check_pages(a, page, 1, "sweep");
}

static void op_sweep_all(struct arena *a)
{
	make_readable(a, 0, a->pages);
	check_pages(a, 0, a->pages, "sweep of all");
}

static void op_rest(struct arena *a)
{
	(void)a;
	pause_ms(dice(dice(4) ? 10 : 60));
}

static void op_protect(struct arena *a)
{
	static const int protections[] = { PROT_NONE, PROT_READ, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE };
	struct run r = some_pages(a);
	if (dice(8) == 0 && a->kind == ANONYMOUS) {
		r.first = r.first / EXTENT_PAGES * EXTENT_PAGES;
		r.count = EXTENT_PAGES < a->pages - r.first ? EXTENT_PAGES : a->pages - r.first;
	}
	protect(a, r.first, r.count, protections[dice(COUNT(protections))]);
}

static void op_dontneed(struct arena *a)
{
	struct run r = some_pages(a);
	MUST(madvise(a->at + r.first * PAGE, r.count * PAGE, MADV_DONTNEED));
	if (!(a->kind & OBJECTS))
		forget_pages(a, r);
}

/* Reclaimed at once where the kernel obeys: a page under MADV_FREE needs no swap for that. */
static void op_free(struct arena *a)
{
	struct run r = some_pages(a);
	MUST(madvise(a->at + r.first * PAGE, r.count * PAGE, MADV_FREE));
	for (size_t page = r.first; page < r.first + r.count; page++) {
		a->page[page].lazy = 1;
		touched(a, page);
	}
	if (dice(2))
		madvise(a->at + r.first * PAGE, r.count * PAGE, MADV_PAGEOUT);
}

static void op_page_out(struct arena *a)
{
	struct run r = some_pages(a);
	madvise(a->at + r.first * PAGE, r.count * PAGE, dice(4) ? MADV_PAGEOUT : MADV_COLD);
}

static void op_remove(struct arena *a)
{
	struct run r = some_pages(a);
	off_t at = r.first * PAGE;
	if (a->fd >= 0 && dice(2)) {
		MUST(fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, r.count * PAGE));
	} else {
		make_writable(a, r.first, r.count);
		MUST(madvise(a->at + at, r.count * PAGE, MADV_REMOVE));
	}
	forget_pages(a, r);
}

/* --- mappings come and go --- */

static void op_map_again(struct arena *a)
{
	struct run r = some_pages(a);
	int hole = dice(2);
	if (hole) {
		MUST(munmap(a->at + r.first * PAGE, r.count * PAGE));
		if (dice(8) == 0)
			pause_ms(dice(20));
	}
	map_pages(a, r.first, r.count);
	if (!(a->kind & OBJECTS))
		forget_pages(a, r);
	else if (a->fd < 0)
		fail("shared anonymous memory cannot be mapped again");
	if (dice(2))
		check_pages(a, r.first, r.count, "mapped again");
}

/* Written behind the back of all mappings. */
static void op_unmapped_write(struct arena *a)
{
	struct run r = some_pages(a);
	static __thread uint64_t room[MOST_PAGES * PAGE / 8];
	MUST(munmap(a->at + r.first * PAGE, r.count * PAGE));
	compose(a, room, r.first * CELLS, r.count * CELLS, ++a->generation);
	by_file(a, a->at + r.first * PAGE, (const char *)room, r.count * PAGE);
	set_pages(a, r.first, r.count, a->generation);
	if (dice(3) == 0)
		pause_ms(dice(30));
	map_pages(a, r.first, r.count);
}

/* Moves pages from `from` to `to`, over whatever is there. An area may have been split by the tracker or by us: then page
 * by page. Those that the kernel had moved when it gave up are found unmapped. */
static void move_run(char *to, char *from, size_t bytes)
{
	if (mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to)
		return;
	CHECK(errno == EFAULT, "mremap of %zu pages from %p to %p", bytes / PAGE, (void *)from, (void *)to);
	for (size_t at = 0; at < bytes; at += PAGE) {
		unsigned char there;
		if (mincore(from + at, PAGE, &there) == 0)
			MUST(mremap(from + at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to + at));
	}
}

static void swap_state(struct arena *a, size_t x, size_t y, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct page page = a->page[x + i];
		a->page[x + i] = a->page[y + i];
		a->page[y + i] = page;
		touched(a, x + i);
		touched(a, y + i);
	}
}

static void swap_runs(struct arena *a, size_t x, size_t y, size_t count)
{
	size_t bytes = count * PAGE;
	move_run(a->aside, a->at + x * PAGE, bytes);
	move_run(a->at + x * PAGE, a->at + y * PAGE, bytes);
	if (dice(8) == 0)
		pause_ms(dice(20));
	move_run(a->at + y * PAGE, a->aside, bytes);
	reserve(a->aside, bytes);
	swap_state(a, x, y, count);
}

static void op_swap_pages(struct arena *a)
{
	struct run x = some_pages(a), y = some_pages(a);
	size_t count = x.count < y.count ? x.count : y.count;
	if (x.first + count <= y.first || y.first + count <= x.first)
		swap_runs(a, x.first, y.first, count);
}

/* Whole page tables change places. */
static void op_swap_extents(struct arena *a)
{
	size_t extents = a->pages / EXTENT_PAGES, x = dice(extents), y = dice(extents);
	if (x != y)
		swap_runs(a, x * EXTENT_PAGES, y * EXTENT_PAGES, EXTENT_PAGES);
}

/* A fresh extent in one piece, partly filled, at once or soon moved. */
static void op_new_extent(struct arena *a)
{
	size_t first = dice(a->pages / EXTENT_PAGES) * EXTENT_PAGES;
	struct run r = { first, EXTENT_PAGES };
	map_pages(a, first, EXTENT_PAGES);
	forget_pages(a, r);
	if (options_thp && dice(2))
		madvise(a->at + first * PAGE, EXTENT, MADV_HUGEPAGE);
	for (int i = 0; i < 12; i++) {
		size_t page = first + dice(EXTENT_PAGES), count = some_run(first + EXTENT_PAGES, page);
		write_cells(a, some_way(a), page * CELLS, count * CELLS, ++a->generation);
	}
	if (dice(2))
		pause_ms(dice(20));
	op_swap_extents(a);
}

/* A long read by the device: all pages are pinned at its beginning, and written while it lasts. */
static void op_direct(struct arena *a)
{
	size_t first = dice(a->pages / EXTENT_PAGES) * EXTENT_PAGES;
	char path[400], suffix[40], *room = a->aside;
	MUST(mmap(room, EXTENT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	compose(a, room, first * CELLS, EXTENT_PAGES * CELLS, ++a->generation);
	snprintf(suffix, sizeof suffix, "oracle-direct-%u", a->id);
	int fd = MUST(open(beside(path, sizeof path, suffix), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
	CHECK(pwrite(fd, room, EXTENT, 0) == (ssize_t)EXTENT, "direct write of an extent");
	make_writable(a, first, EXTENT_PAGES);
	CHECK(pread(fd, a->at + first * PAGE, EXTENT, 0) == (ssize_t)EXTENT, "direct read of an extent");
	set_pages(a, first, EXTENT_PAGES, a->generation);
	close(fd);
	reserve(room, EXTENT);
}

/* The pages go, the mapping stays: what shows there then is zero. */
static void op_dontunmap(struct arena *a)
{
	struct run x = some_pages(a), y = some_pages(a);
	size_t count = x.count < y.count ? x.count : y.count;
	if (x.first + count > y.first && y.first + count > x.first)
		return;
	for (size_t i = 0; i < count; i++) {
		char *from = a->at + (x.first + i) * PAGE, *to = a->at + (y.first + i) * PAGE;
		MUST(mremap(from, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to));
		a->page[y.first + i] = a->page[x.first + i];
		touched(a, y.first + i);
		int prot = a->page[x.first + i].prot;
		set_pages(a, x.first + i, 1, 0);
		a->page[x.first + i].prot = prot;
	}
}

/* The whole arena goes to its other home, over the reservation there. */
static void op_move_home(struct arena *a)
{
	char *from = a->at, *to = a->elsewhere;
	move_run(to, from, a->pages * PAGE);
	reserve(from, a->room * PAGE);
	a->at = to;
	a->elsewhere = from;
}

/* --- huge pages --- */

static void op_huge(struct arena *a)
{
	if (!options_thp)
		return;
	char *at = a->at + dice(a->pages / EXTENT_PAGES) * EXTENT;
	switch (dice(4)) {
	case 0:
		madvise(at, EXTENT, MADV_HUGEPAGE);
		break;
	case 1:
		madvise(at, EXTENT, MADV_NOHUGEPAGE);
		break;
	default:
		madvise(at, EXTENT, MADV_HUGEPAGE);
		madvise(at, EXTENT, MADV_COLLAPSE); /* may be refused, for pages that are tracked for one */
	}
}

/* --- sizes --- */

static void resize(struct arena *a, size_t pages)
{
	if (pages > a->pages)
		for (size_t page = a->pages; page < pages; page++) {
			set_pages(a, page, 1, 0);
			a->page[page].prot = PROT_READ | PROT_WRITE;
		}
	a->pages = pages;
}

static void op_break(struct arena *a)
{
	size_t pages = a->room / 2 + dice(a->room / 2);
	/* What brk leaves keeps its protection; give it the usual one, since all of a heap has one. */
	make_writable(a, 0, a->pages);
	MUST((intptr_t)syscall(SYS_brk, a->at + pages * PAGE));
	CHECK((char *)syscall(SYS_brk, 0) == a->at + pages * PAGE, "brk to %zu pages", pages);
	resize(a, pages);
}

/* Smaller, larger, or cut in the middle of a page and made whole again. */
static void op_truncate(struct arena *a)
{
	size_t pages = a->room / 2 + dice(a->room / 2);
	if (dice(2)) {
		size_t cells = (a->pages - 1 - dice(8)) * CELLS + dice(CELLS), end = a->pages * CELLS;
		MUST(ftruncate(a->fd, cells * CELL));
		if (dice(4) == 0)
			pause_ms(dice(10));
		MUST(ftruncate(a->fd, a->pages * PAGE));
		set_cells(a, cells, end - cells, 0);
		return;
	}
	MUST(ftruncate(a->fd, pages * PAGE));
	if (pages > a->pages)
		map_pages(a, a->pages, pages - a->pages);
	resize(a, pages);
}
#endif
