# a child writes a byte into each page of a part of 100 MiB
cat > writes.py <<'END'
import mmap, os, resource, sys, time
memory = mmap.mmap(-1, 100 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory.write(b"x" * (100 << 20))
for percent in map(int, sys.argv[1:]):
    begun = time.perf_counter()
    if os.fork() == 0:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for page in range(25600 * percent // 100):
            memory[page * 4096] = 1
        took = time.perf_counter() - begun
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        print(f"{percent} %: {took * 1e3:.2f} ms with the fork, {faults} minor faults", flush=True)
        os._exit(0)
    os.wait()
END
python3 writes.py 0 1 10 50 100
# the faults of both processes, as the kernel counts them
perf stat -e page-faults,minor-faults,major-faults python3 writes.py 0
perf stat -e page-faults,minor-faults,major-faults python3 writes.py 100
rm writes.py
