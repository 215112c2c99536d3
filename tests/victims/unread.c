/* TCP connections that are over, with bytes that nobody has read and an error that nobody has seen: reset by the peer with and without
 * bytes, closed in order, broken after the peer had closed; attempts to connect that were refused. Nothing is read before the end:
 * then the same bytes, and the same end; and an attempt may be made once more. */
#include "victim.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum how { RESET, CLOSED, BROKEN, REFUSED };
struct connection { const char *what; int fd, size; enum how how; short events; struct sockaddr_storage name; socklen_t length; };
static struct connection all[12];
static int count, epoll;
static unsigned char bytes[20000];

static void await(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	CHECK(poll(&p, 1, PATIENCE_MS) == 1, "the end of a connection does not arrive");
}

/* Also the last acknowledgement of an orderly end, of which poll says nothing. */
static void await_closed(int fd)
{
	struct tcp_info info = { 0 };
	for (uint64_t begun = now(); info.tcpi_state != TCP_CLOSE; pause_ms(1)) {
		socklen_t length = sizeof info;
		MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
		CHECK(now() - begun < PATIENCE_MS * MS, "a connection that is over is in state %d", info.tcpi_state);
	}
}

static short events_of(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP | POLLPRI };
	MUST(poll(&p, 1, 0));
	return p.revents;
}

/* Nobody listens: the answer comes, and nobody asks for it. */
static void refuse(struct connection *c, int server)
{
	close(server);
	MUST(fcntl(c->fd, F_SETFL, O_NONBLOCK));
	CHECK(connect(c->fd, (void *)&c->name, c->length) == -1 && errno == EINPROGRESS, "connect");
}

/* To the peer, who then ends it. */
static void end(struct connection *c, int server)
{
	MUST(connect(c->fd, (void *)&c->name, c->length));
	int peer = MUST(accept(server, NULL, NULL));
	close(server);
	CHECK(send(peer, bytes, c->size, 0) == c->size, "send");
	if (c->how == RESET)
		MUST(setsockopt(peer, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger)));
	close(peer);
	await(c->fd, POLLRDHUP);
	if (c->how == CLOSED)
		MUST(shutdown(c->fd, SHUT_WR));
	if (c->how == BROKEN)
		CHECK(send(c->fd, "x", 1, MSG_NOSIGNAL) == 1, "send");
}

static void make(const char *what, int family, int size, enum how how)
{
	struct connection *c = &all[count];
	struct sockaddr_in any4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 any6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int server = MUST(socket(family, SOCK_STREAM, 0)), fd = MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
	*c = (struct connection){ .what = what, .fd = fd, .size = size, .how = how, .length = sizeof c->name };
	MUST(bind(server, family == AF_INET ? (void *)&any4 : (void *)&any6, family == AF_INET ? sizeof any4 : sizeof any6));
	MUST(listen(server, 1));
	MUST(getsockname(server, (void *)&c->name, &c->length));
	if (how == REFUSED)
		refuse(c, server);
	else
		end(c, server);
	await(fd, 0);
	await_closed(fd);
	MUST(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){ 1 }, sizeof(int)));
	c->length = sizeof c->name;
	MUST(getsockname(fd, (void *)&c->name, &c->length));
	c->events = events_of(fd);
	MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){ .events = EPOLLIN | EPOLLET, .data.u32 = count }));
	count++;
}

static void check(void)
{
	for (int i = 0; i < count; i++) {
		struct connection *c = &all[i];
		struct sockaddr_storage name = { 0 };
		socklen_t length = sizeof name;
		int on = 0;
		MUST(getsockname(c->fd, (void *)&name, &length));
		CHECK(length == c->length && memcmp(&name, &c->name, length) == 0, "%s: another name, port %d instead of %d", c->what,
		      ntohs(((struct sockaddr_in *)&name)->sin_port), ntohs(((struct sockaddr_in *)&c->name)->sin_port));
		length = sizeof name;
		CHECK(getpeername(c->fd, (void *)&name, &length) == -1 && errno == ENOTCONN, "%s: getpeername", c->what);
		CHECK(events_of(c->fd) == c->events, "%s: poll says %#x, said %#x", c->what, events_of(c->fd), c->events);
		length = sizeof on;
		MUST(getsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &on, &length));
		CHECK(on == 1, "%s: SO_KEEPALIVE", c->what);
	}
}

/* The error once; then it is as a new one. */
static void try_again(struct connection *c)
{
	char byte;
	int error = 0, family = c->name.ss_family, server = MUST(socket(family, SOCK_STREAM, 0));
	socklen_t length = sizeof error;
	struct sockaddr_storage name = { .ss_family = family };
	CHECK(recv(c->fd, &byte, 1, 0) == -1 && errno == ECONNREFUSED, "%s: no ECONNREFUSED", c->what);
	MUST(getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length));
	CHECK(error == 0, "%s: another error %d", c->what, error);
	MUST(listen(server, 1));
	length = sizeof name;
	MUST(getsockname(server, (void *)&name, &length));
	CHECK(connect(c->fd, (void *)&name, length) == -1 && errno == ECONNABORTED, "%s: the first attempt is not over", c->what);
	CHECK(connect(c->fd, (void *)&name, length) == 0 || errno == EINPROGRESS, "%s: no second attempt", c->what);
	struct pollfd p = { .fd = c->fd, .events = POLLOUT };
	CHECK(poll(&p, 1, PATIENCE_MS) == 1 && p.revents == POLLOUT, "%s: the second attempt fails", c->what);
	close(server);
}

static void read_all(struct connection *c)
{
	unsigned char got[sizeof bytes];
	int have = 0, n;
	while (have < c->size) {
		CHECK((n = recv(c->fd, got + have, sizeof got - have, MSG_DONTWAIT)) > 0, "%s: %d of %d bytes, then %d", c->what, have, c->size, n);
		have += n;
	}
	CHECK(have == c->size && memcmp(got, bytes, have) == 0, "%s: other bytes", c->what);
	if (c->how == RESET)
		CHECK(recv(c->fd, got, 1, MSG_DONTWAIT) == -1 && errno == ECONNRESET, "%s: no ECONNRESET", c->what);
	CHECK((n = recv(c->fd, got, 1, MSG_DONTWAIT)) == 0, "%s: no end of file but %d", c->what, n);
	int error = 0;
	socklen_t length = sizeof error;
	MUST(getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length));
	CHECK(error == (c->how == BROKEN ? EPIPE : 0), "%s: SO_ERROR says %d", c->what, error);
	CHECK(send(c->fd, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "%s: can be written to", c->what);
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	for (unsigned i = 0; i < sizeof bytes; i++)
		bytes[i] = i * 11 + i / 256;
	epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
	make("reset after 5 bytes", AF_INET, 5, RESET);
	make("reset after 20000 bytes (v6)", AF_INET6, 20000, RESET);
	make("reset without a byte", AF_INET, 0, RESET);
	make("closed after 5 bytes", AF_INET, 5, CLOSED);
	make("closed after 20000 bytes (v6)", AF_INET6, 20000, CLOSED);
	make("broken after 5 bytes", AF_INET, 5, BROKEN);
	make("broken after 5 bytes (v6)", AF_INET6, 5, BROKEN);
	make("refused", AF_INET, 0, REFUSED);
	make("refused (v6)", AF_INET6, 0, REFUSED);
	ready();
	while (!stopped()) {
		check();
		pause_ms(5);
	}
	check();
	struct epoll_event events[COUNT(all)];
	int n = MUST(epoll_wait(epoll, events, COUNT(all), 0));
	CHECK(n == count, "epoll tells of %d connections", n);
	for (int i = 0; i < count; i++)
		(all[i].how == REFUSED ? try_again : read_all)(&all[i]);
	pass();
}
