# a Redis with about 500 MB; writes go on while it saves
redis-server --port 7777 --save '' --dbfilename by-hand.rdb > redis.log &
server=$!
sleep 1
redis-benchmark -p 7777 -q -P 16 -t set -r 1000000 -n 1500000 -d 512
redis-cli -p 7777 BGSAVE
redis-benchmark -p 7777 -q -t set -r 1000000 -n 50000 -d 512
# what server and saving child share, and what each has for itself
for pid in $server $(pgrep -P $server); do
    grep -E 'Rss|Shared_Dirty|Private_Dirty' "/proc/$pid/smaps_rollup"
done
# the pause of the fork, and what was copied meanwhile
redis-cli -p 7777 INFO | grep -E 'latest_fork_usec|rdb_last_cow_size|rdb_bgsave_in_progress'
redis-cli -p 7777 SHUTDOWN NOSAVE
rm -f by-hand.rdb redis.log
