# Handlers of signals, interval timers, threads and a lock that processes can share (a semaphore in /dev/shm).
import multiprocessing, os, signal, sys, threading, time

stop = sys.argv[-1]
lock = multiprocessing.Lock()
done = threading.Event()
ticks = {signal.SIGALRM: 0, signal.SIGPROF: 0}
shared, own = [0], [0, 0]

def fail(reason):
    os.write(1, f"FAIL: {reason}\n".encode())
    os._exit(1)

def tick(number, _):
    ticks[number] += 1

def answer(number, _):
    os.write(1, f"signal {signal.Signals(number).name}\n".encode())

def work(index):
    try:
        while not done.is_set():
            with lock:
                before = shared[0]
                time.sleep(0.001)
                shared[0] = before + 1
            own[index] += 1
    except BaseException as error:
        fail(repr(error))

signal.signal(signal.SIGALRM, tick)
signal.signal(signal.SIGPROF, tick)
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, answer)
begin = time.monotonic()
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
signal.setitimer(signal.ITIMER_PROF, 0.02, 0.02)
threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
for thread in threads:
    thread.start()
os.write(1, b"ready\n")
while not os.path.exists(stop):
    seen = dict(ticks)
    until = time.monotonic() + 10
    while ticks[signal.SIGALRM] == seen[signal.SIGALRM]:
        if time.monotonic() > until:
            fail("the interval timer has stopped")
        time.sleep(0.01)
    if ticks[signal.SIGALRM] > (time.monotonic() - begin) / 0.05 + 2:
        fail("the interval timer is too fast")
done.set()
for thread in threads:
    thread.join()
if shared[0] != sum(own) or 0 in own:
    fail(f"{own} do not make {shared}: the lock does not lock")
# what is left of the interval, in CPU time
until = time.process_time() + 1
seen = ticks[signal.SIGPROF]
while ticks[signal.SIGPROF] == seen:
    if time.process_time() > until:
        fail("the timer of CPU time has stopped")
os.write(1, b"PASS\n")
