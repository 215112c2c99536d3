/* The ways in which bytes get into memory: stores of several widths, system calls, other processes. */
#ifndef ORACLE_WRITES_H
#define ORACLE_WRITES_H
#include "model.h"
#include <immintrin.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

struct way {
	const char *name;
	int kinds;
	void (*put)(struct arena *a, char *to, const char *bytes, size_t size);
	int through_protection;
};

static void by_stores(struct arena *a, char *to, const char *bytes, size_t size)
{
	(void)a;
	for (size_t i = 0; i < size / 8; i++)
		((volatile uint64_t *)to)[i] = ((const uint64_t *)bytes)[i];
}

static void by_bytes(struct arena *a, char *to, const char *bytes, size_t size)
{
	(void)a;
	for (size_t i = size; i-- > 0;)
		((volatile char *)to)[i] = bytes[i];
}

static void by_string_move(struct arena *a, char *to, const char *bytes, size_t size)
{
	(void)a;
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(bytes), "+c"(size)::"memory");
}

static void by_streaming(struct arena *a, char *to, const char *bytes, size_t size)
{
	(void)a;
	for (size_t i = 0; i < size / 8; i++)
		_mm_stream_si64((long long *)to + i, ((const long long *)bytes)[i]);
	_mm_sfence();
}

/* Compare-and-exchange of each word. */
static void by_atomics(struct arena *a, char *to, const char *bytes, size_t size)
{
	(void)a;
	for (size_t i = 0; i < size / 8; i++) {
		uint64_t *at = (uint64_t *)to + i, old = __atomic_load_n(at, __ATOMIC_RELAXED);
		CHECK(__atomic_compare_exchange_n(at, &old, ((const uint64_t *)bytes)[i], 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST),
		      "somebody else writes to %p", (void *)at);
	}
}

static __attribute__((target("avx"))) void by_avx(struct arena *a, char *to, const char *bytes, size_t size)
{
	if (!__builtin_cpu_supports("avx") || size < 32) {
		by_stores(a, to, bytes, size);
		return;
	}
	/* Off by 16 bytes, so that one of the stores lies across each page border. */
	_mm_storeu_si128((__m128i *)to, _mm_loadu_si128((const __m128i *)bytes));
	size_t i = 16;
	for (; i + 32 <= size; i += 32)
		_mm256_storeu_si256((__m256i *)(to + i), _mm256_loadu_si256((const __m256i *)(bytes + i)));
	by_stores(a, to + i, bytes + i, size - i);
}

static __attribute__((target("avx512f"))) void by_avx512(struct arena *a, char *to, const char *bytes, size_t size)
{
	if (!__builtin_cpu_supports("avx512f") || size < 64) {
		by_avx(a, to, bytes, size);
		return;
	}
	by_stores(a, to, bytes, 32);
	size_t i = 32;
	for (; i + 64 <= size; i += 64)
		_mm512_storeu_si512(to + i, _mm512_loadu_si512(bytes + i));
	by_stores(a, to + i, bytes + i, size - i);
}

static void take_all(int fd, char *to, size_t size, int by_recv)
{
	for (size_t got = 0; got < size;) {
		ssize_t n = by_recv ? recv(fd, to + got, size - got, dice(2) ? MSG_WAITALL : 0) : read(fd, to + got, size - got);
		CHECK(n > 0, "reading into memory gave %zd", n);
		got += n;
	}
}

static void by_read(struct arena *a, char *to, const char *bytes, size_t size)
{
	CHECK(write(a->pipe[1], bytes, size) == (ssize_t)size, "write to a pipe");
	take_all(a->pipe[0], to, size, 0);
}

static void by_recv(struct arena *a, char *to, const char *bytes, size_t size)
{
	CHECK(send(a->pair[1], bytes, size, 0) == (ssize_t)size, "send");
	take_all(a->pair[0], to, size, 1);
}

static void by_readv(struct arena *a, char *to, const char *bytes, size_t size)
{
	size_t cut = dice(size + 1), cut2 = cut + dice(size - cut + 1);
	struct iovec parts[3] = { { to, cut }, { to + cut, cut2 - cut }, { to + cut2, size - cut2 } };
	CHECK(write(a->pipe[1], bytes, size) == (ssize_t)size, "write to a pipe");
	ssize_t n = readv(a->pipe[0], parts, 3);
	CHECK(n > 0, "readv gave %zd", n);
	take_all(a->pipe[0], to + n, size - n, 0);
}

static ssize_t put_into(pid_t pid, char *to, const char *bytes, size_t size)
{
	size_t cut = dice(size + 1);
	struct iovec from = { (void *)bytes, size }, into[2] = { { to, cut }, { to + cut, size - cut } };
	return process_vm_writev(pid, &from, 1, into, 2, 0);
}

static void by_vm_writev(struct arena *a, char *to, const char *bytes, size_t size)
{
	(void)a;
	CHECK(put_into(getpid(), to, bytes, size) == (ssize_t)size, "process_vm_writev");
}

/* Writes through protections, where the mapping is private. */
static void by_proc_mem(struct arena *a, char *to, const char *bytes, size_t size)
{
	(void)a;
	int mem = MUST(open("/proc/self/mem", O_RDWR | O_CLOEXEC));
	CHECK(pwrite(mem, bytes, size, (off_t)(uintptr_t)to) == (ssize_t)size, "write to /proc/self/mem");
	close(mem);
}

/* Read by the device itself, past the page tables (O_DIRECT). */
static int options_direct;

static void by_device(struct arena *a, char *to, const char *bytes, size_t size)
{
	if (!options_direct || size % PAGE || (uintptr_t)to % PAGE) {
		by_stores(a, to, bytes, size);
		return;
	}
	char path[400], suffix[40];
	snprintf(suffix, sizeof suffix, "oracle-direct-%u", a->id);
	int fd = MUST(open(beside(path, sizeof path, suffix), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
	CHECK(pwrite(fd, bytes, size, 0) == (ssize_t)size, "direct write");
	CHECK(pread(fd, to, size, 0) == (ssize_t)size, "direct read");
	close(fd);
}

static void by_file(struct arena *a, char *to, const char *bytes, size_t size)
{
	off_t at = to - a->at;
	if (dice(2)) {
		CHECK(pwrite(a->fd, bytes, size, at) == (ssize_t)size, "pwrite to a memfd");
	} else {
		MUST(lseek(a->fd, at, SEEK_SET));
		CHECK(write(a->fd, bytes, size) == (ssize_t)size, "write to a memfd");
	}
}

/* By a second mapping, which is there for a moment only. */
static void by_alias(struct arena *a, char *to, const char *bytes, size_t size)
{
	size_t first = (to - a->at) / PAGE, end = (to + size - a->at + PAGE - 1) / PAGE, count = end - first;
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	if (a->kind == MEMFD)
		MUST(mmap(a->aside, count * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, a->fd, first * PAGE));
	else
		MUST(mremap(a->at + first * PAGE, 0, count * PAGE, flags, a->aside));
	char *alias = a->aside + (to - a->at) % PAGE;
	by_stores(a, alias, bytes, size);
	if (dice(4) == 0)
		pause_ms(dice(20));
	for (size_t i = 0; i < size / 8; i++)
		CHECK(((volatile uint64_t *)alias)[i] == ((const uint64_t *)bytes)[i], "%s: wrong content in its alias at %p", a->name,
		      (void *)(alias + i * 8));
	reserve(a->aside, count * PAGE);
}

/* --- other processes: for a moment only, since a process with children is not moved --- */

static _Atomic uint64_t next_child;
static uint64_t child_every = 60 * MS;

/* Whether a child may be made now. */
static int child_allowed(void)
{
	uint64_t t = now(), due = next_child;
	return t >= due && __atomic_compare_exchange_n((uint64_t *)&next_child, &due, t + child_every, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static pid_t make_child(void) { return MUST(_Fork()); }

static void await_child(const struct arena *a, pid_t pid)
{
	int status = 0;
	CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
	CHECK(status == 0, "%s: a child ended with status %#x", a->name, status);
	next_child = now() + child_every;
}

/* The child writes into the parent's private memory, or by its own stores into memory that both share. */
static void by_child(struct arena *a, char *to, const char *bytes, size_t size)
{
	if (!child_allowed()) {
		by_vm_writev(a, to, bytes, size);
		return;
	}
	pid_t parent = getpid(), child = make_child();
	if (child == 0) {
		if (a->kind & (OBJECTS | HUGETLB_SHARED))
			by_stores(a, to, bytes, size);
		else
			CHECK(put_into(parent, to, bytes, size) == (ssize_t)size, "process_vm_writev from a child");
		_exit(0);
	}
	await_child(a, child);
}

static const struct way ways[] = {
	{ "stores", EVERY, by_stores, 0 },
	{ "stores of bytes, backwards", EVERY, by_bytes, 0 },
	{ "rep movsb", EVERY, by_string_move, 0 },
	{ "streaming stores", EVERY, by_streaming, 0 },
	{ "atomic operations", EVERY, by_atomics, 0 },
	{ "avx across borders", EVERY, by_avx, 0 },
	{ "avx512 across borders", EVERY, by_avx512, 0 },
	{ "read", EVERY, by_read, 0 },
	{ "recv", EVERY, by_recv, 0 },
	{ "readv", EVERY, by_readv, 0 },
	{ "process_vm_writev", EVERY, by_vm_writev, 0 },
	{ "/proc/self/mem", LIKE_ANONYMOUS | OF_FILES, by_proc_mem, 1 },
	{ "write to the memfd", MEMFD, by_file, 1 },
	{ "alias", OBJECTS, by_alias, 0 },
	{ "child", EVERY, by_child, 0 },
	{ "direct read", EVERY, by_device, 0 },
};

/* Operations and ways that are left out, to find out which one it takes. */
static const char *option_without;

/* Whether a list, divided by commas, names it; '_' stands for a space, too. */
static int listed(const char *list, const char *name)
{
	size_t length = strlen(name);
	for (; list; list = strchr(list, ',') ? strchr(list, ',') + 1 : NULL) {
		size_t same = 0;
		while (same < length && (list[same] == name[same] || (list[same] == '_' && name[same] == ' ')))
			same++;
		if (same == length && (list[same] == ',' || list[same] == 0))
			return 1;
	}
	return 0;
}

static const struct way *some_way(const struct arena *a)
{
	for (;;) {
		const struct way *way = &ways[dice(COUNT(ways))];
		if ((way->kinds & a->kind) && !listed(option_without, way->name))
			return way;
	}
}

/* One write of one generation (0: zeroes) to a run of cells. */
static void write_cells(struct arena *a, const struct way *way, size_t first, size_t count, uint32_t gen)
{
	static __thread uint64_t room[(MOST_PAGES + 1) * PAGE / 8] __attribute__((aligned(4096)));
	size_t page = first / CELLS, pages = (first + count - 1) / CELLS - page + 1;
	int lazy = 0;
	for (size_t i = page; i < page + pages; i++)
		lazy |= a->page[i].lazy;
	if (!way->through_protection || lazy)
		make_writable(a, page, pages);
	compose(a, room, first, count, gen);
	way->put(a, a->at + first * CELL, (const char *)room, count * CELL);
	set_cells(a, first, count, gen);
}
#endif
