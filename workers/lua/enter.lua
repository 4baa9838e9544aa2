-- Begin a session: the one process that may open the run's warehouse.
-- KEYS[16] lock, KEYS[17] waiters. ARGV: run, owner, lease (ms).
local lock, waiters = KEYS[16], KEYS[17]
local state = run_field('state')
if state ~= 'active' and state ~= 'stopping' then return cjson.encode({entered = false, reason = 'run has ended'}) end
local session = state_of('@session')
if session ~= 'queued' and session ~= 'parked' then
  return cjson.encode({entered = false, reason = 'session is ' .. (session or 'not wanted')})
end
local holder = redis.call('HMGET', lock, 'run', 'expires')
if holder[1] and holder[1] ~= RUN_ID and tonumber(holder[2]) > now_ms() then
  -- it keeps its place in the line
  if not redis.call('LPOS', waiters, RUN_ID) then redis.call('RPUSH', waiters, RUN_ID) end
  set_state('@session', 'parked')
  watch_until('@session', now_ms() + REPUBLISH_MS)
  return cjson.encode({entered = false, reason = 'parked', holder = holder[1]})
end
redis.call('LREM', waiters, 0, RUN_ID)
local data = read_step('@session')
data.fence = data.fence + 1
data.tries = data.tries + 1
data.owner = ARGV[2]
write_step('@session', data)
set_state('@session', 'running')
redis.call('HSET', lock, 'run', RUN_ID, 'fence', data.fence, 'owner', ARGV[2],
  'expires', now_ms() + tonumber(ARGV[3]))
watch_until('@session', now_ms() + tonumber(ARGV[3]))
return cjson.encode({entered = true, fence = data.fence})
