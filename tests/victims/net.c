/* Listening TCP sockets and UDP sockets, v4 and v6; nothing established while it works. */
#include "victim.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

/* So often it is moved at most, and loses what is under way. */
#define MOVES 8

struct end { int fd; struct sockaddr_storage address; socklen_t length; };

static struct end tcp4, tcp6, udp4, udp6, connected, partner, blocked_on;
static uint64_t sent, lost, given_up[64];
static _Atomic uint64_t waited_for;

static int option(int fd, int level, int name)
{
	int value = 0;
	socklen_t length = sizeof value;
	MUST(getsockopt(fd, level, name, &value, &length));
	return value;
}

static void set_option(int fd, int level, int name, int value)
{
	MUST(setsockopt(fd, level, name, &value, sizeof value));
}

static struct end open_end(int family, int type)
{
	struct end end = { .fd = MUST(socket(family, type | SOCK_CLOEXEC, 0)), .length = sizeof end.address };
	struct sockaddr_in any4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 any6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	set_option(end.fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (family == AF_INET6)
		set_option(end.fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	if (family == AF_INET)
		MUST(bind(end.fd, (struct sockaddr *)&any4, sizeof any4));
	else
		MUST(bind(end.fd, (struct sockaddr *)&any6, sizeof any6));
	if (type == SOCK_STREAM) {
		set_option(end.fd, IPPROTO_TCP, TCP_NODELAY, 1);
		set_option(end.fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
		set_option(end.fd, SOL_SOCKET, SO_KEEPALIVE, 1);
		set_option(end.fd, IPPROTO_TCP, TCP_KEEPIDLE, 77);
		MUST(listen(end.fd, 17));
		MUST(fcntl(end.fd, F_SETFL, O_NONBLOCK));
	}
	MUST(getsockname(end.fd, (struct sockaddr *)&end.address, &end.length));
	return end;
}

static void check_name(const struct end *end, const char *what)
{
	struct sockaddr_storage address = { 0 };
	socklen_t length = sizeof address;
	MUST(getsockname(end->fd, (struct sockaddr *)&address, &length));
	CHECK(length == end->length && memcmp(&address, &end->address, length) == 0, "%s: address changed", what);
	CHECK(MUST(fcntl(end->fd, F_GETFD)) == FD_CLOEXEC, "%s: close-on-exec changed", what);
}

static void check_listener(const struct end *end, const char *what)
{
	check_name(end, what);
	CHECK(option(end->fd, SOL_SOCKET, SO_ACCEPTCONN) == 1, "%s: does not listen", what);
	CHECK(option(end->fd, SOL_SOCKET, SO_REUSEADDR) == 1, "%s: SO_REUSEADDR", what);
	CHECK(option(end->fd, SOL_SOCKET, SO_KEEPALIVE) == 1, "%s: SO_KEEPALIVE", what);
	CHECK(option(end->fd, IPPROTO_TCP, TCP_KEEPIDLE) == 77, "%s: TCP_KEEPIDLE", what);
	CHECK(option(end->fd, IPPROTO_TCP, TCP_NODELAY) == 1, "%s: TCP_NODELAY", what);
	struct tcp_info info;
	socklen_t length = sizeof info;
	MUST(getsockopt(end->fd, IPPROTO_TCP, TCP_INFO, &info, &length));
	CHECK(info.tcpi_sacked == 17, "%s: backlog changed to %u", what, info.tcpi_sacked);
	CHECK(accept(end->fd, NULL, NULL) == -1 && errno == EAGAIN, "%s: accepts what nobody connected", what);
}

/* Whether this one was given up; it is expected no more. */
static int was_given_up(uint64_t number)
{
	for (uint64_t i = 0; i < lost; i++)
		if (given_up[i] == number) {
			given_up[i] = given_up[--lost];
			return 1;
		}
	return 0;
}

/* Sends a datagram and takes it. UDP may lose any: one that is under way during a move, or that finds the queue of its CPU full
 * (netdev_max_backlog, which all that is sent on this machine shares). On a busy machine one may come when it was given up. */
static void pass_datagram(const struct end *from, const struct end *to, const char *what)
{
	uint64_t number = ++sent, got = 0;
	CHECK(sendto(from->fd, &number, 8, 0, (const struct sockaddr *)&to->address, to->length) == 8, "%s: send", what);
	struct pollfd fd = { .fd = to->fd, .events = POLLIN };
	do {
		if (MUST(poll(&fd, 1, (int)(TOLERANCE / 20 / MS))) == 0) {
			CHECK(lost < COUNT(given_up) && lost <= MOVES + sent / 50, "%s: %llu of %llu datagrams were lost", what,
			      (unsigned long long)lost + 1, (unsigned long long)sent);
			given_up[lost++] = number;
			return;
		}
		struct sockaddr_storage sender = { 0 };
		socklen_t length = sizeof sender;
		CHECK(recvfrom(to->fd, &got, 8, 0, (struct sockaddr *)&sender, &length) == 8, "%s: receive", what);
		CHECK(length == from->length && memcmp(&sender, &from->address, length) == 0, "%s: sender", what);
		CHECK(got == number || was_given_up(got), "%s: datagram %llu instead of %llu", what, (unsigned long long)got,
		      (unsigned long long)number);
	} while (got != number);
}

static void *wait_for_datagram(void *argument)
{
	uint64_t got = 0;
	(void)argument;
	CHECK(recv(blocked_on.fd, &got, 8, 0) == 8, "blocking recv");
	waited_for = got;
	return NULL;
}

static void connect_to(const struct end *listener, const char *what)
{
	char byte = 0;
	int client = MUST(socket(listener->address.ss_family, SOCK_STREAM, 0));
	CHECK(connect(client, (const struct sockaddr *)&listener->address, listener->length) == 0, "%s: connect", what);
	/* connect() is back when the answer has come; what makes the connection complete may still be under way. */
	struct pollfd fd = { .fd = listener->fd, .events = POLLIN };
	CHECK(poll(&fd, 1, PATIENCE_MS) == 1, "%s: nobody to accept", what);
	int server = MUST(accept(listener->fd, NULL, NULL));
	CHECK(send(client, "x", 1, 0) == 1 && recv(server, &byte, 1, 0) == 1 && byte == 'x', "%s: carries nothing", what);
	close(client);
	close(server);
}

static void check(void)
{
	check_listener(&tcp4, "TCP v4");
	check_listener(&tcp6, "TCP v6");
	CHECK(option(tcp6.fd, IPPROTO_IPV6, IPV6_V6ONLY) == 1, "IPV6_V6ONLY");
	check_name(&udp4, "UDP v4");
	check_name(&udp6, "UDP v6");
	check_name(&connected, "connected UDP");
	struct sockaddr_storage peer = { 0 };
	socklen_t length = sizeof peer;
	MUST(getpeername(connected.fd, (struct sockaddr *)&peer, &length));
	CHECK(memcmp(&peer, &partner.address, partner.length) == 0, "connected UDP: peer changed");
	CHECK(option(udp4.fd, SOL_SOCKET, SO_RCVBUF) == 2 * 65536, "SO_RCVBUF changed");
	CHECK(option(udp4.fd, SOL_SOCKET, SO_BROADCAST) == 1, "SO_BROADCAST changed");
	CHECK(option(udp4.fd, IPPROTO_IP, IP_TTL) == 33, "IP_TTL changed");
	pass_datagram(&udp4, &udp4, "UDP v4");
	pass_datagram(&udp6, &udp6, "UDP v6");
	pass_datagram(&partner, &connected, "connected UDP");
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	tcp4 = open_end(AF_INET, SOCK_STREAM);
	tcp6 = open_end(AF_INET6, SOCK_STREAM);
	udp4 = open_end(AF_INET, SOCK_DGRAM);
	udp6 = open_end(AF_INET6, SOCK_DGRAM);
	connected = open_end(AF_INET, SOCK_DGRAM);
	partner = open_end(AF_INET, SOCK_DGRAM);
	blocked_on = open_end(AF_INET, SOCK_DGRAM);
	MUST(connect(connected.fd, (struct sockaddr *)&partner.address, partner.length));
	set_option(udp4.fd, SOL_SOCKET, SO_RCVBUF, 65536);
	set_option(udp4.fd, SOL_SOCKET, SO_BROADCAST, 1);
	set_option(udp4.fd, IPPROTO_IP, IP_TTL, 33);
	uint64_t number = 99;
	pthread_t waiter = start_thread(wait_for_datagram, NULL);
	ready();
	while (!stopped()) {
		check();
		pause_ms(5);
	}
	check();
	/* one alone may be lost, and nobody would say so */
	for (uint64_t begun = now(); !waited_for; pause_ms(100)) {
		CHECK(now() - begun < PATIENCE_MS * MS, "the thread in recv gets nothing");
		MUST(sendto(udp4.fd, &number, 8, 0, (struct sockaddr *)&blocked_on.address, blocked_on.length));
	}
	pthread_join(waiter, NULL);
	CHECK(waited_for == 99, "the thread in recv got %llu", (unsigned long long)waited_for);
	connect_to(&tcp4, "TCP v4");
	connect_to(&tcp6, "TCP v6");
	pass();
}
