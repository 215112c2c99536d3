/* The main thread tries to connect where nobody accepts, with a time limit (SO_SNDTIMEO): over "tcp" or "unix". No attempt may end with
 * EINTR, nor before the limit. */
#include "../../victims/victim.h"
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#define LIMIT (600 * MS)
#define TICK (10 * MS)

int main(int argc, char **argv)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct timeval limit = { 0, LIMIT / 1000 };
	int wrong_kind = argc != 3 || (strcmp(argv[1], "tcp") && strcmp(argv[1], "unix"));
	CHECK(!wrong_kind, "usage: %s tcp|unix STOP-FILE", argv[0]);
	victim_begin(argc - 1, argv + 1);
	int tcp = argv[1][0] == 't', family = tcp ? AF_INET : AF_UNIX;
	struct sockaddr *address = tcp ? (struct sockaddr *)&in : (struct sockaddr *)&un;
	/* a unix socket that is bound to no name gets an abstract one */
	socklen_t length = tcp ? sizeof in : sizeof(sa_family_t), size = tcp ? sizeof in : sizeof un;
	int listening = MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
	MUST(bind(listening, address, length));
	MUST(getsockname(listening, address, &size));
	MUST(listen(listening, 0));
	/* the one for which there is room */
	MUST(connect(MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)), address, size));
	ready();
	for (unsigned tried = 0; !stopped(); tried++) {
		int fd = MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
		MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
		uint64_t begin = now();
		int result = connect(fd, address, size);
		uint64_t took = now() - begin;
		/* an attempt that was begun before is told as such */
		CHECK(result == -1 && (errno == EINPROGRESS || errno == EALREADY || errno == EAGAIN), "attempt %u: %d", tried, result);
		CHECK(took + TICK >= LIMIT, "attempt %u: only %llu ms", tried, (unsigned long long)(took / MS));
		close(fd);
	}
	pass();
}
