-- Shared head of every script: names for the run's keys and the moves that several scripts make.
-- KEYS are built by contract/names.py alone; scripts touch one Redis server, not a cluster.
local RUN, STATES, STEPS, CHILDREN, WAITING, READY, RESULTS, ATTEMPTS, CACHE, EVENTS, PUBLISHERS,
  CHANNEL, LEASES, ACTIVE, FINISHED = unpack(KEYS)
local RUN_ID = ARGV[1]
local REPUBLISH_MS = 5000   -- a message unclaimed for so long is looked at again by the reaper
local STREAM_LENGTH = 100000

local function now_ms()
  -- Redis' clock, so that a worker whose clock is wrong harms nobody
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function run_field(name)
  return redis.call('HGET', RUN, name)
end

local function number_field(name)
  return tonumber(run_field(name) or '0')
end

local function read_step(step)
  local raw = redis.call('HGET', STEPS, step)
  return raw and cjson.decode(raw) or {fence = 0, losses = 0, tries = 0}
end

local function write_step(step, data)
  redis.call('HSET', STEPS, step, cjson.encode(data))
end

local function state_of(step)
  return redis.call('HGET', STATES, step)
end

local function set_state(step, state)
  redis.call('HSET', STATES, step, state)
end

local function watch_until(step, due_ms)
  redis.call('ZADD', LEASES, due_ms, RUN_ID .. ' ' .. step)
end

local function unwatch(step)
  redis.call('ZREM', LEASES, RUN_ID .. ' ' .. step)
end

local function publish(fields)
  fields.run_id = RUN_ID
  fields.at = fields.at or (now_ms() / 1000)
  local seq = redis.call('HINCRBY', RUN, 'seq', 1)
  local body = cjson.encode(fields)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', STREAM_LENGTH, '*', 's', seq, 'e', body)
  redis.call('PUBLISH', CHANNEL, seq .. ' ' .. body)
end

local function is_node(step)
  return string.sub(step, 1, 1) ~= '@'
end

-- Queued and running steps count against the run's parallelism; they enter and leave it here alone.
local function hold_slot(step, held)
  if step ~= '@session' then
    redis.call('HINCRBY', RUN, 'inflight', held and 1 or -1)
  end
end

-- dbt starts nodes in the order in which they became ready; of those that did at the same moment the
-- least deep, then by name (dbt.graph.queue.GraphQueue, dbt.task.runnable.run_queue).
local batch
local function make_ready(step)
  set_state(step, 'ready')
  local depth = read_step(step).priority or 0
  if is_node(step) then
    batch = batch or redis.call('HINCRBY', RUN, 'batch', 1)
    depth = depth + batch * 65536
  end
  redis.call('ZADD', READY, depth, step)
end

-- Hand out what may start now. Returns the steps whose messages the caller has to publish.
local function dispatch()
  local out = {}
  if run_field('mode') == 'session' then
    local session = state_of('@session')
    if redis.call('ZCARD', READY) > 0 and (not session or session == 'blocked') then
      set_state('@session', 'queued')
      watch_until('@session', now_ms() + REPUBLISH_MS)
      out[1] = '@session'
    end
    return out
  end
  local free = number_field('parallel') - number_field('inflight')
  while free > 0 do
    local popped = redis.call('ZPOPMIN', READY)
    if #popped == 0 then break end
    local step = popped[1]
    set_state(step, 'queued')
    hold_slot(step, true)
    watch_until(step, now_ms() + REPUBLISH_MS)
    out[#out + 1] = step
    free = free - 1
  end
  return out
end

local function close_when_done()
  if number_field('pending') == 0 and run_field('planned') == '1' and not state_of('@close')
    and state_of('@start') ~= 'running' then
    write_step('@close', {fence = 0, losses = 0, tries = 0, priority = -1})
    make_ready('@close')
  end
end

-- Every node that has not begun ends here without a result; the close says what became of it.
local function stop_run(reason)
  redis.call('HSET', RUN, 'state', 'stopping', 'stop', reason)
  for step, state in pairs((function()
    local flat, map = redis.call('HGETALL', STATES), {}
    for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
    return map
  end)()) do
    if state == 'queued' then
      if is_node(step) or step == '@start' then hold_slot(step, false) end
    end
    if (is_node(step) or step == '@start') and state ~= 'done' and state ~= 'running' then
      set_state(step, 'done')
      unwatch(step)
      redis.call('ZREM', READY, step)
      if is_node(step) then redis.call('HINCRBY', RUN, 'pending', -1) end
    end
  end
end

local function end_run(state, final)
  redis.call('HSET', RUN, 'state', state, 'final', final, 'ended', now_ms() / 1000)
  redis.call('ZREM', ACTIVE, RUN_ID)
  for _, step in ipairs(redis.call('HKEYS', STATES)) do
    if step ~= '@session' then unwatch(step) end
  end
  local ttl = number_field('ttl')
  redis.call('ZADD', FINISHED, now_ms() / 1000 + ttl, RUN_ID)
  publish({kind = 'run', state = state})
  for i = 1, 11 do redis.call('EXPIRE', KEYS[i], ttl) end
end
