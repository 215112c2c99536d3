/* As many kinds of state at once as a process can have that a move refuses: each is told as "made AREA NAME", or as "lacks NAME" where
 * this kernel, or our rights, do not give it. */
#include "../../victims/victim.h"
#include <arpa/inet.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

static char room[600];

static void told(const char *area, const char *name, int made)
{
	char line[200];
	snprintf(line, sizeof line, made ? "made %s\t%s\n" : "lacks %s\t%s\n", area, name);
	say(line);
}

static int file(const char *suffix, int flags) { return MUST(open(beside(room, sizeof room, suffix), O_CREAT | flags, 0600)); }

static int udp(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof any;
	int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
	MUST(bind(fd, (void *)&any, sizeof any));
	MUST(getsockname(fd, (void *)&any, &length));
	MUST(connect(fd, (void *)&any, sizeof any));
	return fd;
}

/* One end of a pair; the other one stays open, too. */
static int pair(int type, int ends[2])
{
	MUST(socketpair(AF_UNIX, type, 0, ends));
	return ends[0];
}

/* Whether a new page is served that way. */
static int served(int faults, int sharing, unsigned mode)
{
	void *page = MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0));
	struct uffdio_register area = { .range = { (uintptr_t)page, PAGE }, .mode = mode };
	return ioctl(faults, UFFDIO_REGISTER, &area) == 0;
}

static void descriptors(void)
{
	struct io_uring_params ring = { 0 };
	struct perf_event_attr perf = { .type = PERF_TYPE_SOFTWARE, .size = sizeof perf, .config = PERF_COUNT_SW_CPU_CLOCK };
	union bpf_attr map = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };
	struct landlock_ruleset_attr rules = { .handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE };
	aio_context_t aio = 0;
	told("Descriptors", "anon_inode:inotify", syscall(SYS_inotify_init1, 0) >= 0);
	told("Descriptors", "anon_inode:[fanotify]", syscall(SYS_fanotify_init, 0, 0) >= 0);
	told("Descriptors", "anon_inode:[io_uring]", syscall(SYS_io_uring_setup, 8, &ring) >= 0);
	told("Descriptors", "anon_inode:[perf_event]", syscall(SYS_perf_event_open, &perf, 0, -1, -1, 0) >= 0);
	told("Descriptors", "anon_inode:bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map) >= 0);
	told("Descriptors", "anon_inode:[pidfd]", syscall(SYS_pidfd_open, getpid(), 0) >= 0);
	told("Descriptors", "anon_inode:[landlock-ruleset]", syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0) >= 0);
	told("Descriptors", "anon_inode:[fscontext]", syscall(SYS_fsopen, "tmpfs", 0) >= 0);
	told("Descriptors", "/secretmem", syscall(SYS_memfd_secret, 0) >= 0);
	told("Descriptors", "/[aio]", syscall(SYS_io_setup, 1, &aio) >= 0);
	told("Descriptors", "ns:[", open("/proc/self/ns/net", O_RDONLY) >= 0);
	told("Descriptors", "tty", open("/dev/ptmx", O_RDWR | O_NOCTTY) >= 0);
	told("Descriptors", "fifo", mkfifo(beside(room, sizeof room, "fifo"), 0600) == 0 && open(room, O_RDWR) >= 0);
	struct flock lock = { .l_type = F_WRLCK };
	told("Descriptors", "F_GETLK", fcntl(file("locked", O_RDWR), F_SETLK, &lock) == 0);
	told("Descriptors", "F_GETLEASE", fcntl(file("leased", O_RDONLY), F_SETLEASE, F_RDLCK) == 0);
	int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	told("Descriptors", "anon_inode:[userfaultfd]", faults >= 0);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MINOR_SHMEM };
	int serves = faults >= 0 && ioctl(faults, UFFDIO_API, &api) == 0;
	told("VmFlags", "um", serves && served(faults, MAP_PRIVATE, UFFDIO_REGISTER_MODE_MISSING));
	told("VmFlags", "uw", serves && served(faults, MAP_PRIVATE, UFFDIO_REGISTER_MODE_WP));
	told("VmFlags", "ui", serves && served(faults, MAP_SHARED, UFFDIO_REGISTER_MODE_MINOR));
	struct sock_filter pass_all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog filter = { 1, &pass_all };
	told("Descriptors", "anon_inode:seccomp", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter) >= 0);
	int machines = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	told("Descriptors", "anon_inode:kvm", machines >= 0 && ioctl(machines, KVM_CREATE_VM, 0) >= 0);
}

static void sockets(void)
{
	struct ip_mreqn group = { .imr_multiaddr.s_addr = inet_addr("239.1.2.3"), .imr_address.s_addr = htonl(INADDR_LOOPBACK) };
	struct sock_filter pass_all = BPF_STMT(BPF_RET | BPF_K, 0xffff);
	struct sock_fprog filter = { 1, &pass_all };
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int one = 1, unpack = UDP_ENCAP_ESPINUDP, ends[2], fd;
	told("Sockets", "UDP, multicast", setsockopt(udp(), IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group) == 0);
	told("Sockets", "SO_ATTACH_FILTER", setsockopt(udp(), SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0);
	fd = udp();
	told("Sockets", "UDP_CORK", setsockopt(fd, IPPROTO_UDP, UDP_CORK, &one, sizeof one) == 0 && send(fd, "x", 1, 0) == 1);
	told("Sockets", "UDP_ENCAP", setsockopt(udp(), IPPROTO_UDP, UDP_ENCAP, &unpack, sizeof unpack) == 0);
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof any;
	told("Sockets", "TCP_REPAIR", setsockopt(MUST(socket(AF_INET, SOCK_STREAM, 0)), IPPROTO_TCP, TCP_REPAIR, &one, sizeof one) == 0);
	int listening = MUST(socket(AF_INET, SOCK_STREAM, 0));
	MUST(bind(listening, (void *)&any, sizeof any));
	MUST(listen(listening, 1));
	MUST(getsockname(listening, (void *)&any, &length));
	fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
	MUST(connect(fd, (void *)&any, sizeof any));
	told("Sockets", "TCP_ULP", setsockopt(fd, IPPROTO_TCP, 31 /* TCP_ULP */, "tls", 4) == 0);
	snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "refused-%d", getpid());
	told("Sockets", "AF_UNIX, named or listening", bind(MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), (void *)&name, sizeof name) == 0);
	told("Sockets", "AF_UNIX, MSG_OOB", send(pair(SOCK_STREAM, ends), "x", 1, MSG_OOB) == 1);
	fd = pair(SOCK_DGRAM, ends);
	MUST(setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
	told("Sockets", "AF_UNIX, SCM_CREDENTIALS", send(fd, "x", 1, 0) == 1);
	char control[CMSG_SPACE(sizeof fd)] = { 0 };
	struct iovec byte = { "x", 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &(int){ 1 }, sizeof fd);
	told("Sockets", "AF_UNIX, SCM_RIGHTS", sendmsg(pair(SOCK_STREAM, ends), &message, 0) == 1);
	told("Sockets", "other families", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) >= 0);
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	descriptors();
	sockets();
	told("Prctl", "PR_GET_IO_FLUSHER", prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0);
	told("Scheduling", "PR_SCHED_CORE", prctl(62, 1, 0, 0, 0) == 0);
	ready();
	while (!stopped())
		pause_ms(5);
	pass();
}
