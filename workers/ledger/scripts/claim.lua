-- Claim a step: ready, queued, retrying or waiting -> running, with a new fence and a lease.
-- ARGV: run, step ('' = the first one that is ready), owner, lease (ms), fence of the caller's session or '',
--   a token that is new for each claim, so that a repeated call gets the same answer, the caller's dbt release.
local step, owner, lease, session, token = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local run_state = run_field('state')
local function granted(name, data)
  local lock = relation_keys(name)
  local writer = lock and redis.call('GET', lock .. ':writer')
  return cjson.encode({claimed = true, step = name, fence = data.fence, tries = data.tries,
    losses = data.losses, handed = data.handed or 0, index = data.index or 0, skip = data.skip or false,
    cause = data.cause or '', busy = data.busy or '', died = data.died, grace = data.grace and data.grace / 1000 or 0,
    stale = writer and writer ~= RUN_ID or false, stopping = run_state == 'stopping',
    lost_leases = name == '@close' and number_field('lost') > 0, orphaned = run_field('orphaned') == '1',
    publish = dispatch()})
end
local function refuse(reason, publish_steps)
  return cjson.encode({claimed = false, reason = reason, publish = publish_steps})
end
local function is_repeated(name)
  return name and state_of(name) == 'running' and read_step(name).word == token
end

if not run_state then return refuse('unknown run') end
if not is_live(run_state) then return refuse('run has ended') end
not_when_full()
local held
if session ~= '' then
  held = read_step('@session')
  if state_of('@session') ~= 'running' or held.fence ~= tonumber(session) then
    return refuse('session lost')
  end
end
if step == '' then
  if held and is_repeated(held.took) then return granted(held.took, read_step(held.took)) end
  local popped = redis.call('ZPOPMIN', READY)
  if #popped == 0 then return refuse('nothing ready') end
  step = popped[1]
  if held then
    held.took = step
    write_step('@session', held)
  end
else
  local state = state_of(step)
  if not state or step == '@session' then return refuse('unknown step') end
  if is_repeated(step) then return granted(step, read_step(step)) end
  if step == '@plan' and state == 'done' then
    unwatch(step)  -- the message was sent because the run has a turn again, or may hand out more steps
    return refuse('step is done', dispatch())
  end
  if state ~= 'queued' and state ~= 'ready' and state ~= 'retrying' and state ~= 'waiting' then
    return refuse('step is ' .. state)
  end
  if step == '@plan' and takes_turns() and not take_turn() then
    redis.call('ZREM', READY, step)
    set_state(step, 'waiting')
    return refuse('waiting for its turn', dispatch())
  end
  local reason
  if run_field('mode') == 'session' and session == '' then
    reason = 'left to the session'  -- only the process that has the warehouse open may execute it
  elseif state ~= 'queued' and is_node(step) and free_threads() <= 0
    and not (state == 'waiting' and writer_before(step)) then
    reason = 'no free thread'       -- other steps were handed out while it waited
  end
  if reason then
    if state ~= 'ready' then
      unwatch(step)
      make_ready(step)
    end
    return refuse(reason, dispatch())
  end
  if is_of_another_dbt(ARGV[7]) then
    watch(step, ELSEWHERE_MS)
    -- nothing of the run is running: others must not wait for workers that may never come
    if number_field('inflight') == number_field('queued') then give_turn_up() end
    return refuse(OTHER_DBT, dispatch())
  end
  redis.call('ZREM', READY, step)
end
local data = read_step(step)
data.busy = nil
if data.lock and not data.skip and session == '' then
  data.busy = writer_before(step)
  if data.busy and run_state == 'stopping' then
    unwatch(step)
    set_state(step, 'done')
    close_when_done()
    return refuse('run is stopping', dispatch())
  elseif data.busy and run_field('relation_locks') ~= 'refuse' then
    if state_of(step) ~= 'waiting' then
      set_state(step, 'waiting')
      local _, waiters = relation_keys(step)
      redis.call('RPUSH', waiters, RUN_ID .. ' ' .. step)
      publish({kind = 'state', node = step, state = 'waiting', text = data.busy})
    end
    watch(step)
    return refuse('waiting for run ' .. data.busy .. ', which is writing its relation', dispatch())
  elseif not data.busy then
    redis.call('HSET', relation_keys(step), 'run', RUN_ID, 'step', step)
  end
end
data.fence = data.fence + 1
data.tries = data.tries + 1
data.owner = owner
data.word = token
data.given = nil
data.started = now_ms() / 1000
if is_node(step) and not data.index and not data.ephemeral then
  data.index = redis.call('HINCRBY', RUN, 'index', 1)
end
write_step(step, data)
set_state(step, 'running')
lease_until(step, now_ms() + lease)
publish({kind = 'state', node = step, state = 'running', attempt = data.tries, worker = owner})
return granted(step, data)
