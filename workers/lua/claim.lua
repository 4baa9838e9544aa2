-- Take a step: READY/QUEUED/RETRYING -> RUNNING under a new fence and a lease.
-- ARGV: run, step ('' = the best ready one), owner, lease (ms), fence of the caller's session or '',
--   a word that is new for each claim, so that a repeated call gets the same answer.
local step, owner, lease, session, word = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local function granted(name, data, run_state)
  return cjson.encode({claimed = true, step = name, fence = data.fence, tries = data.tries,
    losses = data.losses, index = data.index or 0, skip = data.skip or false,
    cause = data.cause or '', stopping = run_state == 'stopping'})
end
local run_state = run_field('state')
local function refuse(reason, publish_steps)
  return cjson.encode({claimed = false, reason = reason, publish = publish_steps})
end
if not run_state then return refuse('unknown run') end
if run_state ~= 'active' and run_state ~= 'stopping' then return refuse('run has ended') end
if session ~= '' then
  if state_of('@session') ~= 'running' or read_step('@session').fence ~= tonumber(session) then
    return refuse('session lost')
  end
end
if step == '' then
  local popped = redis.call('ZPOPMIN', READY)
  if #popped == 0 then return refuse('nothing ready') end
  step = popped[1]
else
  local state = state_of(step)
  if not state then return refuse('unknown step') end
  if state == 'running' and read_step(step).word == word then
    return granted(step, read_step(step), run_state)
  end
  if state ~= 'queued' and state ~= 'ready' and state ~= 'retrying' then
    return refuse('step is ' .. state)
  end
  if run_field('mode') == 'session' and session == '' then
    -- only the process that holds the warehouse may execute: leave it for the session
    if state == 'queued' then hold_slot(step, false) end
    unwatch(step)
    make_ready(step)
    return refuse('left to the session', dispatch())
  end
  redis.call('ZREM', READY, step)
  if state == 'queued' then hold_slot(step, false) end
end
local data = read_step(step)
data.fence = data.fence + 1
data.tries = data.tries + 1
data.owner = owner
data.word = word
data.started = now_ms() / 1000
if is_node(step) and not data.index and not data.ephemeral then
  data.index = redis.call('HINCRBY', RUN, 'index', 1)
end
write_step(step, data)
set_state(step, 'running')
hold_slot(step, true)
watch_until(step, now_ms() + lease)
publish({kind = 'state', node = step, state = 'running', attempt = data.tries, worker = owner})
return granted(step, data, run_state)
