# writes by a child to 10 % of the pages, together and scattered; 4 KiB pages and huge ones
python3 - <<'END'
import mmap, os, random, resource, time
size = 256 << 20
together = list(range(0, size // 10, 4096))
scattered = random.Random(7).sample(range(0, size, 4096), len(together))
for pages, advice in (("4 KiB", mmap.MADV_NOHUGEPAGE), ("huge", mmap.MADV_HUGEPAGE)):
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(advice)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for page in range(0, size, 4096):
        memory[page] = 1
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(f"{pages} pages, filled first: {faults} faults", flush=True)
    for name, places in (("together", together), ("scattered", scattered)):
        if os.fork() == 0:
            faults, begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
            for place in places:
                memory[place] = 1
            took = time.perf_counter() - begun
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
            print(f"{pages} pages, {name}: {took * 1e3:.1f} ms, {faults} faults", flush=True)
            os._exit(0)
        os.wait()
END
# how much of a process lies in huge pages
grep AnonHugePages /proc/PID/smaps_rollup
