/* Descriptors of every kind that one process can hold, with the data in them. */
#include "victim.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <dirent.h>

#define TEXT "what lies in a pipe or a socket must come out of it again, in order and once"

static int file, appending, twin, reading, directory, null, pipe_in, pipe_out, full_in, full_out, event, semaphore;
static int epoll, timer, signals, memory, sealed, high, place, pairs[3][2];
static char *mapped;
static const int pair_types[3] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
static size_t full_bytes;
static uint64_t rounds, timer_begin, timer_count;

static void check_flags(int fd, int status, int close_on_exec, const char *what)
{
	int flags = MUST(fcntl(fd, F_GETFL));
	int mask = O_ACCMODE | O_APPEND | O_NONBLOCK | O_DIRECTORY;
	CHECK((flags & mask) == status, "%s: status flags %x instead of %x", what, flags & mask, status);
	CHECK(MUST(fcntl(fd, F_GETFD)) == (close_on_exec ? FD_CLOEXEC : 0), "%s: close-on-exec changed", what);
}

static void prepare_files(void)
{
	char path[300];
	file = MUST(open(beside(path, sizeof path, "file"), O_RDWR | O_CREAT | O_TRUNC, 0600));
	appending = MUST(open(path, O_WRONLY | O_APPEND | O_CLOEXEC));
	twin = MUST(dup(file));
	for (uint64_t i = 0; i < 1000; i++)
		CHECK(write(file, &i, 8) == 8, "write");
	reading = MUST(open(path, O_RDONLY));
	MUST(lseek(reading, 80, SEEK_SET));
	MUST(lseek(file, 800, SEEK_SET));
	directory = MUST(open("/proc/..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	null = MUST(open("/dev/null", O_RDWR));
	high = MUST(fcntl(null, F_DUPFD_CLOEXEC, 700));
	place = MUST(open("/", O_PATH | O_CLOEXEC));
}

static void prepare_data(void)
{
	int ends[2];
	MUST(pipe2(ends, O_CLOEXEC));
	pipe_in = ends[0], pipe_out = ends[1];
	MUST(fcntl(pipe_in, F_SETOWN, getpid()));
	MUST(fcntl(pipe_in, F_SETSIG, SIGRTMIN + 9));
	CHECK(write(pipe_out, TEXT, sizeof TEXT) == sizeof TEXT, "write");
	MUST(pipe2(ends, O_NONBLOCK));
	full_in = ends[0], full_out = ends[1];
	MUST(fcntl(full_out, F_SETPIPE_SZ, 16384));
	for (uint64_t i = 0; write(full_out, &(uint64_t){ mix(i) }, 8) == 8; i++)
		full_bytes += 8;
	for (int i = 0; i < 3; i++) {
		MUST(socketpair(AF_UNIX, pair_types[i] | SOCK_CLOEXEC, 0, pairs[i]));
		for (int message = 1; message <= 3; message++)
			CHECK(send(pairs[i][0], TEXT, 10 * message, 0) == 10 * message, "send");
		CHECK(send(pairs[i][1], TEXT, 7, 0) == 7, "send");
	}
}

static void prepare_others(void)
{
	sigset_t set;
	event = MUST(eventfd(5, EFD_NONBLOCK));
	semaphore = MUST(eventfd(3, EFD_NONBLOCK | EFD_SEMAPHORE));
	timer = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	struct itimerspec period = { .it_value = from_ns(10 * MS), .it_interval = from_ns(10 * MS) };
	MUST(timerfd_settime(timer, 0, &period, NULL));
	timer_begin = now();
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	MUST(sigprocmask(SIG_BLOCK, &set, NULL));
	signals = MUST(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
	MUST(sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = 4711 }));

	epoll = MUST(epoll_create1(0));
	int watched[] = { event, full_in, pairs[0][0], signals };
	for (unsigned i = 0; i < COUNT(watched); i++) {
		struct epoll_event want = { .events = EPOLLIN | (i == 1 ? EPOLLET : 0), .data.u64 = 1000 + i };
		MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, watched[i], &want));
	}
	memory = MUST(memfd_create("victim", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	MUST(ftruncate(memory, 65536));
	mapped = MUST(mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0));
	MUST(fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK));
	sealed = MUST(memfd_create("sealed", MFD_ALLOW_SEALING));
	CHECK(write(sealed, TEXT, sizeof TEXT) == sizeof TEXT, "write");
	MUST(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL));
}

static void check_files(void)
{
	uint64_t value;
	check_flags(file, O_RDWR, 0, "file");
	check_flags(appending, O_WRONLY | O_APPEND, 1, "appending file");
	check_flags(reading, O_RDONLY, 0, "reading file");
	check_flags(directory, O_RDONLY | O_DIRECTORY, 1, "directory");
	check_flags(high, O_RDWR, 1, "descriptor 700");
	/* The twin shares the offset, the reader has its own. */
	off_t at = MUST(lseek(file, 0, SEEK_CUR));
	CHECK(at == (off_t)(800 + rounds % 100 * 8), "offset %lld", (long long)at);
	CHECK(read(twin, &value, 8) == 8 && value == (uint64_t)at / 8, "read through the twin");
	CHECK(MUST(lseek(file, 0, SEEK_CUR)) == at + 8, "a twin has an offset of its own");
	if (rounds % 100 == 99)
		MUST(lseek(twin, 800, SEEK_SET));
	CHECK(MUST(lseek(reading, 0, SEEK_CUR)) == 80, "the reader's offset");
	struct stat before, after;
	MUST(fstat(file, &before));
	value = before.st_size / 8;
	CHECK(write(appending, &value, 8) == 8, "append");
	MUST(fstat(file, &after));
	CHECK(after.st_size == before.st_size + 8, "append went elsewhere");
	CHECK((uint64_t)after.st_size == 8 * (1000 + rounds + 1), "the file has %lld bytes", (long long)after.st_size);
	struct stat root, opened;
	MUST(stat("/", &root));
	MUST(fstat(directory, &opened));
	CHECK(root.st_ino == opened.st_ino, "the directory is another");
	CHECK(MUST(fcntl(place, F_GETFL)) & O_PATH, "a place that was opened has become a file");
	MUST(fstat(place, &opened));
	CHECK(root.st_ino == opened.st_ino, "the place is another");
	CHECK(fcntl(pipe_in, F_GETOWN) == getpid() && fcntl(pipe_in, F_GETSIG) == SIGRTMIN + 9, "who gets the signals of a pipe");
	CHECK(write(high, "x", 1) == 1 && read(null, &value, 8) == 0, "/dev/null");
	CHECK(fcntl(699, F_GETFD) == -1 && fcntl(701, F_GETFD) == -1, "a descriptor too many");
}

static void check_data(void)
{
	char room[200];
	int waiting, size = sizeof TEXT;
	MUST(ioctl(pipe_in, FIONREAD, &waiting));
	CHECK(waiting == size, "pipe: %d bytes wait", waiting);
	CHECK(read(pipe_in, room, 10) == 10 && memcmp(room, TEXT, 10) == 0, "pipe: content");
	CHECK(read(pipe_in, room + 10, size) == size - 10 && memcmp(room, TEXT, size) == 0, "pipe: content");
	CHECK(write(pipe_out, TEXT, size) == size, "pipe: write");
	CHECK(MUST(fcntl(full_out, F_GETPIPE_SZ)) == 16384, "pipe: size");
	CHECK(write(full_out, TEXT, 8) == -1 && errno == EAGAIN, "the full pipe has room");
	MUST(ioctl(full_in, FIONREAD, &waiting));
	CHECK((size_t)waiting == full_bytes, "the full pipe holds %d bytes", waiting);
	check_flags(full_in, O_RDONLY | O_NONBLOCK, 0, "full pipe");
	for (int i = 0; i < 3; i++) {
		int type = 0;
		socklen_t length = sizeof type;
		MUST(getsockopt(pairs[i][0], SOL_SOCKET, SO_TYPE, &type, &length));
		CHECK(type == pair_types[i], "socketpair %d: type", i);
		check_flags(pairs[i][1], O_RDWR, 1, "socketpair");
		CHECK(recv(pairs[i][0], room, sizeof room, MSG_DONTWAIT) == 7, "socketpair %d: first way", i);
		CHECK(send(pairs[i][1], TEXT, 7, 0) == 7, "send");
		int whole = i == 0 ? 60 : 10;
		CHECK(recv(pairs[i][1], room, sizeof room, MSG_DONTWAIT) == whole, "socketpair %d: message border", i);
		CHECK(memcmp(room, TEXT, 10) == 0, "socketpair %d: content", i);
		for (int message = 2; i > 0 && message <= 3; message++)
			CHECK(recv(pairs[i][1], room, sizeof room, MSG_DONTWAIT) == 10 * message, "socketpair %d: message", i);
		for (int message = 1; message <= 3; message++)
			CHECK(send(pairs[i][0], TEXT, 10 * message, 0) == 10 * message, "send");
	}
}

static void check_others(void)
{
	uint64_t value = 0;
	CHECK(read(event, &value, 8) == 8 && value == 5, "eventfd: %llu", (unsigned long long)value);
	CHECK(read(event, &value, 8) == -1 && errno == EAGAIN, "eventfd not empty");
	value = 5;
	CHECK(write(event, &value, 8) == 8, "eventfd");
	CHECK(read(semaphore, &value, 8) == 8 && value == 1, "semaphore: %llu", (unsigned long long)value);
	CHECK(write(semaphore, &value, 8) == 8, "semaphore");
	struct epoll_event events[10];
	int count = epoll_wait(epoll, events, 10, 0), seen = 0;
	for (int i = 0; i < count; i++)
		seen |= 1 << (events[i].data.u64 - 1000);
	/* The edge of the full pipe comes once; it may come again after a move. */
	CHECK((seen & ~2) == (1 | 4 | 8), "epoll reports %x", seen);
	uint64_t elapsed = now() - timer_begin;
	if (read(timer, &value, 8) == 8)
		timer_count += value;
	else
		CHECK(errno == EAGAIN, "timerfd");
	CHECK(timer_count <= elapsed / (10 * MS) + 1, "timerfd runs fast: %llu", (unsigned long long)timer_count);
	CHECK(timer_count + 2 * TOLERANCE / (10 * MS) >= elapsed / (10 * MS), "timerfd lost %llu of %llu",
	      (unsigned long long)(elapsed / (10 * MS) - timer_count), (unsigned long long)elapsed / (10 * MS));
	CHECK((MUST(fcntl(memory, F_GET_SEALS)) & 0x1f) == F_SEAL_SHRINK, "memfd: seals");
	uint64_t at = rounds * 8 % 65536, word = mix(rounds);
	CHECK(pwrite(memory, &word, 8, at) == 8 && *(volatile uint64_t *)(mapped + at) == word, "memfd: write not in mapping");
	*(volatile uint64_t *)(mapped + at) = ~word;
	CHECK(pread(memory, &word, 8, at) == 8 && word == ~mix(rounds), "memfd: mapping not in file");
	if (rounds > 10) {
		uint64_t before = *(volatile uint64_t *)(mapped + (rounds - 10) * 8 % 65536);
		CHECK(before == ~mix(rounds - 10), "memfd: old content");
	}
	char room[sizeof TEXT];
	CHECK(write(sealed, "x", 1) == -1 && errno == EPERM, "sealed memfd: writable");
	CHECK(pread(sealed, room, sizeof room, 0) == sizeof room && memcmp(room, TEXT, sizeof room) == 0, "sealed memfd");
	CHECK(ftruncate(memory, 4096) == -1 && errno == EPERM, "memfd: may shrink");
}

static void check_last(void)
{
	struct signalfd_siginfo info;
	CHECK(read(signals, &info, sizeof info) == sizeof info, "signalfd");
	CHECK(info.ssi_signo == SIGUSR1 && info.ssi_int == 4711, "signalfd: payload %d", info.ssi_int);
	for (uint64_t i = 0, value; i < full_bytes / 8; i++)
		CHECK(read(full_in, &value, 8) == 8 && value == mix(i), "full pipe: word %llu", (unsigned long long)i);
	CHECK(write(full_out, TEXT, 8) == 8, "the emptied pipe has no room");
	close(pairs[0][0]);
	char byte[100];
	CHECK(recv(pairs[0][1], byte, sizeof byte, 0) == 60 && recv(pairs[0][1], byte, 1, 0) <= 0, "no end of the stream");
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	prepare_files();
	prepare_data();
	prepare_others();
	ready();
	for (;; rounds++) {
		int last = stopped();
		check_files();
		check_data();
		check_others();
		if (last)
			break;
		pause_ms(3);
	}
	check_last();
	pass();
}
