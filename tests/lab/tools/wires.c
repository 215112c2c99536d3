/* Sockets, pipes and queues in rare states: wires KIND STOP-FILE makes one, says "ready", waits for the file, and finds it as it was. Most
 * are refused by name; the others are carried or have a note. */
#include "../../victims/victim.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef AF_XDP
#define AF_XDP 44
#endif
#ifndef AF_SMC
#define AF_SMC 43
#endif

static int pair[2];

static int set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }

static int bound(int family, int type, int protocol)
{
	struct sockaddr_in any4 = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 any6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = MUST(socket(family, type | SOCK_CLOEXEC, protocol));
	MUST(bind(fd, family == AF_INET ? (void *)&any4 : (void *)&any6, family == AF_INET ? sizeof any4 : sizeof any6));
	return fd;
}

/* ---- unix sockets ---- */
static void send_with(int type, int level_type, const void *data, size_t size)
{
	char room[256] = { 0 }, byte = 'x';
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = CMSG_SPACE(size) };
	if (pair[0] == 0 && pair[1] == 0)
		MUST(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair));
	struct cmsghdr *part_of = CMSG_FIRSTHDR(&message);
	part_of->cmsg_level = SOL_SOCKET;
	part_of->cmsg_type = level_type;
	part_of->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(part_of), data, size);
	CHECK(sendmsg(pair[0], &message, 0) == 1, "sendmsg");
}

static void receive_with(int level_type)
{
	char room[256], byte = 0;
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	CHECK(recvmsg(pair[1], &message, MSG_DONTWAIT) == 1 && byte == 'x', "recvmsg");
	struct cmsghdr *first = CMSG_FIRSTHDR(&message);
	CHECK(first && first->cmsg_type == level_type, "what rode along is gone");
	if (level_type == SCM_CREDENTIALS)
		CHECK(((struct ucred *)CMSG_DATA(first))->pid == getpid(), "other credentials");
}

static void send_credentials(int type)
{
	struct ucred own = { getpid(), getuid(), getgid() };
	send_with(type, SCM_CREDENTIALS, &own, sizeof own);
}

static void make_credentials(void)
{
	MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair));
	MUST(set(pair[1], SOL_SOCKET, SO_PASSCRED, 1));
	send_credentials(SOCK_DGRAM);
}
static void check_credentials(void)
{
	MUST(set(pair[1], SOL_SOCKET, SO_PASSCRED, 1));
	receive_with(SCM_CREDENTIALS);
}

/* Sent by name, to one that does not ask for them yet. */
static void make_hidden(void) { send_credentials(SOCK_STREAM); }
static void make_hidden_messages(void) { send_credentials(SOCK_SEQPACKET); }

static void make_rights(void)
{
	int fd = MUST(open("/dev/null", O_RDWR | O_CLOEXEC));
	send_with(SOCK_STREAM, SCM_RIGHTS, &fd, sizeof fd);
	close(fd);
}
static void check_rights(void) { receive_with(SCM_RIGHTS); }

static void make_urgent(void)
{
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	CHECK(send(pair[0], "abc", 3, MSG_OOB) == 3, "MSG_OOB");
}
static void check_urgent(void)
{
	char byte = 0;
	CHECK(recv(pair[1], &byte, 1, MSG_OOB | MSG_DONTWAIT) == 1 && byte == 'c', "the urgent byte is gone");
}

static void make_peeked(void)
{
	char byte;
	MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair));
	MUST(set(pair[1], SOL_SOCKET, SO_PEEK_OFF, 0));
	CHECK(send(pair[0], "", 0, 0) == 0 && recv(pair[1], &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0, "an empty message");
}
static void check_peeked(void)
{
	char byte;
	CHECK(recv(pair[1], &byte, 1, MSG_DONTWAIT) == 0, "the empty message is gone");
}

/* Behind an ordinary message; its own look passes over it from then on. */
static void make_peeked_later(void)
{
	char bytes[4];
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	CHECK(send(pair[0], "p1", 2, 0) == 2 && send(pair[0], "", 0, 0) == 0 && send(pair[0], "p3", 2, 0) == 2, "send");
	MUST(set(pair[1], SOL_SOCKET, SO_PEEK_OFF, 0));
	CHECK(recv(pair[1], bytes, 4, MSG_PEEK) == 2 && recv(pair[1], bytes, 4, MSG_PEEK) == 0, "looking at them");
}

/* An empty message among others is no end of file, and comes before it. */
static void send_packets(int shut, int how)
{
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	CHECK(send(pair[0], "p1", 2, 0) == 2 && send(pair[0], "", 0, 0) == 0 && send(pair[0], "p3", 2, 0) == 2, "send");
	if (shut < 0)
		close(pair[0]);
	else
		MUST(shutdown(pair[shut], how));
}
static void make_packets_shut(void) { send_packets(0, SHUT_WR); }
static void make_packets_unread(void) { send_packets(1, SHUT_RD); }
static void make_packets_closed(void) { send_packets(-1, 0); }
static void check_packets_shut(void)
{
	char got[4] = "";
	CHECK(recv(pair[1], got, 4, MSG_DONTWAIT) == 2 && !memcmp(got, "p1", 2), "the first packet");
	CHECK(recv(pair[1], got, 4, MSG_DONTWAIT) == 0, "the empty packet is gone");
	CHECK(recv(pair[1], got, 4, MSG_DONTWAIT) == 2 && !memcmp(got, "p3", 2), "the packet behind the empty one is gone");
}
static void check_packets_end(void)
{
	char byte;
	check_packets_shut();
	CHECK(recv(pair[1], &byte, 1, MSG_DONTWAIT) == 0, "no end of file");
}

/* Signals of descriptors say their numbers. */
static volatile sig_atomic_t told;
static int telling[3][2];
static void tell(int signal, siginfo_t *info, void *context) { (void)signal, (void)context, told = info->si_fd; }
static void check_asynchronous(void)
{
	char byte;
	for (int i = 0; i < 3; i++) {
		told = -1;
		CHECK(write(telling[i][1], "x", 1) == 1, "write");
		CHECK(told == telling[i][0], "the signal of descriptor %d names %d", telling[i][0], (int)told);
		CHECK(read(telling[i][0], &byte, 1) == 1, "read");
	}
}
static void make_asynchronous(void)
{
	struct sigaction action = { .sa_sigaction = tell, .sa_flags = SA_SIGINFO | SA_RESTART };
	MUST(sigaction(SIGRTMIN + 2, &action, NULL));
	for (int i = 0; i < 3; i++) {
		if (i == 1)
			MUST(pipe2(telling[i], O_CLOEXEC | O_NONBLOCK));
		else
			MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, telling[i]));
		if (i == 2)
			MUST(dup2(telling[i][0], 77));
		MUST(fcntl(telling[i][0], F_SETOWN, getpid()));
		MUST(fcntl(telling[i][0], F_SETSIG, SIGRTMIN + 2));
		MUST(fcntl(telling[i][0], F_SETFL, O_ASYNC | MUST(fcntl(telling[i][0], F_GETFL))));
	}
	check_asynchronous();
}

/* ---- families without a reader: those that this kernel has ---- */
static void make_families(void)
{
	static const struct { const char *name; int family, type, protocol; } all[] = {
		{ "netlink", AF_NETLINK, SOCK_RAW, NETLINK_ROUTE },
		{ "packet", AF_PACKET, SOCK_RAW, 0 },
		{ "raw", AF_INET, SOCK_RAW, IPPROTO_ICMP },
		{ "ping", AF_INET, SOCK_DGRAM, IPPROTO_ICMP },
		{ "UDP-Lite", AF_INET, SOCK_DGRAM, 136 },
		{ "SCTP", AF_INET, SOCK_STREAM, IPPROTO_SCTP },
		{ "vsock", AF_VSOCK, SOCK_STREAM, 0 },
		{ "AF_ALG", AF_ALG, SOCK_SEQPACKET, 0 },
		{ "XDP", AF_XDP, SOCK_RAW, 0 },
		{ "CAN", AF_CAN, SOCK_RAW, 1 },
		{ "TIPC", AF_TIPC, SOCK_RDM, 0 },
		{ "SMC", AF_SMC, SOCK_STREAM, 0 },
	};
	FILE *groups = fopen("/proc/sys/net/ipv4/ping_group_range", "we");
	if (groups) {
		fputs("0 0", groups);
		fclose(groups);
	}
	for (size_t i = 0; i < COUNT(all); i++) {
		if (socket(all[i].family, all[i].type | SOCK_CLOEXEC, all[i].protocol) < 0)
			continue;
		say("family ");
		say(all[i].name);
		say("\n");
	}
}

/* ---- internet ---- */
static void make_group(void)
{
	struct ip_mreqn group = { .imr_multiaddr.s_addr = inet_addr("239.1.2.3"), .imr_address.s_addr = htonl(INADDR_LOOPBACK) };
	MUST(setsockopt(bound(AF_INET, SOCK_DGRAM, 0), IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group));
}

static void make_corked(void)
{
	struct sockaddr_in self;
	socklen_t length = sizeof self;
	pair[0] = bound(AF_INET, SOCK_DGRAM, 0);
	MUST(getsockname(pair[0], (void *)&self, &length));
	MUST(connect(pair[0], (void *)&self, length));
	MUST(set(pair[0], IPPROTO_UDP, UDP_CORK, 1));
	CHECK(send(pair[0], "half", 4, 0) == 4, "send");
}
static void check_corked(void)
{
	char got[9] = "";
	CHECK(send(pair[0], "half", 4, 0) == 4, "send");
	MUST(set(pair[0], IPPROTO_UDP, UDP_CORK, 0));
	struct pollfd p = { .fd = pair[0], .events = POLLIN };
	CHECK(poll(&p, 1, PATIENCE_MS) == 1, "it does not come");
	CHECK(recv(pair[0], got, 8, MSG_DONTWAIT) == 8 && !memcmp(got, "halfhalf", 8), "it got %s", got);
}

static void make_filter(void)
{
	struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, 0xffff);
	struct sock_fprog program = { 1, &all };
	MUST(setsockopt(bound(AF_INET, SOCK_DGRAM, 0), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
}

/* Datagrams that nobody has read: an empty one, one with all that may ride along; an error in the error queue. */
static void make_datagrams(void)
{
	struct sockaddr_in self;
	socklen_t length = sizeof self;
	int fd = pair[0] = bound(AF_INET, SOCK_DGRAM, 0), closed = bound(AF_INET, SOCK_DGRAM, 0);
	MUST(set(fd, IPPROTO_IP, IP_PKTINFO, 1));
	MUST(set(fd, IPPROTO_IP, IP_RECVTTL, 1));
	MUST(set(fd, IPPROTO_IP, IP_RECVERR, 1));
	MUST(set(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1));
	MUST(set(fd, SOL_SOCKET, SO_PEEK_OFF, 0));
	MUST(getsockname(fd, (void *)&self, &length));
	CHECK(sendto(fd, "", 0, 0, (void *)&self, length) == 0 && sendto(fd, "abc", 3, 0, (void *)&self, length) == 3, "to myself");
	MUST(getsockname(closed, (void *)&self, &length));
	close(closed);
	CHECK(sendto(fd, "x", 1, 0, (void *)&self, length) == 1, "to nobody");
	struct pollfd p = { .fd = fd };
	CHECK(poll(&p, 1, PATIENCE_MS) == 1 && p.revents == POLLERR, "no error comes back");
}
/* They are dropped, as the note says; the socket works, with its options. */
static void check_datagrams(void)
{
	char room[256], got[9];
	struct sockaddr_in self;
	socklen_t length = sizeof self;
	struct iovec part = { got, sizeof got };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	int seen = 0;
	while (recv(pair[0], got, sizeof got, MSG_DONTWAIT) >= 0 || errno == ECONNREFUSED)
		;
	MUST(getsockname(pair[0], (void *)&self, &length));
	CHECK(sendto(pair[0], "abc", 3, 0, (void *)&self, length) == 3, "to myself");
	struct pollfd p = { .fd = pair[0], .events = POLLIN };
	CHECK(poll(&p, 1, PATIENCE_MS) == 1, "it does not come");
	CHECK(recvmsg(pair[0], &message, 0) == 3, "it does not come");
	for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one))
		seen++;
	CHECK(seen == 3, "%d things ride along", seen);
}

static struct sockaddr_storage names[2];

static void make_connection(int family, int protocol, int half)
{
	int server = bound(family, SOCK_STREAM, protocol), fd = MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, protocol));
	struct sockaddr_storage name;
	socklen_t length = sizeof name;
	MUST(listen(server, 1));
	MUST(getsockname(server, (void *)&name, &length));
	MUST(connect(fd, (void *)&name, length));
	int peer = MUST(accept(server, NULL, NULL));
	close(server);
	CHECK(send(peer, "12345", 5, 0) == 5, "send");
	pair[0] = fd;
	pair[1] = half ? -1 : peer;
	if (half)
		close(peer);
	struct pollfd p = { .fd = fd, .events = half ? POLLRDHUP : POLLIN };
	CHECK(poll(&p, 1, PATIENCE_MS) == 1, "nothing comes");
	for (int i = 0; i < 2; i++) {
		length = sizeof names[i];
		MUST((i ? getpeername : getsockname)(fd, (void *)&names[i], &length));
	}
}
static void make_half(void) { make_connection(AF_INET, 0, 1); }
static void make_half6(void) { make_connection(AF_INET6, 0, 1); }
static void make_mptcp(void) { make_connection(AF_INET, IPPROTO_MPTCP, 0); }

/* The peer has closed: the same names, its bytes, an end of file; and what is written goes nowhere. */
static void check_half(void)
{
	char got[20];
	for (int i = 0; i < 2; i++) {
		struct sockaddr_storage now = { 0 };
		socklen_t length = sizeof now;
		MUST((i ? getpeername : getsockname)(pair[0], (void *)&now, &length));
		CHECK(!memcmp(&now, &names[i], length), "%s says another address, port %d", i ? "getpeername" : "getsockname",
		      ntohs(((struct sockaddr_in *)&now)->sin_port));
	}
	struct pollfd p = { .fd = pair[0], .events = POLLIN | POLLOUT | POLLRDHUP };
	CHECK(poll(&p, 1, 0) == 1 && p.revents == (POLLIN | POLLOUT | POLLRDHUP), "poll says %#x", p.revents);
	CHECK(recv(pair[0], got, sizeof got, 0) == 5 && !memcmp(got, "12345", 5), "other bytes");
	CHECK(recv(pair[0], got, sizeof got, 0) == 0, "no end of file");
	CHECK(send(pair[0], "x", 1, MSG_NOSIGNAL) == 1, "the first byte");
	p.events = 0;
	CHECK(poll(&p, 1, PATIENCE_MS) == 1 && send(pair[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "it can be written to");
}
/* The move closes it. */
static void check_closed(void)
{
	char got[20];
	CHECK(recv(pair[0], got, sizeof got, 0) == 5 && !memcmp(got, "12345", 5), "other bytes");
	CHECK(recv(pair[0], got, sizeof got, 0) == -1 && errno == ECONNRESET, "no ECONNRESET");
	CHECK(recv(pair[0], got, sizeof got, 0) == 0, "no end of file");
}

/* ---- pipes, epoll ---- */
/* Packets, and bytes behind them; nobody is in packet mode any more. */
static void make_packets(void)
{
	MUST(pipe2(pair, O_CLOEXEC | O_NONBLOCK));
	static const struct { const char *text; int packet; } all[] = { { "aaa", 1 }, { "bb", 1 }, { "e", 1 }, { "1", 0 }, { "23", 0 } };
	for (size_t i = 0; i < COUNT(all); i++) {
		MUST(fcntl(pair[1], F_SETFL, O_NONBLOCK | (all[i].packet ? O_DIRECT : 0)));
		CHECK(write(pair[1], all[i].text, strlen(all[i].text)) > 0, "write");
	}
	MUST(fcntl(pair[1], F_SETFL, O_NONBLOCK));
}
static void check_packets(void)
{
	static const struct { size_t asked; const char *text; } all[] = { { 100, "aaa" }, { 1, "b" }, { 100, "e" }, { 2, "12" }, { 100, "3!" } };
	char got[101];
	CHECK(write(pair[1], "!", 1) == 1, "write");
	for (size_t i = 0; i < COUNT(all); i++) {
		ssize_t n = MUST(read(pair[0], got, all[i].asked));
		CHECK(n == (ssize_t)strlen(all[i].text) && !memcmp(got, all[i].text, n), "read %zu gives %.*s, not %s", i, (int)n, got, all[i].text);
	}
}
/* In packet mode, full. */
static void make_full(void)
{
	char page[4096];
	MUST(pipe2(pair, O_CLOEXEC | O_NONBLOCK | O_DIRECT));
	MUST(fcntl(pair[0], F_SETFL, O_NONBLOCK));
	for (memset(page, 'p', sizeof page); write(pair[1], page, 7) == 7;)
		;
}
static void check_full(void)
{
	char got[5000];
	CHECK(MUST(fcntl(pair[1], F_GETFL)) & O_DIRECT && !(MUST(fcntl(pair[0], F_GETFL)) & O_DIRECT), "another mode");
	CHECK(write(pair[1], "x", 1) == -1 && errno == EAGAIN, "it is not full");
	for (int i = 0; i < 16; i++)
		CHECK(read(pair[0], got, sizeof got) == 7, "packet %d has another length", i);
	CHECK(write(pair[1], "xy", 2) == 2 && write(pair[1], "z", 1) == 1 && read(pair[0], got, 100) == 2, "no packets any more");
}

struct busy_poll { uint32_t usecs; uint16_t budget; uint8_t prefer, pad; };
#define EPIOCSPARAMS _IOW(0x8a, 1, struct busy_poll)
#define EPIOCGPARAMS _IOR(0x8a, 2, struct busy_poll)
static const struct busy_poll busy = { 50, 8, 1, 0 };
static int has_busy;
static void make_busy(void)
{
	pair[0] = MUST(epoll_create1(EPOLL_CLOEXEC));
	has_busy = ioctl(pair[0], EPIOCSPARAMS, &busy) == 0;
}
static void check_busy(void)
{
	struct busy_poll now;
	CHECK(!has_busy || (ioctl(pair[0], EPIOCGPARAMS, &now) == 0 && !memcmp(&now, &busy, sizeof now)), "other parameters of busy polling");
}

/* ---- others ---- */
static void make_queue(void)
{
	char name[40];
	snprintf(name, sizeof name, "/ulpm-%d", getpid());
	pair[0] = MUST(mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600, NULL));
	MUST(mq_unlink(name));
	MUST(mq_send(pair[0], "x", 1, 0));
}

static void make_attribute(void)
{
	pair[0] = MUST(memfd_create("labelled", MFD_CLOEXEC));
	MUST(fsetxattr(pair[0], "security.ulpm", "x", 1, 0));
}
static void check_attribute(void)
{
	char value;
	CHECK(fgetxattr(pair[0], "security.ulpm", &value, 1) == 1 && value == 'x', "the attribute is gone");
}

static void nothing(void) {}

static const struct { const char *name; void (*make)(void), (*check)(void); } kinds[] = {
	{ "credentials", make_credentials, check_credentials },
	{ "hidden-credentials", make_hidden, check_credentials },
	{ "hidden-messages", make_hidden_messages, check_credentials },
	{ "rights", make_rights, check_rights },
	{ "urgent", make_urgent, check_urgent },
	{ "peeked", make_peeked, check_peeked },
	{ "peeked-later", make_peeked_later, check_packets_shut },
	{ "packets-shut", make_packets_shut, check_packets_end },
	{ "packets-unread", make_packets_unread, check_packets_end },
	{ "packets-closed", make_packets_closed, check_packets_end },
	{ "asynchronous", make_asynchronous, check_asynchronous },
	{ "families", make_families, nothing },
	{ "group", make_group, nothing },
	{ "corked", make_corked, check_corked },
	{ "filter", make_filter, nothing },
	{ "datagrams", make_datagrams, check_datagrams },
	{ "half", make_half, check_half },
	{ "half6", make_half6, check_half },
	{ "mptcp", make_mptcp, check_closed },
	{ "packets", make_packets, check_packets },
	{ "full", make_full, check_full },
	{ "busy", make_busy, check_busy },
	{ "queue", make_queue, nothing },
	{ "attribute", make_attribute, check_attribute },
};

int main(int argc, char **argv)
{
	CHECK(argc == 3, "usage: wires KIND STOP-FILE");
	victim_begin(2, (char *[]){ argv[0], argv[2], NULL });
	for (size_t i = 0; i < COUNT(kinds); i++) {
		if (strcmp(kinds[i].name, argv[1]))
			continue;
		kinds[i].make();
		ready();
		while (!stopped())
			pause_ms(5);
		kinds[i].check();
		pass();
	}
	fail("no kind %s", argv[1]);
}
