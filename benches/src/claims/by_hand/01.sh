# how fast this host copies memory
perf bench mem memcpy --size 1GB --nr_loops 5
# copies of some sizes, into memory that is new
python3 - <<'END'
import time
for mib in (10, 100, 1000):
    memory = bytearray(b"x") * (mib << 20)
    begun = time.perf_counter()
    copy = bytearray(memory)
    print(f"{mib} MiB: {(time.perf_counter() - begun) * 1e3:.1f} ms")
END
