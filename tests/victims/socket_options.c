/* Every socket option that can be asked for and set, on every kind of socket that is carried: whatever this kernel lets us change
 * is changed, and must stay so; and directions in which UDP sockets are shut down. */
#include "victim.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>

#define NUMBERS 128
#define LEVELS 5
static const int levels[LEVELS] = { SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP };

/* Requests, measurements, what belongs to the kind of socket, or what would make it unfit to be carried. */
static const int left[][2] = {
	{ SOL_SOCKET, SO_ERROR }, { SOL_SOCKET, SO_MEMINFO }, { SOL_SOCKET, SO_COOKIE }, { SOL_SOCKET, 71 /* SO_NETNS_COOKIE */ },
	{ SOL_SOCKET, SO_INCOMING_NAPI_ID }, { SOL_SOCKET, SO_ATTACH_FILTER }, { SOL_SOCKET, 77 /* SO_PEERPIDFD */ }, { SOL_SOCKET, SO_PEERSEC },
	{ SOL_SOCKET, SO_BINDTODEVICE }, { SOL_SOCKET, 62 /* SO_BINDTOIFINDEX */ }, { SOL_SOCKET, SO_PEERCRED }, { SOL_SOCKET, SO_PEERGROUPS },
	{ SOL_SOCKET, SO_PEEK_OFF }, /* the reading of queues is tried by another victim */
	{ IPPROTO_IP, IP_PKTOPTIONS }, { IPPROTO_IP, IP_MTU }, { IPPROTO_IPV6, 1 /* IPV6_ADDRFORM */ }, { IPPROTO_IPV6, 6 /* 2292PKTOPTIONS */ },
	{ IPPROTO_IPV6, IPV6_MTU }, { IPPROTO_IPV6, 61 /* IPV6_PATHMTU */ }, { IPPROTO_TCP, TCP_INFO }, { IPPROTO_TCP, TCP_REPAIR },
	{ IPPROTO_TCP, TCP_REPAIR_QUEUE }, { IPPROTO_TCP, TCP_QUEUE_SEQ }, { IPPROTO_TCP, TCP_TIMESTAMP }, { IPPROTO_TCP, TCP_CC_INFO },
	{ IPPROTO_TCP, TCP_ULP }, { IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE }, { IPPROTO_TCP, 29 /* TCP_REPAIR_WINDOW */ }, { IPPROTO_UDP, UDP_CORK },
	{ IPPROTO_UDP, 100 /* UDP_ENCAP */ },
};

struct option { unsigned char value[64]; int length; };
struct watched { const char *what; int fd, shutdown; struct option options[LEVELS][NUMBERS]; };
static struct watched all[16];
static int count, changed;

static int is_left(int level, int number)
{
	for (unsigned i = 0; i < COUNT(left); i++)
		if (left[i][0] == level && left[i][1] == number)
			return 1;
	return 0;
}

static struct option get(int fd, int level, int number)
{
	struct option option = { .length = -1 };
	socklen_t length = sizeof option.value;
	if (is_left(level, number) && !(level == SOL_SOCKET && number == SO_BINDTODEVICE))
		return option;
	option.length = getsockopt(fd, level, number, option.value, &length) ? -1 : (int)length;
	return option;
}

static int same(struct option a, struct option b)
{
	return a.length == b.length && (a.length <= 0 || memcmp(a.value, b.value, a.length) == 0);
}

static int set(int fd, int level, int number, const void *value, int length)
{
	return setsockopt(fd, level, number, value, length);
}

/* Those that no plain number fits. */
static void set_special(int fd)
{
	const int lo = if_nametoindex("lo"), network = htonl(lo), txtime[2] = { CLOCK_TAI, 0 };
	const unsigned char padding[8] = { 0, 0, 1, 4 };
	const struct in_addr loopback = { htonl(INADDR_LOOPBACK) };
	set(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3);
	set(fd, SOL_SOCKET, SO_TXTIME, txtime, sizeof txtime);
	set(fd, IPPROTO_IP, IP_UNICAST_IF, &network, 4);
	set(fd, IPPROTO_IP, IP_MULTICAST_IF, &loopback, 4);
	set(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, &lo, 4);
	set(fd, IPPROTO_IPV6, 76 /* IPV6_UNICAST_IF */, &network, 4);
	set(fd, IPPROTO_IPV6, IPV6_HOPOPTS, padding, sizeof padding);
	set(fd, IPPROTO_IPV6, IPV6_DSTOPTS, padding, sizeof padding);
	set(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

static void change(int fd)
{
	static const int numbers[] = { 1, 2, 0, 5, 33, 1000, 70000 };
	set_special(fd);
	for (int l = 0; l < LEVELS; l++)
		for (int n = 0; n < NUMBERS; n++) {
			struct option before = get(fd, levels[l], n), value;
			if (before.length <= 0 || is_left(levels[l], n))
				continue;
			for (unsigned i = 0; i < COUNT(numbers); i++) {
				value = before;
				memcpy(value.value, &numbers[i], before.length < 4 ? before.length : 4);
				if (set(fd, levels[l], n, value.value, value.length) == 0 && !same(before, get(fd, levels[l], n))) {
					changed++;
					break;
				}
			}
		}
	/* a size that was let go again */
	if (fd % 2)
		set(fd, SOL_SOCKET, 72 /* SO_BUF_LOCK */, &(int){ 0 }, 4);
}

static void watch(const char *what, int fd, int shut)
{
	struct watched *w = &all[count++];
	*w = (struct watched){ .what = what, .fd = fd, .shutdown = shut };
	change(fd);
	for (int l = 0; l < LEVELS; l++)
		for (int n = 0; n < NUMBERS; n++)
			w->options[l][n] = get(fd, levels[l], n);
	if (shut)
		shutdown(fd, shut - 1);
}

static int internet(int family, int type, int protocol, int want_listen)
{
	int fd = socket(family, type | SOCK_CLOEXEC, protocol);
	struct sockaddr_in any4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 any6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	if (fd == -1 && protocol)
		return -1;
	CHECK(fd != -1, "socket");
	if (want_listen >= 0)
		MUST(bind(fd, family == AF_INET ? (void *)&any4 : (void *)&any6, family == AF_INET ? sizeof any4 : sizeof any6));
	if (want_listen > 0)
		MUST(listen(fd, 9));
	return fd;
}

static void check(void)
{
	for (int i = 0; i < count; i++) {
		struct watched *w = &all[i];
		for (int l = 0; l < LEVELS; l++)
			for (int n = 0; n < NUMBERS; n++) {
				struct option now, *was = &w->options[l][n];
				if (was->length < 0)
					continue;
				now = get(w->fd, levels[l], n);
				CHECK(same(*was, now), "%s: option %d of level %d was %d (%d bytes), is %d (%d bytes)", w->what, n, levels[l],
				      *(int *)was->value, was->length, *(int *)now.value, now.length);
			}
		if (w->shutdown) {
			struct pollfd fd = { .fd = w->fd, .events = POLLIN | POLLRDHUP | POLLOUT };
			MUST(poll(&fd, 1, 0));
			CHECK(!(fd.revents & POLLRDHUP) == !(w->shutdown & 1), "%s: reading, poll says %#x", w->what, fd.revents);
			CHECK(!(fd.revents & POLLHUP) == (w->shutdown != 3), "%s: both ways, poll says %#x", w->what, fd.revents);
			int sent = send(w->fd, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
			CHECK((sent == -1 && errno == EPIPE) == !!(w->shutdown & 2), "%s: writing, send says %d", w->what, sent);
		}
	}
}

static int udp_pair(int family)
{
	static struct sockaddr_storage address;
	socklen_t length = sizeof address;
	int other = internet(family, SOCK_DGRAM, 0, 0), fd = internet(family, SOCK_DGRAM, 0, 0);
	MUST(getsockname(other, (void *)&address, &length));
	MUST(connect(fd, (void *)&address, length));
	return fd;
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	int pair[2], fd;
	watch("a listening socket", internet(AF_INET, SOCK_STREAM, 0, 1), 0);
	watch("a listening socket (v6)", internet(AF_INET6, SOCK_STREAM, 0, 1), 0);
	watch("a fresh TCP socket", internet(AF_INET, SOCK_STREAM, 0, -1), 0);
	watch("a bound TCP socket (v6)", internet(AF_INET6, SOCK_STREAM, 0, 0), 0);
	if ((fd = internet(AF_INET, SOCK_STREAM, IPPROTO_MPTCP, 1)) != -1)
		watch("a listening socket (MPTCP)", fd, 0);
	watch("a UDP socket", internet(AF_INET, SOCK_DGRAM, 0, 0), 0);
	watch("a UDP socket (v6)", internet(AF_INET6, SOCK_DGRAM, 0, 0), 0);
	watch("a fresh UDP socket", internet(AF_INET, SOCK_DGRAM, 0, -1), 0);
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
	for (unsigned i = 0; i < COUNT(types); i++) {
		MUST(socketpair(AF_UNIX, types[i] | SOCK_CLOEXEC, 0, pair));
		watch("a unix socket", pair[0], 0);
	}
	CHECK(changed > 200, "only %d options could be changed", changed);
	for (int how = 1; how <= 3; how++) {
		int up = udp_pair(how == 2 ? AF_INET6 : AF_INET);
		struct watched *w = &all[count++];
		*w = (struct watched){ .what = how == 1 ? "UDP, not read" : how == 2 ? "UDP, not written" : "UDP, neither", .fd = up, .shutdown = how };
		for (int l = 0; l < LEVELS; l++)
			for (int n = 0; n < NUMBERS; n++)
				w->options[l][n] = get(up, levels[l], n);
		MUST(shutdown(up, how - 1));
	}
	check();
	ready();
	while (!stopped()) {
		check();
		pause_ms(5);
	}
	check();
	pass();
}
