-- Begin a session: the one process that may open the run's warehouse.
-- ARGV: run, warehouse, owner, lease (ms), a word that is new for each call (see claim.lua), what is known of
--   the process (workers/strays.py), the caller's release of dbt.
local lock, waiters = lock_keys(ARGV[2])
local owner, lease, word = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local function refuse(reason) return cjson.encode({entered = false, reason = reason}) end
if not is_live(run_field('state')) then return refuse('run has ended') end
not_when_full()
local session, data = state_of('@session'), read_step('@session')
if session == 'running' and data.word == word then return cjson.encode({entered = true, fence = data.fence}) end
if session ~= 'queued' and session ~= 'parked' then return refuse('session is ' .. (session or 'not wanted')) end
if is_of_another_dbt(ARGV[7]) then
  watch('@session', ELSEWHERE_MS)
  return refuse(OTHER_DBT)
end
local holder = redis.call('HMGET', lock, 'run', 'expires')
if holder[1] and holder[1] ~= RUN_ID
  and (redis.call('ZSCORE', ACTIVE, holder[1]) or tonumber(holder[2]) > now_ms()) then
  -- it keeps its place in the line
  if not redis.call('LPOS', waiters, RUN_ID) then redis.call('RPUSH', waiters, RUN_ID) end
  set_state('@session', 'parked')
  watch('@session')
  return refuse('parked')
end
redis.call('LREM', waiters, 0, RUN_ID)
data.fence = data.fence + 1
data.tries = data.tries + 1
data.owner = owner
data.word = word
data.took = nil
write_step('@session', data)
set_state('@session', 'running')
local expires = now_ms() + lease
suspect_holder(lock)
redis.call('HDEL', STRAYS, ARGV[6])  -- a process enters a session with the file closed
redis.call('HSET', lock, 'run', RUN_ID, 'fence', data.fence, 'owner', owner, 'expires', expires, 'holder', ARGV[6])
lease_until('@session', expires)
return cjson.encode({entered = true, fence = data.fence})
