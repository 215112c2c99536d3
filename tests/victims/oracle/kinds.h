/* Making arenas of each kind, arenas that change their kind at the same address, children that read and write their copies. */
#ifndef ORACLE_KINDS_H
#define ORACLE_KINDS_H
#include "mappings.h"
#include <sys/stat.h>

static int small_file(const struct arena *a)
{
	char path[400], suffix[40];
	snprintf(suffix, sizeof suffix, "oracle-%u", a->id);
	int fd = MUST(open(beside(path, sizeof path, suffix), O_RDONLY | O_CLOEXEC));
	return fd;
}

/* The content that FROM_FILE stands for, written once, before anything is mapped. */
static void make_file(const struct arena *a)
{
	static uint64_t page_of[PAGE / 8];
	char path[400], suffix[40];
	snprintf(suffix, sizeof suffix, "oracle-%u", a->id);
	int fd = MUST(open(beside(path, sizeof path, suffix), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	for (size_t page = 0; page < a->room; page++) {
		compose(a, page_of, page * CELLS, CELLS, FROM_FILE);
		CHECK(write(fd, page_of, PAGE) == PAGE, "write of a file");
	}
	MUST(fsync(fd));
	close(fd);
}

static int make_memfd(const struct arena *a, int filled)
{
	static __thread uint64_t room[PAGE / 8];
	int fd = MUST(memfd_create("oracle", MFD_CLOEXEC));
	MUST(ftruncate(fd, a->room * PAGE));
	for (size_t page = 0; filled && page < a->room; page++) {
		compose(a, room, page * CELLS, CELLS, FROM_FILE);
		CHECK(pwrite(fd, room, PAGE, page * PAGE) == PAGE, "write of a memfd");
	}
	return fd;
}

/* Maps all of it anew as that kind, with nothing written yet. */
static void become(struct arena *a, int kind)
{
	if (a->fd >= 0)
		close(a->fd);
	a->kind = kind;
	a->fd = kind & PRIVATE_FILE ? small_file(a) : kind & (MEMFD | PRIVATE_MEMFD) ? make_memfd(a, kind == PRIVATE_MEMFD) : -1;
	map_pages(a, 0, a->pages);
	forget_pages(a, (struct run){ 0, a->pages });
	if (kind == PRIVATE_FILE) {
		close(a->fd);
		a->fd = -1;
	}
}

/* The same address shows another thing. */
static void op_become(struct arena *a)
{
	static const int kinds[] = { ANONYMOUS, SHARED, MEMFD, PRIVATE_FILE, PRIVATE_MEMFD };
	become(a, kinds[dice(COUNT(kinds))]);
	for (size_t i = dice(6); i > 0; i--)
		op_write(a);
}

/* A child checks its copy and writes to it while the parent writes its own, which is copied thereby. */
static void op_child(struct arena *a)
{
	if (!child_allowed())
		return;
	struct run mine[3];
	for (size_t i = 0; i < COUNT(mine); i++) {
		mine[i] = some_pages(a);
		make_writable(a, mine[i].first, mine[i].count);
	}
	pid_t child = make_child();
	if (child == 0) {
		for (size_t i = 0; i < COUNT(mine); i++) {
			check_pages(a, mine[i].first, mine[i].count, "child's copy");
			if (!(a->kind & (OBJECTS | HUGETLB_SHARED)))
				write_cells(a, &ways[0], mine[i].first * CELLS, mine[i].count * CELLS, 1u << 30 | (uint32_t)dice(1 << 20));
			check_pages(a, mine[i].first, mine[i].count, "child's copy, written");
		}
		_exit(0);
	}
	if (!(a->kind & (OBJECTS | HUGETLB_SHARED)))
		for (size_t i = 0; i < COUNT(mine); i++)
			write_cells(a, &ways[dice(7)], mine[i].first * CELLS, mine[i].count * CELLS, ++a->generation);
	await_child(a, child);
	for (size_t i = 0; i < COUNT(mine); i++)
		check_pages(a, mine[i].first, mine[i].count, "after a child");
}
#endif
