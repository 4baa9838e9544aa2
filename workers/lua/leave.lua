-- End a session and let the next run in. The warehouse is closed by now.
-- KEYS[16] lock, KEYS[17] waiters. ARGV: run, fence. Answers the run whose session to publish, or ''.
local lock, waiters = KEYS[16], KEYS[17]
local data = read_step('@session')
if state_of('@session') ~= 'running' or data.fence ~= tonumber(ARGV[2]) then return '' end
local holder = redis.call('HMGET', lock, 'run', 'fence')
if holder[1] == RUN_ID and tonumber(holder[2]) == data.fence then redis.call('DEL', lock) end
unwatch('@session')
local state = run_field('state')
if (state == 'active' or state == 'stopping') and redis.call('ZCARD', READY) > 0 then
  -- it left in the middle of its work (drain): its turn comes again behind the others
  redis.call('RPUSH', waiters, RUN_ID)
  set_state('@session', 'parked')
  watch_until('@session', now_ms() + REPUBLISH_MS)
else
  set_state('@session', 'blocked')
end
return redis.call('LPOP', waiters) or ''
