# Four threads compute things whose results are known, over and over; one sleeps and looks at the clock.
import hashlib, os, signal, sys, threading, time

stop = sys.argv[-1]
done = threading.Event()

def fail(reason):
    os.write(1, f"FAIL: {reason}\n".encode())
    os._exit(1)

def primes():
    count = sum(all(n % d for d in range(2, int(n ** 0.5) + 1)) for n in range(2, 10000))
    if count != 1229:
        fail(f"{count} primes below 10000")

def chain():
    digest = b""
    for _ in range(20000):
        digest = hashlib.sha256(digest).digest()
    if chain.first is None:
        chain.first = digest
    if digest != chain.first:
        fail("another end of the chain of hashes")
chain.first = None

def big():
    if pow(3, 2 ** 12, 10 ** 30 + 57) * 2 % 7 != big.want:
        fail("a big number came out differently")
big.want = pow(3, 2 ** 12, 10 ** 30 + 57) * 2 % 7

def table():
    words = {str(i): [i] * 3 for i in range(5000)}
    if sum(v[1] for v in words.values()) != 5000 * 4999 // 2:
        fail("a table has another sum")

def sleeper():
    before = time.monotonic()
    time.sleep(0.2)
    took = time.monotonic() - before
    if not 0.2 <= took < 10.2:
        fail(f"a sleep of 0.2 s took {took} s")

def forever(work):
    try:
        while not done.is_set():
            work()
    except BaseException as error:
        fail(repr(error))

signal.signal(signal.SIGHUP, lambda *_: os.write(1, b"signal SIGHUP\n"))
threads = [threading.Thread(target=forever, args=(work,)) for work in (primes, chain, big, table, sleeper)]
for thread in threads:
    thread.start()
print("ready", flush=True)
while not os.path.exists(stop):
    time.sleep(0.05)
done.set()
for thread in threads:
    thread.join()
print("PASS", flush=True)
