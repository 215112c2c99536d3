/* Calls on sockets that have a time limit (SO_RCVTIMEO, SO_SNDTIMEO). To such a wait the kernel answers EINTR when the thread is merely
 * stopped. No call may end with that, none before its limit; one that was interrupted begins again with all of it. */
#include "victim.h"
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define LIMIT (600 * MS)
/* A limit is counted in ticks of the kernel, of which the first has begun. */
#define TICK (10 * MS)
#define NEVER (1000 * SECOND)

struct kind {
	const char *name;
	long (*block)(int fd);
	enum { STREAM, DATAGRAMS, LISTENING, FULL } on;
};

static volatile int stop_now;
static uint64_t stopped_at;
static int file;
static char bytes[4096];
static const struct iovec one = { bytes, 1 };

static long by_recv(int fd) { return recv(fd, bytes, 1, 0); }
static long by_read(int fd) { return read(fd, bytes, 1); }
static long by_readv(int fd) { return readv(fd, &one, 1); }
static long by_preadv2(int fd) { return preadv2(fd, &one, 1, -1, 0); }
static long by_recvmsg(int fd) { return recvmsg(fd, &(struct msghdr){ .msg_iov = (struct iovec *)&one, .msg_iovlen = 1 }, MSG_PEEK); }
static long by_recvmmsg(int fd)
{
	struct mmsghdr message = { .msg_hdr = { .msg_iov = (struct iovec *)&one, .msg_iovlen = 1 } };
	return recvmmsg(fd, &message, 1, 0, NULL);
}
static long by_accept(int fd) { return accept(fd, NULL, NULL); }
static long by_accept4(int fd) { return accept4(fd, NULL, NULL, SOCK_CLOEXEC); }
static long by_send(int fd) { return send(fd, bytes, 1, 0); }
static long by_write(int fd) { return write(fd, bytes, 1); }
static long by_writev(int fd) { return writev(fd, &one, 1); }
static long by_pwritev2(int fd) { return pwritev2(fd, &one, 1, -1, 0); }
static long by_sendmsg(int fd) { return sendmsg(fd, &(struct msghdr){ .msg_iov = (struct iovec *)&one, .msg_iovlen = 1 }, 0); }
static long by_sendmmsg(int fd)
{
	struct mmsghdr message = { .msg_hdr = { .msg_iov = (struct iovec *)&one, .msg_iovlen = 1 } };
	return sendmmsg(fd, &message, 1, 0);
}
static long by_sendfile(int fd)
{
	off_t at = 0;
	return sendfile(fd, file, &at, 1);
}
static long by_splice(int fd)
{
	static __thread int ends[2] = { -1, -1 };
	if (ends[0] < 0)
		MUST(pipe2(ends, O_CLOEXEC));
	return splice(fd, NULL, ends[1], NULL, 1, 0);
}

static const struct kind kinds[] = {
	{ "recv", by_recv, STREAM },        { "read", by_read, STREAM },          { "readv", by_readv, DATAGRAMS },
	{ "preadv2", by_preadv2, STREAM },  { "recvmsg", by_recvmsg, DATAGRAMS }, { "recvmmsg", by_recvmmsg, DATAGRAMS },
	{ "accept", by_accept, LISTENING }, { "accept4", by_accept4, LISTENING }, { "splice", by_splice, STREAM },
	{ "send", by_send, FULL },          { "write", by_write, FULL },          { "writev", by_writev, FULL },
	{ "pwritev2", by_pwritev2, FULL },  { "sendmsg", by_sendmsg, FULL },      { "sendmmsg", by_sendmmsg, FULL },
	{ "sendfile", by_sendfile, FULL },
};

/* Until nothing more goes in. */
static void fill_up(int fd)
{
	static const size_t sizes[] = { sizeof bytes, 1 };
	for (unsigned i = 0; i < COUNT(sizes); i++)
		while (send(fd, bytes, sizes[i], MSG_DONTWAIT) > 0)
			;
	CHECK(errno == EAGAIN, "filling a socket");
}

static void limit(int fd, uint64_t ns)
{
	struct timeval t = { (time_t)(ns / SECOND), (suseconds_t)(ns % SECOND / 1000) };
	char line[40];
	MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
	MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
	snprintf(line, sizeof line, "limit on %d\n", fd);
	say(line);
}

static int prepare(const struct kind *kind)
{
	int pair[2];
	if (kind->on == LISTENING || kind->on == DATAGRAMS) {
		struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
		int fd = MUST(socket(AF_INET, (kind->on == LISTENING ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0));
		MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
		if (kind->on == LISTENING)
			MUST(listen(fd, 4));
		return fd;
	}
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	if (kind->on == FULL)
		fill_up(pair[0]);
	return pair[0];
}

static void *work(void *argument)
{
	const struct kind *kind = argument;
	int fd = prepare(kind);
	limit(fd, LIMIT);
	while (!stop_now) {
		uint64_t begin = now();
		long result = kind->block(fd);
		uint64_t took = now() - begin;
		/* the same bytes may take less room in another queue */
		if (kind->on == FULL && result > 0) {
			fill_up(fd);
			continue;
		}
		CHECK(result == -1 && errno == EAGAIN, "%s: %ld after %llu ms", kind->name, result, (unsigned long long)(took / MS));
		CHECK(took + TICK >= LIMIT, "%s: only %llu ms", kind->name, (unsigned long long)(took / MS));
	}
	CHECK(now() - stopped_at < LIMIT + TOLERANCE, "%s: does not end", kind->name);
	return NULL;
}

/* One that is woken long before its limit: by main, which waits until each byte has come. */
static int talk[2];
static volatile uint32_t heard;

static void *listener(void *unused)
{
	char byte;
	for (uint32_t next = 1;; next++) {
		long result = recv(talk[0], &byte, 1, MSG_WAITALL);
		CHECK(result == 1 && byte == (char)next, "recv: %ld, byte %d instead of %d", result, byte, (char)next);
		heard = next;
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t threads[COUNT(kinds)];
	victim_begin(argc, argv);
	file = MUST(memfd_create("limits", MFD_CLOEXEC));
	MUST(write(file, bytes, sizeof bytes));
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, talk));
	limit(talk[0], NEVER);
	for (unsigned i = 0; i < COUNT(kinds); i++)
		threads[i] = start_thread(work, (void *)&kinds[i]);
	start_thread(listener, NULL);
	pause_ms(50);
	ready();
	for (uint32_t told = 0; !stopped(); pause_ms(150)) {
		char byte = (char)++told;
		MUST(write(talk[1], &byte, 1));
		for (uint64_t begun = now(); heard != told; pause_ms(1))
			CHECK(now() - begun < TOLERANCE, "the listener does not hear");
	}
	stopped_at = now();
	stop_now = 1;
	for (unsigned i = 0; i < COUNT(kinds); i++)
		pthread_join(threads[i], NULL);
	pass();
}
