# Three threads rewrite memory whose content they know at every instant: pages of a large array, a dictionary, counters.
# The last argument names the stop file; "ready", "PASS" or "FAIL: …" go to standard output.
import os, random, sys, threading, time, zlib

PAGE, PAGES = 4096, 1500
stop = sys.argv[-1]
done = threading.Event()

def fail(reason):
    os.write(1, f"FAIL: {reason}\n".encode())
    os._exit(1)

class Pages:
    """Each page begins with its number and its generation; the rest follows from these."""
    def __init__(self):
        self.memory = bytearray(PAGE * PAGES)
        self.generations = [0] * PAGES
        self.dice = random.Random(1)
        for page in range(PAGES):
            self.write(page)

    def content(self, page):
        stamp = (page << 32 | self.generations[page]).to_bytes(8, "little")
        return stamp * (PAGE // 8)

    def write(self, page):
        self.memory[page * PAGE:(page + 1) * PAGE] = self.content(page)

    def check(self, page):
        if self.memory[page * PAGE:(page + 1) * PAGE] != self.content(page):
            fail(f"page {page} is not of generation {self.generations[page]}")

    def work(self):
        for _ in range(20):
            page = self.dice.randrange(PAGES)
            self.check(page)
            self.generations[page] += 1
            self.write(page)

    def last(self):
        for page in range(PAGES):
            self.check(page)

class Words:
    """A dictionary that grows, shrinks and is rewritten; a sum over it is kept beside it."""
    def __init__(self):
        self.words, self.sum, self.dice = {}, 0, random.Random(2)

    def work(self):
        for _ in range(50):
            key = self.dice.randrange(4000)
            word = self.words.pop(key, None)
            if word is None:
                word = f"{key} {self.dice.random()}" * 3
                self.words[key] = word
                self.sum += zlib.crc32(word.encode())
            else:
                if not word.startswith(f"{key} "):
                    fail(f"word {key} is {word!r}")
                self.sum -= zlib.crc32(word.encode())

    def last(self):
        if sum(zlib.crc32(word.encode()) for word in self.words.values()) != self.sum:
            fail("the sum over the words is wrong")

class Counters:
    """Two counters in fresh objects each time; the clock never runs backwards between two steps."""
    def __init__(self):
        self.up, self.down, self.time = 0, 10 ** 12, time.monotonic()

    def work(self):
        for _ in range(100):
            self.up, self.down = self.up + 1, self.down - 1
        if self.up + self.down != 10 ** 12:
            fail(f"{self.up} up and {self.down} down")
        now = time.monotonic()
        if not 0 <= now - self.time < 30:
            fail(f"the clock went from {self.time} to {now}")
        self.time = now

    def last(self):
        self.work()

def forever(worker):
    try:
        while not done.is_set():
            worker.work()
            time.sleep(0.002)
        worker.last()
    except BaseException as error:
        fail(repr(error))

workers = [Pages(), Words(), Counters()]
threads = [threading.Thread(target=forever, args=(worker,)) for worker in workers]
for thread in threads:
    thread.start()
print("ready", flush=True)
while not os.path.exists(stop):
    time.sleep(0.05)
done.set()
for thread in threads:
    thread.join()
print("PASS", flush=True)
