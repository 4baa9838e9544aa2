-- Begin a session: its process alone may open the run's warehouse.
-- ARGV: run, warehouse, owner, lease (ms), a token that is new for each call (see claim.lua), the caller's dbt release,
--   and for each file the record of the process (`Holder` in workers/sessions/stale_lock_holders.py).
local files = files_of(ARGV[2])
local owner, lease, token = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local function refuse(reason) return cjson.encode({entered = false, reason = reason}) end
if not is_live(run_field('state')) then return refuse('run has ended') end
not_when_full()
local session, data = state_of('@session'), read_step('@session')
if session == 'running' and data.word == token then
  return cjson.encode({entered = true, fence = data.fence, publish = dispatch()})
end
if session ~= 'queued' and session ~= 'parked' then return refuse('session is ' .. (session or 'not wanted')) end
if is_of_another_dbt(ARGV[6]) then
  watch('@session', ELSEWHERE_MS)
  return refuse(OTHER_DBT)
end
if are_taken(files) then
  -- a run that is in these lines keeps its places
  for _, file in ipairs(files) do
    if not redis.call('LPOS', file.waiters, RUN_ID) then redis.call('RPUSH', file.waiters, RUN_ID) end
  end
  set_state('@session', 'parked')
  watch('@session')
  return refuse('parked')
end
data.fence = data.fence + 1
data.tries = data.tries + 1
data.owner = owner
data.word = token
data.took = nil
write_step('@session', data)
set_state('@session', 'running')
local expires = now_ms() + lease
for i, file in ipairs(files) do
  local holder = ARGV[6 + i]
  redis.call('LREM', file.waiters, 0, RUN_ID)
  clear_holds(file)
  redis.call('HDEL', STRAYS, holder)  -- a process enters a session with the file closed
  write_hold(file, {fence = data.fence, expires = expires, holder = holder})
  if file.reads then
    let_in(file)  -- others may read it too
  else
    redis.call('HSET', file.lock, 'owner', owner)
  end
end
lease_until('@session', expires)
return cjson.encode({entered = true, fence = data.fence, publish = dispatch()})
