-- End a session; the warehouse is closed by now. A run that has not ended keeps its place: others on the
-- same warehouse wait for its end, so that two runs never mix. One that has ended lets the next in.
-- ARGV: run, warehouse, fence, what is known of the process. Answers the run whose session to publish, or ''.
even_when_full()
local lock, waiters = lock_keys(ARGV[2])
local fence = tonumber(ARGV[3])
local state = run_field('state')
redis.call('HDEL', STRAYS, ARGV[4])
if redis.call('HGET', lock, 'holder') == ARGV[4] then redis.call('HDEL', lock, 'holder') end
local mine = state_of('@session') == 'running' and read_step('@session').fence == fence
if mine then
  unwatch('@session')
  set_state('@session', 'blocked')
end
if not is_live(state) then
  if holds_lock(lock) and tonumber(redis.call('HGET', lock, 'fence')) == fence then
    return hand_over(lock, waiters)
  end
  return ''
end
if not mine then return '' end
if holds_lock(lock) then redis.call('HSET', lock, 'expires', 0) end
return #dispatch() > 0 and RUN_ID or ''
