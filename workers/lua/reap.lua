-- One overdue lease or watch. ARGV: run, step.
-- Answers nothing, publish (the message is missing) or lost (its worker is gone); `following` is a run
-- whose session to publish.
local step = ARGV[2]
local name, now = RUN_ID .. ' ' .. step, now_ms()
local due = redis.call('ZSCORE', LEASES, name) or redis.call('ZSCORE', WATCHES, name)
if not due or tonumber(due) > now then return cjson.encode({what = 'nothing'}) end
local run_state, state = run_field('state'), state_of(step)
local function nothing(following)
  return cjson.encode({what = 'nothing', following = following})
end

if not is_live(run_state) then
  unwatch(step)
  if step ~= '@session' or not run_state then return nothing() end
  set_state(step, 'blocked')
  local lock, waiters = lock_keys(run_field('lock') or '')
  return nothing(holds_lock(lock) and hand_over(lock, waiters) or nil)
end
if not state or state == 'done' or state == 'blocked' then
  unwatch(step)
  return nothing()
end

local function lose(lost)
  local data = read_step(lost)
  data.losses = data.losses + 1
  data.fence = data.fence + 1
  write_step(lost, data)
  unwatch(lost)
  redis.call('HINCRBY', RUN, 'lost', 1)
  if lost == '@session' then
    local lock = lock_keys(run_field('lock') or '')
    if holds_lock(lock) then
      suspect_holder(lock)
      redis.call('HSET', lock, 'expires', 0)
    end
    set_state(lost, 'blocked')
    -- with the session goes the step that it executes: the next one must not run beside it
    if data.took and state_of(data.took) == 'running' then lose(data.took) end
  elseif run_state == 'stopping' and (is_node(lost) or lost == '@start') then
    set_state(lost, 'done')
    close_when_done()
  else
    make_ready(lost)
    publish({kind = 'state', node = lost, state = 'lost', attempt = data.tries, worker = data.owner})
  end
  return data
end
if state == 'running' then
  local data = lose(step)
  return cjson.encode({what = 'lost', losses = data.losses, tries = data.tries, owner = data.owner,
    started = data.started, publish = dispatch()})
end

-- queued, retrying or parked: the message may be lost
watch(step)
if state == 'parked' then
  local lock, waiters = lock_keys(run_field('lock') or '')
  local holder = redis.call('HMGET', lock, 'run', 'expires')
  if holder[1] and holder[1] ~= RUN_ID
    and (redis.call('ZSCORE', ACTIVE, holder[1]) or tonumber(holder[2]) > now) then return nothing() end
end
return cjson.encode({what = 'publish'})
