// Replays a workload file (bench/ordered-index/workload.ts) against ConcurrentSkipListMap; prints its figures as one
// JSON line. Usage: java SkipListReplay FILE THREADS
import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.concurrent.ConcurrentSkipListMap;

public final class SkipListReplay {
  private static final int READ = 0;
  private static final int INSERT = 1;
  private static final int SCAN = 3;
  /** Operations timed in one batch of a latency sample. */
  private static final int SAMPLE = 10;

  private record Phase(char letter, int operations, int sampled, long[] keys, int[] codes) {}

  private record Workload(long[] loaded, Phase[] phases) {}

  private interface Share {
    int run(int from, int to);
  }

  private final ConcurrentSkipListMap<Long, Long> map = new ConcurrentSkipListMap<>();
  private final int threads;

  private SkipListReplay(int threads) {
    this.threads = threads;
  }

  public static void main(String[] arguments) throws Exception {
    Workload workload = read(Path.of(arguments[0]));
    int threads = Integer.parseInt(arguments[1]);
    new SkipListReplay(threads).replay(warmUpOf(workload));
    System.out.println(new SkipListReplay(threads).replay(workload));
  }

  private String replay(Workload workload) throws Exception {
    long[] loaded = workload.loaded();
    long before = heapBytes();
    StringBuilder phases = new StringBuilder();
    phases.append(
        timed(
            "load",
            loaded.length,
            (from, to) -> {
              for (int i = from; i < to; i++) map.put(loaded[i], loaded[i]);
              return 0;
            },
            null));
    double bytesPerKey = (double) (heapBytes() - before) / loaded.length;
    for (Phase phase : workload.phases()) {
      boolean ordered = phase.letter() == 'e' || phase.letter() == 'u';
      if (threads > 1 && ordered) continue;
      phases.append(",");
      phases.append(
          timed(
              String.valueOf(phase.letter()),
              phase.operations(),
              (from, to) -> run(phase, from, to),
              threads == 1 ? phase : null));
    }
    return "{\"bytesPerKey\":" + bytesPerKey + ",\"size\":" + map.size() + ",\"phases\":[" + phases + "]}";
  }

  /** Runs the operations of a phase, then those to be timed in batches of ten. */
  private String timed(String name, int operations, Share share, Phase sampled) throws Exception {
    OperatingSystemMXBean machine = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    System.gc();
    long cpu = machine.getProcessCpuTime();
    long start = System.nanoTime();
    int sum = threads == 1 ? share.run(0, operations) : together(operations, share);
    double wallSeconds = (System.nanoTime() - start) / 1e9;
    double cpuSeconds = (machine.getProcessCpuTime() - cpu) / 1e9;
    String latency = "";
    if (sampled != null && sampled.sampled() > 0) {
      double[] times = new double[sampled.sampled() / SAMPLE];
      for (int i = 0; i < times.length; i++) {
        int from = operations + i * SAMPLE;
        long begun = System.nanoTime();
        sum += share.run(from, from + SAMPLE);
        times[i] = (double) (System.nanoTime() - begun) / SAMPLE;
      }
      Arrays.sort(times);
      latency = ",\"p50\":" + quantile(times, 0.5) + ",\"p99\":" + quantile(times, 0.99);
    }
    return "{\"phase\":\"" + name + "\",\"operations\":" + operations + ",\"cpuSeconds\":" + cpuSeconds
        + ",\"wallSeconds\":" + wallSeconds + ",\"checksum\":" + Integer.toUnsignedLong(sum) + latency + "}";
  }

  private int together(int operations, Share share) throws Exception {
    int[] sums = new int[threads];
    Thread[] team = new Thread[threads];
    for (int t = 0; t < threads; t++) {
      int id = t;
      int from = (int) ((long) operations * t / threads);
      int to = (int) ((long) operations * (t + 1) / threads);
      team[t] = new Thread(() -> sums[id] = share.run(from, to));
    }
    for (Thread thread : team) thread.start();
    for (Thread thread : team) thread.join();
    return Arrays.stream(sums).sum();
  }

  private int run(Phase phase, int from, int to) {
    int sum = 0;
    for (int i = from; i < to; i++) {
      long key = phase.keys()[i];
      int code = phase.codes()[i];
      switch (code & 0xff) {
        case READ -> {
          Long value = map.get(key);
          if (value != null) sum += (int) (long) value;
        }
        case SCAN -> {
          int left = code >> 8;
          for (Map.Entry<Long, Long> entry : map.tailMap(key, true).entrySet()) {
            sum += (int) (long) entry.getKey() + (int) (long) entry.getValue();
            if (--left == 0) break;
          }
        }
        case INSERT -> map.put(key, key);
        default -> map.put(key, key + 1);
      }
    }
    return sum;
  }

  private static double quantile(double[] sorted, double q) {
    return sorted[Math.min(sorted.length - 1, (int) (sorted.length * q))];
  }

  private static long heapBytes() {
    System.gc();
    return Runtime.getRuntime().totalMemory() - Runtime.getRuntime().freeMemory();
  }

  private static Workload read(Path path) throws IOException {
    try (FileChannel file = FileChannel.open(path)) {
      ByteBuffer bytes = file.map(FileChannel.MapMode.READ_ONLY, 0, file.size()).order(ByteOrder.LITTLE_ENDIAN);
      bytes.getInt();
      int loaded = bytes.getInt();
      Phase[] phases = new Phase[bytes.getInt()];
      bytes.getInt();
      long[] keys = longs(bytes, loaded);
      for (int i = 0; i < phases.length; i++) {
        char letter = (char) bytes.getInt();
        int operations = bytes.getInt();
        int sampled = bytes.getInt();
        bytes.getInt();
        long[] phaseKeys = longs(bytes, operations + sampled);
        int[] codes = new int[operations + sampled];
        for (int k = 0; k < codes.length; k++) codes[k] = bytes.getInt();
        if (codes.length % 2 == 1) bytes.getInt();
        phases[i] = new Phase(letter, operations, sampled, phaseKeys, codes);
      }
      return new Workload(keys, phases);
    }
  }

  private static long[] longs(ByteBuffer bytes, int count) {
    long[] result = new long[count];
    for (int i = 0; i < count; i++) result[i] = bytes.getLong();
    return result;
  }

  /** The start of a workload, to warm the compiler up with on a map of its own. */
  private static Workload warmUpOf(Workload workload) {
    Phase[] phases = new Phase[workload.phases().length];
    for (int i = 0; i < phases.length; i++) {
      Phase phase = workload.phases()[i];
      phases[i] =
          new Phase(phase.letter(), share(phase.operations()), share(phase.sampled()), phase.keys(), phase.codes());
    }
    return new Workload(Arrays.copyOf(workload.loaded(), share(workload.loaded().length)), phases);
  }

  private static int share(int count) {
    return (count / 8 + SAMPLE - 1) / SAMPLE * SAMPLE;
  }
}
