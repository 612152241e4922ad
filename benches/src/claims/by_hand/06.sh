# when each call of fork and exec was made, in seconds after the one before
# (strace itself slows them)
cat > timeline.py <<'END'
import mmap, subprocess
memory = mmap.mmap(-1, 500 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, 500 << 20, 4096):
    memory[page] = 1
# With a preexec_fn it is a fork; without one, a vfork.
subprocess.run(["/bin/true"], preexec_fn=lambda: None)
END
strace -f -r -e trace=clone,clone3,fork,vfork,execve,exit_group python3 timeline.py
# faults and the largest memory of both together
/usr/bin/time -v python3 timeline.py 2>&1 | grep -E 'Maximum|faults'
rm timeline.py
