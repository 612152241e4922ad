//! A Redis in a Linux guest, by scripts for the guest's own shell.
//!
//! Write number `w` goes to key `w * 7` modulo the number of keys, which 7 does not divide: as
//! many writes in a row as there are keys write each of them once. The data of one instant is
//! hence known by itself: the writes that it holds are that many in a row.

use std::thread;
use std::time::{Duration, Instant};

use crate::BenchError;
use crate::daemon::Daemon;

/// How long the guest may take to save or to load: it may be emulated.
const LIMIT: Duration = Duration::from_secs(300);

/// The server in one sandbox.
pub struct GuestRedis<'a> {
    daemon: &'a Daemon,
    id: &'a str,
    keys: u64,
}

/// Counts of the server's commands at some time.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    at: Instant,
    commands: u64,
}

impl<'a> GuestRedis<'a> {
    /// The server that runs in sandbox `id`, with so many keys.
    pub fn of(daemon: &'a Daemon, id: &'a str, keys: u64) -> Self {
        Self { daemon, id, keys }
    }

    /// Starts it in sandbox `id`, fills it, and has it written to from now on.
    pub fn start(daemon: &'a Daemon, id: &'a str, keys: u64) -> Result<Self, BenchError> {
        let redis = Self::of(daemon, id, keys);
        redis.shell(
            "mkdir -p /tmp/first && redis-server --port 0 --unixsocket /tmp/first/socket --save '' \
             --dir /tmp/first --daemonize yes > /dev/null",
        )?;
        redis.wait("[ \"$(redis-cli -s /tmp/first/socket PING)\" = PONG ]")?;
        let writes = |from: u64, to: &str| {
            format!(
                "awk 'BEGIN {{ for (w = {from}; {to}; w++) \
                 printf \"SET key:%d %01024d\\r\\n\", (w * 7) % {keys}, w }}' \
                 | redis-cli -s /tmp/first/socket --pipe > /dev/null"
            )
        };
        redis.shell(&writes(1, &format!("w <= {keys}")))?;
        let on = writes(keys + 1, "1");
        redis.shell(&format!("( {on} ) < /dev/null > /dev/null 2>&1 &"))?;
        Ok(redis)
    }

    fn shell(&self, script: &str) -> Result<String, BenchError> {
        self.daemon.shell(self.id, script)
    }

    fn wait(&self, script: &str) -> Result<(), BenchError> {
        let begun = Instant::now();
        loop {
            match self.shell(script) {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > LIMIT => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn info(&self, section: &str, name: &str) -> Result<u64, BenchError> {
        let script = format!(
            "redis-cli -s /tmp/first/socket INFO {section} | tr -d '\\r' | grep '^{name}:' \
             | cut -d: -f2"
        );
        let text = self.shell(&script)?;
        text.parse().map_err(|_| BenchError::Daemon {
            doing: format!("asking a Redis in a guest for {name}"),
            reason: format!("{text:?} is no number"),
        })
    }

    /// How many commands it has done.
    pub fn count(&self) -> Result<Count, BenchError> {
        let commands = self.info("stats", "total_commands_processed")?;
        Ok(Count { at: Instant::now(), commands })
    }

    /// Has it save itself. Returns how long its fork took, microseconds.
    pub fn save(&self) -> Result<f64, BenchError> {
        self.shell("redis-cli -s /tmp/first/socket BGSAVE | grep -q started")?;
        self.wait(
            "redis-cli -s /tmp/first/socket INFO persistence | grep -q rdb_bgsave_in_progress:0",
        )?;
        self.shell(
            "redis-cli -s /tmp/first/socket INFO persistence | grep -q rdb_last_bgsave_status:ok",
        )?;
        Ok(self.info("stats", "latest_fork_usec")? as f64)
    }

    /// Sees to it that it holds the data of one instant, key by key.
    pub fn check(&self) -> Result<(), BenchError> {
        self.check_at("/tmp/first/socket")
    }

    /// Sees to it that what it has saved is that, as a second server loads it.
    pub fn check_saved(&self) -> Result<(), BenchError> {
        self.shell(
            "mkdir -p /tmp/second && mv /tmp/first/dump.rdb /tmp/second/ && redis-server --port 0 \
             --unixsocket /tmp/second/socket --save '' --dir /tmp/second --daemonize yes > /dev/null",
        )?;
        self.wait("redis-cli -s /tmp/second/socket INFO persistence | grep -q loading:0")?;
        self.check_at("/tmp/second/socket")?;
        self.shell("redis-cli -s /tmp/second/socket SHUTDOWN NOSAVE; rm -r /tmp/second").map(drop)
    }

    fn check_at(&self, socket: &str) -> Result<(), BenchError> {
        let keys = self.keys;
        let script = format!(
            "redis-cli -s {socket} EVAL \"{LOOK}\" 0 {keys}",
            LOOK = "local n, least, most = tonumber(ARGV[1]), math.huge, 0; \
                    for k = 0, n - 1 do \
                    local v = redis.call('GET', 'key:' .. k); \
                    local w = v and #v == 1024 and tonumber(v); \
                    if not w or (w * 7) % n ~= k then return 'key ' .. k .. ' is damaged' end; \
                    least, most = math.min(least, w), math.max(most, w) end; \
                    if most - least ~= n - 1 then \
                    return 'it holds the writes from ' .. least .. ' to ' .. most end; \
                    return 'one instant'"
        );
        match self.shell(&script)?.as_str() {
            "one instant" => Ok(()),
            other => Err(BenchError::Torn {
                things: "keys",
                checked: keys,
                mismatches: 1,
                first: other.to_owned(),
            }),
        }
    }
}

impl Count {
    /// Commands a second from `earlier` to this.
    pub fn per_second_since(&self, earlier: &Self) -> f64 {
        let commands = self.commands.saturating_sub(earlier.commands);
        commands as f64 / (self.at - earlier.at).as_secs_f64().max(f64::MIN_POSITIVE)
    }
}
