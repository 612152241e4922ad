# fork, and posix_spawn, which is vfork and exec, of a small process and of a large one
python3 - <<'END'
import mmap, os, time
def timed(start):
    begun = time.perf_counter()
    child = start()
    took = time.perf_counter() - begun
    os.waitpid(child, 0)
    return f"{took * 1e6:.0f} us"
for mib in (10, 1000):
    memory = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(0, mib << 20, 4096):
        memory[page] = 1
    fork = timed(lambda: os.fork() or os._exit(0))
    spawn = timed(lambda: os.posix_spawn("/bin/true", ["true"], {}))
    print(f"{mib} MiB: fork {fork}, posix_spawn with exec {spawn}")
END
