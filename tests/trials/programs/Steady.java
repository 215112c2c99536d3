// Threads that compute what is known and leave garbage, a timer that counts, a handler of a signal.
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

public class Steady {
    static volatile boolean done;
    static final AtomicLong ticks = new AtomicLong(), rounds = new AtomicLong();

    static void fail(Object reason) {
        System.out.println("FAIL: " + reason);
        Runtime.getRuntime().halt(1);
    }

    static void work() {
        try {
            byte[] first = null;
            while (!done) {
                byte[] digest = new byte[32];
                for (int i = 0; i < 1000; i++) digest = MessageDigest.getInstance("SHA-256").digest(digest);
                if (first == null) first = digest;
                if (!Arrays.equals(first, digest)) fail("another end of the chain of hashes");
                Map<String, int[]> table = new HashMap<>();
                for (int i = 0; i < 1000; i++) table.put("key " + i, new int[] {i, 2 * i});
                long sum = table.values().stream().mapToLong(pair -> pair[1]).sum();
                if (sum != 999000) fail("a table has the sum " + sum);
                rounds.incrementAndGet();
                Thread.sleep(5);
            }
        } catch (Throwable error) {
            fail(error);
        }
    }

    public static void main(String[] args) throws Exception {
        sun.misc.Signal.handle(new sun.misc.Signal("HUP"), signal -> System.out.println("signal SIGHUP"));
        Thread[] threads = {new Thread(Steady::work), new Thread(Steady::work)};
        for (Thread thread : threads) thread.start();
        var timer = Executors.newSingleThreadScheduledExecutor();
        timer.scheduleAtFixedRate(ticks::incrementAndGet, 20, 20, TimeUnit.MILLISECONDS);
        System.out.println("ready");
        int idle = 0;
        while (!Files.exists(Path.of(args[0]))) {
            long seen = ticks.get() + rounds.get(), begin = System.nanoTime();
            Thread.sleep(100);
            long took = System.nanoTime() - begin;
            if (took < 100_000_000L || took > 10_100_000_000L) fail("a sleep of 100 ms took " + took + " ns");
            // on a busy machine this thread may be the first to go on, and some more times
            idle = ticks.get() + rounds.get() == seen ? idle + 1 : 0;
            if (idle > 100) fail("nothing is done any more");
        }
        done = true;
        for (Thread thread : threads) thread.join();
        timer.shutdown();
        System.out.println("PASS");
    }
}
