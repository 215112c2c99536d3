/* Who made unix socket pairs (SO_PEERCRED, SO_PEERGROUPS, SO_PEERPIDFD), and whose they are (fstat): all types, one whose other end is
 * closed, one made as another user, one whose owner and mode were changed. */
#include "victim.h"
#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

struct end { const char *what; int fd; struct ucred made; gid_t groups[64]; int count; struct stat there; };
static struct end ends[16];
static int count;

static int groups_of(int fd, gid_t *groups)
{
	socklen_t length = 64 * sizeof *groups;
	MUST(getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &length));
	return length / sizeof *groups;
}

static void keep(const char *what, int fd)
{
	struct end *end = &ends[count++];
	socklen_t length = sizeof end->made;
	*end = (struct end){ .what = what, .fd = fd };
	MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &end->made, &length));
	end->count = groups_of(fd, end->groups);
	MUST(fstat(fd, &end->there));
}

static void pair(const char *what, int type)
{
	int fds[2];
	MUST(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds));
	keep(what, fds[0]);
	keep(what, fds[1]);
}

static void check_pidfd(const struct end *end)
{
	char path[64], line[128];
	int pidfd = -1, pid = -1;
	socklen_t length = sizeof pidfd;
	if (getsockopt(end->fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length))
		return; /* before Linux 6.5 */
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
	FILE *file = fopen(path, "r");
	while (file && fgets(line, sizeof line, file))
		sscanf(line, "Pid: %d", &pid);
	if (file)
		fclose(file);
	close(pidfd);
	CHECK(pid == getpid(), "%s: SO_PEERPIDFD is process %d", end->what, pid);
}

static void check(int pidfds)
{
	for (int i = 0; i < count; i++) {
		struct end *end = &ends[i];
		struct ucred now;
		struct stat there;
		gid_t groups[64];
		socklen_t length = sizeof now;
		MUST(getsockopt(end->fd, SOL_SOCKET, SO_PEERCRED, &now, &length));
		CHECK(now.pid == getpid() && now.uid == end->made.uid && now.gid == end->made.gid,
		      "%s: made by process %d as %d:%d, not by %d as %d:%d", end->what, now.pid, now.uid, now.gid, getpid(), end->made.uid, end->made.gid);
		CHECK(groups_of(end->fd, groups) == end->count && memcmp(groups, end->groups, end->count * sizeof *groups) == 0,
		      "%s: other groups", end->what);
		MUST(fstat(end->fd, &there));
		CHECK(there.st_uid == end->there.st_uid && there.st_gid == end->there.st_gid && there.st_mode == end->there.st_mode,
		      "%s: belongs to %d:%d with mode %o, not to %d:%d with %o", end->what, there.st_uid, there.st_gid, there.st_mode,
		      end->there.st_uid, end->there.st_gid, end->there.st_mode);
		if (pidfds)
			check_pidfd(end);
	}
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	int fds[2];
	pair("stream", SOCK_STREAM);
	pair("datagram", SOCK_DGRAM);
	pair("seqpacket", SOCK_SEQPACKET);
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
	keep("its other end is closed", fds[0]);
	close(fds[1]);
	if (geteuid() == 0) {
		gid_t own[64], others[] = { 77, 4321 };
		int have = MUST(getgroups(64, own));
		MUST(setgroups(2, others));
		MUST(setresgid(-1, 4321, -1));
		MUST(setresuid(-1, 1234, -1));
		pair("made as somebody else", SOCK_STREAM);
		MUST(setresuid(-1, 0, -1));
		MUST(setresgid(-1, 0, -1));
		MUST(setgroups(have, own));
		MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds));
		MUST(fchown(fds[0], 1001, 1002));
		MUST(fchmod(fds[0], 0640));
		keep("owner and mode changed", fds[0]);
		keep("its other end", fds[1]);
	}
	check(1);
	ready();
	/* a pidfd that is open for a moment would stand in the way of a move */
	while (!stopped()) {
		check(0);
		pause_ms(5);
	}
	check(1);
	pass();
}
