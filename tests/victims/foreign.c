/* Threads whose calls or code are not those of an ordinary one: syscall user dispatch that takes every call away, busy 32-bit code,
 * a segment of its own. A tool's own calls in their name must neither be dispatched nor reset the handler. */
#include "victim.h"
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
#define USER_DISPATCH 2 /* si_code */

static volatile int started, stop_now;
static __thread volatile char selector;
static __thread volatile int caught, code;

static void on_sigsys(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	selector = 0;
	caught++;
	code = info->si_code;
}

/* One round of code without calls, and one call that must be dispatched. */
static void check_dispatch(void)
{
	struct sigaction action;
	caught = 0;
	selector = 1;
	for (volatile int i = 0; i < 3000000; i++)
		;
	selector = 0;
	CHECK(caught == 0, "%d calls of somebody else's were dispatched (code %d)", caught, code);
	selector = 1;
	syscall(SYS_getppid);
	selector = 0;
	CHECK(caught == 1 && code == USER_DISPATCH, "dispatched %d times instead of once (code %d)", caught, code);
	MUST(sigaction(SIGSYS, NULL, &action));
	CHECK(action.sa_sigaction == on_sigsys, "the handler of SIGSYS is gone");
}

static void *dispatched(void *unused)
{
	(void)unused;
	if (prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, &selector) < 0) /* Linux 5.11 */
		stop_now = -1;
	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	while (stop_now == 0)
		check_dispatch();
	return NULL;
}

/* Below 4 GiB: code of both kinds, a far pointer, two counters, a segment, a stack. */
static struct low {
	unsigned char code_64[16], code_32[16];
	struct { uint32_t offset; uint16_t selector; } __attribute__((packed)) far;
	volatile uint32_t beat, stop;
	uint32_t segment[4], wanted[4];
	uint64_t stack[256], saved;
} *low;

static uint32_t address(volatile void *of) { return (uint32_t)(uintptr_t)of; }

static int call_32(int number, volatile void *argument)
{
	int result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"((uintptr_t)argument)
			 : "memory", "cc", "r8", "r9", "r10", "r11");
	return result;
}

static void write_code(void)
{
	unsigned char *at = low->code_64;
	uint32_t place = address(&low->far);
	memcpy(at, "\xff\x1c\x25", 3); /* lcall *far */
	memcpy(at + 3, &place, 4);
	at[7] = 0xc3; /* ret */
	at = low->code_32;
	memcpy(at, "\xff\x05", 2); /* 1: incl beat */
	place = address(&low->beat);
	memcpy(at + 2, &place, 4);
	memcpy(at + 6, "\x83\x3d", 2); /* cmpl $0, stop */
	place = address(&low->stop);
	memcpy(at + 8, &place, 4);
	memcpy(at + 12, "\0\x74\xf1\xcb", 4); /* je 1b; lret */
	low->far.offset = address(low->code_32);
	low->far.selector = 0x23;
}

static void *in_32_bit_code(void *unused)
{
	uint64_t *top = &low->stack[250], *stack = top;
	void *code = low->code_64;
	(void)unused;
	memcpy((void *)low->segment, low->wanted, sizeof low->segment);
	CHECK(call_32(243, low->segment) == 0, "set_thread_area");
	low->wanted[0] = low->segment[0];
	errno = 77;
	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	__asm__ volatile("mov $0x2b, %%eax; mov %%eax, %%ds; mov %%eax, %%es\n\t"
			 "mov %%rsp, (%0); mov %0, %%rsp; call *%1; mov (%%rsp), %%rsp\n\t"
			 "xor %%eax, %%eax; mov %%eax, %%ds; mov %%eax, %%es"
			 : "+D"(stack), "+c"(code)
			 :
			 : "memory", "cc", "rax", "rbx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
	CHECK(errno == 77, "thread-local memory changed");
	memset((void *)low->segment, 0, sizeof low->segment);
	low->segment[0] = low->wanted[0];
	CHECK(call_32(244, low->segment) == 0, "get_thread_area");
	CHECK(memcmp((void *)low->segment, low->wanted, sizeof low->segment) == 0, "the segment changed: %x %x %x %x",
	      low->segment[0], low->segment[1], low->segment[2], low->segment[3]);
	return NULL;
}

static sigjmp_buf without;
static void on_fault(int signal) { (void)signal; siglongjmp(without, 1); }

/* A kernel may be without 32-bit calls (CONFIG_IA32_EMULATION). */
static int knows_32_bit(void)
{
	struct sigaction action = { .sa_handler = on_fault }, before;
	MUST(sigaction(SIGSEGV, &action, &before));
	int known = sigsetjmp(without, 1) == 0 && call_32(20, NULL) == getpid();
	MUST(sigaction(SIGSEGV, &before, NULL));
	return known;
}

int main(int argc, char **argv)
{
	pthread_t threads[3];
	int count = 0;
	victim_begin(argc, argv);
	/* Not blocked in its own handler, so that whoever looks at the thread's mask always sees the same. */
	struct sigaction action = { .sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO | SA_NODEFER };
	MUST(sigaction(SIGSYS, &action, NULL));
	for (; count < 2; count++)
		threads[count] = start_thread(dispatched, NULL);
	if (knows_32_bit()) {
		low = MUST(mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
		memcpy(low->wanted, (uint32_t[]){ -1, 0x1234000, 0xfffff, 0x51 }, sizeof low->wanted);
		write_code();
		threads[count++] = start_thread(in_32_bit_code, NULL);
	}
	while (started < count)
		pause_ms(1);
	if (stop_now == 0)
		MUST(prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, &selector));
	ready();
	while (!stopped()) {
		if (stop_now == 0)
			check_dispatch();
		pause_ms(5);
		if (low)
			await_change(&low->beat, "32-bit code");
	}
	stop_now = 1;
	if (low)
		low->stop = 1;
	while (count > 0)
		pthread_join(threads[--count], NULL);
	pass();
}
