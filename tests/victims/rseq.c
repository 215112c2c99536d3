/* Restartable sequences: registered for each thread, their CPU number right, critical sections restarted or whole. */
#include "victim.h"
#include <sched.h>
#include <sys/rseq.h>

#define THREADS 4

static volatile int stop_now;
static int cpus;
static uint64_t aborts, commits;

static struct rseq *area(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* Counts down inside a critical section and then commits; 0 if it was aborted. */
static int section(struct rseq *rseq, uint64_t count, volatile uint64_t *commit, uint64_t value)
{
	int whole = 1;
	__asm__ volatile(
		".pushsection __rseq_cs, \"aw\"\n.balign 32\n3:\n.long 0, 0\n.quad 1f, (2f - 1f), 4f\n.popsection\n"
		"leaq 3b(%%rip), %%rax\n movq %%rax, %[cs]\n"
		"1:\n dec %[count]\n jnz 1b\n movq %[value], %[commit]\n"
		"2:\n jmp 5f\n"
		".byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n"
		"4:\n movl $0, %[whole]\n"
		"5:\n"
		: [count] "+r"(count), [whole] "+m"(whole), [commit] "=m"(*commit), [cs] "=m"(rseq->rseq_cs)
		: [value] "r"(value)
		: "rax", "memory", "cc");
	return whole;
}

static void check_registered(struct rseq *rseq)
{
	/* A second registration of the same area is refused as busy; one that succeeds tells that there was none. */
	long result = syscall(SYS_rseq, rseq, 32, 0, 0x53053053);
	CHECK(result == -1 && (errno == EBUSY || errno == EINVAL), "rseq is not registered (%ld)", result);
	CHECK((int)rseq->cpu_id >= 0 && rseq->cpu_id_start == rseq->cpu_id, "rseq: cpu_id is %d", (int)rseq->cpu_id);
}

static void check_cpu(struct rseq *rseq, int cpu)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof one, &one) != 0)
		return; /* a CPU that we may not use */
	unsigned seen;
	MUST(syscall(SYS_getcpu, &seen, NULL, NULL));
	CHECK((int)seen == cpu, "getcpu: %u instead of %d", seen, cpu);
	CHECK(*(volatile uint32_t *)&rseq->cpu_id == (uint32_t)cpu, "rseq: cpu_id %u instead of %d", rseq->cpu_id, cpu);
	CHECK(sched_getcpu() == cpu, "sched_getcpu: %d instead of %d", sched_getcpu(), cpu);
}

static void *work(void *argument)
{
	struct rseq *rseq = area();
	volatile uint64_t committed = 0;
	uint64_t value = (uint64_t)(uintptr_t)argument << 32;
	for (int round = 0; !stop_now; round++) {
		watch_clocks();
		check_registered(rseq);
		check_cpu(rseq, round % cpus);
		uint64_t before = committed;
		if (section(rseq, 2000000, &committed, ++value)) {
			CHECK(committed == value, "a whole critical section committed nothing");
			__atomic_add_fetch(&commits, 1, __ATOMIC_RELAXED);
		} else {
			CHECK(committed == before, "an aborted critical section committed");
			__atomic_add_fetch(&aborts, 1, __ATOMIC_RELAXED);
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	victim_begin(argc, argv);
	CHECK(__rseq_size > 0, "the C library registers no rseq");
	cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
	for (uintptr_t i = 0; i < THREADS; i++)
		threads[i] = start_thread(work, (void *)(i + 1));
	ready();
	while (!stopped())
		pause_ms(10);
	stop_now = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	CHECK(commits > 0, "no critical section was ever whole (%llu aborts)", (unsigned long long)aborts);
	pass();
}
